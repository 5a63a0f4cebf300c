"""Inference requests from arrays, checked against the model's metadata, and results from responses."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from foldserve_proto import grpc_service_pb2 as pb
from numpy.typing import ArrayLike

from foldserve_client.errors import Internal, InvalidArgument
from foldserve_client.tensors import Array, decode, dtype_of, encode

Inputs = ArrayLike | Mapping[str, ArrayLike]
"""One array for a model with one input, or arrays by input name."""

Parameter = bool | int | float | str
"""Value of a request parameter."""

_Metadata = pb.ModelMetadataResponse
_Tensor = pb.ModelMetadataResponse.TensorMetadata


class InferResult(Mapping[str, Array]):
    """What a model answered: a mapping of output name to array, in the order of the response.

    The arrays are read-only views of the response; copy one to change it.
    """

    def __init__(self, response: pb.ModelInferResponse) -> None:
        """Decode a response; raises Internal where it does not make sense."""
        raws = response.raw_output_contents
        if len(raws) != len(response.outputs):
            raise Internal(f"the response has {len(raws)} raw contents for {len(response.outputs)} outputs")
        self.model_name = response.model_name
        self.model_version = response.model_version
        self.request_id = response.id
        self._outputs = {
            tensor.name: decode(tensor.name, tensor.datatype, tensor.shape, raw)
            for tensor, raw in zip(response.outputs, raws, strict=True)
        }

    @property
    def output(self) -> Array:
        """The only output; raises ValueError where there are several."""
        if len(self) != 1:
            raise ValueError(f"model '{self.model_name}' answered with {', '.join(self)}; pick one by name")
        return next(iter(self.values()))

    def __getitem__(self, name: str) -> Array:
        return self._outputs[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._outputs)

    def __len__(self) -> int:
        return len(self._outputs)

    def __repr__(self) -> str:
        outputs = ", ".join(f"{name}: {array.dtype}{list(array.shape)}" for name, array in self.items())
        return f"InferResult({self.model_name} version {self.model_version}, {outputs})"


def infer_request(
    metadata: pb.ModelMetadataResponse,
    inputs: Inputs,
    *,
    version: str,
    outputs: Sequence[str],
    request_id: str,
    parameters: Mapping[str, Parameter],
) -> pb.ModelInferRequest:
    """A request with raw contents; raises InvalidArgument naming the tensor and what was expected.

    Arrays must have the dtype that the model declares; anything else, such as a list, is converted to it.
    """
    request = pb.ModelInferRequest(model_name=metadata.name, model_version=version, id=request_id)
    by_name = _by_name(metadata, inputs)
    for tensor in metadata.inputs:
        array = _checked(tensor, by_name[tensor.name])
        request.inputs.add(name=tensor.name, datatype=tensor.datatype, shape=array.shape)
        request.raw_input_contents.append(encode(tensor.name, array))
    for name in outputs:
        _require_known("output", name, metadata.name, metadata.outputs)
        request.outputs.add(name=name)
    for name, value in parameters.items():
        request.parameters[name].CopyFrom(_parameter(name, value))
    return request


def _by_name(metadata: _Metadata, inputs: Inputs) -> Mapping[str, ArrayLike]:
    if not isinstance(inputs, Mapping):
        if len(metadata.inputs) != 1:
            raise InvalidArgument(
                f"model '{metadata.name}' takes {len(metadata.inputs)} inputs: {_names(metadata.inputs)}; "
                "pass a mapping of name to array"
            )
        return {metadata.inputs[0].name: inputs}
    for name in inputs:
        _require_known("input", name, metadata.name, metadata.inputs)
    for tensor in metadata.inputs:
        if tensor.name not in inputs:
            raise InvalidArgument(f"input {_described(tensor)} is missing")
    return inputs


def _require_known(kind: str, name: str, model: str, tensors: Sequence[_Tensor]) -> None:
    if all(name != tensor.name for tensor in tensors):
        raise InvalidArgument(f"model '{model}' has no {kind} '{name}'; it has {_names(tensors)}")


def _checked(tensor: _Tensor, value: ArrayLike) -> Array:
    """The value as an array of the tensor's dtype and of a shape that the tensor can have."""
    dtype = dtype_of(tensor.datatype)
    try:
        if isinstance(value, np.ndarray | np.generic):
            array = _of_dtype(np.asarray(value), dtype)
        else:
            array = _converted(value, dtype)
    except (TypeError, ValueError, FloatingPointError) as error:
        raise InvalidArgument(f"input {_described(tensor)}: {error}") from None
    fits = len(array.shape) == len(tensor.shape) and all(
        wanted in (-1, size) for wanted, size in zip(tensor.shape, array.shape, strict=True)
    )
    if not fits:
        raise InvalidArgument(f"input {_described(tensor)}: got shape {list(array.shape)}")
    return array


def _of_dtype(array: Array, dtype: np.dtype[Any]) -> Array:
    """An array that has the dtype already, up to byte order and the kind of string."""
    fits = array.dtype.kind in "OSU" if dtype.hasobject else array.dtype.newbyteorder("<") == dtype
    if not fits:
        raise TypeError(f"got an array of {array.dtype}; convert it with .astype('{dtype.name}')")
    return array.astype(dtype, copy=False)


def _converted(value: ArrayLike, dtype: np.dtype[Any]) -> Array:
    """Numbers or strings that are no array yet; integers must keep their values, floats must not overflow."""
    if dtype.hasobject:
        return np.asarray(value, dtype)
    natural = np.asarray(value)
    if natural.dtype.kind not in "biuf":
        raise TypeError(f"got {natural.dtype}, not numbers")
    with np.errstate(invalid="ignore", over="raise"):
        array = natural.astype(dtype)
    if dtype.kind in "biu" and not np.array_equal(array, natural):
        raise ValueError(f"got values that {dtype.name} does not hold")
    return array


def _parameter(name: str, value: Parameter) -> pb.InferParameter:
    match value:
        case bool():
            return pb.InferParameter(bool_param=value)
        case int() if -(2**63) <= value < 2**63:
            return pb.InferParameter(int64_param=value)
        case float():
            return pb.InferParameter(double_param=value)
        case str():
            return pb.InferParameter(string_param=value)
    raise InvalidArgument(f"parameter '{name}' must be a bool, a 64-bit int, a float or a str, got {value!r}")


def _described(tensor: _Tensor) -> str:
    return f"'{tensor.name}' ({tensor.datatype} {list(tensor.shape)})"


def _names(tensors: Sequence[_Tensor]) -> str:
    return ", ".join(f"'{tensor.name}'" for tensor in tensors)
