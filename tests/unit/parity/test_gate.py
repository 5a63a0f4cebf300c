"""The gate lets a right fold through and no wrong one; where the original is wrong, it sees that."""

from collections.abc import Callable
from math import inf

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from foldserve.parity.gate import decide, prove
from foldserve.parity.judge import Float64Judge
from foldserve.parity.measures import distance
from foldserve.parity.precision import model_precision
from foldserve.parity.probes import ProbeSet, synthetic_probes
from foldserve.parity.report import (
    JudgedOutput,
    JudgeReport,
    OutputParity,
    ParityReport,
    ProbeSource,
    Verdict,
)
from foldserve.runtime.onnxruntime_session import UNSOUND_OPTIMISERS, OnnxRuntimeSession
from foldserve.runtime.session import Array, Session
from foldserve.settings import ParityBudget, ProviderChoice
from unit.parity import networks
from unit.parity.networks import PLANTS, Layer, model, session


def check(
    original: bytes,
    candidate: bytes,
    *,
    budget: ParityBudget | None = None,
    judge: bool = True,
    **probing: int,
) -> ParityReport:
    """The candidate, optimised, against the original, unoptimised."""
    reference = session(original, optimise=False)
    return prove(
        reference,
        session(candidate),
        synthetic_probes(reference, **probing),
        budget or ParityBudget(),
        Float64Judge(original) if judge else None,
    )


def probe_set(*inputs: Array) -> ProbeSet:
    return ProbeSet(ProbeSource.SAMPLES, tuple({"x": array} for array in inputs))


def test_a_right_fold_is_within_the_budget() -> None:
    network = networks.layers()
    report = check(networks.original(network), networks.folded(network))
    assert report.verdict is Verdict.WITHIN_BUDGET
    assert report.passed
    (output,) = report.outputs
    assert output.output == "y"
    assert 0 < output.relative_l2 < 1e-6
    assert report.judge is None
    assert [shapes["x"] for shapes in report.probes.shapes] == [(1, 8, 16, 16), (8, 8, 16, 16)]
    assert report.reference == "the original model, all graph optimisation off, on cpu"


@pytest.mark.parametrize("site", [1, 3])
@pytest.mark.parametrize("plant", PLANTS, ids=lambda plant: plant.__name__)
def test_every_planted_wrong_fold_is_a_breach(plant: Callable[[Layer], Layer], site: int) -> None:
    network = networks.layers()
    report = check(networks.original(network), networks.folded(network, plant, site=site), largest_batch=2)
    assert report.verdict is Verdict.BREACH
    assert not report.passed
    assert report.judge is not None
    (judged,) = report.judge.outputs
    assert judged.candidate_error > 20 * judged.original_error
    assert "the candidate is wrong: 'y'" in report.explanation


def test_a_fold_that_is_wrong_at_the_border_only_is_a_breach() -> None:
    """BN → zero-padded Conv: t moved into the bias is right inside the image and wrong at its border."""
    layer = networks.layers(depth=1)[0]
    scale, shift = layer.affine()
    weights = {"w": layer.weight, "b": layer.bias}
    statistics = {"gamma": layer.gamma, "beta": layer.beta, "mean": layer.mean, "variance": layer.variance}
    image = f"float[n, {networks.CHANNELS}, 16, 16]"
    original = model(
        f"""g ({image} x) => ({image} y) {{
            n = BatchNormalization(x, gamma, beta, mean, variance)  y = Conv<pads = [1, 1, 1, 1]>(n, w, b)
        }}""",
        weights=weights | statistics,
    )
    moved = {
        "w": (layer.weight * scale[None, :, None, None]).astype(np.float32),
        "b": (layer.bias + np.einsum("mchw,c->m", layer.weight, shift)).astype(np.float32),
    }
    wrong = model(f"g ({image} x) => ({image} y) {{ y = Conv<pads = [1, 1, 1, 1]>(x, w, b) }}", weights=moved)
    assert check(original, wrong).verdict is Verdict.BREACH
    x = np.random.default_rng(0).standard_normal((1, networks.CHANNELS, 16, 16)).astype(np.float32)
    expected, actual = (session(source, optimise=False).run({"x": x})[0] for source in (original, wrong))
    inside = (slice(None), slice(None), slice(1, -1), slice(1, -1))
    assert distance(expected[inside], actual[inside]).relative_l2 < 1e-6


