"""foldserve_client and Triton's own client in one process, in Triton's environment with its own protobuf."""

import json
import os
import subprocess
from pathlib import Path

import pytest

PYTHON = Path(__file__).resolve().parents[2] / ".venv-triton" / "bin" / "python"

pytestmark = pytest.mark.skipif(
    not PYTHON.exists(), reason=".venv-triton is missing: run the tests with 'make test', which makes it"
)

CLIENTS = ("foldserve_client", "tritonclient.grpc")

EXCHANGE = """
import json
import numpy as np
from foldserve_client.inference import InferResult, infer_request
from foldserve_proto import grpc_service_pb2 as ours
from tritonclient.grpc import InferInput, InferResult as TritonResult, service_pb2 as theirs

images = np.arange(8, dtype=np.float32).reshape(2, 4)
metadata = ours.ModelMetadataResponse(name="digits", properties={"fold.batch_norms": "3"})
metadata.inputs.add(name="x", datatype="FP32", shape=[-1, 4])
request = infer_request(metadata, images, version="1", outputs=[], request_id="r", parameters={"priority": 1})
answer = theirs.ModelInferResponse(model_name="digits", raw_output_contents=[images.tobytes()])
answer.outputs.add(name="y", datatype="FP32", shape=[2, 4])
print(json.dumps({
    "same class": ours.ModelInferRequest is theirs.ModelInferRequest,
    "our request read by theirs": theirs.ModelInferRequest.FromString(
        request.SerializeToString()).SerializeToString(deterministic=True) ==
        request.SerializeToString(deterministic=True),
    "our metadata read by theirs": theirs.ModelMetadataResponse.FromString(
        metadata.SerializeToString()).inputs[0].name,
    "their answer read by ours": InferResult(
        ours.ModelInferResponse.FromString(answer.SerializeToString())).output.tolist(),
    "their answer read by theirs": TritonResult(answer).as_numpy("y").tolist(),
}))
"""


def run(script: str, **environment: str) -> str:
    finished = subprocess.run(
        [PYTHON, "-c", script],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr
    return finished.stdout


@pytest.mark.parametrize("implementation", ["upb", "python"])
@pytest.mark.parametrize("order", [CLIENTS, CLIENTS[::-1]], ids=" then ".join)
def test_both_clients_work_in_one_process(order: tuple[str, ...], implementation: str) -> None:
    imports = "".join(f"import {package}\n" for package in order)
    told = json.loads(run(imports + EXCHANGE, PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION=implementation))
    images = [[0.0, 1.0, 2.0, 3.0], [4.0, 5.0, 6.0, 7.0]]
    assert told == {
        "same class": False,
        "our request read by theirs": True,
        "our metadata read by theirs": "x",
        "their answer read by ours": images,
        "their answer read by theirs": images,
    }
