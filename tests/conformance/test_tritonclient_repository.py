"""Triton's own client loads, reloads and unloads models of our server."""

import json
import subprocess
from pathlib import Path

import pytest
from running import TRITON_PYTHON, serving
from small_models import plus, put

SCRIPT = """
import json, sys
import numpy as np
import tritonclient.grpc as triton

client = triton.InferenceServerClient(sys.argv[1])
content = open(sys.argv[2], "rb").read()

def answer(model):
    tensor = triton.InferInput("x", [1, 2], "FP32")
    tensor.set_data_from_numpy(np.zeros((1, 2), np.float32))
    return float(client.infer(model, [tensor]).as_numpy("y")[0, 0])

def index():
    models = client.get_model_repository_index(as_json=True)["models"]
    return {model["name"]: [model["state"], model.get("reason", "")] for model in models}

def refusal(call, *arguments, **named):
    try:
        call(*arguments, **named)
    except triton.InferenceServerException as error:
        return f"{error.status()} {error.message()}"

seen = {"extensions": list(client.get_server_metadata().extensions), "before": index()}
client.load_model("plus")
seen["loaded"] = [client.is_model_ready("plus"), answer("plus")]
client.load_model("plus", config=json.dumps({"backend": "onnxruntime", "max_batch_size": 3}))
seen["max_batch_size"] = client.get_model_config("plus").config.max_batch_size
client.load_model("brought", config="{}", files={"file:1/model.onnx": content})
seen["brought"] = answer("brought")
seen["during"] = index()
client.unload_model("plus", unload_dependents=True)
seen["unloaded"] = client.is_model_ready("plus")
seen["refusals"] = [
    refusal(client.load_model, "nobody"),
    refusal(client.load_model, "plus", config="{", files={"file:1/model.onnx": content}),
    refusal(client.load_model, "plus", config=json.dumps({"sequence_batching": {}})),
    refusal(answer, "plus"),
]
print(json.dumps(seen))
"""


def test_models_are_controlled_as_by_triton(tmp_path: Path) -> None:
    if not TRITON_PYTHON.exists():
        pytest.skip("no environment with tritonclient: `make test` makes it")
    put(tmp_path / "models", 1, plus(1))
    file = put(tmp_path / "elsewhere", 1, plus(9))
    settings = {"provider": "cpu", "instances": 1, "intra_op_threads": 1, "model_control": "explicit"}
    with serving(tmp_path / "models", **settings) as server:
        ran = subprocess.run(
            [TRITON_PYTHON, "-c", SCRIPT, server.management_address, file],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
    assert ran.returncode == 0, ran.stderr
    seen = json.loads(ran.stdout)
    assert "model_repository" in seen["extensions"]
    assert seen["before"] == {"plus": ["UNAVAILABLE", "not loaded"]}
    assert seen["loaded"] == [True, 1]
    assert seen["max_batch_size"] == 3
    assert seen["brought"] == 9
    assert seen["during"] == {"plus": ["READY", ""], "brought": ["READY", ""]}
    assert seen["unloaded"] is False
    not_found, not_json, not_supported, not_ready = seen["refusals"]
    assert "NOT_FOUND no repository has a model 'nobody'" in not_found
    assert "INVALID_ARGUMENT" in not_json
    assert "FAILED_PRECONDITION" in not_supported
    assert "sequence_batching is not supported" in not_supported
    assert "UNAVAILABLE model 'plus' is in the repository but not loaded" in not_ready
