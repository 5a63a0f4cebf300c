"""Requests as bytes: serialized once, before the load begins, and sent again and again."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from foldserve_client.inference import infer_request
from foldserve_client.load import mix
from foldserve_client.load.data import Arrays, Metadata, described

MOST_BYTES = 64 << 20
"""That the different requests of one model may take together, in each process."""

MOST_MESSAGES = 256


@dataclass(frozen=True)
class Messages:
    """The different requests of one model of a mix."""

    share: mix.Share
    serialized: tuple[bytes, ...]

    @property
    def mean_bytes(self) -> float:
        """Size of a request."""
        return sum(map(len, self.serialized)) / len(self.serialized)


def serialize(share: mix.Share, metadata: Metadata, requests: Iterable[Arrays]) -> Messages:
    """The requests, as many as are not too large; raises ClientError for arrays that do not fit."""
    serialized: list[bytes] = []
    size = 0
    for arrays in requests:
        request = infer_request(
            described(metadata, arrays),
            arrays,
            version=share.version,
            outputs=(),
            request_id="",
            parameters={},
        )
        serialized.append(request.SerializeToString())
        size += len(serialized[-1])
        if len(serialized) == MOST_MESSAGES or size + len(serialized[-1]) > MOST_BYTES:
            break
    return Messages(share, tuple(serialized))


def cycle(messages: Sequence[Messages]) -> list[tuple[int, bytes]]:
    """(index of the model, request) in the order of sending, to be repeated for ever."""
    models = mix.order([own.share.weight for own in messages])
    if len(messages) == 1:
        return [(0, message) for message in messages[0].serialized]
    sent = [0] * len(messages)
    ordered = []
    for index in models.tolist():
        own = messages[index].serialized
        ordered.append((index, own[sent[index] % len(own)]))
        sent[index] += 1
    return ordered
