"""A server process under attack, and a caller beside it that must notice nothing."""

import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import grpc
import numpy as np
from foldserve_proto import grpc_service_pb2 as pb
from foldserve_proto.grpc_service_pb2_grpc import GRPCInferenceServiceStub
from running import CACHE, EXAMPLE_MODELS

QUICKLY_S = 20.0
"""Generous: what it guards against takes for ever."""

IMAGES = np.zeros((1, 1, 8, 8), np.float32)


class Attacked:
    """A server in a process of its own that has tried its models."""

    def __init__(self, process: subprocess.Popen[str], log: Path) -> None:
        self.process = process
        self._log = log

    @property
    def records(self) -> list[dict[str, object]]:
        """What it has logged so far."""
        return [json.loads(line) for line in self._log.read_text().splitlines() if line.endswith("}")]

    @property
    def grpc_port(self) -> int:
        return self._port("grpc_port")

    @property
    def http_port(self) -> int:
        return self._port("http_port")

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.grpc_port}"

    def status(self, field: str) -> int:
        """A number of ``/proc/<pid>/status``: ``VmRSS`` or ``VmHWM`` in bytes, ``Threads``."""
        for line in Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            name, _, value = line.partition(":")
            if name == field:
                return int(value.split()[0]) * (1024 if value.endswith("kB") else 1)
        raise KeyError(field)

    def forget_peak(self) -> None:
        """Let ``VmHWM`` begin anew from what is resident now."""
        Path(f"/proc/{self.process.pid}/clear_refs").write_text("5")

    def _port(self, name: str) -> int:
        return next(int(str(record[name])) for record in self.records if name in record)


@contextmanager
def attacked(
    repository: Path,
    *options: str,
    prefix: Sequence[str] = (),
    environment: Mapping[str, str] | None = None,
    until: str = "ready",
) -> Iterator[Attacked]:
    """A server that has logged ``until``; it must live to the end of the block, and then end in order.

    ``prefix`` is a command that starts the server's command.
    """
    command = [*prefix, sys.executable, "-m", "foldserve", "serve", "--host", "127.0.0.1"]
    ports = ["--http-port", "0", "--grpc-port", "0", "--management-address", "public"]
    cache = [] if "--cache-dir" in options else ["--cache-dir", CACHE.name]
    with tempfile.TemporaryDirectory(prefix="foldserve-attacked-") as folder:
        log = Path(folder, "log")
        with (
            log.open("w") as errors,
            subprocess.Popen(
                [*command, *ports, *cache, "--repository", str(repository), *options],
                stderr=errors,
                env=os.environ | (environment or {}),
                text=True,
            ) as process,
        ):
            server = Attacked(process, log)
            try:
                while not any(record["event"] == until for record in server.records):
                    assert process.poll() is None, log.read_text()
                    threading.Event().wait(0.02)
                yield server
                assert process.poll() is None, f"the server died: {log.read_text()[-3000:]}"
                process.terminate()
                assert process.wait(60) == 0, log.read_text()[-3000:]
            finally:
                process.kill()


@contextmanager
def bystander(address: str) -> Iterator[None]:
    """A caller that asks all the time, and of whose requests none fails while the block runs."""
    over, failures = threading.Event(), []
    answered = 0

    def ask() -> None:
        nonlocal answered
        with grpc.insecure_channel(address, [("grpc.use_local_subchannel_pool", 1)]) as channel:
            stub = GRPCInferenceServiceStub(channel)
            while not over.is_set():
                try:
                    assert stub.ModelInfer(request(), timeout=QUICKLY_S).outputs
                    assert stub.ServerLive(pb.ServerLiveRequest(), timeout=QUICKLY_S).live
                except grpc.RpcError as error:
                    failures.append(error)
                answered += 1
                over.wait(0.005)

    caller = threading.Thread(target=ask)
    caller.start()
    try:
        while not (answered or failures):
            over.wait(0.005)
        before = answered
        yield
        ends = answered + 2
        while answered < ends:  # somebody who begins after the attack is answered, too
            over.wait(0.005)
    finally:
        over.set()
        caller.join()
    assert not failures, failures[:3]
    assert answered > before


def request() -> pb.ModelInferRequest:
    """One digit."""
    asked = pb.ModelInferRequest(model_name="digits", raw_input_contents=[IMAGES.tobytes()])
    asked.inputs.add(name="images", datatype="FP32", shape=IMAGES.shape)
    return asked


def digits_alone(folder: Path) -> Path:
    """A repository with the model that loads in no time."""
    (folder / "digits").symlink_to(EXAMPLE_MODELS / "digits")
    return folder
