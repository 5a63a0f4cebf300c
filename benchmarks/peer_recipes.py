"""How each peer is started, with the settings that its own documentation recommends, and how it is asked.

Every server gets one core, so one worker and one thread for the model; batching is on wherever it is offered,
without delay where that can be said; lines for each request are off. What a peer runs is in ``peers/``.
"""

import json
import os
import shutil
import subprocess
import sysconfig
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from foldserve_proto import grpc_service_pb2 as pb
from google.protobuf.wrappers_pb2 import BytesValue
from numpy.typing import NDArray
from peer_servers import Exchange
from serving_harness import (
    CACHES,
    HANDWRITTEN,
    HERE,
    OURS,
    PYTHON,
    SYNC_ECHO,
    BenchmarkFailed,
    echo,
    foldserve,
    free_port,
    handwritten,
)
from serving_load import METHOD
from serving_models import BUILD, Model

ROOT = HERE.parent
ENVIRONMENTS = ROOT / ".venv-peers"
REQUIREMENTS = HERE / "requirements-peers"
SCRIPTS = HERE / "peers"
MAX_BATCH = 64
OCTETS = {"content-type": "application/octet-stream"}


@dataclass(frozen=True)
class Peer:
    """A server to compare with."""

    name: str
    environment: str | None
    """The file in requirements-peers/ with what it needs; unset: this environment."""

    front: str
    """What its front end is written in, and which protocol it was asked over."""

    command: Callable[[Model, Path], Sequence[str]]
    """The command, given the folder of its environment."""

    exchange: Callable[[Model], Exchange]
    halts: bool = True
    """Whether it lives on after a halt. Triton does not: its processes share locks with time-outs."""


def environment(peer: Peer) -> Path:
    """The folder of a peer's environment, made if it is not there yet; BenchmarkFailed says why not."""
    if peer.environment is None:
        return Path(PYTHON).parent.parent
    folder, needed = ENVIRONMENTS / peer.environment, REQUIREMENTS / f"{peer.environment}.txt"
    complete = folder / ".complete"
    if not complete.exists() or complete.read_text() != needed.read_text():
        uv = str(Path(PYTHON).with_name("uv"))
        _run(uv, "venv", "--quiet", "--clear", "--python", PYTHON, str(folder))
        _run(uv, "pip", "install", "--quiet", "--python", str(folder / "bin/python"), "-r", str(needed))
        complete.write_text(needed.read_text())
    return folder


def requirements(peer: Peer) -> list[str]:
    """What is pinned in a peer's environment."""
    if peer.environment is None:
        return []
    lines = (REQUIREMENTS / f"{peer.environment}.txt").read_text().splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def _run(*command: str) -> None:
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    if run.returncode:
        raise BenchmarkFailed(f"does not install: {run.stderr.strip()}")


def v2(model: Model) -> Exchange:
    """KServe V2 over gRPC, with raw contents."""
    return Exchange(METHOD, model.request().SerializeToString(), {}, _v2_scores)


def _v2_scores(message: bytes) -> NDArray[np.float32]:
    response = pb.ModelInferResponse.FromString(message)
    if response.raw_output_contents:
        return np.frombuffer(response.raw_output_contents[0], np.float32)
    return np.array(response.outputs[0].contents.fp32_contents, np.float32)


def octets(path: str) -> Callable[[Model], Exchange]:
    """The same bytes as the body of an HTTP request, scores as that of the answer."""

    def exchange(model: Model) -> Exchange:
        body = model.request().raw_input_contents[0]
        return Exchange(path, body, OCTETS, _octets_scores, grpc=False)

    return exchange


def _octets_scores(body: bytes) -> NDArray[np.float32]:
    return np.frombuffer(body, np.float32)


def predictions(model: Model) -> Exchange:
    """TorchServe's own service: a map of bytes in, bytes out.

    h2load takes none of its answers over HTTP/1.1 for one, since their status has no words.
    """
    image = model.request().raw_input_contents[0]
    entry = _field(1, b"body") + _field(2, image)
    message = _field(1, model.name.encode()) + _field(3, entry)
    return Exchange(
        "/org.pytorch.serve.grpc.inference.InferenceAPIsService/Predictions", message, {}, _prediction
    )


def _field(number: int, content: bytes) -> bytes:
    """A field as protobuf writes it: number and type, length in groups of seven bits, content."""
    length, groups = len(content), bytearray()
    while length > 127:
        groups.append(length & 127 | 128)
        length >>= 7
    return bytes([number << 3 | 2, *groups, length]) + content


def _prediction(message: bytes) -> NDArray[np.float32]:
    return np.frombuffer(BytesValue.FromString(message).value, np.float32)


def json_array(path: str, name: str) -> Callable[[Model], Exchange]:
    """The image as nested lists in JSON, scores likewise."""

    def exchange(model: Model) -> Exchange:
        image = np.frombuffer(model.request().raw_input_contents[0], np.float32).reshape(1, *model.shape)
        body = json.dumps({name: image.tolist()}).encode()
        return Exchange(path, body, {"content-type": "application/json"}, _json_scores, grpc=False)

    return exchange


