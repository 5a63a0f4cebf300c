"""Programs translated in this process: same answers, same BatchNorms, names one can read."""

from collections import Counter
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from foldserve.errors import ImportFailed
from foldserve.importing.explain import explain
from foldserve.importing.tidy import count_batch_norms
from foldserve.importing.torch_program import count_program_batch_norms, to_onnx
from onnx.reference import ReferenceEvaluator
from torch import nn
from torch.nn import functional
from unit.importing.programs import Function, enliven, export, onnx_answers, relative_l2, torch_answers

# torch's own code uses what torch has deprecated
pytestmark = pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")

BUDGET = 1e-6

NETS: dict[str, tuple[nn.Module, tuple[int, ...]]] = {
    "conv1d with bias": (nn.Sequential(nn.Conv1d(3, 4, 3), nn.BatchNorm1d(4)), (2, 3, 9)),
    "conv1d": (nn.Sequential(nn.Conv1d(3, 4, 3, bias=False), nn.BatchNorm1d(4)), (2, 3, 9)),
    "conv2d with bias": (nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)), (2, 3, 9, 9)),
    "conv2d": (nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4)), (2, 3, 9, 9)),
    "conv2d same padding": (
        nn.Sequential(nn.Conv2d(4, 4, 3, padding="same", groups=2, bias=False), nn.BatchNorm2d(4)),
        (2, 4, 9, 9),
    ),
    "conv3d with bias": (nn.Sequential(nn.Conv3d(3, 4, 3), nn.BatchNorm3d(4)), (2, 3, 5, 5, 5)),
    "conv3d": (nn.Sequential(nn.Conv3d(3, 4, 3, bias=False), nn.BatchNorm3d(4)), (2, 3, 5, 5, 5)),
    "transposed conv1d": (
        nn.Sequential(nn.ConvTranspose1d(3, 4, 3, bias=False), nn.BatchNorm1d(4)),
        (2, 3, 5),
    ),
    "transposed conv2d, groups": (
        nn.Sequential(nn.ConvTranspose2d(4, 6, 3, stride=2, output_padding=1, groups=2), nn.BatchNorm2d(6)),
        (2, 4, 5, 5),
    ),
    "transposed conv3d": (
        nn.Sequential(nn.ConvTranspose3d(3, 4, 2, bias=False), nn.BatchNorm3d(4)),
        (2, 3, 3, 3, 3),
    ),
    "linear": (nn.Sequential(nn.Linear(5, 4, bias=False), nn.BatchNorm1d(4)), (2, 5)),
    "linear on three axes": (
        nn.Sequential(nn.Linear(200, 100), Function(lambda x: x.transpose(1, 2)), nn.BatchNorm1d(100)),
        (2, 7, 200),
    ),
    "flattened": (
        nn.Sequential(
            nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(36, 5), nn.BatchNorm1d(5)
        ),
        (2, 3, 5, 5),
    ),
    "no parameters": (nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, affine=False)), (2, 3, 5, 5)),
    "batch statistics": (
        nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, track_running_stats=False)),
        (2, 3, 5, 5),
    ),
    "synchronised": (nn.Sequential(nn.Conv2d(3, 4, 3), nn.SyncBatchNorm(4)), (2, 3, 5, 5)),
    "instance norm, tracked": (
        nn.Sequential(nn.Conv2d(3, 4, 3), nn.InstanceNorm2d(4, affine=True, track_running_stats=True)),
        (2, 3, 5, 5),
    ),
    "called twice": (
        Function(
            lambda conv, norm, x: norm(conv(norm(conv(x)))),
            nn.Conv2d(3, 3, 3, padding=1, bias=False),
            nn.BatchNorm2d(3),
        ),
        (2, 3, 5, 5),
    ),
    "functional": (
        Function(
            lambda norm, x: functional.batch_norm(x.relu(), norm.running_mean, norm.running_var, eps=0.1),
            nn.BatchNorm2d(3),
        ),
        (2, 3, 5, 5),
    ),
    "in a branch": (
        Function(
            lambda norm, x: torch.cond(x.sum() > 0, lambda y: norm(y) + 1, lambda y: y - 1, (x,)),
            nn.BatchNorm2d(3),
        ),
        (2, 3, 5, 5),
    ),
}


