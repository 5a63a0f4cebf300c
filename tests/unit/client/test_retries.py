"""What is tried again, and what is not."""

import time

import grpc
import numpy as np
import pytest
from foldserve_client import Client, ResourceExhausted, Unavailable
from foldserve_client.connection import IDEMPOTENT, service_config
from unit.client.both import AnyClient
from unit.client.echo import EchoServicer

IMAGES = np.zeros((1, 4), np.float32)
FULL = grpc.StatusCode.RESOURCE_EXHAUSTED, "the queue is full"


def test_a_full_server_is_asked_again_when_it_said(client: AnyClient, echo: EchoServicer) -> None:
    echo.failures["echo"] = FULL
    echo.trailers = (("retry-after", "0.05"),)
    started = time.monotonic()
    with pytest.raises(ResourceExhausted, match="the queue is full") as caught:
        client.infer("echo", IMAGES, request_id="r1")
    assert len(echo.requests) == 4
    assert time.monotonic() - started >= 0.15
    assert (caught.value.retry_after_s, caught.value.request_id) == (0.05, "r1")
    assert "'r1'" in str(caught.value)


def test_a_full_server_that_has_room_again_answers(client: AnyClient, echo: EchoServicer) -> None:
    echo.failures["echo"] = FULL
    echo.trailers = (("retry-after", "0.01"),)
    echo.failing = 2
    np.testing.assert_array_equal(client.infer("echo", IMAGES).output, IMAGES)
    assert len(echo.requests) == 3


def test_nobody_waits_for_longer_than_the_timeout_allows(client: AnyClient, echo: EchoServicer) -> None:
    echo.failures["echo"] = FULL
    echo.trailers = (("retry-after", "1000"),)
    with pytest.raises(ResourceExhausted):
        client.infer("echo", IMAGES)
    assert len(echo.requests) == 1


@pytest.mark.parametrize("trailers", [(), (("retry-after", "soon"),)])
def test_without_a_hint_a_refusal_stands(
    client: AnyClient, echo: EchoServicer, trailers: tuple[tuple[str, str], ...]
) -> None:
    echo.failures["echo"] = FULL
    echo.trailers = trailers
    with pytest.raises(ResourceExhausted):
        client.infer("echo", IMAGES)
    assert len(echo.requests) == 1


def test_inference_is_sent_again_where_the_server_is_not_there(client: AnyClient, echo: EchoServicer) -> None:
    large = np.zeros((100_000, 4), np.float32)  # 1.6 MB: gRPC would keep 256 KiB to send again
    echo.serve("large", [("x", "FP32", [-1, 4])], ["y"])
    client.infer("large", large)
    echo.failures["large"] = grpc.StatusCode.UNAVAILABLE, "going down"
    echo.failing = 2
    assert client.infer("large", large).output.shape == large.shape
    assert len(echo.requests) == 4


def test_what_changes_the_server_is_sent_once(client: AnyClient, echo: EchoServicer) -> None:
    echo.failing_loads = True
    with pytest.raises(Unavailable):
        client.load_model("echo")
    assert len(echo.loads) == 1


def test_a_client_may_try_once_only(address: str, echo: EchoServicer) -> None:
    echo.failures["echo"] = grpc.StatusCode.UNAVAILABLE, "going down"
    with Client(address, retries=0) as client, pytest.raises(Unavailable, match="going down"):
        client.infer("echo", IMAGES)
    assert len(echo.requests) == 1


def test_only_calls_that_change_nothing_are_idempotent() -> None:
    for word in ("Load", "Unload", "Register", "Reset", "Setting", "Stream"):
        assert not any(word in method for methods in IDEMPOTENT.values() for method in methods)
    (config,) = service_config(3, in_turn=False)["methodConfig"]
    assert config["retryPolicy"]["maxAttempts"] == 4
    assert service_config(0, in_turn=False) == {}
