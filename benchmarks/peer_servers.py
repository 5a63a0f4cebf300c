"""Peers as trees of processes: all that a start leaves running is counted, and ended by its id."""

import contextlib
import os
import signal
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import grpc
import numpy as np
from numpy.typing import NDArray
from serving_harness import START_S, TICKS, BenchmarkFailed, Process, Recipe

Member = tuple[int, int]
"""A process: its id, and when it started, since ids are given anew."""


@dataclass(frozen=True)
class Exchange:
    """How a server is asked for the model's answer, and how that is read."""

    path: str
    message: bytes
    """The serialised request, or the body of an HTTP request."""

    headers: Mapping[str, str]
    decode: Callable[[bytes], NDArray[np.float32]]
    grpc: bool = True
    """Whether it is gRPC; else HTTP/1.1."""


class Tree(Process):
    """A running server with all of its processes, wherever it detached them to."""

    def __init__(self, recipe: Recipe, cores: Collection[int], log: Path) -> None:
        self._mark = f"PEER_TREE={uuid.uuid4().hex}"
        self.started = time.monotonic()
        super().__init__(replace(recipe, command=("env", self._mark, *recipe.command)), cores, log)

    def ask(self, exchange: Exchange) -> bytes:
        """The first answer, waiting until there is one."""
        deadline = time.monotonic() + START_S
        with self.channel() as channel:
            while True:
                try:
                    return self._asked(exchange, channel)
                except (grpc.RpcError, urllib.error.HTTPError, OSError) as error:
                    if self._gone() or time.monotonic() > deadline:
                        raise BenchmarkFailed(f"{self.name}: {error}\n{self.tail()}") from None
                    time.sleep(0.02)

    def _asked(self, exchange: Exchange, channel: grpc.Channel) -> bytes:
        if exchange.grpc:
            ask: Callable[..., bytes] = channel.unary_unary(exchange.path)
            return ask(exchange.message, timeout=START_S)
        address = f"http://127.0.0.1:{self.port}{exchange.path}"
        request = urllib.request.Request(address, exchange.message, dict(exchange.headers))
        with urllib.request.urlopen(request, timeout=START_S) as response:
            body: bytes = response.read()
            return body

    def cpu_s(self) -> float:
        """Processor time so far of the processes that still run, in seconds."""
        total = 0
        for pid, _started in self._members():
            with contextlib.suppress(OSError):
                fields = _stat(pid)
                total += int(fields[11]) + int(fields[12])
        return total / TICKS

    def memory_bytes(self) -> int:
        """Resident memory: what each process has for itself, and the most that one of them shares.

        The sum of all would count the pages that they share with each other several times.
        """
        private, shared = 0, 0
        for pid, _started in self._members():
            with contextlib.suppress(OSError):
                sizes = _rollup(pid)
                own = sizes["Private_Clean"] + sizes["Private_Dirty"]
                private += own
                shared = max(shared, sizes["Rss"] - own)
        return private + shared

    @contextlib.contextmanager
    def halted(self) -> Iterator[None]:
        """Let no process of the server run meanwhile: some never rest, even when nobody asks them."""
        members = self._members()
        _signal(members, signal.SIGSTOP)
        try:
            yield
        finally:
            _signal(members, signal.SIGCONT)

    def stop(self) -> None:
        """End the server, and what it leaves behind."""
        members = self._members()
        super().stop()
        _signal(members | self._members(), signal.SIGKILL)

    def _members(self) -> set[Member]:
        """All processes that descend from the server, or carry its mark in their environment."""
        parents: dict[int, int] = {}
        started: dict[int, int] = {}
        found = {self.pid}
        for pid in _processes():
            with contextlib.suppress(OSError):
                fields = _stat(pid)
                parents[pid], started[pid] = int(fields[1]), int(fields[19])
                if self._mark.encode() in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
                    found.add(pid)
        while more := {pid for pid, parent in parents.items() if parent in found} - found:
            found |= more
        return {(pid, started[pid]) for pid in found & started.keys()}


def _signal(members: Collection[Member], number: signal.Signals) -> None:
    for pid, started in members:
        with contextlib.suppress(OSError):
            if int(_stat(pid)[19]) == started:
                os.kill(pid, number)


def _processes() -> Iterator[int]:
    return (int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit())


def _stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat from the state on, which is the third one there."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def _rollup(pid: int) -> dict[str, int]:
    """Sizes in bytes by name."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    return {name: int(size.split()[0]) * 1024 for name, size in (line.split(":") for line in lines)}