@pytest.mark.parametrize("name", NETS)
def test_imported_net_answers_like_torch_at_any_batch_size(name: str) -> None:
    net, shape = NETS[name]
    module = enliven(net)
    program = export(module, torch.randn(shape))
    model = to_onnx(program)
    assert count_batch_norms(model) == count_program_batch_norms(program) > 0
    assert _biased_convolutions(model) == sum(
        isinstance(part, nn.Conv1d | nn.Conv2d | nn.Conv3d) and part.bias is not None
        for part in module.modules()
    )
    onnx.checker.check_model(ir.to_proto(model), full_check=True)
    for batch in (1, 5):
        x = torch.randn(batch, *shape[1:])
        expected = torch_answers(module, x)
        found = onnx_answers(model, x)
        assert [a.shape for a in found] == [b.shape for b in expected]
        assert relative_l2(found, expected) <= BUDGET


def _biased_convolutions(model: ir.Model) -> int:
    return sum(node.op_type == "Conv" and len(node.inputs) == 3 for node in model.graph)


def test_a_slightly_wrong_import_would_be_noticed() -> None:
    net, shape = NETS["conv2d"]
    module = enliven(net)
    x = torch.randn(shape)
    model = to_onnx(export(module, x))
    mean = model.graph.initializers["1.running_mean"]
    assert mean.const_value is not None
    mean.const_value = ir.tensor(mean.const_value.numpy() * np.float32(1.0001), name=mean.name)
    assert relative_l2(onnx_answers(model, x), torch_answers(module, x)) > BUDGET


def test_only_the_operators_of_the_module_remain() -> None:
    net, shape = NETS["flattened"]
    model = to_onnx(export(enliven(net), torch.randn(shape)))
    operators = Counter(node.op_type for node in model.graph if node.op_type != "Constant")
    assert operators == {"Conv": 1, "BatchNormalization": 2, "Reshape": 1, "Gemm": 1}
    assert [node.name for node in model.graph if node.op_type == "BatchNormalization"] == [
        "1/BatchNormalization",
        "4/BatchNormalization",
    ]
    assert str(model.graph.inputs[0].shape) == "[batch,3,5,5]"
    assert str(model.graph.outputs[0].shape) == "[batch,5]"


def test_notes_about_the_machine_of_the_export_are_dropped() -> None:
    net, shape = NETS["flattened"]
    written = ir.to_proto(to_onnx(export(enliven(net), torch.randn(shape)))).SerializeToString()
    for note in (b"stack_trace", b"conv.py", b"ExportedProgram"):
        assert note not in written


def test_spatial_dimensions_stay_dynamic() -> None:
    module = enliven(
        nn.Sequential(
            nn.Conv2d(3, 4, 3, bias=False),
            nn.BatchNorm2d(4),
            nn.Upsample(scale_factor=2, mode="bilinear"),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
        )
    )
    model = to_onnx(export(module, torch.randn(2, 3, 9, 9), axes=(0, 2, 3)))
    for shape in ((1, 3, 9, 9), (3, 3, 12, 17)):
        x = torch.randn(shape)
        assert relative_l2(onnx_answers(model, x), torch_answers(module, x)) <= BUDGET


@pytest.mark.parametrize(
    ("function", "names"),
    [
        (lambda x: x + 1, ["output"]),
        (lambda x: (x + 1, x + 2), ["output_0", "output_1"]),
        (
            lambda x: {"logits": x + 1, "hidden states": (x + 2, x + 3)},
            ["logits", "hidden_states_0", "hidden_states_1"],
        ),
        (lambda x: (x, None, x), ["output_0", "output_2"]),
        (lambda x: {"twice": (y := x + 1), "again": y}, ["twice", "again"]),
        (lambda x: {"inputs_0": x + 1, "a b": x + 2, "a-b": x + 3}, ["inputs_0_output", "a_b", "a_b_output"]),
    ],
)
def test_outputs_are_called_after_their_place(function: Any, names: list[str]) -> None:
    module = Function(function)
    x = torch.randn(2, 3)
    model = to_onnx(export(module, x))
    assert [value.name for value in model.graph.inputs] == ["inputs_0"]
    assert [value.name for value in model.graph.outputs] == names
    assert relative_l2(onnx_answers(model, x), torch_answers(module, x)) == 0


def test_inputs_may_be_several_and_nested() -> None:
    module = Function(lambda x, more: {"sum": x + more["scale"], "masked": x.masked_fill(more["mask"], 0.5)})
    inputs = (torch.randn(2, 3), {"scale": torch.randn(2, 3), "mask": torch.randn(2, 3) > 0})
    model = to_onnx(export(module, *inputs))
    assert [value.name for value in model.graph.inputs] == ["inputs_0", "inputs_1_scale", "inputs_1_mask"]
    assert [value.dtype for value in model.graph.inputs] == [
        ir.DataType.FLOAT,
        ir.DataType.FLOAT,
        ir.DataType.BOOL,
    ]
    assert relative_l2(onnx_answers(model, *inputs), torch_answers(module, *inputs)) == 0


