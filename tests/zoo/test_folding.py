"""Folding changes no architecture's function, and removes as many BatchNorms from it as the tables say."""

import statistics

import numpy as np
import onnx_ir as ir
import pytest
from foldserve.folding import fold
from onnx import numpy_helper

from zoo.architecture import Architecture
from zoo.proof import answers, answers_in_float64, checked, exported, prove, relative_error
from zoo.table import ZOO

pytestmark = [
    # torch's own code uses what torch has deprecated
    pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning"),
    # recurrent layers and LeViT keep tensors in attributes, and set them as they run
    pytest.mark.filterwarnings("ignore:The tensor attributes .* were assigned during export:UserWarning"),
]

LARGEST_RATIO = 2.5
"""Error of the folded model as a multiple of the original's own float32 error, both against float64."""

LARGEST_MEDIAN_RATIO = 1.05

NUDGE = 1.003

each_architecture = pytest.mark.parametrize("architecture", ZOO, ids=lambda architecture: architecture.name)


@each_architecture
@pytest.mark.parametrize("mixed_signs", [False, True], ids=["positive", "mixed"])
def test_folding_keeps_the_function(architecture: Architecture, mixed_signs: bool) -> None:
    proof = prove(architecture, mixed_signs=mixed_signs)
    assert max(proof.ratios) < LARGEST_RATIO


@each_architecture
@pytest.mark.parametrize("mixed_signs", [False, True], ids=["positive", "mixed"])
def test_folding_removes_what_the_table_says(architecture: Architecture, mixed_signs: bool) -> None:
    proof = prove(architecture, mixed_signs=mixed_signs)
    expected = (architecture.left_mixed if mixed_signs else None) or architecture.left
    assert (proof.batch_norms, proof.left) == (architecture.batch_norms, expected), proof.reasons


def test_the_median_error_is_that_of_the_original() -> None:
    proofs = [prove(architecture, mixed_signs=mixed) for architecture in ZOO for mixed in (False, True)]
    medians = [statistics.median(ratios) for ratios in zip(*(p.ratios for p in proofs), strict=True)]
    assert max(medians) < LARGEST_MEDIAN_RATIO


@pytest.mark.parametrize("name", ["resnet_18", "densenet", "transformers_levit", "unet"])
def test_a_slightly_wrong_fold_is_caught(name: str) -> None:
    (architecture,) = (architecture for architecture in ZOO if architecture.name == name)
    module, model = exported(architecture)
    inputs = [architecture.inputs(seed).numpy() for seed in range(2)]
    truth = answers_in_float64(module, inputs)
    result = fold(model, max_tier=3)
    proto = checked(result)
    wrong = next(site.absorbed_by[-1] for site in result.report.sites if site.absorbed_by)
    (absorber,) = (node for node in proto.graph.node if node.name == wrong)
    tensor = next(tensor for tensor in proto.graph.initializer if tensor.name == absorber.input[1])
    weight = numpy_helper.to_array(tensor) * np.float32(NUDGE)
    tensor.CopyFrom(numpy_helper.from_array(weight, tensor.name))
    before = relative_error(answers(ir.to_proto(model), inputs), truth)
    assert relative_error(answers(proto, inputs), truth) > LARGEST_RATIO * before