def test_a_cancelling_original_loses_against_the_fold() -> None:
    """b ≈ μ with tiny variance: the fold is far from the original, and much nearer the truth."""
    network = networks.cancelling(networks.layers())
    report = check(networks.original(network), networks.folded(network))
    (output,) = report.outputs
    assert output.relative_l2 > 1e-4
    assert not output.within_budget
    assert report.verdict is Verdict.ORIGINAL_INACCURATE
    assert report.passed
    assert report.judge is not None
    assert report.judge.judged_probes == report.judge.breaching_probes == 2
    (judged,) = report.judge.outputs
    assert judged.original_error > 100 * judged.candidate_error
    assert "against float64 the original is inaccurate: 'y'" in report.explanation


@pytest.mark.parametrize("plant", PLANTS[2:], ids=lambda plant: plant.__name__)
def test_a_wrong_fold_of_a_cancelling_original_is_still_a_breach(plant: Callable[[Layer], Layer]) -> None:
    network = networks.cancelling(networks.layers())
    wrong = networks.folded(network, plant, site=1)
    assert check(networks.original(network), wrong, largest_batch=2).verdict is Verdict.BREACH


def test_without_a_judge_a_disagreement_is_a_breach() -> None:
    network = networks.cancelling(networks.layers())
    report = check(networks.original(network), networks.folded(network), judge=False)
    assert report.verdict is Verdict.BREACH
    assert report.explanation.endswith("no judge was asked")


def test_a_judge_without_time_cannot_save_the_fold() -> None:
    network = networks.cancelling(networks.layers())
    original = networks.original(network)
    reference = session(original, optimise=False)
    report = prove(
        reference,
        session(networks.folded(network)),
        synthetic_probes(reference),
        ParityBudget(),
        Float64Judge(original, time_limit_s=0.01),
    )
    assert report.verdict is Verdict.BREACH
    assert "the judge could not decide: the float64 evaluation did not finish" in report.explanation


def test_the_runtimes_own_wrong_fusion_is_a_breach_and_can_be_left_out() -> None:
    """ONNX Runtime fuses Pad(0) → MaxPool as if padded with −∞ (seen with 1.31.1): original, optimised."""
    network = networks.layers(depth=1)
    image = f"float[n, {networks.CHANNELS}, 16, 16]"
    source = model(
        f"""g ({image} x) => (float[n, {networks.CHANNELS}, 8, 8] y) {{
            c = Conv<pads = [1, 1, 1, 1]>(x, w)  p = Pad(c, pads)
            y = MaxPool<kernel_shape = [3, 3], strides = [2, 2]>(p)
        }}""",
        weights={"w": network[0].weight, "pads": np.array([0, 0, 1, 1, 0, 0, 1, 1])},
    )
    report = check(source, source)
    assert report.verdict is Verdict.BREACH
    assert report.outputs[0].relative_l2 > 5e-3
    reference = session(source, optimise=False)
    sound = OnnxRuntimeSession(source, provider=ProviderChoice.CPU, disabled_optimisers=UNSOUND_OPTIMISERS)
    assert prove(reference, sound, synthetic_probes(reference), ParityBudget()).passed


def test_half_precision_has_a_budget_of_its_own() -> None:
    network = networks.layers(dtype="float16")
    original = networks.original(network)
    report = check(original, networks.folded(network), judge=False)
    assert report.verdict is Verdict.WITHIN_BUDGET
    assert report.outputs[0].relative_l2 > 1e-5
    assert report.budget.relative_l2 > 1e-2
    wrong = networks.folded(network, networks.wrong_axis)
    assert check(original, wrong, judge=False).verdict is Verdict.BREACH


