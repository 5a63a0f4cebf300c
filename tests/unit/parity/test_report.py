"""The report is frozen data that survives JSON."""

from math import inf

import pytest
from foldserve.parity.report import (
    OutputParity,
    ParityReport,
    ProbeSource,
    ProbesReport,
    SiteParity,
    Verdict,
)
from foldserve.settings import ParityBudget
from pydantic import ValidationError


def site(name: str, *, good: bool) -> SiteParity:
    return SiteParity(
        original_value=name, candidate_value=name, relative_l2=0, scaled_max=0, within_budget=good
    )


def report(verdict: Verdict = Verdict.BREACH, sites: tuple[SiteParity, ...] = ()) -> ParityReport:
    output = OutputParity(
        output="y", relative_l2=inf, scaled_max=inf, top1_agreement=None, mismatches=3, within_budget=False
    )
    probes = ProbesReport(source=ProbeSource.SYNTHETIC, seed=7, shapes=({"x": (1, 3)},), refused=("no",))
    return ParityReport(
        verdict=verdict,
        explanation="",
        reference="original",
        candidate="folded",
        budget=ParityBudget(),
        outputs=(output,),
        probes=probes,
        sites=sites,
    )


def test_json_keeps_everything_infinity_too() -> None:
    text = report().model_dump_json()
    assert '"relative_l2":"Infinity"' in text
    assert ParityReport.model_validate_json(text) == report()


@pytest.mark.parametrize("verdict", list(Verdict))
def test_only_a_proof_passes(verdict: Verdict) -> None:
    assert report(verdict).passed == (verdict in {Verdict.WITHIN_BUDGET, Verdict.ORIGINAL_INACCURATE})


def test_the_first_bad_site_is_named() -> None:
    assert report().first_bad_site is None
    assert report(sites=(site("a", good=True),)).first_bad_site is None
    sites = (site("a", good=True), site("b", good=False), site("c", good=False))
    assert report(sites=sites).first_bad_site == sites[1]


def test_it_is_frozen_and_closed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        report().explanation = "other"
    with pytest.raises(ValidationError, match="Extra inputs"):
        ParityReport.model_validate(report().model_dump() | {"colour": "red"})
