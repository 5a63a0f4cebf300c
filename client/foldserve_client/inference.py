"""Inference requests from arrays, checked against the model's metadata, and results from responses."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any, NamedTuple, Protocol, TypeAlias

import numpy as np
from foldserve_proto import grpc_service_pb2 as pb
from numpy.typing import ArrayLike

from foldserve_client.errors import Internal, InvalidArgument
from foldserve_client.tensors import Array, decode, decode_typed, dtype_of, encode


class HasArrayInterface(Protocol):
    """What numpy can view as an array without ``__array__``, such as PIL's images."""

    @property
    def __array_interface__(self) -> dict[str, Any]: ...


Input: TypeAlias = ArrayLike | HasArrayInterface
Inputs: TypeAlias = Input | Mapping[str, Input]
"""One array for a model with one input, or arrays by name; what numpy can view as an array is one, too."""

Parameter: TypeAlias = bool | int | float | str
"""Value of a request parameter."""

CLASSIFICATION = "classification"
"""Parameter of a requested output: so many of its largest values, as ``value:index[:label]``."""

Elsewhere: TypeAlias = Callable[[pb.ModelInferResponse.InferOutputTensor], Array | None]
"""Finds the array of an output that is not in the response; None for one that is."""


class InferResult(Mapping[str, Array]):
    """What a model answered: a mapping of output name to array, in the order of the response.

    The arrays are read-only views of the response; copy one to change it. (The answer to a batch that was
    sent in parts is an array of its own.)

    >>> result = client.infer("digits", images)
    >>> {name: array.shape for name, array in result.items()}
    {'logits': (360, 10)}
    >>> result.output is result["logits"], result.model_name, result.model_version
    (True, 'digits', '1')
    """

    def __init__(self, response: pb.ModelInferResponse, elsewhere: Elsewhere | None = None) -> None:
        """Decode a response; raises Internal where it does not make sense.

        ``elsewhere`` has the arrays of outputs that are not in the response.
        """
        raws = response.raw_output_contents
        if raws and len(raws) != len(response.outputs):
            raise Internal(f"the response has {len(raws)} raw contents for {len(response.outputs)} outputs")
        self.model_name = response.model_name
        self.model_version = response.model_version
        self.request_id = response.id
        self._outputs: dict[str, Array] = {}
        for index, tensor in enumerate(response.outputs):
            array = elsewhere(tensor) if elsewhere is not None else None
            if array is None and raws:
                array = decode(tensor.name, tensor.datatype, tensor.shape, raws[index])
            elif array is None:
                array = decode_typed(tensor.name, tensor.datatype, tensor.shape, tensor.contents)
            self._outputs[tensor.name] = array

    def with_outputs(self, outputs: dict[str, Array]) -> "InferResult":
        """The same answer with other outputs."""
        other = copy(self)
        other._outputs = outputs
        return other

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


class Spec(NamedTuple):
    """One input or output of a model; -1 in ``shape`` may be any size."""

    name: str
    datatype: str
    shape: tuple[int, ...]

    def __str__(self) -> str:
        return f"'{self.name}' ({self.datatype} {list(self.shape)})"


@dataclass(frozen=True)
class Asked:
    """What a request says beside its inputs."""

    version: str = ""
    outputs: Sequence[str] = ()
    """Names of the outputs to return; empty for all."""

    request_id: str = ""
    parameters: Mapping[str, Parameter] = field(default_factory=dict)
    classes: int = 0
    """How many of the largest values of each output, as text; 0: the output itself."""