def test_an_owners_budget_is_kept_in_half_precision() -> None:
    network = networks.layers(dtype="float16")
    budget = ParityBudget(relative_l2=1e-5, scaled_max=1e-5)
    original, fold = networks.original(network), networks.folded(network)
    report = check(original, fold, budget=budget, judge=False)
    assert report.verdict is Verdict.BREACH
    assert report.budget == budget


def test_the_precision_inside_counts_where_inputs_and_outputs_are_float32() -> None:
    network = networks.layers(dtype="float16")
    original = networks.original(network, outside="float")
    reference = session(original, optimise=False)
    candidate = session(networks.folded(network, outside="float"))
    probes = synthetic_probes(reference, largest_batch=2)
    assert prove(reference, candidate, probes, ParityBudget()).verdict is Verdict.BREACH
    precision = model_precision(ir.from_proto(onnx.load_from_string(original)))
    assert prove(reference, candidate, probes, ParityBudget(), precision=precision).passed


def test_outputs_are_reported_one_by_one() -> None:
    def two(b: float) -> bytes:
        return model(
            "g (float[n, 4] x) => (float[n, 4] a, float[n, 4] b) { a = Neg(x)  b = Mul(x, k) }",
            weights={"k": np.array([b], np.float32)},
        )

    report = check(two(3), two(3.1))
    assert [(output.output, output.within_budget) for output in report.outputs] == [("a", True), ("b", False)]
    assert report.outputs[0].top1_agreement == report.outputs[1].top1_agreement == 1
    assert report.judge is not None
    assert [output.output for output in report.judge.outputs] == ["b"]
    assert report.verdict is Verdict.BREACH


def test_integer_outputs_must_be_equal() -> None:
    def top(bias: float) -> bytes:
        return model(
            "g (float[n, 4] x) => (int64[n] y) { s = Add(x, b)  y = ArgMax<axis = 1, keepdims = 0>(s) }",
            weights={"b": np.array([0, bias, 0, 0], np.float32)},
        )

    assert check(top(0), top(0)).verdict is Verdict.WITHIN_BUDGET
    report = check(top(0), top(0.5), largest_batch=200)
    assert report.verdict is Verdict.BREACH
    assert report.outputs[0].mismatches > 0


def test_nan_on_one_side_is_a_breach() -> None:
    good = model("g (float[n, 4] x) => (float[n, 4] y) { a = Abs(x)  y = Sqrt(a) }")
    bad = model("g (float[n, 4] x) => (float[n, 4] y) { y = Sqrt(x) }")
    report = check(good, bad)
    assert report.verdict is Verdict.BREACH
    assert report.outputs[0].relative_l2 == inf
    assert report.outputs[0].mismatches > 0


@pytest.mark.parametrize(
    ("text", "explanation"),
    [
        ("g (float[n, 2] x) => (float[n, 2] other) { other = Relu(x) }", r"outputs are \(other: float32\)"),
        ("g (float[n, 2] x) => (double[n, 2] y) { y = Cast<to = 11>(x) }", r"outputs are \(y: float64\)"),
        ("g (float[n, 2] z) => (float[n, 2] y) { y = Relu(z) }", r"inputs are \(z: float32\)"),
    ],
)
def test_a_candidate_with_another_interface_is_a_breach(text: str, explanation: str) -> None:
    relu = model("g (float[n, 2] x) => (float[n, 2] y) { y = Relu(x) }")
    reference = session(relu, optimise=False)
    report = prove(reference, session(model(text)), synthetic_probes(reference), ParityBudget())
    assert report.verdict is Verdict.BREACH
    assert report.outputs == ()
    with pytest.raises(AssertionError, match=explanation):
        raise AssertionError(report.explanation)


RESHAPE = "g (float[n, 12] x) => (float[a, b] y) { y = Reshape(x, shape) }"


def reshaping(*shape: int) -> Session:
    return session(model(RESHAPE, weights={"shape": np.array(shape)}), optimise=False)


