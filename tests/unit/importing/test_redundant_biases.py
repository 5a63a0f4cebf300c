"""Biases that a BatchNorm cancels: stripping changes nothing in training and in eval mode, or is refused."""

import copy
from collections.abc import Callable, Sequence

import pytest
import torch
from foldserve.importing.redundant_biases import BiasFinding, strip_redundant_biases
from torch import nn
from torch.nn.functional import batch_norm, conv2d
from unit.importing.programs import Function, enliven

pytestmark = pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")

STEPS = 3


def _x(*shape: int) -> torch.Tensor:
    torch.manual_seed(len(shape))
    return torch.randn(shape or (4, 3, 6, 6), dtype=torch.float64)


def _trained(module: nn.Module, x: torch.Tensor) -> tuple[list[torch.Tensor], dict[str, torch.Tensor]]:
    """Outputs of some steps of training and of eval mode afterwards; the final parameters and buffers."""
    module.train()
    optimiser = torch.optim.SGD(module.parameters(), lr=0.05)
    outputs = []
    for step in range(STEPS):
        output = module(x + step)
        optimiser.zero_grad()
        (output * torch.linspace(-1, 1, output.numel(), dtype=output.dtype).view_as(output)).sum().backward()
        optimiser.step()
        outputs.append(output.detach())
    with torch.inference_mode():
        outputs.append(module.eval()(x))
    return outputs, module.state_dict()


def _assert_same_in_both_modes(module: nn.Module, x: torch.Tensor) -> tuple[BiasFinding, ...]:
    """Strip a copy and train both; in float64, so that nothing but rounding may differ."""
    module = enliven(module).double()
    stripped = copy.deepcopy(module)
    with torch.inference_mode():
        torch.testing.assert_close(stripped(x), module(x))
    findings = strip_redundant_biases(stripped, (x,))
    with torch.inference_mode():
        torch.testing.assert_close(stripped(x), module(x), rtol=1e-10, atol=1e-10)
    biases = {f"{finding.layer}.bias": finding for finding in findings if finding.stripped}
    assert not biases.keys() & stripped.state_dict().keys()
    constants = {name: module.state_dict()[name].clone() for name in biases}
    expected, expected_state = _trained(module, x)
    found, found_state = _trained(stripped, x)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-8)
    means = {f"{norm}.running_mean": name for name, finding in biases.items() for norm in finding.norms}
    for name, tensor in found_state.items():
        shift = constants[means[name]] if name in means else 0
        torch.testing.assert_close(tensor, expected_state[name] - shift, rtol=1e-8, atol=1e-8)
    return findings


@pytest.mark.parametrize(
    ("layer", "norm", "shape"),
    [
        (nn.Conv1d(3, 4, 3), nn.BatchNorm1d(4), (4, 3, 7)),
        (nn.Conv2d(3, 4, 3, padding="same"), nn.BatchNorm2d(4), (4, 3, 6, 6)),
        (nn.Conv3d(2, 4, 2, groups=2), nn.BatchNorm3d(4, momentum=None), (3, 2, 4, 4, 4)),
        (nn.ConvTranspose2d(4, 6, 3, groups=2), nn.BatchNorm2d(6, affine=False), (4, 4, 5, 5)),
        (nn.Linear(5, 4), nn.BatchNorm1d(4), (6, 5)),
        (nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, track_running_stats=False), (4, 3, 6, 6)),
    ],
    ids=str,
)
def test_stripping_changes_nothing(layer: nn.Module, norm: nn.Module, shape: tuple[int, ...]) -> None:
    (finding,) = _assert_same_in_both_modes(nn.Sequential(layer, norm), _x(*shape))
    assert finding.stripped


def test_only_what_a_batch_norm_follows_is_stripped_and_modes_are_kept() -> None:
    # In the order of modules the last BatchNorm follows the first convolution: forward decides.
    norms = nn.BatchNorm2d(4), nn.BatchNorm2d(4)
    module = Function(
        lambda a, b, n, m, x: m(b(n(a(x)).relu())), nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 1), *norms
    )
    findings = _assert_same_in_both_modes(module, _x())
    assert [(finding.layer, finding.norms) for finding in findings] == [
        ("parts.0", ("parts.2",)),
        ("parts.1", ("parts.3",)),
    ]
    mixed = enliven(copy.deepcopy(module)).train()
    mixed.get_submodule("parts.2").eval()
    before = mixed.get_buffer("parts.2.num_batches_tracked").clone()
    strip_redundant_biases(mixed, (_x(),))
    assert [part.training for part in mixed.get_submodule("parts").children()] == [True, True, False, True]
    assert torch.equal(mixed.get_buffer("parts.2.num_batches_tracked"), before)


