"""What the server tells people who look at it with a browser.

- ``facts``: everything that is told, as data
- ``gather``: the facts as they are now
- ``pictures``, ``page``: the facts as web pages, or as JSON for programs
"""
