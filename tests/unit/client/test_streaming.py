"""Streams of both clients: order, errors, back-pressure, ends."""

import asyncio
import itertools
import threading
from collections.abc import AsyncIterator, Iterable, Iterator
from typing import Any

import numpy as np
import pytest
from foldserve_client import (
    AsyncClient,
    Cancelled,
    Client,
    ClientError,
    DeadlineExceeded,
    Internal,
    InvalidArgument,
    NotFound,
    StreamAnswer,
    Unavailable,
    connection,
)
from foldserve_client.diagnosis import explained
from foldserve_client.inference import Asked, Signature
from foldserve_client.streaming import Window
from foldserve_proto import grpc_service_pb2 as pb
from forwarding import forwarding
from unit.client.echo import EchoServicer

NOT_A_NUMBER = np.full((1, 4), np.nan, np.float32)


def row(value: float) -> np.ndarray[Any, np.dtype[np.float32]]:
    return np.full((1, 4), value, np.float32)


@pytest.fixture(params=["sync", "asyncio"])
def streamed(request: pytest.FixtureRequest, address: str) -> Any:
    """``list(client.stream(...))`` with either client."""

    def sync(model: str, inputs: Iterable[Any], **arguments: Any) -> list[StreamAnswer]:
        with Client(address, timeout_s=10) as client:
            return list(client.stream(model, inputs, **arguments))

    def asyncio_(model: str, inputs: Iterable[Any], **arguments: Any) -> list[StreamAnswer]:
        async def collect() -> list[StreamAnswer]:
            async with AsyncClient(address, timeout_s=10) as client:
                return [answer async for answer in client.stream(model, inputs, **arguments)]

        return asyncio.run(collect())

    return sync if request.param == "sync" else asyncio_


def test_answers_come_in_the_order_of_the_inputs(streamed: Any, echo: EchoServicer) -> None:
    answers = streamed("echo", map(row, range(7)), request_id="job", outputs=["y"])
    assert [answer.index for answer in answers] == list(range(7))
    assert [answer.result.output[0, 0] for answer in answers] == list(range(7))
    assert [answer.request_id for answer in answers] == [f"job/{index}" for index in range(7)]
    assert all(list(answer.result) == ["y"] for answer in answers)


def test_answers_may_come_as_they_are_ready(streamed: Any, echo: EchoServicer) -> None:
    """The server answers in pairs, the later one first."""
    answers = streamed("echo", map(row, range(4)), ordered=False)
    assert [answer.index for answer in answers] == [1, 0, 3, 2]
    assert [answer.result.output[0, 0] for answer in answers] == [1, 0, 3, 2]


def test_each_request_has_its_own_error(streamed: Any, echo: EchoServicer) -> None:
    answers = streamed("echo", [row(0), NOT_A_NUMBER, row(2).astype("f8"), row(3)], request_id="job")
    assert [answer.error is None for answer in answers] == [True, False, False, True]
    refused, misfit = answers[1].error, answers[2].error
    assert (refused.details, refused.model, refused.request_id) == ("not a number", "echo", "job/1")
    with pytest.raises(ClientError, match="not a number"):
        _ = answers[1].result
    assert isinstance(misfit, InvalidArgument)
    assert len(echo.requests) == 3


def test_an_unknown_model_ends_it_at_once(streamed: Any) -> None:
    with pytest.raises(NotFound, match="did you mean 'echo'"):
        streamed("ecco", [row(0)])


def test_inputs_that_fail_end_it(streamed: Any, echo: EchoServicer) -> None:
    def failing() -> Iterator[Any]:
        yield row(0)
        raise OSError("the camera is gone")

    with pytest.raises(OSError, match="the camera is gone"):
        streamed("echo", failing())


def test_a_stream_that_the_server_ends_is_an_error(streamed: Any, echo: EchoServicer) -> None:
    echo.ends_streams_after = 2
    with pytest.raises((Internal, Unavailable), match="ended the stream"):
        streamed("echo", map(row, range(40)))


@pytest.mark.parametrize("window", [2, 5])
def test_no_more_requests_are_out_than_the_window_has(streamed: Any, echo: EchoServicer, window: int) -> None:
    assert len(streamed("echo", map(row, range(30)), window=window)) == 30
    assert echo.most_in_stream <= window


def test_a_window_of_nothing_is_refused(streamed: Any) -> None:
    with pytest.raises(ValueError, match="window is 0"):
        streamed("echo", [], window=0)


