"""Outputs that are not wanted as they are: as the classes they stand for, or in shared memory."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from foldserve_proto import grpc_service_pb2 as pb

from foldserve.errors import InvalidRequest
from foldserve.rpc import codec
from foldserve.rpc.parameters import Parameters, integer
from foldserve.serving.classification import classify
from foldserve.serving.data_plane import InferenceResult
from foldserve.serving.datatypes import datatype_name
from foldserve.serving.shared_memory import SharedMemory, Slot
from foldserve.serving.validation import Array

CLASSIFICATION = "classification"


@dataclass(frozen=True, slots=True)
class OutputForm:
    """What the parameters of one requested output ask for."""

    classes: int = 0
    """How many of the largest values, as text; 0: the tensor itself."""

    slot: Slot | None = None
    """Where to write the tensor; None: into the response."""


Forms = Mapping[str, OutputForm]


def output_forms(request: pb.ModelInferRequest, shared_memory: SharedMemory) -> Forms:
    """The outputs with such parameters, by name; for most requests there is none.

    Raises :class:`InvalidRequest` and :class:`RegionNotFound`.
    """
    return {
        output.name: _form(output.name, output.parameters, shared_memory)
        for output in request.outputs
        if output.parameters
    }


def encode(response: pb.ModelInferResponse, result: InferenceResult, forms: Forms, *, typed: bool) -> None:
    """Append the outputs in the forms they are wanted in; whatever goes to shared memory leaves its place."""
    servable = result.servable
    named: list[tuple[str, Array]] = []
    for name, array in result.outputs:
        classes = forms[name].classes if name in forms else 0
        labels = servable.labels.get(name, ())
        by_row = servable.most_rows is not None
        named.append((name, classify(array, classes, labels, by_row=by_row) if classes else array))
    slots = {name: form.slot for name, form in forms.items() if form.slot is not None}
    if not slots:
        codec.encode_outputs(response, named, typed=typed)
        return
    for name, array in named:
        if name in slots:
            _write(response, name, array, slots[name])
        else:
            codec.encode_outputs(response, [(name, array)], typed=False)


def _form(output: str, parameters: Parameters, shared_memory: SharedMemory) -> OutputForm:
    slot = codec.slot(parameters, shared_memory)
    if CLASSIFICATION not in parameters:
        return OutputForm(slot=slot)
    classes = integer(parameters, CLASSIFICATION, 0)
    if classes <= 0:
        raise InvalidRequest(f"output '{output}': classification is {classes}; ask for one class or more")
    if slot is not None:
        raise InvalidRequest(
            f"output '{output}': classes cannot be put into shared memory; ask for one of them"
        )
    return OutputForm(classes=classes)


def _write(response: pb.ModelInferResponse, name: str, array: Array, slot: Slot) -> None:
    """Raw contents have one buffer for each output, an empty one for what is in shared memory."""
    if array.dtype.kind == "O":
        content = memoryview(codec.raw_contents(array))
    else:
        content = np.ascontiguousarray(array).reshape(-1).view(np.uint8).data
    slot.write(content)
    tensor = response.outputs.add(name=name, datatype=datatype_name(array.dtype), shape=array.shape)
    tensor.parameters[codec.REGION].string_param = slot.region.name
    tensor.parameters[codec.OFFSET].int64_param = slot.offset
    tensor.parameters[codec.BYTE_SIZE].int64_param = content.nbytes
    response.raw_output_contents.append(b"")
