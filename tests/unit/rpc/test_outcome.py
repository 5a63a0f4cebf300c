"""What is counted, logged and traced of a request, whatever becomes of it."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from foldserve.errors import QueueFull
from foldserve.observability.inference import RequestCollector, StageSeconds
from foldserve.observability.logging import apply_log_settings, configure_logging, log_settings
from foldserve.observability.spans import Answered, Ended, Spans
from foldserve.rpc.outcome import LONGEST_ID, Outcome, Outcomes, Traced
from foldserve.settings import LogFormat, LogLevel
from foldserve_proto import grpc_service_pb2 as pb

REQUEST = pb.ModelInferRequest(model_name="digits", id="mine" * 100)


class Caller:
    def is_active(self) -> bool:
        return True

    def time_remaining(self) -> float | None:
        return None

    def invocation_metadata(self) -> tuple[tuple[str, str | bytes], ...]:
        return (("traceparent", "theirs"),)


class BrokenSpans:
    """Keeps what it is to trace, and fails."""

    def __init__(self) -> None:
        self.ended: list[Ended] = []

    def record(self, ended: Ended) -> str:
        self.ended.append(ended)
        raise ZeroDivisionError

    def close(self) -> None:
        """There is nothing to send."""


@pytest.fixture(autouse=True)
def json_lines() -> Iterator[None]:
    before = log_settings()
    configure_logging(LogFormat.JSON, LogLevel.INFO)
    yield
    apply_log_settings(before)


def _outcome(result: Any, spans: Spans | None = None) -> Outcome:
    def start(_request: Any, _caller: Any, done: Any) -> None:
        if isinstance(result, Exception):
            raise result
        done(result)

    outcomes = Outcomes(RequestCollector(), lambda model, _: (model, "1"), spans)
    told: list[Outcome] = []
    outcomes.begin("ModelInfer", start, REQUEST, Caller(), told.append)
    (outcome,) = told
    return outcome


def test_a_failure_inside_the_server_is_logged_with_the_requests_id(
    capsys: pytest.CaptureFixture[str],
) -> None:
    outcome = _outcome(ZeroDivisionError("secret"))
    assert (outcome.code, "secret" in outcome.text) == ("INTERNAL", False)
    (line,) = map(json.loads, capsys.readouterr().err.splitlines())
    assert (line["event"], line["method"], line["model"]) == ("internal error", "ModelInfer", "digits")
    assert line["request_id"] == REQUEST.id[:LONGEST_ID]
    assert "ZeroDivisionError: secret" in line["exception"]


def test_what_is_the_callers_affair_is_not_logged(capsys: pytest.CaptureFixture[str]) -> None:
    assert _outcome(QueueFull("too many")).code == "RESOURCE_EXHAUSTED"
    assert capsys.readouterr().err == ""


def test_a_request_that_cannot_be_traced_is_answered_all_the_same(
    capsys: pytest.CaptureFixture[str],
) -> None:
    spans = BrokenSpans()
    answered = Answered("folded", 3, StageSeconds(1, 2, 3, 4))
    assert _outcome(Traced("response", answered), spans).response == "response"
    (ended,) = spans.ended
    assert (ended.model, ended.version, ended.code, ended.answered) == ("digits", "1", "OK", answered)
    assert list(ended.metadata) == [("traceparent", "theirs")]
    assert "a request could not be traced" in capsys.readouterr().err
