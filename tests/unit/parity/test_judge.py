"""The float64 truth, and who is nearer to it."""

import os
import subprocess
import sys
import time
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import pytest
from foldserve.parity.float64_reference import evaluate
from foldserve.parity.judge import Dispute, Float64Judge, JudgeFailed, settle
from foldserve.parity.measures import Distance, Size, distance
from foldserve.parity.probes import Probe
from foldserve.runtime.session import Array
from unit.parity import networks
from unit.parity.networks import model

TINY = 2.0**-40
"""Vanishes beside 1 in float32, and not in float64."""

INPUT = "g (float[1] x) => (float[1] y)"
LOSES_TINY = "s = Add(x, c)  y = Sub(s, x)"


@pytest.mark.parametrize(
    "source",
    [
        model(f"{INPUT} {{ {LOSES_TINY} }}", weights={"c": np.array([TINY], np.float32)}),
        model(f"{INPUT} {{ c = Constant<value = float[1] {{{TINY}}}>()  {LOSES_TINY} }}"),
        model(f"{INPUT} {{ c = Constant<value_float = {TINY}>()  {LOSES_TINY} }}"),
        model(f"{INPUT} {{ c = Constant<value_floats = [{TINY}]>()  {LOSES_TINY} }}"),
        model(
            f"{INPUT} {{ c = ConstantOfShape<value = float[1] {{{TINY}}}>(n)  {LOSES_TINY} }}",
            weights={"n": np.array([1])},
        ),
        model(
            f"{INPUT} {{ s = Add(x, c)  k = Cast<to = 1>(s)  y = Sub(k, x) }}",
            weights={"c": np.array([TINY], np.float32)},
        ),
        model(
            f"{INPUT} {{ h = Cast<to = 10>(x)  s = Add(h, c)  d = Sub(s, h)  y = Cast<to = 1>(d) }}",
            weights={"c": np.array([2.0**-20], np.float16) * np.float16(2.0**-4)},
        ),
        model(
            f"{INPUT} {{ y = If(yes) <then_branch = a () => (float[1] u) {{ "
            f"c = Constant<value = float[1] {{{TINY}}}>() s = Add(x, c) u = Sub(s, x) }}, "
            "else_branch = b () => (float[1] v) { v = Identity(x) }> }",
            weights={"yes": np.array([True])},
        ),
    ],
    ids=["initializer", "value", "value_float", "value_floats", "of_shape", "cast", "float16", "subgraph"],
)
def test_nothing_is_left_in_less_than_float64(source: bytes) -> None:
    (truth,) = evaluate(source, {"x": np.ones(1, np.float32)})
    assert truth.dtype == np.float64
    assert truth[0] in {TINY, 2.0**-24}
    assert networks.session(source, optimise=False).run({"x": np.ones(1, np.float32)})[0][0] == 0


def test_constants_are_computed_with_in_float64() -> None:
    source = model(f"{INPUT} {{ two = Constant<value_float = 2.0>()  r = Sqrt(two)  y = Mul(x, r) }}")
    assert evaluate(source, {"x": np.ones(1, np.float32)})[0][0] == np.sqrt(np.float64(2))


def test_the_default_of_constant_of_shape_mixes_with_float64() -> None:
    source = model(f"{INPUT} {{ c = ConstantOfShape(n)  y = Add(x, c) }}", weights={"n": np.array([1])})
    assert evaluate(source, {"x": np.ones(1, np.float32)})[0][0] == 1


def test_functions_of_the_model_are_converted() -> None:
    parsed = onnx.parser.parse_model(
        f"""<ir_version: 9, opset_import: ["": 17, "own": 1]>
        {INPUT} {{ y = own.f(x) }}
        <domain: "own", opset_import: ["": 17]>
        f (x) => (y) {{ c = Constant<value = float[1] {{{TINY}}}>()  s = Add(x, c)  y = Sub(s, x) }}"""
    )
    assert evaluate(parsed.SerializeToString(), {"x": np.ones(1, np.float32)})[0][0] == TINY


