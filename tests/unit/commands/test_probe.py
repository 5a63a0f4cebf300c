"""``foldserve probe``: what containers ask for their health."""

import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from certificates import Pki
from foldserve.server import Server
from running import serving
from unit.commands.invoking import run

HEAVY = {"onnx", "onnx_ir", "onnxruntime", "torch", "jinja2", "numpy", "foldserve.server"}
NOBODY = "127.0.0.1:1"


def test_a_ready_server_and_its_models_answer(server: Server) -> None:
    address = f"127.0.0.1:{server.grpc_port}"
    assert run("probe", "--address", address).exit_code == 0
    assert run("probe", "--address", address, "--model", "digits").exit_code == 0


def test_an_unknown_model_does_not_serve(server: Server) -> None:
    result = run("probe", "--address", f"127.0.0.1:{server.grpc_port}", "--model", "nothing")
    assert result.exit_code == 1
    assert "NOT_FOUND" in result.stderr


def test_the_port_is_the_one_that_the_environment_gives_the_server(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FOLDSERVE_GRPC_PORT", str(server.grpc_port))
    assert run("probe").exit_code == 0


def test_nobody_there() -> None:
    result = run("probe", "--address", NOBODY)
    assert result.exit_code == 1
    assert f"{NOBODY}: UNAVAILABLE" in result.stderr


def test_whoever_says_nothing_is_not_waited_for() -> None:
    with _silent() as address:
        result = run("probe", "--address", address, "--timeout-s", "0.2")
    assert result.exit_code == 1
    assert "DEADLINE_EXCEEDED" in result.stderr


@pytest.mark.parametrize("options", [("--tls",), ("--server-name", "here")])
def test_clear_text_is_not_taken_for_tls(server: Server, options: tuple[str, ...]) -> None:
    result = run("probe", "--address", f"127.0.0.1:{server.grpc_port}", *options)
    assert result.exit_code == 1


def test_a_server_that_wants_certificates_is_shown_one(tmp_path: Path) -> None:
    pki = Pki(tmp_path / "pki")
    (tmp_path / "models").mkdir()
    settings = pki.settings | {"tls_client_ca_file": pki["ca.crt"]}
    with serving(tmp_path / "models", **settings) as server:
        ask = ("probe", "--address", f"127.0.0.1:{server.grpc_port}")
        trust = ("--ca-file", pki["ca.crt"])
        own = ("--cert-file", pki["client.crt"], "--key-file", pki["client.key"])
        assert run(*ask, *trust, *own).exit_code == 0
        assert run(*ask, *trust, *own, "--server-name", "localhost").exit_code == 0
        assert run(*ask, *trust, *own, "--server-name", "elsewhere").exit_code == 1
        assert run(*ask, *own).exit_code == 1, "gRPC trusts others"
        assert run(*ask, *trust).exit_code == 1, "the server wants to see a certificate"


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (("--cert-file", "here.pem"), "--cert-file and --key-file belong together"),
        (("--ca-file", "nowhere.pem"), "nowhere.pem cannot be read: No such file"),
    ],
)
def test_tls_that_cannot_work_is_refused(options: tuple[str, ...], text: str, tmp_path: Path) -> None:
    result = run("probe", "--address", NOBODY, *options)
    assert result.exit_code == 2
    assert text in result.stderr


def test_it_needs_none_of_the_heavy_packages() -> None:
    code = (
        "import sys; from foldserve.cli import app\n"
        f"app(['probe', '--address', {NOBODY!r}], standalone_mode=False)\n"
        f"print(sorted({HEAVY!r} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


@contextmanager
def _silent() -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"127.0.0.1:{listener.getsockname()[1]}"
