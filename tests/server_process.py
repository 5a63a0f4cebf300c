"""A real server as a process of its own, for tests that end one."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Self

SERVE = [sys.executable, "-m", "foldserve", "serve"]
FREE_PORTS = ["--host", "127.0.0.1", "--grpc-port", "0", "--http-port", "0"]
FREE_PORTS += ["--management-address", "127.0.0.1:0"]
END_S = 60
Record = dict[str, object]


class ServerProcess:
    """``foldserve serve`` with ``options``, once it has logged ``until``; killed where the block leaves it.

    Its log goes to a file, so that it never waits for somebody to read it. ``environment`` is added to ours.
    """

    def __init__(self, log: Path, *options: str, until: str = "ready", **environment: str) -> None:
        self._log = log
        with log.open("wb") as output:
            self.process = subprocess.Popen([*SERVE, *options], stderr=output, env=os.environ | environment)
        try:
            self.wait_for(until)
        except BaseException:
            self.end()
            raise

    @property
    def address(self) -> str:
        """Where gRPC listens."""
        listening = self.record("listening")
        return f"{listening['host']}:{listening['grpc_port']}"

    def records(self) -> list[Record]:
        """Every whole line of the log so far; what gRPC writes by itself is none of it."""
        text = self._log.read_text()
        lines = text[: text.rfind("\n") + 1].splitlines()
        return [json.loads(line) for line in lines if line.startswith("{")]

    def record(self, event: str) -> Record:
        """The first record of an event."""
        return next(record for record in self.records() if record["event"] == event)

    def wait_for(self, event: str) -> None:
        """Wait until an event is logged."""
        while not any(record["event"] == event for record in self.records()):
            assert self.process.poll() is None, self._log.read_text()
            try:
                self.process.wait(0.02)
            except subprocess.TimeoutExpired:
                continue

    def finish(self, wanted: signal.Signals = signal.SIGTERM) -> int:
        """Send a signal and wait for the end; the exit status."""
        self.process.send_signal(wanted)
        return self.process.wait(END_S)

    def end(self) -> None:
        """Kill it, if it still runs."""
        self.process.kill()
        self.process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()
