"""A server with everything switched on that others' clients ask for."""

from collections.abc import Iterator

import pytest
from foldserve.server import Server
from running import EXAMPLE_MODELS, serving


@pytest.fixture(scope="session")
def complete(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The digits with their labels, shared memory, a file for traces, and one port for all, as Triton."""
    repository = tmp_path_factory.mktemp("models")
    (repository / "digits").mkdir()
    for part in ("1", "labels.txt"):
        (repository / "digits" / part).symlink_to(EXAMPLE_MODELS / "digits" / part)
    (repository / "digits" / "foldserve.yaml").write_text("labels: {logits: labels.txt}\n")
    settings = {"shared_memory": True, "trace_file": repository / "traces", "management_address": "public"}
    with serving(repository, **settings) as server:
        yield server
