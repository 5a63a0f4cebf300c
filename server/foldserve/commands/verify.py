"""``foldserve verify``: are two model files the same function?"""

import tempfile
from pathlib import Path

import onnx_ir as ir
from rich.console import Console

from foldserve.commands.display import parity_report
from foldserve.commands.model_files import open_model
from foldserve.commands.progress import doing
from foldserve.parity.proof import prove_models
from foldserve.parity.sites import Pair


def verify(
    original: Path, candidate: Path, *, inputs: Path | None, as_json: bool, import_timeout_s: float
) -> bool:
    """Print the parity of ``candidate`` with ``original``; whether it is within the budget.

    On a breach the values that have the same name in both models are compared, too.
    Raises the exceptions under :class:`~foldserve.errors.LoadFailed`.
    """
    with tempfile.TemporaryDirectory(prefix="foldserve-") as folder:
        first = open_model(original, Path(folder, "original"), import_timeout_s)
        second = open_model(candidate, Path(folder, "candidate"), import_timeout_s)
        with doing("proving"):
            parity = prove_models(first.onnx, second.onnx, inputs=inputs)
        if not parity.passed and (pairs := _namesakes(first.model, second.model)):
            with doing(f"comparing {len(pairs)} values inside"):
                parity = prove_models(first.onnx, second.onnx, pairs=pairs, inputs=inputs)
    if as_json:
        print(parity.model_dump_json(indent=2))
    else:
        Console().print(parity_report(parity))
    return parity.passed


def _namesakes(first: ir.Model, second: ir.Model) -> list[Pair]:
    known = {value.name for node in second.graph for value in node.outputs}
    names = (value.name for node in first.graph for value in node.outputs)
    return [(name, name) for name in names if name and name in known]