def _json_scores(body: bytes) -> NDArray[np.float32]:
    return np.array(json.loads(body), np.float32)


def _with_model(model: Model, *command: str, **variables: str) -> Sequence[str]:
    """A command with the model, and what else it wants, in its environment."""
    proto = str(ROOT / "proto")
    named = {
        "MODEL_NAME": model.name,
        "MODEL_FILE": str(model.file),
        "PYTHONPATH": f"{SCRIPTS}:{proto}",
    } | variables
    return ("env", *(f"{name}={value}" for name, value in named.items()), *command)


def _folder(name: str, model: Model) -> Path:
    """A new folder for what a peer wants to find in files."""
    folder = BUILD / "peers" / name / model.name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def _packages(folder: Path) -> Path:
    return folder / "lib" / f"python{sysconfig.get_python_version()}" / "site-packages"


def _triton_variables(folder: Path) -> dict[str, str]:
    """Triton's own libraries and this Python's, which its stub for Python models is linked with."""
    libraries = [_packages(folder) / "nvidia_pytriton.libs", Path(sysconfig.get_config_var("LIBDIR"))]
    return {"LD_LIBRARY_PATH": ":".join(map(str, libraries))}


def triton(model: Model, folder: Path) -> Sequence[str]:
    """Triton of PyTriton's wheel, on a repository with a Python model and dynamic batching without delay."""
    packages, files = _packages(folder), _folder("triton", model)
    triton_files = packages / "pytriton" / "tritonserver"
    backend = files / "backends" / "python"
    shutil.copytree(triton_files / "backends" / "python", backend)
    stub = triton_files / "python_backend_stubs" / sysconfig.get_python_version()
    shutil.copy(stub / "triton_python_backend_stub", backend)
    version = files / "models" / model.name / "1"
    version.mkdir(parents=True)
    shutil.copy(SCRIPTS / "triton_model.py", version / "model.py")
    dimensions = ", ".join(map(str, model.shape))
    (version.parent / "config.pbtxt").write_text(
        f"""
        backend: "python"
        max_batch_size: {MAX_BATCH}
        input [{{ name: "x", data_type: TYPE_FP32, dims: [{dimensions}] }}]
        output [{{ name: "output", data_type: TYPE_FP32, dims: [-1] }}]
        dynamic_batching {{ }}
        instance_group [{{ kind: KIND_CPU, count: 1 }}]
        """
    )
    variables = _triton_variables(folder)
    variables["PYTHONPATH"] = f"{SCRIPTS}:{packages}"
    return _with_model(
        model,
        str(triton_files / "bin" / "tritonserver"),
        f"--model-repository={files / 'models'}",
        f"--backend-directory={files / 'backends'}",
        "--grpc-port={port}",
        "--allow-http=false",
        "--allow-metrics=false",
        "--log-verbose=0",
        **variables,
    )


def pytriton(model: Model, folder: Path) -> Sequence[str]:
    """PyTriton; its server needs ports of its own for HTTP and metrics."""
    script = str(SCRIPTS / "pytriton_server.py")
    ports = ("{port}", "{http}", str(free_port()))
    return _with_model(
        model,
        str(folder / "bin/python"),
        script,
        *ports,
        PATH=f"{folder / 'bin'}:{os.environ['PATH']}",
        **_triton_variables(folder),
    )


def mlserver(model: Model, folder: Path) -> Sequence[str]:
    """MLServer with adaptive batching; the model in the serving process, since there is one core."""
    files = _folder("mlserver", model)
    settings = {"debug": False, "parallel_workers": 0, "metrics_endpoint": None, "host": "127.0.0.1"}
    (files / "settings.json").write_text(json.dumps(settings))
    model_settings = {
        "name": model.name,
        "implementation": "mlserver_runtime.Runtime",
        "max_batch_size": MAX_BATCH,
        "max_batch_time": 0.001,
    }
    (files / "model-settings.json").write_text(json.dumps(model_settings))
    ports = {"MLSERVER_GRPC_PORT": "{port}", "MLSERVER_HTTP_PORT": "{http}"}
    return _with_model(model, str(folder / "bin/mlserver"), "start", str(files), **ports)


def kserve(model: Model, folder: Path) -> Sequence[str]:
    """KServe's SDK with one worker, no latency log and no line per call."""
    script = str(SCRIPTS / "kserve_server.py")
    ports = ("--grpc_port", "{port}", "--http_port", "{http}")
    return _with_model(model, str(folder / "bin/python"), script, *ports, "--model_name", model.name)


def ray(model: Model, folder: Path) -> Sequence[str]:
    """Ray Serve as its page on throughput has it, without dashboard and access log."""
    script = str(SCRIPTS / "ray_server.py")
    variables = {"RAY_SERVE_THROUGHPUT_OPTIMIZED": "1", "RAY_USAGE_STATS_ENABLED": "0", "RAY_DEDUP_LOGS": "0"}
    python = str(folder / "bin/python")
    return _with_model(model, python, script, "{port}", "{http}", **variables)


