"""BatchNorm as a fixed affine: the same function as eval mode, in every mode, and it trains as it should."""

import copy
from pathlib import Path

import pytest
import torch
from foldserve.errors import ImportFailed, UnsupportedModel
from foldserve.importing import freeze_program_file, import_program
from foldserve.importing.freeze import FrozenBatchNorm, freeze_batchnorm
from foldserve.importing.freeze_program import freeze_program
from torch import nn
from torch.nn.functional import batch_norm
from unit.importing.programs import Function, enliven, export, relative_l2, torch_answers

# torch's own code uses what torch has deprecated
pytestmark = pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")

LONG_S = 120.0
NOISE = 5e-7


def _net() -> nn.Module:
    torch.manual_seed(3)
    return enliven(
        nn.Sequential(
            nn.Conv2d(3, 4, 3),
            nn.BatchNorm2d(4),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(36, 5),
            nn.BatchNorm1d(5, affine=False),
        )
    )


def _images(rows: int = 4) -> torch.Tensor:
    torch.manual_seed(rows)
    return torch.randn(rows, 3, 5, 5)


@pytest.mark.parametrize("learnable", [False, True])
@pytest.mark.parametrize("training", [False, True])
def test_a_frozen_module_is_the_eval_mode_in_every_mode(learnable: bool, training: bool) -> None:
    module, x = _net(), _images()
    expected = torch_answers(module, x)
    frozen = freeze_batchnorm(module.train(training), learnable=learnable)
    assert frozen is module
    assert sum(isinstance(part, FrozenBatchNorm) for part in frozen.modules()) == 2
    assert relative_l2(torch_answers(frozen, x), expected) <= NOISE


@pytest.mark.parametrize(("learnable", "trained"), [(False, set[str]()), (True, {"1.scale", "1.shift"})])
def test_only_learnable_affines_are_parameters(learnable: bool, trained: set[str]) -> None:
    frozen = freeze_batchnorm(_net(), learnable=learnable)
    names = {name for name, _ in frozen.named_parameters()}
    assert {name for name in names if name.startswith("1.")} == trained
    frozen(_images()).sum().backward()
    assert all(parameter.grad is not None for parameter in frozen.parameters())
    assert "1.scale" in frozen.state_dict()


def test_a_batch_norm_alone_gives_way_to_its_affine_in_its_own_precision() -> None:
    norm = enliven(nn.BatchNorm3d(2)).half()
    frozen = freeze_batchnorm(norm)
    assert isinstance(frozen, FrozenBatchNorm)
    x = torch.randn(2, 2, 3, 3, 3).half()
    assert frozen(x).dtype == torch.float16
    torch.testing.assert_close(frozen(x), norm(x), rtol=4e-3, atol=4e-3)


def test_a_shared_batch_norm_stays_one_module() -> None:
    norm = enliven(nn.BatchNorm1d(3))
    frozen = freeze_batchnorm(nn.Sequential(norm, nn.ReLU(), norm))
    assert isinstance(frozen, nn.Sequential)
    assert frozen[0] is frozen[2]
    assert isinstance(frozen[0], FrozenBatchNorm)


def test_a_batch_norm_without_running_statistics_stays() -> None:
    norm = nn.BatchNorm2d(3, track_running_stats=False)
    assert freeze_batchnorm(norm) is norm
    assert freeze_program(export(Function(lambda n, x: n(x), norm), _images())).kept == 1


@pytest.mark.parametrize("learnable", [False, True])
@pytest.mark.parametrize("training", [False, True])
def test_a_frozen_program_is_the_eval_mode_for_every_batch(learnable: bool, training: bool) -> None:
    module = _net()
    program = export(module.train(training), _images())
    before = {name: tensor.clone() for name, tensor in program.state_dict.items()}
    frozen, count, kept = freeze_program(program, learnable=learnable)
    assert (count, kept) == (2, 0)
    for rows in (2, 7):
        found = torch_answers(frozen.module(), _images(rows))
        assert relative_l2(found, torch_answers(module.eval(), _images(rows))) <= NOISE
    assert not any("running" in name or "num_batches" in name for name in frozen.state_dict)
    trained = {name for name, _ in frozen.named_parameters()}
    assert ({"1.scale", "1.shift", "5.scale", "5.shift"} <= trained) == learnable
    assert before.keys() == program.state_dict.keys()
    assert all(torch.equal(before[name], tensor) for name, tensor in program.state_dict.items())


def test_functional_and_repeated_calls_are_frozen_with_one_affine_for_one_module() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.twice = nn.BatchNorm2d(3)
            self.register_buffer("mean", torch.tensor([0.5, -2.0, 1.0]))
            self.register_buffer("variance", torch.tensor([0.3, 2.0, 1.5]), persistent=False)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.twice(self.twice(x).relu())
            return batch_norm(x, self.get_buffer("mean"), self.get_buffer("variance"), eps=1e-3)

    module = enliven(Net())
    frozen, count, kept = freeze_program(export(module, _images()))
    assert (count, kept) == (3, 0)
    assert set(frozen.state_dict) == {"twice.scale", "twice.shift", "meanscale", "meanshift"}
    assert relative_l2(torch_answers(frozen.module(), _images(3)), torch_answers(module, _images(3))) <= NOISE


def test_a_batch_norm_whose_parameters_are_computed_stays() -> None:
    module = enliven(nn.BatchNorm2d(3))
    scaled = Function(lambda n, x: batch_norm(x, n.running_mean * 2, n.running_var, n.weight, n.bias), module)
    frozen, count, kept = freeze_program(export(scaled, _images()))
    assert (count, kept) == (0, 1)
    assert relative_l2(torch_answers(frozen.module(), _images()), torch_answers(scaled, _images())) == 0


def test_a_frozen_file_is_a_program_without_batch_norms(tmp_path: Path) -> None:
    module, source, target = _net(), tmp_path / "model.pt2", tmp_path / "out" / "frozen.pt2"
    torch.export.save(export(module, _images()), source)
    report = freeze_program_file(source, target, learnable=True, timeout_s=LONG_S)
    assert (report.frozen, report.kept, report.torch_version) == (2, 0, torch.__version__)
    assert [path.name for path in target.parent.iterdir()] == ["frozen.pt2"]
    loaded = torch.export.load(target)
    assert "1.scale" in dict(loaded.named_parameters())
    assert relative_l2(torch_answers(loaded.module(), _images(3)), torch_answers(module, _images(3))) <= NOISE
    assert import_program(target, tmp_path / "model.onnx", timeout_s=LONG_S).program_batch_norms == 0


def test_what_cannot_be_frozen_leaves_nothing_behind(tmp_path: Path) -> None:
    pickle, late = tmp_path / "model.pt2", tmp_path / "late.pt2"
    torch.save(_net().state_dict(), pickle)
    with pytest.raises(UnsupportedModel, match="can run any code"):
        freeze_program_file(pickle, tmp_path / "frozen.pt2", timeout_s=LONG_S)
    torch.export.save(export(_net(), _images()), late)
    with pytest.raises(ImportFailed, match=r"late\.pt2: the freeze took longer than 0.01 s"):
        freeze_program_file(late, tmp_path / "frozen.pt2", timeout_s=0.01)
    assert {path.name for path in tmp_path.iterdir()} == {"model.pt2", "late.pt2"}


def test_a_wrong_affine_would_be_noticed() -> None:
    module, x = _net(), _images()
    frozen = freeze_batchnorm(copy.deepcopy(module))
    frozen.get_buffer("1.shift").mul_(1.001)
    assert relative_l2(torch_answers(frozen, x), torch_answers(module, x)) > 10 * NOISE
