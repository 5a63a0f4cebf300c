"""Triton's own client, in its own environment, against our server."""

import json
import subprocess

import pytest
from foldserve.server import Server
from running import EXAMPLE_DATA, TRITON_PYTHON

SCRIPT = """
import json, sys
import numpy as np
import tritonclient.grpc as triton

client = triton.InferenceServerClient(sys.argv[1])
data = np.load(sys.argv[2])
images, labels = data["images"], data["labels"]
tensor = triton.InferInput("images", images.shape, "FP32")
tensor.set_data_from_numpy(images)
result = client.infer("digits", [tensor], outputs=[triton.InferRequestedOutput("logits")], request_id="17")
logits = result.as_numpy("logits")
metadata = client.get_model_metadata("digits", as_json=True)
try:
    client.infer("digits", [triton.InferInput("images", [1, 1, 8, 8], "FP32")])
    refusal = ""
except triton.InferenceServerException as error:
    refusal = f"{error.status()} {error.message()}"
print(json.dumps({
    "live": client.is_server_live(),
    "ready": client.is_server_ready(),
    "model_ready": client.is_model_ready("digits"),
    "unknown_ready": client.is_model_ready("nobody"),
    "server": client.get_server_metadata().name,
    "inputs": metadata["inputs"],
    "outputs": metadata["outputs"],
    "id": result.get_response().id,
    "dtype": str(logits.dtype),
    "accuracy": float((logits.argmax(axis=1) == labels).mean()),
    "refusal": refusal,
}))
"""


@pytest.fixture(scope="module")
def seen(server: Server) -> dict[str, object]:
    """What tritonclient saw of the server."""
    if not TRITON_PYTHON.exists():
        pytest.skip("no environment with tritonclient: `make test` makes it")
    ran = subprocess.run(
        [TRITON_PYTHON, "-c", SCRIPT, f"127.0.0.1:{server.grpc_port}", EXAMPLE_DATA / "digits_test.npz"],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    answer: dict[str, object] = json.loads(ran.stdout)
    return answer


def test_it_reads_metadata(seen: dict[str, object]) -> None:
    assert seen["server"] == "foldserve"
    assert seen["inputs"] == [{"name": "images", "datatype": "FP32", "shape": ["-1", "1", "8", "8"]}]
    assert seen["outputs"] == [{"name": "logits", "datatype": "FP32", "shape": ["-1", "10"]}]


def test_it_sees_readiness(seen: dict[str, object]) -> None:
    assert (seen["live"], seen["ready"], seen["model_ready"], seen["unknown_ready"]) == (
        True,
        True,
        True,
        False,
    )


def test_it_infers_digits(seen: dict[str, object]) -> None:
    assert isinstance(seen["accuracy"], float)
    assert seen["accuracy"] >= 0.98
    assert (seen["id"], seen["dtype"]) == ("17", "float32")


def test_it_is_told_what_was_wrong(seen: dict[str, object]) -> None:
    assert "INVALID_ARGUMENT" in str(seen["refusal"])
    assert "'images'" in str(seen["refusal"])
