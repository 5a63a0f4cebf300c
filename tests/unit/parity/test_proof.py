"""A fold is proved by its answers and by each of its sites."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from foldserve.parity.judge import Float64Judge
from foldserve.parity.probes import synthetic_probes
from foldserve.parity.proof import Fold, decide_fold, prove_fold, prove_models, sites_beside
from foldserve.parity.reference import Reference
from foldserve.parity.report import (
    JudgedOutput,
    JudgeReport,
    OutputParity,
    ParityReport,
    ProbeSource,
    ProbesReport,
    SiteParity,
    Verdict,
)
from foldserve.runtime.session import Session
from foldserve.settings import ParityBudget
from unit.parity import networks
from unit.parity.networks import PLANTS, Layer, session

PAIRS = [("n1", "n1"), ("n2", "n2"), ("n3", "n3")]
NETWORK = networks.layers()


def write(path: Path, source: bytes) -> Path:
    path.write_bytes(source)
    return path


def proof(
    original: bytes, folded: bytes, *, candidate: Session | None = None, judging_s: float = 60
) -> ParityReport:
    fold = Fold(
        ir.from_proto(onnx.load_from_string(original)), ir.from_proto(onnx.load_from_string(folded)), PAIRS
    )
    reference = Reference(fold.original, fold.inner)
    probes = synthetic_probes(reference, largest_batch=2)
    with sites_beside(fold, lambda: (reference, probes)) as sites:
        return prove_fold(
            fold,
            reference,
            candidate or session(folded),
            probes,
            sites,
            budget=ParityBudget(),
            judge=Float64Judge(original, time_limit_s=judging_s),
        )


def test_a_right_fold_has_every_value_right() -> None:
    report = proof(networks.original(NETWORK), networks.folded(NETWORK))
    assert report.verdict is Verdict.WITHIN_BUDGET
    assert report.explanation == "every output is within the budget"
    assert [site.original_value for site in report.sites] == ["n1", "n2", "n3", "y"]
    assert report.first_bad_site is None


@pytest.mark.parametrize("plant", PLANTS, ids=lambda plant: plant.__name__)
def test_a_wrong_fold_is_named(plant: Callable[[Layer], Layer]) -> None:
    report = proof(networks.original(NETWORK), networks.folded(NETWORK, plant, site=2))
    assert report.verdict is Verdict.BREACH
    assert [site.within_budget for site in report.sites] == [True, False, True, True]
    assert report.first_bad_site == report.sites[1]
    assert "site by site 1 of 4 values are wrong, the first is 'n2'" in report.explanation


def test_a_fault_behind_the_last_pair_is_found_at_the_output() -> None:
    def tail(factor: float) -> bytes:
        weights = {"k": np.array([factor], np.float32)}
        return networks.model(
            "g (float[n, 4] x) => (float[n, 4] y) { n1 = Neg(x) y = Mul(n1, k) }", weights=weights
        )

    report = proof(tail(3), tail(3.1))
    assert [(site.original_value, site.within_budget) for site in report.sites] == [
        ("n1", True),
        ("y", False),
    ]


def test_where_float64_is_too_slow_for_the_whole_the_sites_decide() -> None:
    network = networks.cancelling(NETWORK)
    original = networks.original(network)
    report = proof(original, networks.folded(network), judging_s=0.01)
    assert report.judge is not None
    assert report.judge.failure
    assert report.verdict is Verdict.ORIGINAL_INACCURATE
    assert "site by site all 4 values are right" in report.explanation
    wrong = networks.folded(network, networks.wrong_axis, site=3)
    assert proof(original, wrong, judging_s=0.01).verdict is Verdict.BREACH


def test_right_sites_do_not_clear_a_runtime_that_is_not_faithful_to_them() -> None:
    """The fold is right, but what runs is another model."""
    network = networks.cancelling(NETWORK)
    running = session(networks.folded(network, networks.wrong_axis, site=3))
    report = proof(networks.original(network), networks.folded(network), candidate=running, judging_s=0.01)
    assert all(site.within_budget for site in report.sites)
    assert report.verdict is Verdict.BREACH


def test_two_files_are_proved_as_they_are(tmp_path: Path) -> None:
    original = write(tmp_path / "a.onnx", networks.original(NETWORK))
    right = write(tmp_path / "b.onnx", networks.folded(NETWORK))
    wrong = write(tmp_path / "c.onnx", networks.folded(NETWORK, networks.forgotten_bias))
    report = prove_models(original, right, pairs=PAIRS)
    assert report.passed
    assert len(report.sites) == 4
    assert report.probes.source is ProbeSource.SYNTHETIC
    report = prove_models(original, wrong, pairs=PAIRS)
    assert report.first_bad_site is not None
    assert report.first_bad_site.original_value == "n1"
    assert prove_models(original, right).sites == ()


def test_samples_and_a_budget_can_be_given(tmp_path: Path) -> None:
    original = write(tmp_path / "a.onnx", networks.original(NETWORK))
    wrong = write(tmp_path / "c.onnx", networks.folded(NETWORK, networks.scaled_channel))
    shape = (3, networks.CHANNELS, networks.SIZE, networks.SIZE)
    samples = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    np.savez(tmp_path / "x.npz", x=samples)
    budget = ParityBudget(relative_l2=1e-2, scaled_max=1e-2)
    report = prove_models(original, wrong, inputs=tmp_path / "x.npz", budget=budget)
    assert report.probes.source is ProbeSource.SAMPLES
    assert (report.verdict, report.budget) == (Verdict.WITHIN_BUDGET, budget)


def test_what_cannot_be_cut_open_is_judged_by_its_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    original = networks.original(NETWORK)
    named = networks.folded(NETWORK).replace(b"Relu", b"Rule")  # no such operator
    report = proof(original, named, candidate=session(networks.folded(NETWORK)))
    assert report.verdict is Verdict.WITHIN_BUDGET
    assert "sites could not be compared" in report.explanation


def site(name: str, *, right: bool) -> SiteParity:
    return SiteParity(
        original_value=name, candidate_value=name, relative_l2=0.5, scaled_max=0.5, within_budget=right
    )


def report_of(verdict: Verdict, *acceptable: bool, failure: str = "") -> ParityReport:
    judged = tuple(
        JudgedOutput(output="y", original_error=1, candidate_error=1, candidate_acceptable=good)
        for good in acceptable
    )
    return ParityReport(
        verdict=verdict,
        explanation="as found",
        reference="",
        candidate="",
        budget=ParityBudget(),
        outputs=(
            OutputParity(
                output="y",
                relative_l2=0,
                scaled_max=0,
                top1_agreement=None,
                mismatches=0,
                within_budget=verdict is Verdict.WITHIN_BUDGET,
            ),
        ),
        probes=ProbesReport(source=ProbeSource.SYNTHETIC, seed=1, shapes=(), refused=()),
        judge=JudgeReport(breaching_probes=1, judged_probes=1, outputs=judged, failure=failure)
        if failure or judged
        else None,
    )


GOOD, BAD = site("a", right=True), site("b", right=False)
UNDECIDED = report_of(Verdict.BREACH, failure="no time")


@pytest.mark.parametrize(
    ("report", "sites", "faithful", "verdict"),
    [
        (report_of(Verdict.WITHIN_BUDGET), [], False, Verdict.WITHIN_BUDGET),
        (report_of(Verdict.WITHIN_BUDGET), [GOOD], False, Verdict.WITHIN_BUDGET),
        (report_of(Verdict.WITHIN_BUDGET), [GOOD, BAD], True, Verdict.BREACH),
        (report_of(Verdict.ORIGINAL_INACCURATE, True), [GOOD], True, Verdict.ORIGINAL_INACCURATE),
        (report_of(Verdict.ORIGINAL_INACCURATE, True), [BAD], True, Verdict.BREACH),
        (report_of(Verdict.BREACH), [GOOD], True, Verdict.BREACH),
        (report_of(Verdict.BREACH, False), [GOOD], True, Verdict.BREACH),
        (report_of(Verdict.BREACH, False, failure="no time"), [GOOD], True, Verdict.BREACH),
        (UNDECIDED, [GOOD], True, Verdict.ORIGINAL_INACCURATE),
        (report_of(Verdict.BREACH, True, failure="no time"), [GOOD], True, Verdict.ORIGINAL_INACCURATE),
        (UNDECIDED, [GOOD], False, Verdict.BREACH),
        (UNDECIDED, [GOOD, BAD], True, Verdict.BREACH),
        (UNDECIDED, [], True, Verdict.BREACH),
    ],
)
def test_what_the_sites_add(
    report: ParityReport, sites: Sequence[SiteParity], faithful: bool, verdict: Verdict
) -> None:
    decided, explanation = decide_fold(report, sites, faithful=faithful)
    assert decided is verdict
    assert explanation.startswith("as found")
