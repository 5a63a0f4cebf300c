"""Whom clients and commands ask unless told otherwise, and how long they wait."""

DEFAULT_ADDRESS = "localhost:8001"
MANAGEMENT_ADDRESS = "localhost:8003"
"""Where a server takes what changes it."""

DEFAULT_TIMEOUT_S = 60.0