def test_probes_that_the_reference_refuses_are_left_out_and_reported() -> None:
    reference = reshaping(1, 12)
    report = prove(reference, reshaping(1, 12), synthetic_probes(reference), ParityBudget())
    assert report.verdict is Verdict.WITHIN_BUDGET
    assert report.probes.shapes == ({"x": (1, 12)},)
    assert len(report.probes.refused) == 1
    assert "cannot be reshaped" in report.probes.refused[0]


def test_nothing_is_proven_where_no_probe_runs() -> None:
    reference = reshaping(7, 7)
    report = prove(reference, reshaping(7, 7), synthetic_probes(reference), ParityBudget())
    assert report.verdict is Verdict.UNPROVEN
    assert not report.passed
    assert "cannot be reshaped" in report.explanation


def test_a_candidate_that_fails_where_the_reference_answers_is_a_breach() -> None:
    reference = reshaping(-1, 12)
    probes = probe_set(np.ones((1, 12), np.float32), np.ones((2, 12), np.float32))
    report = prove(reference, reshaping(1, 12), probes, ParityBudget())
    assert report.verdict is Verdict.BREACH
    assert report.explanation.startswith("the candidate fails where the reference answers: ")
    assert [output.within_budget for output in report.outputs] == [True]


def output(name: str, *, good: bool) -> OutputParity:
    return OutputParity(
        output=name, relative_l2=0.5, scaled_max=0.5, top1_agreement=None, mismatches=0, within_budget=good
    )


def judged(*acceptable: tuple[str, bool], failure: str = "") -> JudgeReport:
    outputs = tuple(
        JudgedOutput(output=name, original_error=0.1, candidate_error=0.1, candidate_acceptable=good)
        for name, good in acceptable
    )
    return JudgeReport(breaching_probes=2, judged_probes=1, outputs=outputs, failure=failure)


GOOD, BAD, WORSE = output("a", good=True), output("b", good=False), output("c", good=False)


@pytest.mark.parametrize(
    ("outputs", "judge", "verdict"),
    [
        ([], None, Verdict.UNPROVEN),
        ([GOOD], None, Verdict.WITHIN_BUDGET),
        ([GOOD, BAD], None, Verdict.BREACH),
        ([GOOD, BAD], judged(("b", True)), Verdict.ORIGINAL_INACCURATE),
        ([GOOD, BAD], judged(("b", False)), Verdict.BREACH),
        ([BAD, WORSE], judged(("b", True), ("c", True)), Verdict.ORIGINAL_INACCURATE),
        ([BAD, WORSE], judged(("b", True), ("c", False)), Verdict.BREACH),
        ([BAD, WORSE], judged(("b", True), failure="no time"), Verdict.BREACH),
        ([BAD, WORSE], judged(("b", False)), Verdict.BREACH),
        ([BAD], judged(failure="no time"), Verdict.BREACH),
    ],
)
def test_the_decision(outputs: list[OutputParity], judge: JudgeReport | None, verdict: Verdict) -> None:
    decided, explanation = decide(outputs, judge)
    assert decided is verdict
    assert explanation
    assert decide(outputs, judge, failure="it failed") == (Verdict.BREACH, "it failed")


@pytest.mark.parametrize(("wanted", "verdict"), [(0.5, Verdict.WITHIN_BUDGET), (0.51, Verdict.BREACH)])
def test_the_share_of_equal_classes_is_part_of_the_budget(wanted: float, verdict: Verdict) -> None:
    """Of two rows, one in which the classes are nearly equal: there the candidate prefers the other one."""
    text = "g (float[n, 2] x) => (float[n, 2] y) { y = Add (x, shift) }"
    original, candidate = (
        session(model(text, weights={"shift": np.array([shift, 0], np.float32)})) for shift in (0, 1e-3)
    )
    rows = np.array([[1, 0], [1, 1.0005]], np.float32)
    budget = ParityBudget(relative_l2=0.1, top1_agreement=wanted)
    report = prove(original, candidate, probe_set(rows), budget)
    assert report.verdict is verdict
    assert report.outputs[0].top1_agreement == 0.5
    assert ("top-1 0.5" in report.explanation) is (verdict is Verdict.BREACH)
