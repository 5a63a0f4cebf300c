"""A process that generates load, and the pool of them that shares a step's load."""

import gc
import multiprocessing
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from itertools import islice
from multiprocessing.connection import Connection, wait
from typing import Any, Self

import grpc

from foldserve_client.load.arrivals import arrivals, callers
from foldserve_client.load.errors import LoadTestError
from foldserve_client.load.generator import Generator
from foldserve_client.load.levels import Loop, Step
from foldserve_client.load.messages import Messages, cycle
from foldserve_client.load.target import Target

INTERVAL_S = 0.25
"""Between two batches of outcomes."""

HEAD_START_S = 0.1
"""From the order to begin until the step begins, for all processes at the same time."""

START_S = 60.0
STOP_S = 1.0


@dataclass(frozen=True)
class Job:
    """What one process of several is to do; ``begin`` is a moment of time.monotonic."""

    step: Step
    begin: float
    seed: int
    """Of arrivals at random times: the same in all processes."""


@dataclass(frozen=True)
class Batch:
    """What happened in a process since the batch before."""

    worker: int
    outcomes: bytes
    lags: bytes
    """Both as of :class:`~foldserve_client.load.generator.Generator`."""

    at_s: float
    """When it was taken, from the step's begin."""

    cpu_s: float
    """Processor time of the process so far."""


@dataclass(frozen=True)
class Finished:
    """A process has no request of the step in flight any more."""

    failures: dict[int, str]
    """What the server said first, by status code."""


@dataclass(frozen=True)
class Setup:
    """What a process needs to know once."""

    target: Target
    messages: tuple[Messages, ...]
    connections: int
    timeout_s: float
    index: int
    processes: int


class Pool:
    """Worker processes that are connected to one server; a context manager."""

    def __init__(
        self,
        target: Target,
        messages: Sequence[Messages],
        *,
        processes: int = 1,
        connections: int = 1,
        timeout_s: float = 10.0,
    ) -> None:
        """Start the processes and wait until they are connected, each by ``connections``.

        Raises LoadTestError where they are not.
        """
        context = multiprocessing.get_context("spawn")
        self.size = processes
        self._connections: list[Connection] = []
        self._processes = []
        self._steps = 0
        for index in range(processes):
            ours, theirs = context.Pipe()
            setup = Setup(target, tuple(messages), connections, timeout_s, index, processes)
            process = context.Process(target=work, args=(theirs, setup), daemon=True)
            process.start()
            theirs.close()
            self._connections.append(ours)
            self._processes.append(process)
        try:
            self._await_connected(target)
        except BaseException:
            self.close()
            raise

    def run(self, step: Step) -> Iterator[Batch | Finished]:
        """Run a step; yields what the processes report, to the end of each."""
        begin = time.monotonic() + HEAD_START_S
        self._steps += 1  # another seed for each: a rate that is measured again should not repeat its bursts
        for index, connection in enumerate(self._connections):
            connection.send(Job(_share(step, index, self.size), begin, self._steps))
        running: list[Connection] = list(self._connections)
        while running:
            ready = wait(running)
            for connection in [one for one in running if one in ready]:
                report: Batch | Finished = _received(connection)
                if isinstance(report, Finished):
                    running.remove(connection)
                yield report

    def close(self) -> None:
        """End the processes."""
        for connection in self._connections:
            with suppress(OSError):
                connection.send(None)
            connection.close()
        for process in self._processes:
            process.join(STOP_S)
            if process.is_alive():
                process.kill()
                process.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()

    def _await_connected(self, target: Target) -> None:
        for connection in self._connections:
            if not connection.poll(START_S):
                raise LoadTestError(f"a generator process did not start in {START_S:.0f} s")
            failure = _received(connection)
            if failure is not None:
                raise LoadTestError(f"{target} cannot be reached: {failure}")


def work(connection: Connection, setup: Setup) -> None:
    """Do what the pool says until it says no more: the life of a worker process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the pool ends it
    try:
        generator = Generator(setup.target, cycle(setup.messages), setup.connections, setup.timeout_s)
    except grpc.FutureTimeoutError:
        connection.send("no connection in time")
        return
    connection.send(None)
    gc.collect()
    gc.freeze()
    with suppress(EOFError, OSError):  # the pool has gone
        while (job := connection.recv()) is not None:
            _run(generator, connection, setup, job)
    generator.close()


def _run(generator: Generator, connection: Connection, setup: Setup, job: Job) -> None:
    step = job.step
    generator.start(job.begin, step.warm_up_s, step.requests)
    with _reporting(generator, connection, setup.index, job.begin):
        if step.loop is Loop.CLOSED:
            generator.closed(callers(step)[setup.index :: setup.processes])
        else:
            generator.open(islice(arrivals(step, job.seed), setup.index, None, setup.processes), step.end_s)
        generator.finish()
    connection.send(Finished(generator.failures))


@contextmanager
def _reporting(generator: Generator, connection: Connection, worker: int, begin: float) -> Iterator[None]:
    """Send batches all the time, and a last one at the end."""
    ended = threading.Event()

    def report() -> None:
        now = time.monotonic()
        lags = generator.take_lags()
        connection.send(Batch(worker, generator.take(), lags, now - begin, time.process_time()))

    def repeat() -> None:
        with suppress(OSError):  # the pool has gone
            while not ended.wait(INTERVAL_S):
                report()

    thread = threading.Thread(target=repeat)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
    report()


def _share(step: Step, index: int, processes: int) -> Step:
    """A process's part of the requests; of callers and arrivals it takes every n-th by itself."""
    if step.requests is None:
        return step
    return replace(step, requests=step.requests // processes + (index < step.requests % processes))


def _received(connection: Connection) -> Any:
    try:
        return connection.recv()
    except EOFError:
        raise LoadTestError("a generator process ended before its time") from None
