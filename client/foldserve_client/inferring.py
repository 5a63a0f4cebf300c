"""Running a model: metadata first, parts where the batch is too large, another try when the server says."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches

from foldserve_proto import grpc_service_pb2 as pb

from foldserve_client import splitting
from foldserve_client.connection import spread
from foldserve_client.errors import (
    ClientError,
    Internal,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    ResourceExhausted,
    Unimplemented,
)
from foldserve_client.inference import Asked, InferResult, Inputs, Signature
from foldserve_client.regions import Regions
from foldserve_client.steps import MODEL_INFER, Call, Exchange, Pause, Together
from foldserve_client.tensors import Array

ALL_ROWS = 0
"""``max_batch_size`` of models that do not batch, or of which nothing is known."""


@dataclass(frozen=True, slots=True)
class ClassScore:
    """One of the classes that a model named for an input."""

    index: int
    value: float
    """What the model's output has for this class."""

    label: str
    """Empty where the server has no label for it."""


class Inferring:
    """What one client knows of the models that it runs, and how it runs them."""

    def __init__(self, retries: int, regions: Regions | None) -> None:
        self._retries = retries
        self._regions = regions
        self._signatures: dict[tuple[str, str], Signature] = {}
        self._max_batch_sizes: dict[tuple[str, str], int] = {}

    def infer(self, model: str, inputs: Inputs, asked: Asked) -> Exchange[InferResult]:
        """Run a model once.

        The model may have been replaced since it was asked for: a refusal, be it the server's or our own,
        stands only if the server says the same of the model as before, or cannot be asked.
        """
        known = self._signatures.get((model, asked.version))
        if known is None:
            known = yield from self.signature(model, asked.version)
            return (yield from self._infer(known, inputs, asked))
        try:
            return (yield from self._infer(known, inputs, asked))
        except (InvalidArgument, NotFound):
            fresh = yield from self._changed(known, asked.version)
            if fresh is None:
                raise
        return (yield from self._infer(fresh, inputs, asked))

    def classify(
        self, model: str, inputs: Inputs, top: int, output: str | None, asked: Asked
    ) -> Exchange[list[list[ClassScore]]]:
        """The ``top`` classes of each row."""
        if top < 1:
            raise InvalidArgument(f"top is {top}; ask for one class or more")
        asked = replace(asked, outputs=() if output is None else (output,), classes=top)
        result = yield from self.infer(model, inputs, asked)
        if len(result) != 1:
            raise InvalidArgument(
                f"model '{model}' has several outputs: {', '.join(result)}; name the one with the classes"
            )
        array = next(iter(result.values()))
        return [[_class_score(text) for text in row] for row in array.reshape(-1, array.shape[-1]).tolist()]

    def metadata(self, model: str, version: str) -> Exchange[pb.ModelMetadataResponse]:
        """A model's versions, inputs and outputs, fresh from the server."""
        return (yield from self.signature(model, version)).metadata

    def signature(self, model: str, version: str) -> Exchange[Signature]:
        """The same, to make requests from; an unknown name is answered with the nearest one that there is."""
        request = pb.ModelMetadataRequest(name=model, version=version)
        try:
            metadata = yield from Call(lambda stubs: stubs.inference.ModelMetadata, request)
        except NotFound as error:
            raise (yield from _with_nearest(model, error)) from None
        known = self._signatures.get((model, version))
        if known is not None and known.metadata == metadata:
            return known
        signature = self._signatures[model, version] = Signature(metadata)
        self._max_batch_sizes.pop((model, version), None)
        return signature

    def _changed(self, known: Signature, version: str) -> Exchange[Signature | None]:
        """The model as it is now; None where it is what it was, up to its batches, or nobody can tell."""
        limit = self._max_batch_sizes.pop((known.name, version), None)
        try:
            fresh = yield from self.signature(known.name, version)
            if fresh.metadata != known.metadata:
                return fresh
            is_same = limit is None or limit == (yield from self._max_batch_size(fresh, version))
        except NotFound:
            raise
        except ClientError:
            return None
        return None if is_same else fresh

    def _infer(self, signature: Signature, inputs: Inputs, asked: Asked) -> Exchange[InferResult]:
        arrays = signature.arrays(inputs)
        rows = splitting.rows_of(signature, arrays)
        if rows > 1:
            limit = yield from self._max_batch_size(signature, asked.version)
            rows_of_a_part = splitting.rows_of_a_part(signature, arrays, limit)
            if rows > rows_of_a_part:
                parts = [
                    self._send(signature, part, asked) for part in splitting.parts(arrays, rows_of_a_part)
                ]
                return splitting.joined((yield from Together(parts)))
        return (yield from self._send(signature, arrays, asked))

    def _send(self, signature: Signature, arrays: Sequence[Array], asked: Asked) -> Exchange[InferResult]:
        """Run the model; again, as often as the client may, where a server with too much to do says when."""
        for _ in range(self._retries):
            try:
                return (yield from self._send_once(signature, arrays, asked))
            except ResourceExhausted as error:
                if error.retry_after_s is None or not (yield from Pause(spread(error.retry_after_s))):
                    raise
        return (yield from self._send_once(signature, arrays, asked))

    def _send_once(
        self, signature: Signature, arrays: Sequence[Array], asked: Asked
    ) -> Exchange[InferResult]:
        request = signature.request(asked)
        if self._regions is not None:
            return (yield from self._regions.infer(signature, request, arrays))
        message = signature.with_contents(request, arrays)
        return InferResult((yield from Call(MODEL_INFER, message)))

    def _max_batch_size(self, signature: Signature, version: str) -> Exchange[int]:
        """Most rows of a run; servers that do not tell are sent whole batches."""
        key = signature.name, version
        size = self._max_batch_sizes.get(key)
        if size is None:  # other threads forget it as they read the metadata anew
            request = pb.ModelConfigRequest(name=signature.name, version=version)
            try:
                response = yield from Call(lambda stubs: stubs.inference.ModelConfig, request)
            except (Unimplemented, PermissionDenied):
                size = ALL_ROWS
            else:
                size = response.config.max_batch_size
            self._max_batch_sizes[key] = size
        return size


def _with_nearest(model: str, error: NotFound) -> Exchange[NotFound]:
    """The error, with the name that was probably meant; a name that there is lacks a version."""
    try:
        index = yield from Call(lambda stubs: stubs.inference.RepositoryIndex, pb.RepositoryIndexRequest())
    except ClientError:
        return error
    names = {one.name for one in index.models}
    near = [] if model in names else get_close_matches(model, names, n=1)
    hint = f"; did you mean '{near[0]}'?" if near else ""
    return NotFound(error.details + hint, model=model)


def _class_score(text: bytes) -> ClassScore:
    """What ``value:index[:label]`` says."""
    try:
        value, index, *label = text.decode().split(":", 2)
        return ClassScore(int(index), float(value), label[0] if label else "")
    except (UnicodeDecodeError, ValueError):
        raise Internal(f"the server named a class as {text!r}; expected value:index[:label]") from None
