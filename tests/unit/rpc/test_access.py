"""Who may call what: every method of every service, by right and by port."""

from hashlib import sha256
from typing import Any

import pytest
from foldserve.errors import PermissionDenied, Unauthenticated
from foldserve.observability.metrics import Metrics
from foldserve.rpc.access import Access, Rejection
from foldserve.rpc.rights import CHANGES, RIGHTS, needed
from foldserve.rpc.tokens import Holder, Tokens
from foldserve.settings import Right
from foldserve_proto import fold_service_pb2, grpc_service_pb2
from google.protobuf.descriptor import FileDescriptor
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

SERVED: tuple[FileDescriptor, ...] = tuple(
    module.DESCRIPTOR for module in (grpc_service_pb2, fold_service_pb2, health_pb2, reflection_pb2)
)
METHODS = [
    method.name for file in SERVED for service in file.services_by_name.values() for method in service.methods
]
ANYWHERE, ELSEWHERE = None, "127.0.0.1:8003"


class _Always:
    """Tokens, each named like the right that it gives; read once."""

    value = Tokens({sha256(right.encode()).digest(): Holder(right, frozenset({right})) for right in Right})


def _access(*, tokens: bool, elsewhere: str | None) -> tuple[Access, Metrics]:
    metrics = Metrics()
    known: Any = _Always() if tokens else None
    return Access(known, elsewhere, metrics.rejected_calls), metrics


def _with(token: str) -> list[tuple[str, str | bytes]]:
    return [("authorization", f"Bearer {token}")]


def test_every_method_that_is_served_has_its_rights_and_a_name_of_its_own() -> None:
    assert sorted(METHODS) == sorted(RIGHTS)
    assert set(CHANGES) <= set(RIGHTS)


def test_a_method_that_nobody_thought_of_is_for_managers() -> None:
    assert needed("SomethingNew") == (Right.MANAGEMENT,)


@pytest.mark.parametrize("method", METHODS)
def test_a_token_opens_what_it_has_the_right_to_and_nothing_else(method: str) -> None:
    access, _ = _access(tokens=True, elsewhere=ANYWHERE)
    assert access.is_open(method) == (not RIGHTS[method])
    for right in Right:
        refusal = access.refusal(method, _with(right))
        if RIGHTS[method] and right not in RIGHTS[method]:
            assert isinstance(refusal, PermissionDenied)
            assert f"{method} needs the right '" in str(refusal)
        else:
            assert refusal is None
    for metadata in ([], _with("nobody's")):
        assert isinstance(access.refusal(method, metadata), Unauthenticated) == bool(RIGHTS[method])


@pytest.mark.parametrize("method", METHODS)
def test_without_tokens_only_what_changes_the_server_is_kept_from_the_public_port(method: str) -> None:
    managed = method in {"RepositoryModelLoad", "RepositoryModelUnload", "ResetFallback"}
    public, _ = _access(tokens=False, elsewhere=ELSEWHERE)
    assert public.is_open(method) is not managed
    assert (public.refusal(method, []) is not None) is managed
    own, _ = _access(tokens=False, elsewhere=ANYWHERE)
    assert own.is_open(method)
    assert own.refusal(method, []) is None


def test_the_public_port_says_where_the_server_is_managed_to_those_who_may() -> None:
    access, _ = _access(tokens=True, elsewhere=ELSEWHERE)
    told = access.refusal("RepositoryModelLoad", _with("management"))
    assert isinstance(told, PermissionDenied)
    assert ELSEWHERE in str(told)
    assert "management_address" in str(told)
    for metadata in ([], _with("nobody's"), _with("inference")):
        assert ELSEWHERE not in str(access.refusal("RepositoryModelLoad", metadata))


def test_rejections_are_counted_by_reason() -> None:
    access, metrics = _access(tokens=True, elsewhere=ELSEWHERE)
    for metadata, times in (
        ([], 1),
        (_with("nobody's"), 2),
        (_with("metadata"), 3),
        (_with("management"), 4),
    ):
        for _ in range(times):
            access.refusal("RepositoryModelLoad", metadata)
    access.refusal("ModelInfer", _with("inference"))
    counts = {
        reason: metrics.registry.get_sample_value("foldserve_rejected_calls_total", {"reason": reason})
        for reason in Rejection
    }
    assert list(counts.values()) == [1, 2, 3, 4]
