"""One optimiser in a process of its own: ``folding_tools.py TOOL``.

Reads lines of JSON ``[model, output]`` from stdin (``output`` may be null) and answers each with how many
seconds the tool took with the model in memory, and by how much it raised the peak of the process's memory
over what the process had before it read its first model. Each tool is called as its documentation says, with
its default settings, and imported only when it is asked for: no environment has them all.
"""

import importlib
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ["ORT_DISABLE_TELEMETRY"] = "1"

import onnx

Prepare = Callable[[onnx.ModelProto], Any]
Work = Callable[[Any, Path | None], Any]


def foldserve(max_tier: int) -> tuple[Prepare, Work]:
    """Our own, for comparison under the same conditions."""
    ir = importlib.import_module("onnx_ir")
    folding = importlib.import_module("foldserve.folding")
    return ir.from_proto, lambda model, _: folding.fold(model, max_tier=max_tier).model


def onnxscript() -> tuple[Prepare, Work]:
    """Constant folding and the default rewrite rules, as torch.onnx.export uses them."""
    optimizer = importlib.import_module("onnxscript.optimizer")
    return _unchanged, lambda model, _: optimizer.optimize(model)


def onnxslim() -> tuple[Prepare, Work]:
    """OnnxSlim."""
    onnxslim = importlib.import_module("onnxslim")
    return _unchanged, lambda model, _: onnxslim.slim(model)


def onnxsim() -> tuple[Prepare, Work]:
    """ONNX Simplifier."""
    onnxsim = importlib.import_module("onnxsim")
    return _unchanged, lambda model, _: onnxsim.simplify(model)[0]


def onnxoptimizer() -> tuple[Prepare, Work]:
    """The fuse and eliminate passes of ONNX Optimizer."""
    onnxoptimizer = importlib.import_module("onnxoptimizer")
    return _unchanged, lambda model, _: onnxoptimizer.optimize(model)


def onnxruntime() -> tuple[Prepare, Work]:
    """A session with default settings.

    An output is written at the level "extended": "all" would also rewrite BatchNorms into more convolutions.
    """
    ort = importlib.import_module("onnxruntime")

    def session(model: onnx.ModelProto, output: Path | None) -> None:
        options = ort.SessionOptions()
        options.log_severity_level = 3
        if output is not None:
            options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
            options.optimized_model_filepath = str(output)
        ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])

    return lambda model: model.SerializeToString(), session


def _unchanged(model: onnx.ModelProto) -> onnx.ModelProto:
    return model


TOOLS: dict[str, Callable[[], tuple[Prepare, Work]]] = {
    "foldserve tier 0": lambda: foldserve(0),
    "foldserve": lambda: foldserve(1),
    "foldserve tier 2": lambda: foldserve(2),
    "foldserve tier 3": lambda: foldserve(3),
    "onnxscript": onnxscript,
    "onnxslim": onnxslim,
    "onnxsim": onnxsim,
    "onnxoptimizer": onnxoptimizer,
    "onnxruntime": onnxruntime,
}


def main(tool: str) -> None:
    """Serve the requests on stdin until it ends."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what the tools print must not get among the answers
    prepare, work = TOOLS[tool]()
    before = _peak_bytes()
    for line in sys.stdin:
        source, target = json.loads(line)
        output = Path(target) if target else None
        model = prepare(onnx.load(source))
        start = time.perf_counter()
        result = work(model, output)
        seconds = time.perf_counter() - start
        peak = _peak_bytes() - before
        if output is not None and result is not None:
            _save(result, output)
        del model, result
        answers.write(json.dumps({"seconds": seconds, "peak_bytes": peak}) + "\n")
        answers.flush()


def _save(result: Any, output: Path) -> None:
    if isinstance(result, onnx.ModelProto):
        onnx.save(result, output)
    else:
        importlib.import_module("onnx_ir").save(result, output)


def _peak_bytes() -> int:
    # Not getrusage: its peak includes that of the process that started this one.
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024


if __name__ == "__main__":
    main(sys.argv[1])
