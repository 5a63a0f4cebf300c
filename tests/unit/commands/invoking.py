"""The command as a user calls it, and models for it."""

from pathlib import Path
from typing import Any

import numpy as np
from foldserve.cli import app
from foldserve.settings import ProviderChoice
from numpy.typing import NDArray
from running import EXAMPLE_MODELS
from typer.testing import CliRunner, Result

DIGITS = EXAMPLE_MODELS / "digits" / "1" / "model.onnx"
DIGITS_PROGRAM = EXAMPLE_MODELS / "digits_pt2" / "1" / "model.pt2"
DIGITS_SAMPLES = EXAMPLE_MODELS / "digits" / "samples.npz"


def run(*arguments: object) -> Result:
    """The command's result; an exception that it does not answer with an exit code is raised."""
    result = CliRunner(env={"COLUMNS": "200"}).invoke(app, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def answers(model: Path, inputs: dict[str, NDArray[Any]]) -> list[NDArray[Any]]:
    """What an ONNX file computes as it stands, without the runtime's optimisation."""
    from foldserve.runtime.onnxruntime_session import OnnxRuntimeSession

    session = OnnxRuntimeSession(model, provider=ProviderChoice.CPU, optimise=False)
    return [np.asarray(output) for output in session.run(inputs)]
