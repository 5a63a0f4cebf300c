"""Tensors in shared memory: what the server is told of, whatever fails, and which outputs have room there.

The exchanges are carried out here, step by step, by a server's part that refuses what a test says.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from foldserve_client.errors import ClientError, DeadlineExceeded, InvalidArgument, Unavailable
from foldserve_client.inference import Asked, InferResult, Signature
from foldserve_client.regions import REGION, Regions
from foldserve_client.steps import Call, Exchange
from foldserve_proto import grpc_service_pb2 as pb

ROWS = np.arange(40_000, dtype=np.float32).reshape(10_000, 4)
Refuses = Callable[[Any], ClientError | None]


class Server:
    """Its regions; a call that it refuses is done all the same, as one whose answer comes too late is."""

    def __init__(self) -> None:
        self.regions: set[str] = set()
        self.requests: list[pb.ModelInferRequest] = []

    def carry_out(self, exchange: Exchange[Any], refuses: Refuses | None = None) -> Any:
        """The result of an exchange, or its error."""
        try:
            step = next(exchange)
            while True:
                assert isinstance(step, Call)
                answer = self._answer(step.request)
                error = refuses(step.request) if refuses is not None else None
                step = exchange.send(answer) if error is None else exchange.throw(error)
        except StopIteration as finished:
            return finished.value

    def _answer(self, request: Any) -> Any:
        match request:
            case pb.SystemSharedMemoryRegisterRequest():
                self.regions.add(request.name)
            case pb.SystemSharedMemoryUnregisterRequest():
                self.regions.discard(request.name)
            case pb.ModelInferRequest():
                self.requests.append(request)
                response = pb.ModelInferResponse(model_name="m", raw_output_contents=[ROWS.tobytes()])
                response.outputs.add(name="y", datatype="FP32", shape=ROWS.shape)
                return response
        return None


def signature(inputs: list[int], outputs: list[int]) -> Signature:
    metadata = pb.ModelMetadataResponse(name="m")
    metadata.inputs.add(name="x", datatype="FP32", shape=inputs)
    metadata.outputs.add(name="y", datatype="FP32", shape=outputs)
    return Signature(metadata)


BATCHING = signature([-1, 4], [-1, 4])


def infer(regions: Regions, model: Signature = BATCHING) -> Exchange[InferResult]:
    return regions.infer(model, model.request(Asked()), [ROWS])


def too_late(kind: type) -> Refuses:
    return lambda request: DeadlineExceeded("too late") if isinstance(request, kind) else None


@pytest.mark.parametrize("kind", [pb.SystemSharedMemoryRegisterRequest, pb.ModelInferRequest])
def test_a_region_of_which_no_answer_came_is_unregistered(kind: type) -> None:
    server, regions = Server(), Regions()
    with pytest.raises(DeadlineExceeded):
        server.carry_out(infer(regions), too_late(kind))
    (abandoned,) = server.regions
    server.carry_out(infer(regions))
    assert abandoned not in server.regions
    assert len(server.regions) == 1
    server.carry_out(regions.unregister())
    assert server.regions == set()


def test_an_exchange_that_is_given_up_leaves_no_region_behind() -> None:
    server, regions = Server(), Regions()
    exchange = infer(regions)
    registering = next(exchange)
    assert isinstance(registering, Call)
    server.regions.add(registering.request.name)
    exchange.close()  # as a coroutine that is cancelled does
    server.carry_out(regions.unregister())
    assert server.regions == set()


def test_unregistering_that_fails_is_tried_again_and_fails_no_request() -> None:
    server, regions = Server(), Regions()
    for _ in range(2):
        with pytest.raises(DeadlineExceeded):
            server.carry_out(infer(regions), too_late(pb.ModelInferRequest))
    asked: list[str] = []

    def refuses(request: Any) -> ClientError | None:
        if not isinstance(request, pb.SystemSharedMemoryUnregisterRequest):
            return None
        asked.append(request.name)
        return Unavailable("not now")

    assert server.carry_out(infer(regions), refuses)["y"].shape == ROWS.shape
    first = list(asked)
    server.carry_out(regions.unregister(), refuses)
    server.carry_out(regions.unregister())
    assert len(asked) > len(first) > 0
    assert server.regions == set()


def outputs_in_regions(request: pb.ModelInferRequest) -> list[str]:
    return [output.name for output in request.outputs if REGION in output.parameters]


def test_outputs_have_room_only_where_their_rows_are_the_inputs() -> None:
    server, regions = Server(), Regions()
    server.carry_out(infer(regions))
    server.carry_out(infer(regions, signature([10_000, 4], [-1, 6])))
    batching, detector = server.requests
    assert outputs_in_regions(batching) == ["y"]
    assert outputs_in_regions(detector) == []


def test_an_output_that_does_not_fit_its_place_comes_by_message_from_then_on() -> None:
    server, regions = Server(), Regions()

    def refuses(request: Any) -> ClientError | None:
        refused = isinstance(request, pb.ModelInferRequest) and outputs_in_regions(request)
        return InvalidArgument("the output takes more bytes") if refused else None

    for sent in (2, 3):
        np.testing.assert_array_equal(server.carry_out(infer(regions), refuses)["y"], ROWS)
        assert len(server.requests) == sent


def test_a_refusal_for_another_reason_stands() -> None:
    server, regions = Server(), Regions()
    with pytest.raises(InvalidArgument, match="not this one"):
        server.carry_out(
            infer(regions),
            lambda request: InvalidArgument("not this one") if hasattr(request, "inputs") else None,
        )
    server.carry_out(infer(regions))
    assert outputs_in_regions(server.requests[-1]) == ["y"]
