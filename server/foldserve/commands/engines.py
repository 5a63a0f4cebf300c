"""Trying every engine on a model file, as a server would when it loads it."""

import shutil
from pathlib import Path

from foldserve.commands.model_files import OpenModel, external_files
from foldserve.serving.engine_choice import EngineReport
from foldserve.serving.lifecycle import Lifecycle
from foldserve.serving.loader import load
from foldserve.serving.repository import SAMPLES_FILE, ModelVersion
from foldserve.settings import ModelDefaults, ServerSettings, model_settings


def try_engines(
    opened: OpenModel,
    scratch: Path,
    inputs: Path | None,
    settings: ModelDefaults,
) -> EngineReport:
    """Load a model from a repository of its own in ``scratch``; what came of each engine.

    ``inputs`` are samples, an ``.npz`` file; None for synthetic ones. Raises the exceptions under
    :class:`~foldserve.errors.LoadFailed`.
    """
    model = scratch / "repository" / opened.path.stem
    version = model / "1"
    version.mkdir(parents=True)
    shutil.copyfile(opened.onnx, version / "model.onnx")
    for weights in external_files(opened.model):
        copy = version / weights.relative_to(opened.onnx.parent)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(weights, copy)
    if inputs is not None:
        shutil.copyfile(inputs, model / SAMPLES_FILE)
    server = ServerSettings(repository=(model.parent,), cache_dir=scratch / "cache", **dict(settings))
    servable = load(
        ModelVersion(model.name, 1, version),
        Lifecycle(),
        model_settings(server),
        server,
        requests_are_served=False,
    )
    servable.close()
    return servable.provenance.engines
