"""Where a gRPC server listens, and what is said where it cannot."""

import socket
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest
from foldserve.errors import ConfigurationError
from foldserve.rpc.listening import listen


@pytest.fixture
def server() -> grpc.Server:
    return grpc.server(ThreadPoolExecutor(1))


def _reached(address: str) -> bool:
    with grpc.insecure_channel(address) as channel:
        call: Any = channel.unary_unary("/no/method")
        return call.future(b"", timeout=10).code() is grpc.StatusCode.UNIMPLEMENTED


@pytest.mark.parametrize("address", ["127.0.0.1:0", "localhost:0", "[::1]:0"])
def test_a_free_port_is_told(server: grpc.Server, address: str) -> None:
    taken = listen(server, address, None, "")
    server.start()
    assert taken.rpartition(":")[0] == address.rpartition(":")[0]
    assert _reached(taken)
    server.stop(0).wait()


def test_a_port_that_is_taken_is_told_with_the_way_out(server: grpc.Server) -> None:
    with socket.create_server(("127.0.0.1", 0)) as busy:
        address = f"127.0.0.1:{busy.getsockname()[1]}"
        with pytest.raises(ConfigurationError, match=rf"{address}: Address already in use; go elsewhere"):
            listen(server, address, None, "go elsewhere")


def test_a_socket_is_for_its_owner_only_and_goes_with_the_server(server: grpc.Server, tmp_path: Path) -> None:
    path = tmp_path / "socket"
    assert listen(server, f"unix:{path}", None, "") == f"unix:{path}"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    server.start()
    assert _reached(f"unix:{path}")
    server.stop(0).wait()
    del server
    (tmp_path / "other").touch()
    assert stat.S_IMODE((tmp_path / "other").stat().st_mode) == 0o644, "the umask is as it was"


def test_a_socket_in_use_is_not_taken_over_but_one_that_is_left_over_is(
    server: grpc.Server, tmp_path: Path
) -> None:
    path = tmp_path / "socket"
    with socket.socket(socket.AF_UNIX) as busy:
        busy.bind(str(path))
        busy.listen()
        with pytest.raises(ConfigurationError, match="is the socket of a server that runs; go elsewhere"):
            listen(server, f"unix:{path}", None, "go elsewhere")
    assert path.is_socket()
    listen(server, f"unix:{path}", None, "")


@pytest.mark.parametrize(
    ("name", "why"),
    [("file", "Address already in use"), ("nowhere/socket", "No such file"), ("x" * 120, "path too long")],
)
def test_a_socket_that_cannot_be_is_told_with_the_reason(
    server: grpc.Server, tmp_path: Path, name: str, why: str
) -> None:
    (tmp_path / "file").write_text("not a socket")
    with pytest.raises(ConfigurationError, match=rf"gRPC cannot listen at .*{why}.*; go elsewhere"):
        listen(server, f"unix:{tmp_path / name}", None, "go elsewhere")
    assert (tmp_path / "file").read_text() == "not a socket"
