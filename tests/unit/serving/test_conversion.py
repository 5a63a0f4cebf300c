"""Conversions for engines: what int8 is calibrated on, and what it is not."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from foldserve.errors import UnsupportedModel
from foldserve.parity.probes import Probe, ProbeSet
from foldserve.parity.report import ProbeSource
from foldserve.serving.conversion import convert
from foldserve.settings import Precision
from onnx import numpy_helper
from unit.converting.conversions import folded_digits


def _batch(largest: float) -> Probe:
    return {"images": np.linspace(0, largest, 8 * 64, dtype=np.float32).reshape(8, 1, 8, 8)}


def _step_of_the_images(model: Path) -> float:
    graph = onnx.load(model).graph
    quantised = next(node for node in graph.node if node.input[0] == "images")
    step = next(one for one in graph.initializer if one.name == quantised.input[1])
    return float(numpy_helper.to_array(step))


@pytest.mark.parametrize(
    ("batches", "largest"), [([1.0], 1.0), ([4.0, 1.0], 1.0), ([9.0, 1.0, 4.0, 2.0], 2.0)]
)
def test_int8_is_calibrated_on_every_other_batch_where_there_are_several(
    batches: list[float], largest: float, tmp_path: Path
) -> None:
    probes = ProbeSet(ProbeSource.SAMPLES, tuple(_batch(one) for one in batches))
    convert(folded_digits(tmp_path), Precision.INT8, probes, tmp_path / "int8.onnx")
    assert _step_of_the_images(tmp_path / "int8.onnx") == pytest.approx(largest / 255)


def test_int8_wants_samples_of_the_models_own(tmp_path: Path) -> None:
    probes = ProbeSet(ProbeSource.SYNTHETIC, (_batch(1.0),), seed=1)
    with pytest.raises(UnsupportedModel, match=r"put samples\.npz into its folder"):
        convert(folded_digits(tmp_path), Precision.INT8, probes, tmp_path / "int8.onnx")