def test_a_convolution_with_two_batch_norms_is_absorbed_by_both() -> None:
    module = Function(
        lambda c, n, m, x: n(c(x)).relu() + m(c(x + 1)),
        nn.Conv2d(3, 4, 3),
        nn.BatchNorm2d(4),
        nn.BatchNorm2d(4),
    )
    (finding,) = _assert_same_in_both_modes(module, _x())
    assert finding.norms == ("parts.1", "parts.2")


def test_a_convolution_and_its_batch_norm_called_twice_shift_the_mean_once() -> None:
    module = Function(lambda c, n, x: n(c(n(c(x)).relu())), nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3))
    (finding,) = _assert_same_in_both_modes(module, _x())
    assert finding.stripped


Forward = Callable[..., torch.Tensor]

REFUSED: dict[str, tuple[Forward, Sequence[nn.Module], tuple[int, ...], str]] = {
    "another reader": (
        lambda c, n, x: n(c(x)) + c(x).relu(),
        (nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)),
        (4, 3, 6, 6),
        "is read by relu",
    ),
    "an output": (
        lambda c, x: c(x),
        (nn.Conv2d(3, 3, 1),),
        (4, 3, 6, 6),
        "is an output of the model",
    ),
    "an operator between": (
        lambda c, n, x: n(c(x).relu()),
        (nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)),
        (4, 3, 6, 6),
        "is read by relu",
    ),
    "a batch norm of two layers": (
        lambda c, d, n, x: n(c(x)) + n(d(x)),
        (nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)),
        (4, 3, 6, 6),
        "also normalises the output of another layer",
    ),
    "a batch norm of another value": (
        lambda c, n, x: n(c(x)) + n(x),
        (nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)),
        (4, 3, 6, 6),
        "also normalises another value",
    ),
    "the bias is read elsewhere": (
        lambda c, n, x: n(c(x)) * c.bias.sum(),
        (nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)),
        (4, 3, 6, 6),
        "reads the bias for something else",
    ),
    "the running mean is read elsewhere": (
        lambda c, n, x: n(c(x)) * n.running_mean.sum(),
        (nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)),
        (4, 3, 6, 6),
        "reads the running mean",
    ),
    "a batch norm in training mode only": (
        lambda c, n, x: n(c(x)) if n.training else c(x),
        (nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)),
        (4, 3, 6, 6),
        "is an output of the model",
    ),
    "a batch norm over the length": (
        lambda c, n, x: n(c(x)),
        (nn.Linear(5, 4), nn.BatchNorm1d(4)),
        (3, 4, 5),
        "not on axis 1",
    ),
    "never called": (
        lambda _c, n, x: n(x),
        (nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)),
        (4, 3, 6, 6),
        "never called",
    ),
}


@pytest.mark.parametrize(("forward", "parts", "shape", "reason"), REFUSED.values(), ids=list(REFUSED))
def test_a_bias_that_shows_stays(
    forward: Forward, parts: Sequence[nn.Module], shape: tuple[int, ...], reason: str
) -> None:
    module = enliven(Function(forward, *parts)).double()
    before = copy.deepcopy(module.state_dict())
    findings = strip_redundant_biases(module, (_x(*shape),))
    assert findings
    assert all(reason in finding.reason and finding.norms == () for finding in findings)
    after = module.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_functional_calls_with_a_module_s_parameters_are_calls_of_it() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.convolution = nn.Conv2d(3, 4, 3)
            self.norm = nn.BatchNorm2d(4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = conv2d(x, self.convolution.weight, self.convolution.bias)
            norm = self.norm
            return batch_norm(x, norm.running_mean, norm.running_var, norm.weight, norm.bias, self.training)

    (finding,) = _assert_same_in_both_modes(Net(), _x())
    assert finding == BiasFinding("convolution", ("norm",), "")


def test_a_tied_bias_that_one_layer_shows_stays_in_both() -> None:
    first, second = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)
    second.bias = first.bias
    module = Function(lambda c, d, n, x: d(n(c(x))), first, second, nn.BatchNorm2d(3))
    findings = strip_redundant_biases(module, (_x().float(),))
    assert [finding.stripped for finding in findings] == [False, False]
    assert first.bias is second.bias is not None


def test_a_mean_that_is_not_shifted_would_be_noticed() -> None:
    module = enliven(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))).double()
    wrong = copy.deepcopy(module)
    wrong.get_submodule("0").register_parameter("bias", None)
    with torch.inference_mode(), pytest.raises(AssertionError):
        torch.testing.assert_close(wrong(_x()), module(_x()), rtol=1e-10, atol=1e-10)
