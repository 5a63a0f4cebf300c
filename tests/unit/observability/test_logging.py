"""How log lines get to standard error."""

import io
import json
import sys

import pytest
from foldserve.observability.logging import configure_logging, get_logger
from foldserve.settings import LogFormat, LogLevel


class _Pieces(io.StringIO):
    """Keeps what it is told to write, write by write."""

    def __init__(self) -> None:
        super().__init__()
        self.pieces: list[str] = []

    def write(self, text: str) -> int:
        self.pieces.append(text)
        return super().write(text)


def test_a_line_and_its_end_are_one_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else somebody else's line, or whoever reads the file just then, gets between."""
    errors = _Pieces()
    monkeypatch.setattr(sys, "stderr", errors)
    configure_logging(LogFormat.JSON, LogLevel.INFO)
    get_logger().info("something", model="m")
    (line,) = errors.pieces
    assert line.endswith("}\n")
    assert json.loads(line)["event"] == "something"
