"""foldserve-client on a server that it may change: one command for each thing that a client can do."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from foldserve.server import Server
from foldserve_client import Client
from foldserve_client.commands import app
from integration.repositories import EXPLICIT
from numpy.typing import NDArray
from running import EXAMPLE_MODELS, serving
from typer.testing import CliRunner, Result

Digits = tuple[NDArray[np.float32], NDArray[np.int64]]
ONNX = EXAMPLE_MODELS / "digits" / "1" / "model.onnx"


@pytest.fixture(scope="module")
def own() -> Iterator[Server]:
    """A server of this module's own, with one of the bundled models."""
    with serving(EXAMPLE_MODELS, **EXPLICIT, load_models=["digits"], shared_memory=True) as server:
        yield server


def ask(server: Server, *arguments: object) -> Result:
    ran = CliRunner(env={"COLUMNS": "200"}).invoke(
        app, [*map(str, arguments), "--address", server.management_address]
    )
    assert ran.exception is None or isinstance(ran.exception, SystemExit), ran.exception
    return ran


def told(server: Server, *arguments: object) -> str:
    """What the command prints; the server, in this process, writes its log among it."""
    ran = ask(server, *arguments)
    assert ran.exit_code == 0, ran.output
    return "".join(line for line in ran.stdout.splitlines(keepends=True) if not line.startswith('{"'))


def complaint(server: Server, *arguments: object) -> tuple[int, str]:
    ran = ask(server, *arguments)
    return ran.exit_code, " ".join(ran.stderr.replace("│", " ").split())


def config(server: Server) -> dict[str, object]:
    found: dict[str, object] = json.loads(told(server, "config", "digits", "--json"))
    return found


def test_a_server_says_that_it_lives(own: Server) -> None:
    assert told(own, "live") == "live\n"
    assert json.loads(told(own, "live", "--json")) == {"live": True}
    ran = CliRunner().invoke(app, ["live", "--address", "127.0.0.1:1"])
    assert (ran.exit_code, ran.stderr.split()[0]) == (1, "UNAVAILABLE")


def test_what_a_model_runs_with_is_shown_by_the_names_of_config_pbtxt(own: Server) -> None:
    shown = [line.split() for line in told(own, "config", "digits").splitlines()]
    for line in (
        ["max_batch_size", "32"],
        ["instance_group[0].kind", "KIND_CPU"],
        ["dynamic_batching.default_queue_policy.allow_timeout_override", "true"],
        ["parameters.intra_op_thread_count.string_value", "1"],
        ["input", "images", "TYPE_FP32", "1", "×", "8", "×", "8"],
        ["output", "logits", "TYPE_FP32", "10"],
    ):
        assert line in shown
    assert config(own)["max_batch_size"] == 32
    assert complaint(own, "config", "digitz")[0] == 1


@pytest.mark.parametrize("form", ["{}", "c.json", "c.pbtxt"])
def test_a_model_is_loaded_with_another_configuration(own: Server, form: str, tmp_path: Path) -> None:
    file = tmp_path / form
    given = '{"max_batch_size": 7}' if form == "{}" else str(file)
    if form != "{}":
        file.write_text("max_batch_size: 7" if file.suffix == ".pbtxt" else '{"max_batch_size": 7}')
    assert told(own, "repository", "load", "digits", "--config", given) == "loaded digits\n"
    assert config(own)["max_batch_size"] == 7
    told(own, "repository", "load", "digits")
    assert config(own)["max_batch_size"] == 32


def test_the_configuration_that_is_shown_can_be_loaded_again(own: Server, tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    file.write_text(told(own, "config", "digits", "--json"))
    told(own, "repository", "load", "digits", "--config", file)
    assert config(own) == json.loads(file.read_text())


def test_a_load_brings_the_model_itself(own: Server, digits: Digits) -> None:
    samples = EXAMPLE_MODELS / "digits" / "samples.npz"
    told(own, "repository", "load", "mine", "--file", ONNX, "--file", f"samples.npz={samples}")
    try:
        with Client(own.management_address) as client:
            np.testing.assert_array_equal(
                client.infer("mine", digits[0][:5]).output, client.infer("digits", digits[0][:5]).output
            )
            assert client.parity("mine").report.probes.source == client.parity("digits").report.probes.source
            told(
                own,
                "repository",
                "load",
                "mine",
                "--file",
                f"1/model.onnx={ONNX}",
                "--file",
                f"3/model.onnx={ONNX}",
            )
            assert list(client.model_metadata("mine").versions) == ["3"]
    finally:
        told(own, "repository", "unload", "mine")


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ("--config {nothing", "--config is no JSON"),
        ("--config none.json", "none.json cannot be read: No such file"),
        ("--config list.json", "no JSON object"),
        ("--config wrong.pbtxt", 'no field named "max_rows"'),
        ("--file list.json", "say where in the model's folder it belongs"),
        ("--file 1/model.onnx=none.onnx", "none.onnx cannot be read"),
        ("--file =list.json", "say where"),
    ],
)
def test_what_cannot_be_loaded_is_said_before_asking(
    options: str, text: str, own: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("list.json").write_text("[]")
    Path("wrong.pbtxt").write_text("max_rows: 1")
    code, said = complaint(own, "repository", "load", "digits", *options.split())
    assert code == 2
    assert text in said


def test_the_index_is_of_one_repository_where_it_is_named(own: Server) -> None:
    found = json.loads(told(own, "repository", "index", "--json"))["models"]
    assert {model["name"] for model in found} == {"digits", "digits_pt2"}
    code, said = complaint(own, "repository", "index", "--repository", "elsewhere")
    assert (code, said.split()[0]) == (1, "NOT_FOUND")


def test_inputs_travel_in_shared_memory(own: Server, server: Server, digits: Digits, tmp_path: Path) -> None:
    large = tmp_path / "images.npy"
    np.save(large, np.resize(digits[0], (1000, 1, 8, 8)))
    by_message, by_memory = (
        json.loads(told(own, "infer", "digits", large, "--json", *more)) for more in ([], ["--shared-memory"])
    )
    assert by_memory == by_message
    code, said = complaint(server, "infer", "digits", large, "--shared-memory")
    assert (code, said.split()[0]) == (1, "FAILED_PRECONDITION")


def test_a_request_has_an_id_and_parameters(own: Server, digits: Digits, tmp_path: Path) -> None:
    image = tmp_path / "image.npy"
    np.save(image, digits[0][:1])
    told(own, "infer", "digits", image, "--request-id", "r1", "--parameter", "priority=0")
    code, said = complaint(
        own, "infer", "digits", image, "--request-id", "r1", "--parameter", "priority=high"
    )
    assert (code, said.split()[0]) == (1, "INVALID_ARGUMENT")
    assert "priority" in said
    code, said = complaint(own, "infer", "digits", image, "--parameter", "priority")
    assert code == 2
    assert "write NAME=VALUE" in said
