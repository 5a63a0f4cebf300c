"""What loading made, kept on disk: the form of the model that serves, its reports, and evidence of its proof.

    <cache>/models/<key>/model.onnx, model.onnx.data, evidence.npz, entry.json

The key is a hash of everything that the result depends on, so an entry is never out of date; one that is
damaged is made again.
"""

from pathlib import Path

from pydantic import BaseModel, ConfigDict

from foldserve.disk_cache import digest_of, entry_key
from foldserve.folding.report import FoldReport
from foldserve.parity.evidence import Evidence
from foldserve.parity.report import ParityReport
from foldserve.runtime.cpus import available_cpus, cpu_features, cpu_model
from foldserve.runtime.engines import BY_NAME, Engine
from foldserve.runtime.session import Provider
from foldserve.serving.engine_choice import EngineReport
from foldserve.serving.ladder import Optimisation, Variant
from foldserve.serving.repository import ModelVersion
from foldserve.settings import ModelSettings

MODEL, WEIGHTS, EVIDENCE = "model.onnx", "model.onnx.data", "evidence.npz"
MAKERS = ("onnx-ir", "onnxruntime", "onnxruntime-gpu", "openvino", "numpy")
"""Packages whose version may change what serves, or how it runs."""

DECIDING_SETTINGS = {"file", "provider", "precisions", "cudnn_search", "max_fold_tier", "parity", "objective"}

LAYOUT_SETTINGS = {"instances", "intra_op_threads", "max_batch_size"}
"""What decides, too, where engines are compared: the fastest depends on how they may run."""


class Artefact(BaseModel):
    """The record of one prepared model."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")

    variant: Variant
    provider: Provider
    provider_seconds: dict[Provider, float]
    optimisation: Optimisation
    fold_report: FoldReport
    parity_report: ParityReport
    batches: bool
    reference_seconds: tuple[float, ...]
    engines: EngineReport

    @property
    def engine(self) -> Engine:
        """The one that serves."""
        return BY_NAME[self.engines.engine]


def artefact_key(source: ModelVersion, settings: ModelSettings, provider: Provider) -> str:
    """The name of the entry for a model version with these settings on this provider.

    Every file of the version folder counts: a model may keep its weights beside it.
    """
    files = sorted(file for file in source.folder.rglob("*") if file.is_file())
    content = [f"{file.relative_to(source.folder)}={digest_of(file)}" for file in files]
    samples = digest_of(source.samples) if source.samples else "none"
    compared = LAYOUT_SETTINGS if settings.precisions else set()
    deciding = settings.model_dump_json(include=DECIDING_SETTINGS | compared)
    # Limits that nobody set are widened for half precision, the same numbers set by somebody are not.
    deciding += f" with {sorted(settings.parity.model_fields_set)}"
    machine = f"{available_cpus()} of {cpu_model()} with {' '.join(sorted(cpu_features()))}"
    return entry_key([*content, f"samples={samples}", deciding, provider, machine], MAKERS)


def file_of(engine: Engine) -> str:
    """Name of the file in an entry that an engine runs."""
    return f"model.{engine.precision}.onnx" if engine.runs_conversion else MODEL


def evidence_in(folder: Path) -> Evidence | None:
    """The evidence of an entry; None where nothing could be proven."""
    return Evidence.load(folder / EVIDENCE)
