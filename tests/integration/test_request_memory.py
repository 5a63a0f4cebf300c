"""What a server does with the memory of large requests: the next ones get it."""

import os
import platform
import resource
from pathlib import Path

import numpy as np
import pytest
from foldserve_client import Client
from server_process import FREE_PORTS, ServerProcess
from small_models import add_model, chain

SIDE = 2048
PAGES = 4 * SIDE * SIDE // resource.getpagesize()
REQUESTS = 8


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries have no such settings")
@pytest.mark.parametrize(("variables", "is_kept"), [({}, True), ({"MALLOC_ARENA_MAX": "8"}, False)])
def test_large_requests_take_the_memory_of_the_last_ones_unless_somebody_chose_otherwise(
    variables: dict[str, str], is_kept: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in os.environ if name.startswith(("MALLOC_", "GLIBC_TUNABLES"))]:
        monkeypatch.delenv(name)
    add_model(tmp_path / "repository", "net", chain(["batch", 1, SIDE, SIDE], ("Relu", [], {})))
    options = ["--repository", str(tmp_path / "repository"), "--cache-dir", str(tmp_path / "cache")]
    options += ["--precisions", "none", "--shadow-reference", "off", "--log-format", "json", *FREE_PORTS]
    image = np.ones((1, 1, SIDE, SIDE), np.float32)
    with ServerProcess(tmp_path / "log", *options, **variables) as server, Client(server.address) as client:
        for _ in range(REQUESTS):
            client.infer("net", image)
        before = _page_faults(server.process.pid)
        for _ in range(REQUESTS):
            client.infer("net", image)
        faults = (_page_faults(server.process.pid) - before) / REQUESTS
    assert (faults < PAGES / 10) if is_kept else (faults > PAGES / 2)


def _page_faults(process: int) -> int:
    """Pages that a process has touched for the first time: ``minflt`` of proc(5)."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return int(fields[7])
