"""Every BatchNorm of every architecture is seen, and after recalibration reads what its statistics say."""

from collections.abc import Iterable

import pytest
from foldserve.parity.drift import LayerDrift
from foldserve.parity.probes import Probe
from foldserve.parity.recalibration import drift_of, recalibrate

from zoo.architecture import Architecture
from zoo.proof import exported
from zoo.table import ZOO

pytestmark = [
    # torch's own code uses what torch has deprecated
    pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning"),
    # recurrent layers and LeViT keep tensors in attributes, and set them as they run
    pytest.mark.filterwarnings("ignore:The tensor attributes .* were assigned during export:UserWarning"),
]

ROUNDING = 1e-5


def _worst(layers: Iterable[LayerDrift]) -> float:
    return max(max(layer.mean, layer.variance) for layer in layers)


@pytest.mark.parametrize("architecture", ZOO, ids=lambda architecture: architecture.name)
def test_recalibrated_on_other_inputs_nothing_has_drifted(architecture: Architecture) -> None:
    _, model = exported(architecture)
    name = model.graph.inputs[0].name or ""
    inputs = [(1 + 2 * architecture.inputs(seed, batch=4)).numpy() for seed in range(2)]

    def samples() -> Iterable[Probe]:
        return ({name: batch} for batch in inputs)

    before = drift_of(model, samples)
    assert len(before) == architecture.batch_norms
    assert _worst(before) > 0.3
    assert _worst(drift_of(recalibrate(model, samples), samples)) < ROUNDING
