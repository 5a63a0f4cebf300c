"""Everything here needs a container engine and the image that ``make test-container`` builds."""

import os

import pytest


@pytest.fixture(autouse=True, scope="session")
def _asked_for() -> None:
    """An image that lies about is not that of these sources."""
    if "TEST_CONTAINERS" not in os.environ:
        pytest.skip("NOT CHECKED: containers; `make test-container` builds the image and tries it")
