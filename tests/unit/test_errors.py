import grpc
import pytest
from foldserve import errors


def _subclasses(base: type) -> set[type]:
    children: list[type] = base.__subclasses__()
    return {base}.union(*(_subclasses(child) for child in children))


def test_the_table_names_every_exception_and_nothing_else() -> None:
    assert set(errors.STATUS_CODE) == _subclasses(errors.FoldserveError)


@pytest.mark.parametrize("code", sorted(set(errors.STATUS_CODE.values())))
def test_every_code_is_one_of_grpcs(code: str) -> None:
    assert code in grpc.StatusCode.__members__


def test_failures_that_callers_handle_differently_have_different_codes() -> None:
    for_callers = [
        errors.InvalidRequest,
        errors.ModelNotFound,
        errors.ModelNotReady,
        errors.QueueFull,
        errors.DeadlineExpired,
        errors.ExecutionFailed,
        errors.NotSupported,
    ]
    assert len({errors.STATUS_CODE[kind] for kind in for_callers}) == len(for_callers)


def test_a_foreign_exception_is_internal() -> None:
    assert errors.status_code(ValueError("x")) == "INTERNAL"
    assert errors.status_code(errors.QueueFull("x")) == "RESOURCE_EXHAUSTED"
