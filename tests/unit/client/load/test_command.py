"""The command line of the load tester, against a small real server."""

import json
import re
from pathlib import Path

import grpc
import numpy as np
import pytest
import typer
from foldserve_client.load.carry_out import parse_data, parse_shapes, parse_side
from foldserve_client.load.command import register
from foldserve_client.load.mix import Share
from foldserve_proto import grpc_service_pb2 as pb
from typer.testing import CliRunner, Result
from unit.client.echo import EchoServicer

NO_METRICS = ("--metrics-url", "http://127.0.0.1:1/metrics")


def _load(address: str, *arguments: str) -> Result:
    app = typer.Typer()
    register(app)
    return CliRunner().invoke(app, ["--address", address, *arguments])


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["nothing"], 1, "nothing"),
        (["echo", "--data", "missing.npz"], 1, "missing.npz"),
        (["echo", "--shape", "x"], 1, "--shape 'x'"),
        (["echo", *NO_METRICS], 1, "no metrics at"),
        (["echo=0"], 1, "weight"),
        (["echo", "--callers", "x"], 2, "'x' is no level"),
        (["echo", "--callers", "1", "--rate", "1"], 2, "exclude each other"),
        (["echo", "--poisson"], 2, "--poisson is for --rate"),
        (["echo", "--rate", "1..5", "--requests", "5"], 2, "a ramp needs --duration"),
        (["echo", "--find-capacity"], 2, "needs --target-p99"),
        (
            ["echo", "--find-capacity", "--target-p99", "2000", "--precision", "1"],
            2,
            "20 s at least: 10 times",
        ),
        (["echo", "--find-capacity", "--target-p99", "300"], 2, "12 s at least: 40 times"),
        (["echo", "--find-capacity", "--target-p99", "1", "--requests", "9"], 2, "takes --duration"),
        (
            ["echo", "--find-capacity", "--target-p99", "1", "--callers", "4"],
            2,
            "takes --rate, not --callers",
        ),
        (["echo", "--target-p99", "1"], 2, "goes with --find-capacity"),
        (["echo", "--find-capacity", "--target-p99", "1", "--rate", "1,2"], 2, "begins at one --rate"),
        (["--find-capacity", "--target-p99", "1", "--compare", "a", "b"], 2, "exclude each other"),
        (["echo", "--compare", "a:1", "b:2", "--rate", "1,2"], 2, "one level"),
        (["--compare", "a:1", "b:2"], 2, "needs a model"),
        (["echo", "--json", "no/such/folder.json"], 2, "no such folder"),
        (["echo", "--html", "x" * 300], 2, "cannot be written: File name too long"),
        (["echo", *NO_METRICS, *NO_METRICS], 2, "goes here 1 times"),
        ([], 2, "name a model"),
    ],
)
def test_what_cannot_be_done_is_said(address: str, arguments: list[str], code: int, said: str) -> None:
    ran = _load(address, *arguments)
    assert ran.exit_code == code, ran.output
    assert said in re.sub(r"\s*[│╭╰─\n]+\s*", " ", ran.output)


def test_a_server_that_refuses_everything_is_no_success(
    address: str, echo: EchoServicer, tmp_path: Path
) -> None:
    echo.failures["echo"] = (grpc.StatusCode.RESOURCE_EXHAUSTED, "too many wait")
    file = tmp_path / "report.json"
    ran = _load(address, "echo", "--requests", "5", "--warm-up", "0", "--json", str(file))
    assert ran.exit_code == 1
    assert "RESOURCE_EXHAUSTED" in ran.output
    (step,) = json.loads(file.read_text())["steps"]
    assert [(code["name"], code["count"]) for code in step["codes"]] == [
        ("OK", 0),
        ("RESOURCE_EXHAUSTED", 5),
    ]
    assert step["codes"][1]["details"] == "too many wait"


def test_a_token_and_the_data_go_with_every_request(
    echo: EchoServicer, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    seen: list[object] = []
    answer = echo.ModelInfer

    def infer(asked: pb.ModelInferRequest, context: grpc.ServicerContext) -> pb.ModelInferResponse:
        seen.append(dict(context.invocation_metadata())["authorization"])
        return answer(asked, context)

    monkeypatch.setattr(echo, "ModelInfer", infer)
    (tmp_path / "token").write_text("secret\n")
    np.savez(tmp_path / "x.npz", x=np.arange(8, dtype=np.float32).reshape(2, 4))
    ran = _load(
        request.getfixturevalue("address"),
        *("echo", "--requests", "4", "--warm-up", "0", "--data", f"echo={tmp_path / 'x.npz'}"),
        *("--token-file", str(tmp_path / "token")),
    )
    assert ran.exit_code == 0, ran.output
    assert seen == ["Bearer secret"] * 4
    values = [np.frombuffer(sent.raw_input_contents[0], np.float32)[0] for sent in echo.requests]
    assert values == [0, 4, 0, 4]


def test_a_side_that_answers_nothing_is_no_success(address: str, echo: EchoServicer) -> None:
    echo.failures["pair"] = (grpc.StatusCode.UNAVAILABLE, "no")
    ran = _load(address, "--compare", "echo", "pair", "--requests", "5", "--rounds", "2", "--warm-up", "0")
    assert ran.exit_code == 1
    assert ran.output.count("not comparable") == 6
    assert "B answered nothing in 2 of 2 rounds" in ran.output


def test_a_file_that_cannot_be_written_does_not_cost_the_others(address: str, tmp_path: Path) -> None:
    files = ("--json", "/dev/full", "--csv", str(tmp_path / "report.csv"))
    ran = _load(address, "echo", "--requests", "5", "--warm-up", "0", *files)
    assert ran.exit_code == 1
    assert "/dev/full is not written: No space left on device" in ran.output
    assert len((tmp_path / "report.csv").read_text().splitlines()) == 2


def test_a_test_that_fails_leaves_no_empty_file(address: str, tmp_path: Path) -> None:
    (tmp_path / "old").write_text("kept")
    ran = _load(address, "nothing", "--json", str(tmp_path / "new"), "--csv", str(tmp_path / "old"))
    assert ran.exit_code == 1
    assert not (tmp_path / "new").exists()
    assert (tmp_path / "old").read_text() == "kept"


@pytest.mark.parametrize(
    ("text", "side"),
    [
        ("localhost:9001", ("localhost:9001", [Share("m")])),
        ("other", ("here:1", [Share("other")])),
        ("other/2", ("here:1", [Share("other", "2")])),
        ("localhost:9001/other/2", ("localhost:9001", [Share("other", "2")])),
        ("[::1]:9001/other", ("[::1]:9001", [Share("other")])),
    ],
)
def test_a_side_is_an_address_or_a_model_or_both(text: str, side: tuple[str, list[Share]]) -> None:
    assert parse_side(text, "here:1", [Share("m")]) == side


def test_shapes_and_data_are_by_name() -> None:
    assert parse_shapes(["x=1,3", "a.b/c=4"]) == {"x": (1, 3), "a.b/c": (4,)}
    assert parse_data(["a=x.npz", "y=z.npz"], ["a"]) == {"a": Path("x.npz"), "": Path("y=z.npz")}
