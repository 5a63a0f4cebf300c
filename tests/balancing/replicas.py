"""Three real servers of one model, each at an address of its own, to be killed, stopped and started again."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from balancing.ways import HOSTS, Servers, free_port
from running import EXAMPLE_MODELS
from server_process import ServerProcess

NOT_READY_DELAY_S = 4
"""Longer than any of the balancers takes to see that a server is not ready."""

MODEL_SETTINGS = "batching: {max_queue_delay_us: 30000}\n"
"""Requests take their time without taking the processor's, so that there always are some in flight."""


class Replicas:
    """The servers, and the log of each process: a line for each request that it took."""

    def __init__(self, folder: Path) -> None:
        self.servers = Servers(grpc=_free_everywhere(), http=_free_everywhere())
        self._folder = folder
        self._processes: dict[str, ServerProcess] = {}
        self._logs: dict[str, list[ServerProcess]] = {host: [] for host in HOSTS}
        (folder / "models" / "digits").mkdir(parents=True)
        (folder / "models" / "digits" / "1").symlink_to(EXAMPLE_MODELS / "digits" / "1")
        (folder / "models" / "digits" / "foldserve.yaml").write_text(MODEL_SETTINGS)

    def start(self, host: str) -> None:
        """Start a server that does not run, and wait until it is ready."""
        one = ServerProcess(
            self._folder / f"{host}-{len(self._logs[host])}.log",
            *("--host", host, "--grpc-port", str(self.servers.grpc), "--http-port", str(self.servers.http)),
            *("--repository", str(self._folder / "models"), "--cache-dir", str(self._folder / "cache")),
            *("--instances", "1", "--intra-op-threads", "1", "--log-level", "debug"),
            *("--not-ready-delay-s", str(NOT_READY_DELAY_S), "--management-address", "public"),
        )
        self._processes[host] = one
        self._logs[host].append(one)

    def kill(self, host: str) -> None:
        """End a server as a power cut does."""
        self._processes[host].finish(signal.SIGKILL)

    def stop(self, host: str) -> int:
        """End a server in order; its exit status."""
        return self._processes[host].finish()

    def requests(self, host: str) -> list[dict[str, Any]]:
        """The requests that a server took, in all its lives."""
        return [
            record for one in self._logs[host] for record in one.records() if record["event"] == "request"
        ]

    def close(self) -> None:
        """Kill what runs."""
        for process in self._processes.values():
            process.end()


@contextmanager
def replicas(folder: Path) -> Iterator[Replicas]:
    """The servers, as long as the block."""
    three = Replicas(folder)
    try:
        for host in HOSTS:
            three.start(host)
        yield three
    finally:
        three.close()


def _free_everywhere() -> int:
    """A port that is free at every host."""
    while True:
        port = free_port(HOSTS[0])
        try:
            for host in HOSTS[1:]:
                free_port(host, port)
        except OSError:
            continue
        return port