def test_bfloat16_models_are_judged() -> None:
    source = model(
        "g (bfloat16[1] x) => (bfloat16[1] y) { s = Add(x, c)  y = Sub(s, x) }",
        weights={"c": np.array([2.0**-20], ml_dtypes.bfloat16)},
    )
    assert evaluate(source, {"x": np.ones(1, ml_dtypes.bfloat16)})[0][0] == 2.0**-20


def test_the_truth_is_the_mathematics_of_the_network() -> None:
    """A convolution of images that are zero but for one pixel puts the turned kernel around it."""
    (layer,) = networks.layers(depth=1)
    image = np.zeros((1, networks.CHANNELS, networks.SIZE, networks.SIZE), np.float32)
    image[0, 2, 7, 7] = 1.1
    scale, shift = layer.affine()
    kernel = layer.weight[:, 2, ::-1, ::-1].astype(np.float64) * float(image[0, 2, 7, 7])
    expected = np.maximum(
        scale[:, None, None] * (kernel + layer.bias[:, None, None]) + shift[:, None, None], 0
    )
    (truth,) = Float64Judge(networks.original([layer])).truth({"x": image})
    assert truth.dtype == np.float64
    assert distance(expected, truth[0, :, 6:9, 6:9]).scaled_max < 1e-14


def test_a_file_with_external_data_is_judged(tmp_path: Path) -> None:
    file = tmp_path / "model.onnx"
    source = networks.original(networks.layers())
    onnx.save(onnx.load_from_string(source), file, save_as_external_data=True, location="weights")
    probe = {"x": np.ones((1, networks.CHANNELS, networks.SIZE, networks.SIZE), np.float32)}
    np.testing.assert_array_equal(Float64Judge(file).truth(probe)[0], evaluate(source, probe)[0])


def test_files_in_the_working_directory_are_not_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "onnx.py").write_text("raise SystemExit('the wrong onnx')")
    monkeypatch.setenv(
        "PYTHONPATH", os.pathsep.join(str(Path(folder).resolve()) for folder in sys.path if folder)
    )
    monkeypatch.chdir(tmp_path)
    source = model(f"{INPUT} {{ y = Neg(x) }}")
    assert Float64Judge(source).truth({"x": np.ones(1, np.float32)})[0][0] == -1


def test_a_judge_that_takes_too_long_is_given_up() -> None:
    judge = Float64Judge(networks.original(networks.layers()), time_limit_s=0.05)
    for _ in range(2):
        with pytest.raises(JudgeFailed, match="did not finish in its time"):
            judge.truth({"x": np.ones((1, networks.CHANNELS, networks.SIZE, networks.SIZE), np.float32)})


def test_a_model_that_the_evaluator_does_not_know_fails_with_the_reason() -> None:
    source = model(f"{INPUT} {{ y = NoSuchOperator(x) }}")
    with pytest.raises(JudgeFailed, match="NoSuchOperator"):
        Float64Judge(source).truth({"x": np.ones(1, np.float32)})


class Oracle:
    """A judge of which everything is known."""

    def __init__(self, *truth: Array, answers: int = 99) -> None:
        self.truths = list(truth)
        self.answers = answers
        self.asked: list[int] = []

    def truth(self, probe: Probe) -> list[Array]:
        if len(self.asked) == self.answers:
            raise JudgeFailed("no time")
        self.asked.append(probe["x"].size)
        return self.truths


def dispute(size: int = 1, *, original: float, candidate: float, names: tuple[str, ...] = ("y",)) -> Dispute:
    """Both models on a truth of ones: off by the given errors in every output."""
    ones = np.ones(4, np.float32)
    return Dispute(
        {"x": np.ones(size, np.float32)},
        dict.fromkeys(names, ones + np.float32(original)),
        dict.fromkeys(names, ones + np.float32(candidate)),
        frozenset(names),
    )


def nothing_keeps(name: str, found: Distance) -> bool:
    return False


