"""How both clients connect: where to, with which limits, and how long they wait."""

import time
from dataclasses import dataclass
from typing import Self

DEFAULT_ADDRESS = "localhost:8001"
DEFAULT_TIMEOUT_S = 60.0
CHANNEL_OPTIONS = (("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1))
"""Unlimited: tensors are large, and the server has a limit of its own."""


@dataclass(frozen=True)
class Deadline:
    """The moment, in seconds of ``time.monotonic``, at which a method gives up; None for never."""

    at: float | None

    @classmethod
    def after(cls, timeout: float | None) -> Self:
        """The deadline ``timeout`` seconds from now."""
        return cls(None if timeout is None else time.monotonic() + timeout)

    def remaining(self) -> float | None:
        """Seconds left, negative once it has passed; None for no end."""
        return None if self.at is None else self.at - time.monotonic()
