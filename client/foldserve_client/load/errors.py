"""What the load tester refuses to do."""


class LoadTestError(Exception):
    """A load test cannot be run as it was asked for; the text says what is wrong and what to do."""
