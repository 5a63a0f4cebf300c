"""What both clients know of a stream: its requests, what became of them, and the order to tell that in."""

import secrets
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TypeAlias

from foldserve_proto import grpc_service_pb2 as pb

from foldserve_client.errors import ClientError, Internal
from foldserve_client.inference import Asked, InferResult, Inputs, Signature

DEFAULT_WINDOW = 16
"""As many requests of a stream as a foldserve server works on at once, unless told otherwise."""


@dataclass(frozen=True)
class StreamAnswer:
    """What became of one request of a stream."""

    index: int
    """Which of the inputs it belongs to, counted from 0."""

    request_id: str
    outcome: InferResult | ClientError

    @property
    def error(self) -> ClientError | None:
        """Why there is no result; None where there is one. A server's refusal has a text, but no code."""
        return self.outcome if isinstance(self.outcome, ClientError) else None

    @property
    def result(self) -> InferResult:
        """The result; raises the error where there is none."""
        if isinstance(self.outcome, ClientError):
            raise self.outcome
        return self.outcome


Event: TypeAlias = StreamAnswer | Exception | None
"""What happens to a stream: an answer, an error that ends it, or its end."""


class Window:
    """The requests of one stream between being made and being told of."""

    def __init__(self, signature: Signature, asked: Asked, size: int, *, ordered: bool) -> None:
        """``asked`` without an id gets one; raises ValueError for a size that lets nothing through."""
        if size < 1:
            raise ValueError(f"window is {size}; a stream needs room for one request or more")
        self._signature = signature
        self._asked = asked
        self._prefix = asked.request_id or f"stream-{secrets.token_hex(4)}"
        self._ordered = ordered
        self._waiting: dict[int, StreamAnswer] = {}
        self._made = 0
        self._told = 0
        self._has_all = False

    def next_request(self, inputs: Inputs) -> pb.ModelInferRequest | StreamAnswer:
        """The request for the next inputs, or the answer that they do not fit the model."""
        index, self._made = self._made, self._made + 1
        identity = f"{self._prefix}/{index}"
        try:
            arrays = self._signature.arrays(inputs)
            request = self._signature.request(replace(self._asked, request_id=identity))
            return self._signature.with_contents(request, arrays)
        except ClientError as error:
            return StreamAnswer(index, identity, error)

    def close(self) -> None:
        """There are no more inputs."""
        self._has_all = True

    def answer(self, response: pb.ModelStreamInferResponse) -> StreamAnswer | ClientError:
        """What a response of the server says; an error where it belongs to no request."""
        answered = response.infer_response
        identity = answered.id
        prefix, _, number = identity.rpartition("/")
        if prefix != self._prefix or not number.isdecimal():
            if response.error_message:
                return ClientError(response.error_message, model=self._signature.name)
            return Internal(f"the server answered a request '{identity}' that is not of this stream")
        if response.error_message:
            error = ClientError(response.error_message, model=self._signature.name, request_id=identity)
            return StreamAnswer(int(number), identity, error)
        try:
            return StreamAnswer(int(number), identity, InferResult(answered))
        except ClientError as broken:
            return StreamAnswer(int(number), identity, broken)

    def tell(self, answer: StreamAnswer) -> Iterator[StreamAnswer]:
        """The answers to tell of now that this one is there: in the order of the inputs, if wanted."""
        if not self._ordered:
            self._told += 1
            yield answer
            return
        self._waiting[answer.index] = answer
        while (following := self._waiting.pop(self._told, None)) is not None:
            self._told += 1
            yield following

    def check_end(self) -> None:
        """Raise Internal where the server ended the stream with requests unanswered."""
        if not self._has_all or self._told < self._made:
            raise Internal(
                f"the server ended the stream after {self._told} answers; there were more requests"
            )
