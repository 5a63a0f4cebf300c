"""The commands that need no server: each does its work with the packages below and says what came of it.

- ``inspect``, ``fold``, ``verify``, ``freeze``, ``recalibrate``, ``config``: one command each
- ``model_files``: model files opened, described and written
- ``proof``: one model file proved against another
- ``report``: everything that is known about one fold, as data
- ``display``: the same as tables for a terminal
- ``page``, ``neighbourhood``, ``drawing``: the same as a web page with pictures of the graph
- ``progress``: what is going on, for people who wait
"""
