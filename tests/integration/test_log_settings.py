"""Log settings over real gRPC; logging is the process's, so every test puts it back."""

import json
from collections.abc import Iterator

import grpc
import pytest
from foldserve.observability.logging import apply_log_settings, get_logger, log_settings
from foldserve_proto import grpc_service_pb2 as pb
from foldserve_proto.grpc_service_pb2_grpc import GRPCInferenceServiceStub


@pytest.fixture
def stub(management: grpc.Channel) -> Iterator[GRPCInferenceServiceStub]:
    before = log_settings()
    yield GRPCInferenceServiceStub(management)
    apply_log_settings(before)


def _set(stub: GRPCInferenceServiceStub, **values: bool | int | str) -> dict[str, object]:
    """Change log settings; those that hold then."""
    request = pb.LogSettingsRequest()
    for name, value in values.items():
        kind = {bool: "bool_param", int: "uint32_param", str: "string_param"}[type(value)]
        setattr(request.settings[name], kind, value)
    settings = stub.LogSettings(request).settings
    return {
        name: getattr(value, value.WhichOneof("parameter_choice") or "") for name, value in settings.items()
    }


def _written(capsys: pytest.CaptureFixture[str]) -> list[str]:
    """Which of four lines, one per level, are written."""
    capsys.readouterr()
    log = get_logger()
    log.debug("debug")
    log.info("info")
    log.warning("warning")
    log.error("error")
    return [json.loads(line)["event"] for line in capsys.readouterr().err.splitlines()]


def test_levels_change_while_the_server_runs(
    stub: GRPCInferenceServiceStub, capsys: pytest.CaptureFixture[str]
) -> None:
    everything = {
        "log_file": "",
        "log_format": "json",
        "log_verbose_level": 0,
        "log_info": True,
        "log_warning": True,
        "log_error": True,
    }
    assert _set(stub) == everything
    assert _written(capsys) == ["info", "warning", "error"]
    assert _set(stub, log_verbose_level=1, log_warning=False) == everything | {
        "log_verbose_level": 1,
        "log_warning": False,
    }
    assert _written(capsys) == ["debug", "info", "error"]
    _set(stub, log_verbose_level=0, log_info=False, log_error=False)
    assert _written(capsys) == []


def test_at_the_level_of_debugging_each_request_is_a_line_with_its_id(
    stub: GRPCInferenceServiceStub, capsys: pytest.CaptureFixture[str]
) -> None:
    def lines() -> list[dict[str, object]]:
        return [json.loads(line) for line in capsys.readouterr().err.splitlines()]

    request = pb.ModelInferRequest(model_name="digits", id="mine")
    with pytest.raises(grpc.RpcError):
        stub.ModelInfer(request)
    assert [line for line in lines() if line["event"] == "request"] == []
    _set(stub, log_verbose_level=1)
    lines()
    with pytest.raises(grpc.RpcError):
        stub.ModelInfer(request)
    _set(stub, log_verbose_level=0)
    (line,) = (line for line in lines() if line["event"] == "request")
    assert line.pop("timestamp")
    assert isinstance(line.pop("milliseconds"), float)
    assert "images" in str(line.pop("reason"))
    assert line == {
        "event": "request",
        "level": "debug",
        "model": "digits",
        "version": "1",
        "method": "ModelInfer",
        "request_id": "mine",
        "code": "INVALID_ARGUMENT",
    }


def test_a_caller_cannot_silence_the_log_unseen(
    stub: GRPCInferenceServiceStub, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    _set(stub)  # asks, and changes nothing
    _set(stub, log_info=False, log_warning=False, log_error=False)
    managed, line = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert (managed["event"], managed["method"]) == ("management", "LogSettings")
    assert (line["event"], line["level"], line["levels"]) == (
        "a caller changes the log settings",
        "warning",
        [],
    )
    assert line["caller"].startswith(("ipv4:127.0.0.1", "ipv6:"))


def test_the_format_changes_too(stub: GRPCInferenceServiceStub, capsys: pytest.CaptureFixture[str]) -> None:
    assert _set(stub, log_format="console")["log_format"] == "console"
    capsys.readouterr()
    get_logger().info("for people", answer=42)
    assert "answer=42" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("values", "code", "text"),
    [
        ({"log_info": False, "volume": 11}, "INVALID_ARGUMENT", "unknown log setting 'volume'"),
        ({"log_info": 0}, "INVALID_ARGUMENT", "'log_info' takes bool_param, not uint32_param"),
        ({"log_verbose_level": "1"}, "INVALID_ARGUMENT", "'log_verbose_level' takes uint32_param"),
        ({"log_info": False, "log_format": "xml"}, "INVALID_ARGUMENT", "'xml' is not one of auto, console"),
        ({"log_file": "/tmp/x"}, "UNIMPLEMENTED", "standard error"),
    ],
)
def test_what_cannot_be_set_changes_nothing(
    stub: GRPCInferenceServiceStub, values: dict[str, bool | int | str], code: str, text: str
) -> None:
    before = log_settings()
    with pytest.raises(grpc.RpcError) as failure:
        _set(stub, **values)
    assert failure.value.code() is grpc.StatusCode[code]
    assert text in (failure.value.details() or "")
    assert log_settings() == before
