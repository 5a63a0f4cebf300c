"""Batches beyond what the server takes at once."""

import numpy as np
import pytest
from foldserve_client import InvalidArgument
from foldserve_client.inference import Signature
from foldserve_client.splitting import PART_BYTES, rows_of, rows_of_a_part
from foldserve_proto import grpc_service_pb2 as pb
from unit.client.both import AnyClient
from unit.client.echo import EchoServicer

ROWS = np.arange(100, dtype=np.float32).reshape(25, 4)


def signature(shape: list[int], *, splits: bool) -> Signature:
    metadata = pb.ModelMetadataResponse(name="m", properties={"foldserve.provider": "cpu"} if splits else {})
    metadata.inputs.add(name="x", datatype="FP32", shape=shape)
    metadata.outputs.add(name="y", datatype="FP32", shape=shape)
    return Signature(metadata)


def test_a_large_batch_is_sent_in_parts_and_joined_in_order(client: AnyClient, echo: EchoServicer) -> None:
    result = client.infer("echo", ROWS, request_id="r")
    np.testing.assert_array_equal(result.output, ROWS)
    assert sorted(request.inputs[0].shape[0] for request in echo.requests) == [1, 8, 8, 8]
    assert {request.id for request in echo.requests} == {"r"}
    assert (result.model_name, result.model_version, result.request_id) == ("echo", "1", "r")


def test_classes_of_a_large_batch_are_joined_too(client: AnyClient, echo: EchoServicer) -> None:
    found = client.classify("echo", ROWS, top=2)
    assert [[one.index for one in row] for row in found] == [[3, 2]] * 25
    assert found[7][0].value == ROWS[7, 3]


def test_a_part_that_fails_fails_the_batch(client: AnyClient, echo: EchoServicer) -> None:
    echo.refused_value = 40.0  # in the second part
    with pytest.raises(InvalidArgument, match="this value"):
        client.infer("echo", ROWS)


def test_a_model_without_batching_gets_everything_at_once(client: AnyClient, echo: EchoServicer) -> None:
    echo.serve("whole", [("x", "FP32", [-1, 4])], ["y"])
    client.infer("whole", ROWS)
    assert len(echo.requests) == 1


def test_a_server_that_does_not_tell_gets_everything_at_once(client: AnyClient, echo: EchoServicer) -> None:
    echo.serve("whole", [("x", "FP32", [-1, 4])], ["y"])
    echo.tells_config = False
    np.testing.assert_array_equal(client.infer("whole", ROWS).output, ROWS)
    assert len(echo.requests) == 1


def test_one_row_asks_for_no_configuration(client: AnyClient, echo: EchoServicer) -> None:
    client.infer("echo", ROWS[:1])
    assert echo.config_requests == 0
    client.infer("echo", ROWS)
    client.infer("echo", ROWS)
    assert echo.config_requests == 1


def test_rows_need_a_batch_axis_everywhere() -> None:
    assert rows_of(signature([-1, 4], splits=True), [ROWS]) == 25
    assert rows_of(signature([25, 4], splits=True), [ROWS]) == 0
    assert rows_of(signature([], splits=True), [np.zeros((), np.float32)]) == 0


def test_small_rows_share_messages_where_the_server_splits_itself() -> None:
    """4096 rows of 256 bytes are 1 MiB; other servers take 32 of them."""
    digits = np.zeros((10_000, 64), np.float32)
    assert rows_of_a_part(signature([-1, 64], splits=True), [digits], 32) == PART_BYTES // 256
    assert rows_of_a_part(signature([-1, 64], splits=False), [digits], 32) == 32
    assert rows_of_a_part(signature([-1, 64], splits=True), [digits], 0) == 10_000
    photographs = np.zeros((50, 150_528), np.float32)
    assert rows_of_a_part(signature([-1, 150_528], splits=True), [photographs], 32) == 32