def test_who_takes_no_answers_is_sent_no_further_requests(address: str, echo: EchoServicer) -> None:
    read = itertools.count()
    is_waiting = threading.Event()

    def endless() -> Iterator[Any]:
        for index in read:
            if index == 4:
                is_waiting.set()
            yield row(index)

    with Client(address) as client:
        answers = client.stream("echo", endless(), window=4)
        assert next(answers).index == 0
        assert not is_waiting.wait(0.2)  # the first one is not done with
        next(answers)
        assert is_waiting.wait(10)
        answers.close()  # type: ignore[attr-defined]  # it is a generator


async def test_asyncio_inputs_may_come_later(address: str, echo: EchoServicer) -> None:
    """Each input is made from the answer before it."""
    last: asyncio.Queue[float] = asyncio.Queue()
    last.put_nowait(1.0)

    async def doubled() -> AsyncIterator[Any]:
        for _ in range(3):
            value = 2 * await last.get()
            yield row(value)
            yield row(value)

    async with AsyncClient(address) as client:
        async for answer in client.stream("echo", doubled()):
            if answer.index % 2:
                last.put_nowait(float(answer.result.output[0, 0]))
    assert await last.get() == 8.0


def test_answers_to_nothing_that_was_asked_are_an_error() -> None:
    window = Window(Signature(pb.ModelMetadataResponse(name="m")), Asked(request_id="a"), 1, ordered=True)
    for identity in ("b/0", "a/x", ""):
        response = pb.ModelStreamInferResponse()
        response.infer_response.id = identity
        assert isinstance(window.answer(response), Internal)


def test_an_error_of_no_request_is_told_as_the_server_put_it() -> None:
    window = Window(Signature(pb.ModelMetadataResponse(name="m")), Asked(request_id="a"), 1, ordered=True)
    error = window.answer(pb.ModelStreamInferResponse(error_message="the tokenizer exploded"))
    assert isinstance(error, ClientError)
    assert (error.details, error.model) == ("the tokenizer exploded", "m")


def test_an_answer_that_cannot_be_read_ends_it(streamed: Any, echo: EchoServicer) -> None:
    """The inputs wait for the end of the stream, which the answer has to bring about."""
    echo.shape_in_stream = [-1, -4]
    with pytest.raises(ValueError, match="one unknown dimension"):
        streamed("echo", map(row, range(40)), window=2)


def test_a_stream_that_takes_too_long_is_told_as_such(streamed: Any, echo: EchoServicer) -> None:
    echo.serve("stuck", [("x", "FP32", [-1, 4])], ["y"])
    with pytest.raises(DeadlineExceeded, match="did not answer within the timeout"):
        streamed("stuck", map(row, range(2)), timeout_s=0.5)
    # what gRPC says, now and then, of one whose inputs are not all there yet
    assert "within the timeout" in explained("Stream removed (Deadline Exceeded)", "host:1", tls=False)


async def test_asyncio_goes_on_while_inputs_are_waited_for(address: str) -> None:
    is_going_on = threading.Event()

    def waiting() -> Iterator[Any]:
        yield row(0)
        assert is_going_on.wait(10)
        yield row(1)

    async with AsyncClient(address) as client:
        answers = client.stream("echo", waiting(), window=4)
        asyncio.get_running_loop().call_later(0.1, is_going_on.set)
        assert [answer.index async for answer in answers] == [0, 1]


async def test_closing_an_asyncio_client_ends_its_streams(address: str, echo: EchoServicer) -> None:
    echo.serve("stuck", [("x", "FP32", [-1, 4])], ["y"])
    client = AsyncClient(address)
    answers = client.stream("stuck", map(row, range(2)))
    asyncio.get_running_loop().call_later(0.3, lambda: closing.append(asyncio.create_task(client.close())))
    closing: list[asyncio.Task[None]] = []
    with pytest.raises(Cancelled):
        await asyncio.wait_for(anext(answers), 10)
    await closing[0]


def test_a_server_that_vanishes_ends_a_stream_without_a_limit(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "KEEPALIVE_S", 0.2)
    monkeypatch.setattr(connection, "KEEPALIVE_TIMEOUT_S", 0.2)
    with forwarding(address) as way, Client(way.address) as client:

        def inputs() -> Iterator[Any]:
            yield row(0)
            way.fall_silent()
            yield from map(row, itertools.count(1))

        with pytest.raises(Unavailable):
            list(client.stream("echo", inputs()))


def test_connections_are_not_asked_for_life_more_often_than_servers_allow() -> None:
    """By default gRPC's servers close those that ask every five minutes."""
    assert connection.KEEPALIVE_S > 300
