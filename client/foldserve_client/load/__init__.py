"""The load tester of ``foldserve-client load``: load on any KServe V2 server, and what became of it.

Requests are serialized once and sent again and again by worker processes (``generator``, ``worker``); when
each is due, and what the answers mean, is decided by pure functions (``levels``, ``arrivals``, ``mix``,
``capacity``, ``comparison``, ``bottleneck``). ``recording`` turns outcomes into histograms, ``report`` is
what a run comes to, and ``display``, ``page`` and ``files`` show it.
"""
