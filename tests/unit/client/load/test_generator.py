"""Requests over the wire, from this process and from several, against a small real server."""

import os
import signal
import threading
import time
from collections.abc import Iterator
from itertools import islice, repeat

import grpc
import numpy as np
import pytest
from foldserve_client.load import generator as generator_module
from foldserve_client.load.arrivals import Presence
from foldserve_client.load.errors import LoadTestError
from foldserve_client.load.generator import NOT_SENT, Generator
from foldserve_client.load.levels import Level, Loop, Step
from foldserve_client.load.messages import Messages, cycle, serialize
from foldserve_client.load.mix import Share
from foldserve_client.load.recording import Outcomes, Recorder
from foldserve_client.load.target import Target
from foldserve_client.load.worker import Finished, Pool
from foldserve_proto import grpc_service_pb2 as pb
from forwarding import forwarding
from unit.client.echo import EchoServicer

LONG_S = 60.0


def _messages(echo: EchoServicer, model: str = "echo", weight: float = 1.0) -> Messages:
    arrays = [{"x": np.full((1, 4), number, np.float32)} for number in range(3)]
    return serialize(Share(model, weight=weight), echo.models[model], arrays)


def _request(model: str) -> list[tuple[int, bytes]]:
    return [(0, pb.ModelInferRequest(model_name=model).SerializeToString())]


@pytest.fixture
def generator(address: str, echo: EchoServicer) -> Iterator[Generator]:
    generator = Generator(Target(address), cycle([_messages(echo)]), connections=2, timeout_s=LONG_S)
    generator.start(time.monotonic(), 0.0, None)
    yield generator
    generator.close()


def _taken(generator: Generator) -> Outcomes:
    generator.finish()
    return Outcomes.read(generator.take())


def test_callers_ask_again_as_soon_as_they_are_answered(generator: Generator, echo: EchoServicer) -> None:
    generator.closed([Presence(0.0, 0.2), Presence(0.0, 0.2)])
    found = _taken(generator)
    assert len(found.due) == len(echo.requests) > 2
    assert (found.code == 0).all()
    assert (found.sent >= found.due).all()
    assert (found.done > found.sent).all()
    open_at_once = [np.count_nonzero((found.sent <= at) & (at < found.done)) for at in found.sent]
    assert max(open_at_once) <= 2


def test_requests_go_round_as_they_were_made(generator: Generator, echo: EchoServicer) -> None:
    generator.start(time.monotonic(), 0.0, 7)
    generator.closed([Presence(0.0, LONG_S)])
    generator.finish()
    values = [np.frombuffer(request.raw_input_contents[0], np.float32)[0] for request in echo.requests]
    assert values == [0, 1, 2, 0, 1, 2, 0]


def test_a_bound_holds_whatever_the_callers(generator: Generator) -> None:
    generator.start(time.monotonic(), 0.0, 25)
    generator.closed([Presence(0.0, LONG_S)] * 8)
    assert len(_taken(generator).due) == 25


def test_the_warm_up_does_not_use_up_the_bound(generator: Generator) -> None:
    generator.start(time.monotonic(), 0.1, 5)
    generator.closed([Presence(0.0, LONG_S)])
    due = _taken(generator).due
    assert np.count_nonzero(due >= 0.1) == 5
    assert np.count_nonzero(due < 0.1) > 0


def test_a_clock_ticks_while_callers_wait(generator: Generator, echo: EchoServicer) -> None:
    generator.start(time.monotonic(), 0.1, None)
    generator.closed([Presence(0.0, 0.5)])
    generator.finish()
    lags = np.frombuffer(generator.take_lags(), np.float64)
    assert 0 < len(lags) <= 40
    assert lags.min() > -0.001
    assert generator.take_lags() == b""


def test_an_open_loop_sends_what_is_due_until_the_end(generator: Generator) -> None:
    generator.open(iter(np.arange(0, 100, 0.01).tolist()), end_s=0.2)
    found = _taken(generator)
    assert found.due.tolist() == pytest.approx(np.arange(0, 0.2, 0.01).tolist())
    assert (found.sent >= found.due).all()


def test_failures_are_noted_with_what_the_server_said(address: str, echo: EchoServicer) -> None:
    echo.failures["broken"] = (grpc.StatusCode.RESOURCE_EXHAUSTED, "too many wait")
    generator = Generator(Target(address), _request("broken"), 1, LONG_S)
    generator.start(time.monotonic(), 0.0, 3)
    generator.closed([Presence(0.0, LONG_S)])
    assert _taken(generator).code.tolist() == [8, 8, 8]
    assert generator.failures == {8: "too many wait"}
    generator.close()


def test_a_request_without_an_answer_ends_with_its_deadline(address: str) -> None:
    generator = Generator(Target(address), _request("stuck"), 1, timeout_s=0.1)
    generator.start(time.monotonic(), 0.0, 1)
    generator.closed([Presence(0.0, LONG_S)])
    found = _taken(generator)
    assert found.code.tolist() == [grpc.StatusCode.DEADLINE_EXCEEDED.value[0]]
    assert found.done[0] - found.due[0] >= 0.09
    generator.close()


