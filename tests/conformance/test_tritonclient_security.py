"""Triton's own client over TLS, with a certificate and a token of its own, loads a model and asks it."""

import json
import subprocess
from pathlib import Path

import pytest
import yaml
from certificates import Pki
from running import TRITON_PYTHON, serving
from small_models import plus, put

SCRIPT = """
import json, sys
import numpy as np
import tritonclient.grpc as triton

public, management, folder, token = sys.argv[1:]

def client(address):
    files = {"root_certificates": "ca.crt", "private_key": "client.key", "certificate_chain": "client.crt"}
    return triton.InferenceServerClient(
        address, ssl=True, **{name: f"{folder}/{file}" for name, file in files.items()}
    )

def refusal(call, *arguments, **named):
    try:
        call(*arguments, **named)
    except triton.InferenceServerException as error:
        return f"{error.status()} {error.message()}"

headers = {"authorization": f"Bearer {token}"}
asking, managing = client(public), client(management)
seen = {"live": asking.is_server_live()}
seen["without a token"] = refusal(managing.load_model, "plus")
seen["by the public port"] = refusal(asking.load_model, "plus", headers=headers)
managing.load_model("plus", headers=headers)
tensor = triton.InferInput("x", [1, 2], "FP32")
tensor.set_data_from_numpy(np.zeros((1, 2), np.float32))
seen["answer"] = float(asking.infer("plus", [tensor], headers=headers).as_numpy("y")[0, 0])
seen["infer without"] = refusal(asking.infer, "plus", [tensor])
print(json.dumps(seen))
"""


def test_its_tls_and_headers_are_all_it_needs(tmp_path: Path) -> None:
    if not TRITON_PYTHON.exists():
        pytest.skip("no environment with tritonclient: `make test` makes it")
    put(tmp_path / "models", 1, plus(1))
    pki, token = Pki(tmp_path / "pki"), "tritons-own-0123456789"
    rights = ["inference", "metadata", "management"]
    (tmp_path / "tokens").write_text(yaml.safe_dump([{"name": "triton", "rights": rights, "token": token}]))
    settings = pki.settings | {"tls_client_ca_file": pki["ca.crt"], "token_file": tmp_path / "tokens"}
    with serving(tmp_path / "models", provider="cpu", model_control="explicit", **settings) as server:
        addresses = [f"localhost:{server.grpc_port}", server.management_address]
        ran = subprocess.run(
            [TRITON_PYTHON, "-c", SCRIPT, *addresses, pki.folder, token],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
    assert ran.returncode == 0, ran.stderr
    seen = json.loads(ran.stdout)
    assert (seen["live"], seen["answer"]) == (True, 1)
    assert "UNAUTHENTICATED" in seen["without a token"]
    assert "UNAUTHENTICATED" in seen["infer without"]
    assert "PERMISSION_DENIED" in seen["by the public port"]
    assert server.management_address in seen["by the public port"]
