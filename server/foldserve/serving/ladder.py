"""What to try next when a form of the model failed its proof: a pure function of what was found so far."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

ALWAYS = 1
"""The fold tier that is applied without being measured."""

MOST_UNFOLDINGS = 3
"""So often the wrong sites are left unfolded; then the whole model is."""


class Variant(StrEnum):
    """Which form of the model answers requests."""

    FOLDED = "folded"
    UNFOLDED = "unfolded"


class Optimisation(StrEnum):
    """What the runtime may do to the graph."""

    ALL = "all"
    SOUND = "sound"
    """Everything but the optimisers that change what some models compute."""

    PRECISE = "precise"
    """Nor those that bring in kernels with larger rounding errors."""

    OFF = "off"


@dataclass(frozen=True)
class Form:
    """A form of the model."""

    variant: Variant
    tier: int = 0
    """The most intrusive fold allowed."""

    kept: frozenset[str] = frozenset()
    """Names of the sites that are left unfolded all the same."""


UNFOLDED = Form(Variant.UNFOLDED)

LESS = {
    Optimisation.ALL: Optimisation.SOUND,
    Optimisation.SOUND: Optimisation.PRECISE,
    Optimisation.PRECISE: Optimisation.OFF,
}
"""What is tried of the runtime next, where no fold is at fault."""


@dataclass(frozen=True)
class Attempt:
    """A form of the model as the runtime executes it."""

    form: Form
    optimisation: Optimisation = Optimisation.ALL


REFERENCE = Attempt(UNFOLDED, Optimisation.OFF)


@dataclass(frozen=True)
class Finding:
    """What the proof of an attempt found."""

    attempt: Attempt
    passed: bool
    proven: bool = True
    """False where there was nothing to prove it on: no probe that the original takes."""

    wrong_sites: frozenset[str] = frozenset()
    """Names of the folded sites that are wrong by themselves; empty where the fault lies elsewhere."""


def next_attempt(findings: Sequence[Finding]) -> Attempt | None:
    """What to try after the last of ``findings``, of which there is at least one; None: that one serves.

    Wrong sites are unfolded. Where every site is right, the runtime is suspected: of what it makes of a
    higher fold tier, of its unsound optimisers, of its imprecise ones, of all. Then the unfolded model is
    tried in the same way; without optimisation that is the reference itself, which serves whatever was
    found, and at once where nothing can be proven.
    """
    last = findings[-1]
    form, optimisation = last.attempt.form, last.attempt.optimisation
    if last.passed or last.attempt == REFERENCE:
        return None
    if not last.proven:
        return REFERENCE
    if last.wrong_sites:
        unfoldings = len({finding.attempt.form.kept for finding in findings}) - 1
        kept = form.kept | last.wrong_sites
        possible = kept != form.kept and unfoldings < MOST_UNFOLDINGS
        return Attempt(replace(form, kept=kept), optimisation) if possible else Attempt(UNFOLDED)
    if form.tier > ALWAYS:
        return Attempt(replace(form, tier=ALWAYS))
    return Attempt(form, LESS[optimisation]) if optimisation in LESS else Attempt(UNFOLDED)