def bentoml(model: Model, folder: Path) -> Sequence[str]:
    """BentoML with one worker; its access log is switched off in its configuration."""
    files = _folder("bentoml", model)
    (files / "bentoml.yaml").write_text(
        "services: {logging: {access: {enabled: false}}, metrics: {enabled: true}}\n"
    )
    variables = {
        "BENTOML_CONFIG": str(files / "bentoml.yaml"),
        "BENTOML_HOME": str(files),
        "BENTOML_DO_NOT_TRACK": "True",
        "PATH": f"{folder / 'bin'}:{os.environ['PATH']}",
    }
    where = ("--host", "127.0.0.1", "--port", "{port}", "--working-dir", str(SCRIPTS))
    command = (str(folder / "bin/bentoml"), "serve", "bentoml_service:Predictor", *where)
    return _with_model(model, *command, **variables)


def litserve(model: Model, folder: Path) -> Sequence[str]:
    """LitServe with one worker and its quicker queue."""
    return _with_model(
        model, str(folder / "bin/python"), str(SCRIPTS / "litserve_server.py"), "{port}", LIT_TELEMETRY="0"
    )


def torchserve(model: Model, folder: Path) -> Sequence[str]:
    """TorchServe with one worker, batches, and log lines from warnings on."""
    files = _folder("torchserve", model)
    archive = files / "models" / model.name
    (archive / "MAR-INF").mkdir(parents=True)
    shutil.copy(SCRIPTS / "torchserve_handler.py", archive)
    described = {"modelName": model.name, "modelVersion": "1.0", "handler": "torchserve_handler.py"}
    manifest = {"runtime": "python", "model": described, "archiverVersion": "0.12.0"}
    (archive / "MAR-INF" / "MANIFEST.json").write_text(json.dumps(manifest))
    workers = {"minWorkers": 1, "maxWorkers": 1, "batchSize": MAX_BATCH, "maxBatchDelay": 1}
    served = {model.name: {"1.0": {"defaultVersion": True, "marName": model.name, **workers}}}
    (files / "log4j2.xml").write_text(
        '<Configuration><Appenders><Console name="out"/></Appenders>'
        '<Loggers><Root level="warn"><AppenderRef ref="out"/></Root></Loggers></Configuration>'
    )
    (files / "config.template").write_text(
        f"inference_address=http://127.0.0.1:{free_port()}\n"
        f"management_address=http://127.0.0.1:{free_port()}\nmetrics_address=http://127.0.0.1:{free_port()}\n"
        f"grpc_inference_port=PORT\ngrpc_management_port={free_port()}\n"
        f"model_store={files / 'models'}\nload_models={model.name}\nmodels={json.dumps(served)}\n"
        "disable_token_authorization=true\ndisable_system_metrics=true\nmetrics_mode=prometheus\n"
        f"vmargs=-Dlog4j.configurationFile=file://{files / 'log4j2.xml'}\n"
    )
    start = (
        f"cd {files} && sed s/PORT/{{port}}/ config.template > config.properties && "
        f"exec {folder / 'bin/torchserve'} --start --foreground --ts-config config.properties"
    )
    return _with_model(
        model, "sh", "-c", start, PATH=f"{folder / 'bin'}:{os.environ['PATH']}", LOG_LOCATION=str(files)
    )


def _ours(model: Model, _own: Path) -> Sequence[str]:
    return foldserve(model.repository, cache=Path(CACHES.name) / model.name).command


def _handwritten(model: Model, _own: Path) -> Sequence[str]:
    return handwritten(model, threads=1).command


def _echo(model: Model, _own: Path) -> Sequence[str]:
    return echo("sync", model).command


FOLDSERVE = Peer(OURS, None, "Python, gRPC", _ours, v2)

PEERS = {
    peer.name: peer
    for peer in (
        Peer("Triton", "triton", "C++, gRPC", triton, v2, halts=False),
        Peer("PyTriton", "triton", "C++, gRPC", pytriton, v2, halts=False),
        Peer("MLServer", "mlserver", "Python, gRPC", mlserver, v2),
        Peer("KServe SDK", "kserve", "Python, gRPC", kserve, v2),
        Peer("TorchServe", "torchserve", "Java, gRPC", torchserve, predictions),
        Peer("LitServe", "litserve", "Python, HTTP", litserve, octets("/predict")),
        Peer("BentoML", "bentoml", "Python, HTTP", bentoml, octets("/bytes/scores")),
        Peer("BentoML, JSON", "bentoml", "Python, HTTP", bentoml, json_array("/predict", "images")),
        Peer("Ray Serve", "ray", "Python, gRPC", ray, v2),
        Peer(HANDWRITTEN, None, "Python, gRPC", _handwritten, v2),
        Peer(SYNC_ECHO, None, "Python, gRPC", _echo, v2),
    )
}
"""What is compared with, by name; the last two are floors, not servers that anybody would pick."""