def test_what_is_due_beyond_too_many_unanswered_requests_counts_as_not_sent(
    address: str, echo: EchoServicer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(generator_module, "MOST_IN_FLIGHT", 3)
    generator = Generator(Target(address), _request("stuck"), 1, LONG_S)
    generator.start(time.monotonic(), 0.0, None)
    generator.open(islice(repeat(0.0), 10), end_s=1.0)
    echo.stuck.set()
    codes = _taken(generator).code.tolist()
    assert codes.count(NOT_SENT) == 7
    assert len(codes) == 10
    generator.close()


def test_no_outcome_is_lost_while_batches_are_taken(generator: Generator) -> None:
    taken: list[bytes] = []
    ended = threading.Event()

    def take() -> None:
        while not ended.wait(1e-4):
            taken.append(generator.take())

    thread = threading.Thread(target=take)
    thread.start()
    generator.start(time.monotonic(), 0.0, 500)
    generator.closed([Presence(0.0, LONG_S)] * 4)
    generator.finish()
    ended.set()
    thread.join()
    taken.append(generator.take())
    assert sum(len(Outcomes.read(content).due) for content in taken) == 500


def test_processes_share_a_mix_a_bound_and_the_wish_for_more(address: str, echo: EchoServicer) -> None:
    echo.serve("other", [("x", "FP32", [-1, 4])], ["y"])
    mix = [_messages(echo, weight=3), _messages(echo, "other", weight=1)]
    step = Step(Loop.CLOSED, Level(3, 3), 0.0, LONG_S, requests=101)
    with Pool(Target(address), mix, processes=2, connections=1, timeout_s=LONG_S) as pool:
        for _ in range(2):
            recorder = Recorder(step, 2, 2, 1.0)
            finished = 0
            for report in pool.run(step):
                if isinstance(report, Finished):
                    finished += 1
                else:
                    recorder.add(report.worker, report.at_s, report.cpu_s, Outcomes.read(report.outcomes))
            assert finished == 2
            assert recorder.codes == {0: 101}
    names = [request.model_name for request in echo.requests]
    assert len(names) == 202
    assert 15 < names.count("other") < 85


def test_random_times_are_others_when_a_rate_is_measured_again(address: str, echo: EchoServicer) -> None:
    step = Step(Loop.POISSON, Level(500, 500), 0.0, LONG_S, requests=20)
    dues = []
    with Pool(Target(address), [_messages(echo)], timeout_s=LONG_S) as pool:
        for _ in range(2):
            batches = [report for report in pool.run(step) if not isinstance(report, Finished)]
            dues.append(sorted(due for batch in batches for due in Outcomes.read(batch.outcomes).due))
    assert len(dues[0]) == len(dues[1]) == 20
    assert dues[0] != dues[1]


def test_a_process_that_gets_no_turn_is_late(address: str, echo: EchoServicer) -> None:
    step = Step(Loop.CLOSED, Level(2, 2), 0.0, 1.0)
    recorder = Recorder(step, 1, 1, 0.5)
    with Pool(Target(address), [_messages(echo)], timeout_s=LONG_S) as pool:
        process = pool._processes[0].pid
        assert process is not None
        for report in pool.run(step):
            if isinstance(report, Finished):
                continue
            recorder.add_lags(report.lags)
            if report.at_s < 0.5:
                os.kill(process, signal.SIGSTOP)
                time.sleep(0.3)
                os.kill(process, signal.SIGCONT)
    assert recorder.lag.get_max_value() > 250_000


def test_a_server_that_is_not_there_is_waited_for_only_so_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generator_module, "CONNECT_S", 0.1)
    with pytest.raises(grpc.FutureTimeoutError):
        Generator(Target("127.0.0.1:1"), _request("echo"), 1, LONG_S)


def test_a_process_that_ends_is_noticed(address: str, echo: EchoServicer) -> None:
    with Pool(Target(address), [_messages(echo)], timeout_s=LONG_S) as pool:
        reports = pool.run(Step(Loop.CLOSED, Level(1, 1), 0.0, LONG_S))
        next(reports)
        pool._processes[0].kill()
        with pytest.raises(LoadTestError, match="ended before its time"):
            list(reports)


def test_requests_are_compressed_where_that_is_asked_for(address: str, echo: EchoServicer) -> None:
    echo.serve("wide", [("x", "FP32", [-1])], ["y"])
    wide = serialize(Share("wide"), echo.models["wide"], [{"x": np.zeros(25_000, np.float32)}])
    with forwarding(address) as way:
        generator = Generator(Target(way.address, compression="gzip"), cycle([wide]), 1, timeout_s=LONG_S)
        generator.start(time.monotonic(), 0.0, 1)
        generator.closed([Presence(0.0, LONG_S)])
        assert _taken(generator).code.tolist() == [0]
        generator.close()
        assert way.sent < 10_000
