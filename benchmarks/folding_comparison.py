"""How many BatchNorms each tool folds, and whether its result is still the same function.

Every published architecture of folding_models.py or, with ``--zoo``, every thin one of the tests; random
weights, statistics calibrated on random inputs. The judge is torch's own answer in float64.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir
import torch
from folding_models import published
from folding_runs import OTHERS, OURS, RESULTS, Tool, ToolFailed, tools
from foldserve.importing.tidy import count_batch_norms
from foldserve.importing.torch_program import to_onnx
from zoo.architecture import Architecture, trained
from zoo.proof import answers, answers_in_float64, relative_error
from zoo.table import ZOO

WRONG_FACTOR = 100
"""A result is wrong when its error is this many times the original's own float32 error …"""

WRONG_FLOOR = 1e-5
"""… and above this."""

INPUTS = 8
"""The float32 error of one input scatters by a factor of three either way; pooled over these it settles."""


def compare(architecture: Architecture, tools: dict[str, Tool], folder: Path) -> dict[str, Any]:
    """One row of the result: BatchNorms, the float32 error before, and what each tool made of it."""
    module = trained(architecture, batches=1)
    example = architecture.inputs(0)
    program = torch.export.export(module, (example,), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},))
    model = to_onnx(program)
    source = folder / "model.onnx"
    ir.save(model, source)
    inputs = [architecture.inputs(architecture.seed + i, batch=1).numpy() for i in range(INPUTS)]
    truth = answers_in_float64(module, inputs)
    before = relative_error(answers(onnx.load(source), inputs), truth)
    cells: dict[str, dict[str, Any]] = {}
    for name, tool in tools.items():
        output = folder / "output.onnx"
        output.unlink(missing_ok=True)
        try:
            cost = tool.run(source, output)
            left = count_batch_norms(ir.load(output))
            error = relative_error(answers(onnx.load(output), inputs), truth)
        except Exception as problem:  # whatever the tool did wrong is the result
            verdict = "crashed" if isinstance(problem, ToolFailed) else "does not run"
            cells[name] = {"left": None, "verdict": verdict, "detail": str(problem)[-300:]}
            continue
        wrong = not error <= max(WRONG_FACTOR * before, WRONG_FLOOR)
        cells[name] = {
            "left": left,
            "verdict": "wrong" if wrong else "right",
            "ratio": error / before,
            "seconds": round(cost.seconds, 3),
        }
    return {"batch_norms": count_batch_norms(model), "inputs": INPUTS, "error_before": before, "tools": cells}


def summary(rows: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Totals per tool; a BatchNorm counts as folded only in a right result."""
    total = sum(row["batch_norms"] for row in rows.values())
    totals: dict[str, Any] = {"models": len(rows), "batch_norms": total, "tools": {}}
    for tool in (*OURS, *OTHERS):
        cells = [row["tools"][tool] for row in rows.values()]
        right = [cell["verdict"] == "right" for cell in cells]
        folded = sum(
            row["batch_norms"] - row["tools"][tool]["left"]
            for row in rows.values()
            if row["tools"][tool]["verdict"] == "right"
        )
        ratios = [cell["ratio"] for cell in cells if cell["verdict"] == "right"]
        totals["tools"][tool] = {
            "folded": folded,
            "not_right": len(rows) - sum(right),
            "median_ratio": round(statistics.median(ratios), 3) if ratios else None,
            "largest_ratio": round(max(ratios), 3) if ratios else None,
        }
    totals["models_where_another_tool_folds_more"] = sorted(
        name for name, row in rows.items() if _best(row, OTHERS) > _best(row, OURS)
    )
    return totals


def _best(row: dict[str, Any], tools: tuple[str, ...]) -> int:
    cells = [row["tools"][tool] for tool in tools]
    return max((row["batch_norms"] - cell["left"] for cell in cells if cell["verdict"] == "right"), default=0)


def main() -> None:
    """Compare, and write the result after every model, so that an interrupted run keeps what it has."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--zoo", action="store_true", help="the thin architectures of the tests instead")
    parser.add_argument("--only", nargs="*", help="measure these again, keep the rest of the result")
    arguments = parser.parse_args()
    torch.set_num_threads(2)
    path = RESULTS / ("folding_comparison_zoo.json" if arguments.zoo else "folding_comparison.json")
    architectures = list(ZOO) if arguments.zoo else published()
    rows: dict[str, dict[str, Any]] = {}
    if arguments.only:
        architectures = [a for a in architectures if a.name in arguments.only]
        rows = json.loads(path.read_text())["models"]
    with tools((*OURS, *OTHERS)) as running:
        for number, architecture in enumerate(architectures, start=1):
            start = time.perf_counter()
            with tempfile.TemporaryDirectory() as folder:
                try:
                    row = rows[architecture.name] = compare(architecture, running, Path(folder))
                except Exception as problem:  # of the package that builds it, or of torch's exporter
                    sys.stderr.write(f"{architecture.name}: not exported: {str(problem)[:200]}\n")
                    continue
            left = {name: cell["left"] for name, cell in row["tools"].items()}
            sys.stderr.write(
                f"[{number}/{len(architectures)}] {architecture.name}: {row['batch_norms']} BatchNorms, "
                f"left {left} ({time.perf_counter() - start:.0f} s)\n"
            )
            path.write_text(json.dumps({"summary": summary(rows), "models": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
