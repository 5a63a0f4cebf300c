"""foldserve-client against a real server."""

import json
import subprocess
import sys
from pathlib import Path

import grpc
import numpy as np
import pytest
from foldserve_client import cli
from foldserve_client.commands import app
from forwarding import forwarding
from typer.testing import CliRunner, Result
from unit.client.echo import EchoServicer, ReportServicer

IMAGES = np.arange(8, dtype=np.float32).reshape(2, 4)


def run(*arguments: object) -> Result:
    result = CliRunner(env={"COLUMNS": "200"}).invoke(app, [str(argument) for argument in arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def test_infer_reads_npy_and_npz(address: str, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", IMAGES)
    result = run("infer", "echo", tmp_path / "x.npy", "--address", address, "--json")
    assert result.exit_code == 0
    assert json.loads(result.output)["outputs"]["y"] == {
        "dtype": "float32",
        "shape": [2, 4],
        "data": IMAGES.tolist(),
    }
    np.savez(tmp_path / "ab.npz", a=np.array([1]), b=np.array(["word"]))
    result = run("infer", "pair", tmp_path / "ab.npz", "--output", "d", "--address", address, "--json")
    assert json.loads(result.output)["outputs"] == {"d": {"dtype": "object", "shape": [1], "data": ["word"]}}


def test_json_has_no_numbers_that_json_does_not_have(address: str, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.array([[np.nan, np.inf, -np.inf, 1]], np.float32))
    result = run("infer", "echo", tmp_path / "x.npy", "--address", address, "--json")
    refused = json.loads(result.output, parse_constant=pytest.fail)
    assert refused["outputs"]["y"]["data"] == [["NaN", "Infinity", "-Infinity", 1.0]]


def test_infer_shows_a_table(address: str, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", IMAGES)
    result = run("infer", "echo", tmp_path / "x.npy", "--address", address)
    assert result.exit_code == 0
    assert "float32" in result.output
    assert "2 × 4" in result.output


def test_infer_with_the_wrong_dtype_fails_saying_what_was_expected(address: str, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", IMAGES.astype(np.float64))
    result = run("infer", "echo", tmp_path / "x.npy", "--address", address)
    assert result.exit_code == 1
    assert result.stderr.startswith("INVALID_ARGUMENT input 'x' (FP32 [-1, 4]): got an array of float64")


def test_errors_are_shown_as_they_are(address: str, tmp_path: Path, echo: EchoServicer) -> None:
    echo.failures["echo"] = (grpc.StatusCode.RESOURCE_EXHAUSTED, "the queue of [red]this[/red] is full")
    np.save(tmp_path / "x.npy", IMAGES)
    result = run("infer", "echo", tmp_path / "x.npy", "--address", address)
    assert result.exit_code == 1
    assert result.stderr == "RESOURCE_EXHAUSTED the queue of [red]this[/red] is full\n"


def test_wrong_usage_exits_with_2(tmp_path: Path) -> None:
    (tmp_path / "x.npy").write_bytes(b"not an array")
    assert run("infer", "echo", tmp_path / "none.npy").exit_code == 2
    assert run("infer", "echo", tmp_path / "x.npy").exit_code == 2
    (tmp_path / "x.npz").write_bytes(b"PK\x03\x04 not an archive")
    assert run("infer", "echo", tmp_path / "x.npz").exit_code == 2
    np.save(tmp_path / "pickled.npy", np.array([{}]))
    assert run("infer", "echo", tmp_path / "pickled.npy").exit_code == 2
    assert run("infer").exit_code == 2


def test_a_file_that_is_no_array_is_told_what_would_be(tmp_path: Path) -> None:
    (tmp_path / "x.npy").write_text("1 2 3")
    told = " ".join(run("infer", "echo", tmp_path / "x.npy").stderr.replace("│", " ").split())
    assert "is neither .npy nor .npz nor an image, whatever its name; write arrays with numpy.save" in told
    assert "pickle" not in told


def test_infer_writes_its_outputs_to_a_file(address: str, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", IMAGES)
    written = tmp_path / "out.npz"
    result = run("infer", "echo", tmp_path / "x.npy", "--save", written, "--address", address)
    assert (result.exit_code, result.output) == (0, f"wrote y to {written}\n")
    with np.load(written) as outputs:
        np.testing.assert_array_equal(outputs["y"], IMAGES)
    np.savez(tmp_path / "ab.npz", a=np.array([1]), b=np.array(["word"]))
    result = run("infer", "pair", tmp_path / "ab.npz", "--save", written, "--address", address)
    assert result.exit_code == 2
    assert "--json" in result.stderr


def test_where_outputs_cannot_be_written_is_told_before_the_work(
    address: str, tmp_path: Path, echo: EchoServicer
) -> None:
    np.save(tmp_path / "x.npy", IMAGES)
    for name in ("out.txt", "none/out.npz"):
        result = run("infer", "echo", tmp_path / "x.npy", "--save", tmp_path / name, "--address", address)
        assert result.exit_code == 2
        assert "--save" in result.stderr
    assert not echo.requests


def test_outputs_that_do_not_get_onto_the_disk_fail(address: str, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", IMAGES)
    (tmp_path / "full.npz").symlink_to("/dev/full")
    result = run("infer", "echo", tmp_path / "x.npy", "--save", tmp_path / "full.npz", "--address", address)
    assert result.exit_code == 1
    assert "cannot be written: No space left on device" in result.stderr


def test_models_are_listed_loaded_and_unloaded(address: str, echo: EchoServicer) -> None:
    assert run("repository", "unload", "echo", "--address", address).output == "unloaded echo\n"
    rows = [line.split() for line in run("repository", "index", "--address", address).output.splitlines()]
    assert ["echo", "1", "UNAVAILABLE", "unloaded"] in rows
    assert ["pair", "1", "READY"] in rows
    assert run("repository", "load", "echo", "--address", address).output == "loaded echo\n"
    listed = json.loads(run("repository", "index", "--address", address, "--json").output)["models"]
    assert {model["name"]: model["state"] for model in listed} == {"echo": "READY", "pair": "READY"}
    result = run("repository", "load", "none", "--address", address)
    assert (result.exit_code, result.stderr) == (1, "NOT_FOUND no model 'none'\n")


def test_statistics_are_shown_with_the_mean_of_each_stage(address: str) -> None:
    rows = [line.split() for line in run("stats", "echo", "--address", address).output.splitlines()]
    assert ["echo", "1", "2", "0", "48", "3", "1.250"] in rows
    as_json = json.loads(run("stats", "--address", address, "--json").output)["model_stats"]
    assert [one["name"] for one in as_json] == ["echo", "pair"]
    assert as_json[0]["inference_stats"]["compute_infer"] == {"count": 2, "ns": 2_500_000}


def test_metadata_of_server_and_model(address: str) -> None:
    assert "binary_tensor_data" in run("metadata", "--address", address).output
    assert "? × 4" in run("metadata", "echo", "--address", address).output
    described = json.loads(run("metadata", "echo", "--address", address, "--json").output)
    assert described["inputs"] == [{"name": "x", "datatype": "FP32", "shape": [-1, 4]}]


def test_the_help_waits_for_neither_numpy_nor_grpc() -> None:
    program = "import sys, foldserve_client.commands; print({'numpy', 'grpc', 'PIL'} & set(sys.modules))"
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert ran.stdout == "set()\n"


@pytest.mark.parametrize("command", [[], ["infer"], ["metadata"], ["stats"], ["repository", "load"]], ids=str)
def test_help_texts_speak_of_no_types(command: list[str]) -> None:
    shown = run(*command, "--help").output
    assert "list[str]" not in shown
    assert "``" not in shown


def test_what_changes_a_server_asks_its_management_address() -> None:
    for command in (["repository", "load"], ["repository", "unload"], ["reset"]):
        assert "[default: localhost:8003]" in run(*command, "--help").output
    for command in (["repository", "index"], ["infer"], ["stats"]):
        assert "[default: localhost:8001]" in run(*command, "--help").output


def test_ready_tells_by_exit_code(address: str) -> None:
    assert run("ready", "--address", address).exit_code == 0
    assert run("ready", "echo", "--address", address).output == "ready\n"
    result = run("ready", "none", "--address", address, "--json")
    assert result.exit_code == 1
    assert json.loads(result.output) == {"ready": False}


def test_a_server_that_is_not_there_fails(address: str) -> None:
    result = run("ready", "--address", "127.0.0.1:1")
    assert result.exit_code == 1
    assert result.stderr.startswith("UNAVAILABLE")


def test_report_shows_folds_biases_and_parity(address: str) -> None:
    shown = run("report", "echo", "--address", address).output
    for text in (
        "1 of 2",
        "BatchNormalization 2 → 1",
        "folded up, tier 0",
        "shift (Add)",
        "folded down, tier 1",
        "warning: huge_scale",
        "stayed (padding): Conv 'conv2' pads with zeros [0]",
        "CPUExecutionProvider (asked for auto)",
        "absorbed",
        "within_budget",
        "top-1 agreement 99.00%",
        "2 values compared, 0 wrong",
        "'conv2'",
        "1.50e-07",
        "100.00%",
    ):
        assert text in shown, shown
    as_json = json.loads(run("report", "echo", "--address", address, "--json").output)
    assert as_json["fold"]["report"]["sites"][1]["reason"] == "padding"
    assert as_json["parity"]["report"]["verdict"] == "within_budget"


def test_report_of_a_model_without_batch_norms_says_so(address: str, reports: ReportServicer) -> None:
    reports.fold.Clear()
    reports.fold.operators_before["Conv"] = reports.fold.operators_after["Conv"] = 1
    shown = run("report", "echo", "--address", address).output
    assert "served as it is: nothing to fold" in shown
    assert "hint" in shown
    assert "outcome" not in shown


def test_report_of_a_fold_that_does_not_serve_says_so(address: str, reports: ReportServicer) -> None:
    reports.variant = "unfolded"
    shown = run("report", "echo", "--address", address).output
    assert "served unfolded" in shown
    assert "BatchNorms that would fold  1 of 2" in shown


def test_without_the_extra_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "foldserve_client.commands")
    monkeypatch.setitem(sys.modules, "typer", None)
    with pytest.raises(SystemExit, match=r"pip install 'foldserve-client\[cli\]'"):
        cli.main()


def test_report_tells_of_parity_in_service_and_the_fallback(address: str, reports: ReportServicer) -> None:
    assert "in service" not in run("report", "echo", "--address", address).output
    reports.has_fallen_back = True
    shown = run("report", "echo", "--address", address).output
    assert "3 breach, 2 dropped, 0 error, 40 ok" in shown
    assert "3 of 20 breaches; 3 are too many" in shown
    assert "'logits': relative L2 0.02" in shown
    assert "foldserve-client reset echo" in shown


def test_reset_says_what_answers_now(address: str, reports: ReportServicer) -> None:
    reports.has_fallen_back = True
    assert run("reset", "echo", "--address", address).output == (
        "echo version 1 had fallen back; the folded model answers\n"
    )
    assert "had not fallen back" in run("reset", "echo", "--address", address).output


def test_drift_shows_every_layer_or_why_there_is_none(address: str, reports: ReportServicer) -> None:
    shown = run("drift", "echo", "--address", address).output
    assert "2 of 64 rows each, 130 rows so far" in shown
    assert [line.split() for line in shown.splitlines() if "0.250" in line] == [["bn[1]", "0.250", "0.125"]]
    assert "0.375" in shown
    as_json = json.loads(run("drift", "echo", "--address", address, "--json").output)
    assert as_json["drift"]["layers"][0]["variance"] == 0.125
    reports.drift_unavailable = "the model has no BatchNorm"
    assert "unknown: the model has no BatchNorm" in run("drift", "echo", "--address", address).output


def test_messages_are_compressed_where_that_is_asked_for(
    address: str, echo: EchoServicer, tmp_path: Path
) -> None:
    echo.serve("wide", [("x", "FP32", [-1])], ["y"])
    np.save(tmp_path / "x.npy", np.zeros(25_000, np.float32))

    def sent(*options: str) -> int:
        with forwarding(address) as way:
            result = run("infer", "wide", tmp_path / "x.npy", "--address", way.address, *options)
            assert result.exit_code == 0, result.output
            return way.sent

    assert sent() > 100_000
    assert sent("--compression", "gzip") < 10_000
    assert sent("--compression", "deflate") < 10_000
    assert run("infer", "wide", tmp_path / "x.npy", "--compression", "zstd").exit_code == 2
