"""What callers on all ways see of three servers while one is killed and comes back, and one is stopped."""

import itertools
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import grpc
import numpy as np
from balancing.replicas import Replicas
from balancing.ways import HOSTS, channel
from foldserve_proto import grpc_service_pb2 as pb
from foldserve_proto.grpc_service_pb2_grpc import GRPCInferenceServiceStub

CALLERS = 4
"""Of each kind, each on a connection of its own, for each way."""

PAUSE_S = 0.02
SPREAD_S, AFTER_KILL_S = 2.0, 3.0
BACK_WITHIN_S = 15.0
LONG_S = 60.0
KILLED, STOPPED, _ = HOSTS


@dataclass(frozen=True)
class Outcome:
    """How one request ended; times are in seconds of ``time.time``."""

    began: float
    code: grpc.StatusCode
    details: str


@dataclass
class Story:
    """What happened when, and how all requests ended, by way; ``plain`` callers repeat nothing themselves."""

    plain: dict[str, list[Outcome]] = field(default_factory=dict)
    retrying: dict[str, list[Outcome]] = field(default_factory=dict)
    taken: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    """The requests that each server took."""

    killed: float = 0.0
    starting: float = 0.0
    back: float = 0.0
    stopping: float = 0.0
    exit_status: int = -1


def tell(replicas: Replicas, addresses: Mapping[str, str]) -> Story:
    """Let it happen, with callers on every way; ``addresses`` is what to dial for each."""
    story = Story()
    with _calling(addresses, story):
        time.sleep(SPREAD_S)
        story.killed = time.time()
        replicas.kill(KILLED)
        time.sleep(AFTER_KILL_S)
        story.starting = time.time()
        replicas.start(KILLED)
        story.back = time.time()
        _wait_until_it_is_asked(replicas, addresses, story.back)
        story.stopping = time.time()
        story.exit_status = replicas.stop(STOPPED)
        time.sleep(1)
    story.taken = {host: replicas.requests(host) for host in HOSTS}
    return story


@contextmanager
def _calling(addresses: Mapping[str, str], story: Story) -> Iterator[None]:
    ended = threading.Event()
    callers = [
        Caller(way, address, number, retries, outcomes.setdefault(way, []))
        for way, address in addresses.items()
        for retries, outcomes in ((False, story.plain), (True, story.retrying))
        for number in range(CALLERS)
    ]
    threads = [threading.Thread(target=caller.call, args=(ended,)) for caller in callers]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        ended.set()
        for thread in threads:
            thread.join(LONG_S)


@dataclass
class Caller:
    """Asks over one way, on a channel of its own, one request after the other."""

    way: str
    address: str
    number: int
    retries: bool
    outcomes: list[Outcome]

    def call(self, ended: threading.Event) -> None:
        """Ask until it has ended; each request's id tells who sent it."""
        name = f"{self.way} {'retrying' if self.retries else 'plain'} {self.number}"
        with channel(self.way, self.address, retries=self.retries) as own:
            stub = GRPCInferenceServiceStub(own)
            for number in itertools.count():
                if ended.wait(PAUSE_S):
                    return
                began, code, details = time.time(), grpc.StatusCode.OK, ""
                try:
                    stub.ModelInfer(digits(f"{name} {number}"), timeout=LONG_S)
                except grpc.RpcError as error:
                    code, details = error.code(), error.details() or ""
                self.outcomes.append(Outcome(began, code, details))


def _wait_until_it_is_asked(replicas: Replicas, ways: Mapping[str, str], since: float) -> None:
    """Until the server that came back has taken requests over every way, but not for ever."""
    while time.time() - since < BACK_WITHIN_S:
        taken = replicas.requests(KILLED)
        if all(asked(taken, way, since) for way in ways):
            return
        time.sleep(0.2)


def asked(taken: list[dict[str, Any]], way: str, since: float = 0.0, until: float = np.inf) -> int:
    """How many of the requests that a server took came over a way, and between two moments."""
    return sum(
        record["request_id"].startswith(f"{way} ") and since <= at(record) <= until for record in taken
    )


def at(record: dict[str, Any]) -> float:
    """When a line was logged, in seconds of ``time.time``."""
    return datetime.fromisoformat(record["timestamp"]).timestamp()


def digits(identity: str, rows: int = 1) -> pb.ModelInferRequest:
    """A request to the bundled model."""
    images = np.zeros((rows, 1, 8, 8), np.float32)
    request = pb.ModelInferRequest(model_name="digits", id=identity, raw_input_contents=[images.tobytes()])
    request.inputs.add(name="images", datatype="FP32", shape=images.shape)
    return request