@pytest.mark.parametrize(
    ("original", "candidate", "acceptable"),
    [
        (1e-2, 1e-3, True),
        (1e-3, 1e-3, True),
        (1e-3, 2.4e-3, True),
        (1e-3, 2.6e-3, False),
        (0, 1e-3, False),
        (1e-2, np.nan, False),
        (np.nan, 1e-3, True),
        (np.nan, np.nan, False),
    ],
)
def test_up_to_two_and_a_half_times_the_originals_error_is_noise(
    original: float, candidate: float, acceptable: bool
) -> None:
    report = settle(
        Oracle(np.ones(4)), [dispute(original=original, candidate=candidate)], ["y"], nothing_keeps
    )
    assert report.outputs[0].candidate_acceptable is acceptable


def test_one_bad_element_is_enough() -> None:
    reference, candidate = np.full(10_000, 1 + 1e-4), np.ones(10_000)
    candidate[0] = 1 + 1e-2
    one = Dispute({"x": np.ones(1)}, {"y": reference}, {"y": candidate}, frozenset({"y"}))
    (judged,) = settle(Oracle(np.ones(10_000)), [one], ["y"], nothing_keeps).outputs
    assert judged.candidate_error == pytest.approx(judged.original_error, rel=0.01)
    assert not judged.candidate_acceptable


def test_every_disputed_probe_counts_the_smallest_first() -> None:
    oracle = Oracle(np.ones(4))
    sizes = (9, 2, 5)
    report = settle(
        oracle, [dispute(size, original=1e-2, candidate=1e-3) for size in sizes], ["y"], nothing_keeps
    )
    assert oracle.asked == [2, 5, 9]
    assert (report.breaching_probes, report.judged_probes, report.failure) == (3, 3, "")
    assert report.outputs[0].candidate_acceptable


def test_a_candidate_once_found_wrong_is_wrong() -> None:
    oracle = Oracle(np.ones(4))
    disputes = [
        dispute(9, original=1e-2, candidate=1e-3),
        dispute(2, original=1e-2, candidate=1e-3),
        dispute(5, original=1e-3, candidate=1e-2),
    ]
    report = settle(oracle, disputes, ["y"], nothing_keeps)
    assert oracle.asked == [2, 5]
    assert not report.outputs[0].candidate_acceptable
    assert report.outputs[0].candidate_error == pytest.approx(1e-2, rel=1e-4)


def test_a_judge_that_stops_early_says_why() -> None:
    disputes = [dispute(9, original=0, candidate=1), dispute(2, original=1e-2, candidate=1e-3)]
    report = settle(Oracle(np.ones(4), answers=1), disputes, ["y"], nothing_keeps)
    assert (report.breaching_probes, report.judged_probes, report.failure) == (2, 1, "no time")
    assert report.outputs[0].candidate_acceptable


def test_only_outputs_in_dispute_are_judged() -> None:
    oracle = Oracle(np.ones(4), np.ones(4))
    both = dispute(original=1e-2, candidate=1e-3, names=("y", "z"))
    one = Dispute(both.probe, both.reference, both.candidate, frozenset({"z"}))
    assert [output.output for output in settle(oracle, [one], ["y", "z"], nothing_keeps).outputs] == ["z"]


def test_whoever_is_within_the_budget_of_the_truth_is_right() -> None:
    """Of a single number the original's error may be next to nothing by chance."""

    def keeps(name: str, found: Distance) -> bool:
        return found.relative_l2 <= 1e-2

    lucky = dispute(original=0, candidate=1e-3)
    assert settle(Oracle(np.ones(4)), [lucky], ["y"], keeps).outputs[0].candidate_acceptable
    wrong = dispute(original=0, candidate=2e-2)
    assert not settle(Oracle(np.ones(4)), [wrong], ["y"], keeps).outputs[0].candidate_acceptable


