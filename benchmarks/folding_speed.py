"""What folding costs: time and memory beside others on ResNet-152, and time against the number of nodes.

Ratios of times taken in one run, in turns, each in a process of its own; the median of the rounds counts.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import torch
from folding_models import resnet152
from folding_runs import RESULTS, Tool
from foldserve.folding import fold
from foldserve.importing.torch_program import to_onnx
from onnx import TensorProto, helper, numpy_helper
from zoo.architecture import Architecture, trained

TOOLS = ("foldserve", "foldserve tier 3", "onnxruntime", "onnxslim", "onnxsim")
BLOCKS = 16
"""Residual blocks at depth 1×, as many as ResNet-50 has."""

DEPTHS = (1, 4, 16)


def beside_others(rounds: int) -> dict[str, Any]:
    """Seconds and peak memory of each tool on ResNet-152, and what they are relative to each other."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "resnet152.onnx"
        _write_resnet152(source)
        size = source.stat().st_size
        runs: dict[str, list[dict[str, float]]] = {tool: [] for tool in TOOLS}
        for number in range(rounds):
            for name in TOOLS:
                tool = Tool(name)
                cost = tool.run(source)
                tool.stop()
                runs[name].append({"seconds": cost.seconds, "peak": cost.peak_bytes / size})
                _say(f"round {number + 1} {name}: {cost.seconds:.2f} s, {cost.peak_bytes / size:.2f} × size")
    seconds = {name: statistics.median(cost["seconds"] for cost in costs) for name, costs in runs.items()}
    return {
        "model_bytes": size,
        "rounds": rounds,
        "seconds": seconds,
        "peak_memory_in_model_sizes": {
            name: max(cost["peak"] for cost in costs) for name, costs in runs.items()
        },
        "foldserve_relative_to": {
            name: seconds["foldserve"] / seconds[name] for name in TOOLS if not name.startswith("foldserve")
        },
    }


def against_depth(rounds: int) -> dict[str, Any]:
    """Seconds of processor time that fold takes at several depths of one network."""
    result: dict[str, Any] = {}
    for tier in (1, 3):
        rows = []
        for depth in DEPTHS:
            model = ir.from_proto(residual_chain(BLOCKS * depth))
            seconds = []
            for _ in range(rounds):
                start = time.process_time()
                report = fold(model, max_tier=tier).report
                seconds.append(time.process_time() - start)
            nodes = sum(report.operators_before.values())
            best = min(seconds)
            per_node = 1e6 * best / nodes
            rows.append({"depth": depth, "nodes": nodes, "seconds": best, "microseconds_per_node": per_node})
            _say(f"tier {tier}, {nodes} nodes: {best:.3f} s, {per_node:.0f} µs per node")
        result[f"tier {tier}"] = rows
    return result


def residual_chain(blocks: int, channels: int = 8) -> onnx.ModelProto:
    """Bottleneck blocks, every other one pre-activated, so that all tiers have work to do."""
    rng = np.random.default_rng(0)
    nodes: list[onnx.NodeProto] = []
    constants: list[onnx.TensorProto] = []

    def add(operator: str, *inputs: str, **attributes: Any) -> str:
        name = f"{operator}_{len(nodes)}"
        nodes.append(helper.make_node(operator, inputs, [name], name=name, **attributes))
        return name

    def constant(values: np.ndarray[Any, Any]) -> str:
        constants.append(numpy_helper.from_array(values.astype(np.float32), f"constant_{len(constants)}"))
        return str(constants[-1].name)

    def norm(x: str) -> str:
        numbers = [rng.uniform(0.5, 1.5, channels) for _ in range(4)]
        return add("BatchNormalization", x, *map(constant, numbers))

    def conv(x: str, kernel: int) -> str:
        weight = constant(rng.normal(size=(channels, channels, kernel, kernel)))
        return add("Conv", x, weight, pads=[kernel // 2] * 4)

    x = "x"
    for block in range(blocks):
        y = x
        for kernel in (1, 3, 1):
            y = conv(add("Relu", norm(y)), kernel) if block % 2 else norm(conv(y, kernel))
            y = y if block % 2 or kernel == 1 else add("Relu", y)
        x = add("Add", x, y)
        x = x if block % 2 else add("Relu", x)
    shape = ("n", channels, 8, 8)
    graph = helper.make_graph(
        nodes,
        "chain",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(x, TensorProto.FLOAT, shape)],
        constants,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


def _say(text: str) -> None:
    sys.stderr.write(text + "\n")


def _write_resnet152(path: Path) -> None:
    architecture = Architecture("resnet152", resnet152, (3, 64, 64), batch_norms=155, left=(0, 0, 0, 0))
    module = trained(architecture, batches=1)
    program = torch.export.export(
        module, (architecture.inputs(0),), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},)
    )
    ir.save(to_onnx(program), path)


def main() -> None:
    """Measure and write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    result = {"resnet152": beside_others(rounds), "depth": against_depth(rounds)}
    (RESULTS / "folding_speed.json").write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
