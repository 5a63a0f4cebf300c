"""``foldserve recalibrate``: a new version of a model, its BatchNorm statistics taken anew from data."""

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from rich.console import Console

from foldserve import __version__
from foldserve.commands.display import parity_report, recalibration_report
from foldserve.commands.model_files import describe, describe_files, open_model, write_model
from foldserve.commands.progress import doing
from foldserve.commands.report import Provenance, Recalibration
from foldserve.errors import ConfigurationError
from foldserve.folding import fold
from foldserve.parity.drift import SMALLEST_WINDOW
from foldserve.parity.probes import Probe
from foldserve.parity.proof import prove_models
from foldserve.parity.recalibration import drift_of
from foldserve.parity.recalibration import recalibrate as recalibrated
from foldserve.parity.report import ParityReport
from foldserve.parity.samples import in_batches, read_samples
from foldserve.parity.sections import unoptimised
from foldserve.runtime.tensors import TensorSpec
from foldserve.serving.model_file import make_initialisers_constant
from foldserve.serving.repository import MODEL_FILES, VERSION, ModelVersion

SAMPLE_SUFFIXES = (".npz", ".npy")
BATCH = 16
PROVENANCE_FILE = "recalibration.json"
PROVENANCE_KEY = "foldserve.recalibration"
"""In the model's own metadata, so that a model without its folder still tells where it is from."""


def recalibrate(path: Path, inputs: Path, output: Path, *, import_timeout_s: float) -> bool:
    """Write ``output``, a version folder with the model at ``path`` recalibrated on ``inputs``.

    The model in it is unfolded: the server folds it, and watches the drift by its statistics. That it folds
    is proved here, on the first of ``inputs``. Returns whether that proof held: else nothing is written.

    Raises :class:`~foldserve.errors.ConfigurationError` for paths that cannot be and for too few samples, and
    the exceptions under :class:`~foldserve.errors.LoadFailed` for models and samples that do not go together.
    """
    _check_output(output)
    file, files = _model_file(path), _sample_files(inputs)
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".foldserve-", dir=output.parent) as folder:
        scratch = Path(folder)
        opened = open_model(file, scratch / "imported", import_timeout_s)
        make_initialisers_constant(opened.model)
        with unoptimised(opened.model) as session:
            samples = _Samples(files, session.inputs)
        count = _checked_count(samples, inputs)
        with doing("measuring how far the samples are from the statistics"):
            before = drift_of(opened.model, samples)
        with doing(f"taking the statistics of {count} samples"):
            model = recalibrated(opened.model, samples)
        with doing("measuring again"):
            after = drift_of(model, samples)
        provenance = Provenance(
            foldserve=__version__,
            original=describe(file, None if opened.imported else opened.model),
            data=describe_files(inputs.resolve().name, files),
            samples=count,
        )
        model.metadata_props[PROVENANCE_KEY] = provenance.model_dump_json()
        version = scratch / "version"
        version.mkdir()
        written = version / MODEL_FILES[0]
        parity = _written_and_proved(model, written, scratch, next(iter(samples())))
        if not parity.passed:
            Console().print(parity_report(parity))
            Console(stderr=True).print("[red]not written: folded, it is another function[/red]")
            return False
        found = Recalibration(
            provenance=provenance,
            before=before,
            after=after,
            written=describe(written, model),
            parity=parity,
        )
        (version / PROVENANCE_FILE).write_text(found.model_dump_json(indent=2))
        version.rename(output)
    Console().print(recalibration_report(found, output))
    return True


def _written_and_proved(model: ir.Model, written: Path, scratch: Path, probe: Probe) -> ParityReport:
    """Write the unfolded ``model``; its fold goes to ``scratch``, and is compared with it there."""
    with doing("folding"):
        result = fold(model)
    folded, inputs = scratch / "folded.onnx", scratch / "probe.npz"
    arrays: dict[str, Any] = dict(probe)
    with doing("writing"):
        write_model(model, written, result.report.initializer_bytes_before)
        write_model(result.model, folded, result.report.initializer_bytes_after)
        np.savez(inputs, **arrays)
    pairs = [(pair.original, pair.folded) for site in result.report.sites for pair in site.pairs]
    with doing("proving"):
        return prove_models(written, folded, pairs=list(dict.fromkeys(pairs)), inputs=inputs)


class _Samples:
    """Samples in files, one of which at a time is in memory."""

    def __init__(self, files: Sequence[Path], inputs: Sequence[TensorSpec]) -> None:
        self._files = files
        self._inputs = inputs

    def __call__(self) -> Iterator[Probe]:
        for file in self._files:
            yield from in_batches(read_samples(file, self._inputs), self._inputs, BATCH)


def _checked_count(samples: _Samples, inputs: Path) -> int:
    """The number of samples in whole batches."""
    count = sum(len(next(iter(batch.values()))) for batch in samples())
    if count < SMALLEST_WINDOW:
        raise ConfigurationError(
            f"--inputs {inputs}: {count} samples that the model takes; statistics need at least "
            f"{SMALLEST_WINDOW}, and better a thousand"
        )
    return count


def _check_output(output: Path) -> None:
    if not VERSION.fullmatch(output.name):
        raise ConfigurationError(
            f"--output {output}: a version folder is named by its number, such as {output / '2'}"
        )
    if output.exists():
        raise ConfigurationError(
            f"--output {output} is there already, and stays as it is; choose the next number"
        )


def _model_file(path: Path) -> Path:
    """The model file that was named, or the one in the version folder that was."""
    if not path.is_dir():
        return path
    folder = path.resolve()
    if not VERSION.fullmatch(folder.name):
        raise ConfigurationError(
            f"{path} is no version folder, whose name is a number; name one, or a model file"
        )
    return ModelVersion(folder.parent.name, int(folder.name), folder).model_file()


def _sample_files(inputs: Path) -> list[Path]:
    if not inputs.is_dir():
        return [inputs]
    files = sorted(file for file in inputs.iterdir() if file.suffix in SAMPLE_SUFFIXES)
    if not files:
        raise ConfigurationError(f"--inputs {inputs}: no {' or '.join(SAMPLE_SUFFIXES)} files in it")
    return files
