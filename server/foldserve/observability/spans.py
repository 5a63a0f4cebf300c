"""What is traced of inferences, and where the spans go."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from foldserve.observability.inference import StageSeconds


@dataclass(frozen=True, slots=True)
class Answered:
    """What is known of a request that was answered."""

    variant: str
    """Which form of the model answered."""

    rows: int
    stages: StageSeconds


@dataclass(frozen=True, slots=True)
class Ended:
    """One RPC that has ended, answered or refused."""

    method: str
    model: str
    version: str
    """Model and version as metrics have them: empty for what the server does not know."""

    request_id: str
    code: str
    error: str
    """The text that the caller got; empty for an answer."""

    end_ns: int
    """When it ended, in nanoseconds since 1970."""

    seconds: float
    """How long it took until then."""

    metadata: Iterable[tuple[str, str | bytes]]
    """What came with the call."""

    answered: Answered | None


class Spans(Protocol):
    """Traces a share of all requests, and those whose callers trace them."""

    def record(self, ended: Ended) -> str:
        """Trace a request, if it is to be; its trace id, else an empty text."""

    def close(self) -> None:
        """Send what was not sent yet, as far as that goes in a few seconds, and end."""