class Signature:
    """What a model takes and gives, read from its metadata once."""

    def __init__(self, metadata: pb.ModelMetadataResponse) -> None:
        self.metadata = metadata
        self.name = metadata.name
        self.inputs, self.outputs = (
            tuple(Spec(tensor.name, tensor.datatype, tuple(tensor.shape)) for tensor in tensors)
            for tensors in (metadata.inputs, metadata.outputs)
        )
        self.properties = dict(metadata.properties)
        self.is_batch = all(spec.shape and spec.shape[0] == -1 for spec in (*self.inputs, *self.outputs))
        """Whether every input and output has an axis of any number of rows in front."""

    def arrays(self, inputs: Inputs) -> list[Array]:
        """The inputs in the model's order; raises InvalidArgument naming the tensor and what was expected.

        Arrays must have the dtype that the model declares; anything else, such as a list, is converted to it.
        """
        if not isinstance(inputs, Mapping):
            if len(self.inputs) != 1:
                raise InvalidArgument(
                    f"model '{self.name}' takes {len(self.inputs)} inputs: {_names(self.inputs)}; "
                    "pass a mapping of name to array"
                )
            return [_checked(self.inputs[0], inputs)]
        for name in inputs:
            self._require_known("input", name, self.inputs)
        for spec in self.inputs:
            if spec.name not in inputs:
                raise InvalidArgument(f"input {spec} is missing")
        return [_checked(spec, inputs[spec.name]) for spec in self.inputs]

    def request(self, asked: Asked) -> pb.ModelInferRequest:
        """A request without inputs; raises InvalidArgument for an unknown output or a strange parameter."""
        if isinstance(asked.outputs, str):
            raise InvalidArgument(f"outputs is a text; write outputs=['{asked.outputs}']")
        request = pb.ModelInferRequest(model_name=self.name, model_version=asked.version, id=asked.request_id)
        for name in asked.outputs or ([spec.name for spec in self.outputs] if asked.classes else ()):
            self._require_known("output", name, self.outputs)
            output = request.outputs.add(name=name)
            if asked.classes:
                output.parameters[CLASSIFICATION].int64_param = asked.classes
        for name, value in asked.parameters.items():
            request.parameters[name].CopyFrom(_parameter(name, value))
        return request

    def with_contents(self, request: pb.ModelInferRequest, arrays: Iterable[Array]) -> pb.ModelInferRequest:
        """The request with these arrays of :meth:`arrays` as its inputs."""
        for spec, array in zip(self.inputs, arrays, strict=True):
            request.inputs.add(name=spec.name, datatype=spec.datatype, shape=array.shape)
            request.raw_input_contents.append(encode(spec.name, array))
        return request

    def _require_known(self, kind: str, name: str, specs: Sequence[Spec]) -> None:
        if all(name != spec.name for spec in specs):
            near = get_close_matches(name, [spec.name for spec in specs], n=1)
            hint = f"; did you mean '{near[0]}'?" if near and len(specs) > 1 else ""
            raise InvalidArgument(f"model '{self.name}' has no {kind} '{name}'; it has {_names(specs)}{hint}")


def infer_request(
    metadata: pb.ModelMetadataResponse,
    inputs: Inputs,
    *,
    version: str,
    outputs: Sequence[str],
    request_id: str,
    parameters: Mapping[str, Parameter],
) -> pb.ModelInferRequest:
    """A request with raw contents, checked against the metadata as :class:`Signature` does."""
    signature = Signature(metadata)
    asked = Asked(version, outputs, request_id, parameters)
    return signature.with_contents(signature.request(asked), signature.arrays(inputs))


def _checked(spec: Spec, value: Input) -> Array:
    """The value as an array of the tensor's dtype and of a shape that the tensor can have."""
    dtype = dtype_of(spec.datatype)
    try:
        is_array = hasattr(value, "__array__") or hasattr(value, "__array_interface__")
        array = _of_dtype(value, dtype) if is_array else _converted(value, dtype)
    except (TypeError, ValueError, FloatingPointError, RuntimeError) as error:
        raise InvalidArgument(f"input {spec}: {error}") from None
    if len(array.shape) == len(spec.shape):
        for wanted, size in zip(spec.shape, array.shape, strict=True):
            if wanted not in (-1, size):
                break
        else:
            return array
    raise InvalidArgument(f"input {spec}: got shape {list(array.shape)}")


def _of_dtype(value: Input, dtype: np.dtype[Any]) -> Array:
    """An array, of whatever library, that has the dtype already, up to byte order and the kind of string."""
    array = np.asarray(value)
    if array.dtype == dtype:
        return array
    fits = array.dtype.kind in "OSU" if dtype.hasobject else array.dtype.newbyteorder("<") == dtype
    if not fits:
        own = isinstance(value, np.ndarray | np.generic)
        what = "an array" if own else f"{type(value).__name__}, an array"
        how = f".astype('{dtype.name}')" if own else f"numpy.asarray(..., '{dtype.name}')"
        raise TypeError(f"got {what} of {array.dtype}; convert it with {how}")
    return array.astype(dtype, copy=False)


def _converted(value: Input, dtype: np.dtype[Any]) -> Array:
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
        case int() | np.integer() if -(2**63) <= value < 2**63:
            return pb.InferParameter(int64_param=int(value))
        case float():
            return pb.InferParameter(double_param=value)
        case str():
            return pb.InferParameter(string_param=value)
    raise InvalidArgument(f"parameter '{name}' must be a bool, a 64-bit int, a float or a str, got {value!r}")


def _names(specs: Iterable[Spec]) -> str:
    return ", ".join(f"'{spec.name}'" for spec in specs)