def test_both_are_measured_by_the_least_size_of_the_dispute() -> None:
    one = dispute(original=1e-3, candidate=2e-3)
    larger = Dispute(one.probe, one.reference, one.candidate, one.outputs, {"y": Size(200.0, 100.0)})
    (judged,) = settle(Oracle(np.ones(4)), [larger], ["y"], nothing_keeps).outputs
    assert judged.original_error == pytest.approx(1e-5, rel=1e-3)
    assert judged.candidate_error == pytest.approx(2e-5, rel=1e-3)


def test_where_the_original_has_no_number_the_rest_is_judged() -> None:
    """An original that overflows somewhere must not excuse a candidate that is wrong elsewhere."""
    truth, reference = np.ones(4), np.array([1, 1, 1, np.inf])
    for candidate, is_right in (([1, 1, 1, 9], True), ([1, 1, 1.7, 9], False), ([1, 1, 1, np.inf], False)):
        answer = np.array(candidate, np.float64)
        one = Dispute({"x": np.ones(1)}, {"y": reference}, {"y": answer}, frozenset({"y"}))
        (judged,) = settle(Oracle(truth), [one], ["y"], nothing_keeps).outputs
        assert judged.candidate_acceptable is is_right


@pytest.mark.parametrize("truth", [np.ones(5), np.array(["a", "b", "c", "d"])])
def test_what_float64_gives_in_another_form_is_no_judgement(truth: Array) -> None:
    report = settle(Oracle(truth), [dispute(original=0, candidate=1)], ["y"], nothing_keeps)
    assert (report.judged_probes, report.outputs) == (0, ())
    assert "another shape, or is text" in report.failure


@pytest.mark.skipif(not Path("/proc/self/oom_score_adj").exists(), reason="Linux alone tells")
@pytest.mark.parametrize("in_background", [True, False])
def test_a_judge_in_the_background_takes_little(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, in_background: bool
) -> None:
    """What the child is allowed, as it sees that itself when it ends."""
    seen = tmp_path / "seen"
    (tmp_path / "sitecustomize.py").write_text(
        f"""
import atexit, os, resource
def tell():
    limit = resource.getrlimit(resource.RLIMIT_DATA)[0]
    first_to_go = open("/proc/self/oom_score_adj").read().strip()
    with open({str(seen)!r}, "w") as seen:
        print(os.nice(0), limit > 0, first_to_go, os.environ.get("OMP_NUM_THREADS"), file=seen)
atexit.register(tell)
"""
    )
    folders = [str(tmp_path), *(str(Path(folder).resolve()) for folder in sys.path if folder)]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(folders))
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    source = model(f"{INPUT} {{ y = Neg(x) }}")
    Float64Judge(source, in_background=in_background).truth({"x": np.ones(1, np.float32)})
    priority = 19 if in_background else os.nice(0)
    threads = "1" if in_background else "None"
    assert seen.read_text().split() == [str(priority), str(in_background), "1000", threads]


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="Linux alone tells")
def test_a_judge_ends_with_its_parent(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "never.onnx")  # whoever reads it waits
    (tmp_path / "parent.py").write_text(
        """
import contextlib, os, signal, sys, threading, time
from foldserve.parity.judge import Float64Judge
from pathlib import Path
threading.Thread(target=Float64Judge(Path(sys.argv[1])).truth, args=({},), daemon=True).start()
while True:
    found = []
    for task in Path("/proc/self/task").iterdir():
        with contextlib.suppress(OSError):  # threads come and go
            found += (task / "children").read_text().split()
    if found:
        print(found[0], flush=True)
        time.sleep(1)
        os.kill(os.getpid(), signal.SIGKILL)
"""
    )
    command = [sys.executable, str(tmp_path / "parent.py"), str(tmp_path / "never.onnx")]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    status = Path(f"/proc/{int(ran.stdout)}/stat")
    deadline = time.monotonic() + 30
    while status.exists() and status.read_text().rpartition(")")[2].split()[0] != "Z":
        assert time.monotonic() < deadline
        time.sleep(0.01)