def test_float16_stays_float16() -> None:
    module = enliven(nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4))).half()
    x = torch.randn(2, 3, 9, 9).half()
    model = to_onnx(export(module, x))
    assert {value.dtype for value in model.graph.initializers.values()} == {ir.DataType.FLOAT16}
    assert relative_l2(onnx_answers(model, x), torch_answers(module, x)) <= 2e-3  # a few units of 2⁻¹¹


def test_bfloat16_becomes_a_valid_model() -> None:
    module = enliven(nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), nn.MaxPool2d(2)))
    x = torch.randn(2, 3, 9, 9)
    expected = torch_answers(module, x)
    proto = ir.to_proto(to_onnx(export(module.bfloat16(), x.bfloat16())))
    onnx.checker.check_model(proto, full_check=True)
    bfloat16 = ir.DataType.BFLOAT16.numpy()
    found = [
        np.asarray(y) for y in ReferenceEvaluator(proto).run(None, {"input": x.numpy().astype(bfloat16)})
    ]
    assert [array.dtype for array in found] == [bfloat16]
    assert relative_l2(found, expected) <= 2e-2  # a few units of 2⁻⁸


def test_untrained_statistics_are_kept_as_they_are() -> None:
    model = to_onnx(
        export(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).eval(), torch.randn(2, 3, 5, 5))
    )
    mean, variance = (model.graph.initializers[f"1.running_{what}"].const_value for what in ("mean", "var"))
    assert mean is not None
    assert variance is not None
    assert not mean.numpy().any()
    assert (variance.numpy() == 1).all()


def test_a_batch_norm_of_a_weight_is_evaluated() -> None:
    """Weight standardisation: nothing there depends on the input, so nothing is left to normalise."""
    module = Function(
        lambda conv, x: functional.conv2d(
            x,
            functional.batch_norm(
                conv.weight.reshape(1, 4, 27), None, None, training=True, momentum=0
            ).reshape_as(conv.weight),
        ),
        nn.Conv2d(3, 4, 3),
    ).eval()
    x = torch.randn(2, 3, 5, 5)
    program = export(module, x)
    model = to_onnx(program)
    assert count_program_batch_norms(program) == 1
    assert [node.op_type for node in model.graph] == ["Conv"]
    assert relative_l2(onnx_answers(model, x), torch_answers(module, x)) <= BUDGET


class Counting(nn.Module):
    """Counts how often it was called."""

    calls: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return x + self.calls


@pytest.mark.parametrize(
    ("module", "words"),
    [
        (
            nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).train(),
            ["batch_norm", "training mode", "model.eval()"],
        ),
        (nn.Dropout().train(), ["dropout", "training mode", "model.eval()"]),
        (Counting().eval(), ["buffers", "calls"]),
    ],
    ids=["batch norm", "dropout", "buffer"],
)
def test_a_model_that_answers_differently_each_time_is_refused(module: nn.Module, words: list[str]) -> None:
    program = export(module, torch.randn(2, 3, 9, 9))
    with pytest.raises(ImportFailed) as refusal:
        to_onnx(program)
    assert all(word in str(refusal.value) for word in words)


def test_dropout_in_eval_mode_is_nothing() -> None:
    model = to_onnx(export(nn.Sequential(nn.ReLU(), nn.Dropout()).eval(), torch.randn(2, 3)))
    assert [node.op_type for node in model.graph] == ["Relu"]


def test_an_operator_without_onnx_counterpart_is_named() -> None:
    program = export(Function(torch.linalg.eigvals), torch.randn(2, 3, 3))
    with pytest.raises(torch.onnx.errors.OnnxExporterError) as failure:
        to_onnx(program)
    assert "operator aten.linalg_eig has no ONNX counterpart" in explain(failure.value)


def test_a_number_among_the_outputs_is_named() -> None:
    program = export(Function(lambda x: (x + 1, 3)), torch.randn(2, 3))
    with pytest.raises(torch.onnx.errors.OnnxExporterError) as failure:
        to_onnx(program)
    assert "not all outputs (add, 3) are tensors" in explain(failure.value)
