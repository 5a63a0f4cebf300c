import pytest
from foldserve.errors import InvalidRequest, NotSupported
from foldserve.rpc.scheduling import scheduling
from foldserve_proto import grpc_service_pb2 as pb

Value = pb.InferParameter


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        ({}, (0, 0)),
        ({"priority": Value(uint64_param=3), "timeout": Value(int64_param=2000)}, (3, 2000)),
        ({"timeout": Value(string_param="1500")}, (0, 1500)),
        ({"anything": Value(double_param=0.5)}, (0, 0)),
        ({"sequence_id": Value(int64_param=0), "sequence_start": Value(bool_param=False)}, (0, 0)),
        ({"sequence_id": Value(string_param="")}, (0, 0)),
        ({"triton_enable_empty_final_response": Value(bool_param=True)}, (0, 0)),
    ],
)
def test_priority_and_timeout_are_read(parameters: dict[str, Value], expected: tuple[int, int]) -> None:
    assert scheduling(pb.ModelInferRequest(parameters=parameters).parameters) == expected


@pytest.mark.parametrize(
    ("name", "value", "kind"),
    [
        ("priority", Value(bool_param=True), InvalidRequest),
        ("priority", Value(), InvalidRequest),
        ("timeout", Value(int64_param=-1), InvalidRequest),
        ("timeout", Value(string_param="-5"), InvalidRequest),
        ("timeout", Value(string_param="9" * 30), InvalidRequest),
        ("timeout", Value(string_param="١"), InvalidRequest),
        ("timeout", Value(double_param=5.0), InvalidRequest),
        ("triton_of_tomorrow", Value(int64_param=1), InvalidRequest),
        ("sequence_id", Value(uint64_param=42), NotSupported),
        ("sequence_id", Value(string_param="me"), NotSupported),
    ],
)
def test_what_cannot_be_honoured_is_refused_by_name(name: str, value: Value, kind: type[Exception]) -> None:
    with pytest.raises(kind, match=f"parameter '{name}'"):
        scheduling(pb.ModelInferRequest(parameters={name: value}).parameters)
