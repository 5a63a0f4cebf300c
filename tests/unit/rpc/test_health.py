"""Watchers at the end of a server; what they see before that is an integration test's."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import grpc
import pytest
from foldserve.rpc import health as health_module
from foldserve.rpc.health import LONGEST_NAME, Health
from grpc_health.v1 import health_pb2, health_pb2_grpc

SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING


@pytest.fixture
def health() -> Health:
    health = Health()
    health.tell("", True)
    return health


@pytest.fixture
def stub(health: Health) -> Iterator[Any]:
    server = grpc.server(ThreadPoolExecutor(2))
    health_pb2_grpc.add_HealthServicer_to_server(health, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield health_pb2_grpc.HealthStub(channel)
    server.stop(0).wait()


def test_whoever_watches_is_told_first_and_let_go_later(health: Health, stub: Any) -> None:
    watch = stub.Watch(health_pb2.HealthCheckRequest())
    assert next(watch).status == SERVING
    health.leave()
    assert next(watch).status == NOT_SERVING
    assert watch.is_active()
    health.end_watches()
    assert list(watch) == []


def test_whoever_watches_too_late_is_told_and_let_go_at_once(health: Health, stub: Any) -> None:
    """A watch that nobody ends would keep a stopping server waiting."""
    health.leave()
    health.end_watches()
    watch = stub.Watch(health_pb2.HealthCheckRequest(), timeout=30)
    assert [answer.status for answer in watch] == [NOT_SERVING]


def test_nothing_serves_again_after_the_server_has_left(health: Health, stub: Any) -> None:
    health.leave()
    health.tell("", True)
    assert stub.Check(health_pb2.HealthCheckRequest()).status == NOT_SERVING


def test_watchers_that_leave_all_at_once_keep_nobody_from_asking(stub: Any) -> None:
    """gRPC's own servicer came to a halt here, and the whole server with it."""
    for _ in range(20):
        watches = [stub.Watch(health_pb2.HealthCheckRequest()) for _ in range(10)]
        for watch in watches:
            watch.cancel()
        assert stub.Check(health_pb2.HealthCheckRequest(), timeout=30).status == SERVING


@pytest.mark.parametrize(("length", "code"), [(1000, "NOT_FOUND"), (1001, "INVALID_ARGUMENT")])
def test_a_name_that_is_too_long_is_not_asked_for_nor_kept(
    health: Health, stub: Any, length: int, code: str
) -> None:
    asked = health_pb2.HealthCheckRequest(service="n" * length)
    with pytest.raises(grpc.RpcError) as refusal:
        stub.Check(asked)
    assert refusal.value.code().name == code
    watch = stub.Watch(asked)
    if length <= LONGEST_NAME:
        assert next(watch).status == health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
        health.end_watches()
    assert watch.code().name == ("OK" if length <= LONGEST_NAME else code)
    assert not health._watchers


def test_more_watchers_than_there_may_be_are_refused(stub: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health_module, "MOST_WATCHERS", 1)
    watch = stub.Watch(health_pb2.HealthCheckRequest())
    assert next(watch).status == SERVING
    with pytest.raises(grpc.RpcError) as refusal:
        next(stub.Watch(health_pb2.HealthCheckRequest()))
    assert refusal.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    watch.cancel()
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:  # until the server has noticed
        with suppress(grpc.RpcError):
            assert next(stub.Watch(health_pb2.HealthCheckRequest())).status == SERVING
            return
    pytest.fail("the place of a watcher that left was not given to another one")
