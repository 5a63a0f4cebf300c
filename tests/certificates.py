"""Certificates for tests, made by the commands in docs/security.md."""

import re
import subprocess
from pathlib import Path

import grpc
from running import ROOT

PAGE = ROOT / "docs" / "security.md"
RECIPE, TOKEN_RECIPE = re.findall(r"```sh\n(.*?)```", PAGE.read_text(), re.DOTALL)


def run(commands: str, folder: Path) -> None:
    """What a reader of the page does in a folder."""
    folder.mkdir(exist_ok=True)
    ran = subprocess.run(
        ["bash", "-euc", commands], cwd=folder, capture_output=True, text=True, timeout=60, check=False
    )
    assert ran.returncode == 0, ran.stderr


class Pki:
    """An authority, a server's certificate and a caller's, in a folder of their own."""

    def __init__(self, folder: Path) -> None:
        run(RECIPE, folder)
        self.folder = folder

    def __getitem__(self, name: str) -> Path:
        return self.folder / name

    @property
    def settings(self) -> dict[str, object]:
        """For a server with TLS."""
        return {"tls_cert_file": self["server.crt"], "tls_key_file": self["server.key"]}

    def trust(self, client: "Pki | None" = None) -> grpc.ChannelCredentials:
        """For a caller that trusts this authority and shows the certificate of ``client``'s."""
        root = self["ca.crt"].read_bytes()
        if client is None:
            return grpc.ssl_channel_credentials(root)
        key, certificate = client["client.key"].read_bytes(), client["client.crt"].read_bytes()
        return grpc.ssl_channel_credentials(root, key, certificate)
