"""Triton's own client, in its own environment: asyncio, streaming, shared memory, classes, control."""

import json
import subprocess

import pytest
from foldserve.server import Server
from running import EXAMPLE_DATA, TRITON_PYTHON

pytestmark = pytest.mark.skipif(
    not TRITON_PYTHON.exists(), reason="no environment with tritonclient: `make test` makes it"
)

COMMON = """
import json, sys
import numpy as np
import tritonclient.grpc as triton

url = sys.argv[1]
with np.load(sys.argv[2]) as data:
    images, labels = data["images"][:16], data["labels"][:16]
client = triton.InferenceServerClient(url)

def tensor(rows):
    tensor = triton.InferInput("images", rows.shape, "FP32")
    tensor.set_data_from_numpy(rows)
    return tensor

expected = client.infer("digits", [tensor(images)]).as_numpy("logits")

def same(logits, rows=slice(None)):
    return bool(np.allclose(logits, expected[rows], atol=1e-5))
"""

ASYNCIO = """
import asyncio
import tritonclient.grpc.aio as aio

async def requests():
    for row in range(16):
        yield {"model_name": "digits", "inputs": [tensor(images[row:row + 1])], "request_id": str(row)}

async def main():
    async with aio.InferenceServerClient(url) as client:
        ready = await client.is_model_ready("digits")
        alone = await asyncio.gather(
            *(client.infer("digits", [tensor(images[row:row + 1])]) for row in range(16)))
        streamed = {}
        async for result, error in client.stream_infer(requests()):
            assert error is None, error
            streamed[int(result.get_response().id)] = result.as_numpy("logits")
    print(json.dumps({
        "ready": ready,
        "alone": all(same(result.as_numpy("logits"), [row]) for row, result in enumerate(alone)),
        "streamed": sorted(streamed) == list(range(16))
            and all(same(logits, [row]) for row, logits in streamed.items()),
    }))

asyncio.run(main())
"""

STREAMING = """
import queue

answers = queue.Queue()
client.start_stream(callback=lambda result, error: answers.put((result, error)))
for row in range(16):
    client.async_stream_infer(
        "digits", [tensor(images[row:row + 1])], request_id=str(row), enable_empty_final_response=True)
client.async_stream_infer("nobody", [tensor(images)], request_id="bad")
results, errors = {}, []
for _ in range(17):
    result, error = answers.get(timeout=60)
    if error is None:
        results[int(result.get_response().id)] = result
    else:
        errors.append(error.message())
client.stop_stream()
print(json.dumps({
    "rows": sorted(results) == list(range(16)),
    "same": all(same(result.as_numpy("logits"), [row]) for row, result in results.items()),
    "final": all(
        result.get_response().parameters["triton_final_response"].bool_param for result in results.values()),
    "errors": errors,
}))
"""

SHARED_MEMORY = """
import tritonclient.utils.shared_memory as shm

client.unregister_system_shared_memory()
client.unregister_cuda_shared_memory()
size, out = images.nbytes, expected.nbytes
region = shm.create_shared_memory_region("region", "/foldserve-conformance", size + out)
try:
    shm.set_shared_memory_region(region, [images])
    client.register_system_shared_memory("region", "/foldserve-conformance", size + out)
    status = client.get_system_shared_memory_status(as_json=True)
    source = triton.InferInput("images", images.shape, "FP32")
    source.set_shared_memory("region", size)
    target = triton.InferRequestedOutput("logits")
    target.set_shared_memory("region", out, offset=size)
    result = client.infer("digits", [source], outputs=[target])
    written = shm.get_contents_as_numpy(region, np.float32, list(expected.shape), offset=size)
    facts = {
        "regions": list(status["regions"]),
        "told": result.get_output("logits").parameters["shared_memory_region"].string_param,
        "same": same(written),
        "cuda": client.get_cuda_shared_memory_status(as_json=True),
    }
    client.unregister_system_shared_memory("region")
    facts["left"] = client.get_system_shared_memory_status(as_json=True)
    del written
finally:
    shm.destroy_shared_memory_region(region)
print(json.dumps(facts))
"""

CLASSES = """
result = client.infer(
    "digits", [tensor(images)], outputs=[triton.InferRequestedOutput("logits", class_count=3)])
classes = result.as_numpy("logits")
parts = [text.decode().split(":") for text in classes[:, 0]]
print(json.dumps({
    "shape": list(classes.shape),
    "indices": [int(index) for _, index, _ in parts] == expected.argmax(axis=1).tolist(),
    "values": [value for value, _, _ in parts] == [f"{value:f}" for value in expected.max(axis=1)],
    "labels": [label for _, _, label in parts] == [str(label) for label in expected.argmax(axis=1)],
}))
"""

CONTROL = """
statistics = client.get_inference_statistics("digits", as_json=True)["model_stats"][0]
config = client.get_model_config("digits", as_json=True)["config"]
index = client.get_model_repository_index(as_json=True)["models"]
log = client.get_log_settings(as_json=True)["settings"]
wanted = {"trace_level": ["TIMESTAMPS"], "trace_rate": "1"}
trace = client.update_trace_settings("digits", settings=wanted, as_json=True)["settings"]
client.infer("digits", [tensor(images)], request_id="traced")
with open(trace["trace_file"]["value"][0]) as file:
    traced = [json.loads(line)["request_id"] for line in file]
off = client.update_trace_settings("digits", settings=dict.fromkeys(wanted), as_json=True)["settings"]
changed = client.update_log_settings({"log_verbose_level": 0}, as_json=True)["settings"]
print(json.dumps({
    "inferences": int(statistics["inference_count"]) >= 16,
    "config": [config["name"], config["input"][0]["dims"]],
    "index": [model["state"] for model in index],
    "log": sorted(log),
    "trace": [*trace["trace_level"]["value"], *off["trace_level"]["value"], *traced],
    "changed": sorted(changed) == sorted(log),
}))
"""


def _seen(script: str, server: Server) -> dict[str, object]:
    """What a script saw of the server."""
    ran = subprocess.run(
        [
            TRITON_PYTHON,
            "-c",
            COMMON + script,
            f"127.0.0.1:{server.grpc_port}",
            EXAMPLE_DATA / "digits_test.npz",
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    seen: dict[str, object] = json.loads(ran.stdout)
    return seen


def test_its_asyncio_client_works(complete: Server) -> None:
    assert _seen(ASYNCIO, complete) == {"ready": True, "alone": True, "streamed": True}


def test_its_streams_work(complete: Server) -> None:
    seen = _seen(STREAMING, complete)
    assert "no model is named 'nobody'" in str(seen.pop("errors"))
    assert seen == {"rows": True, "same": True, "final": True}


def test_its_shared_memory_works(complete: Server) -> None:
    assert _seen(SHARED_MEMORY, complete) == {
        "regions": ["region"],
        "told": "region",
        "same": True,
        "cuda": {},
        "left": {},
    }


def test_it_gets_classes_with_labels(complete: Server) -> None:
    assert _seen(CLASSES, complete) == {"shape": [16, 3], "indices": True, "values": True, "labels": True}


def test_it_reads_statistics_and_settings(complete: Server) -> None:
    assert _seen(CONTROL, complete) == {
        "inferences": True,
        "config": ["digits", ["1", "8", "8"]],
        "index": ["READY"],
        "log": ["log_error", "log_file", "log_format", "log_info", "log_verbose_level", "log_warning"],
        "trace": ["TIMESTAMPS", "OFF", "traced"],
        "changed": True,
    }
