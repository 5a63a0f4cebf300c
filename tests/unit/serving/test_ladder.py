"""What is tried next, over every course that a load can take."""

from collections.abc import Iterator
from dataclasses import replace
from itertools import chain, combinations, pairwise

import pytest
from foldserve.serving.ladder import (
    MOST_UNFOLDINGS,
    REFERENCE,
    UNFOLDED,
    Attempt,
    Finding,
    Form,
    Optimisation,
    Variant,
    next_attempt,
)

SITES = ("a", "b")
FOLDED = Form(Variant.FOLDED, tier=1)
NONE: frozenset[str] = frozenset()
A, AB = frozenset("a"), frozenset("ab")

Course = list[Finding]


def outcomes(attempt: Attempt) -> Iterator[Finding]:
    """Everything that a proof can find; more sites than were left unfolded may be wrong, or the same ones."""
    yield Finding(attempt, passed=True)
    names = SITES if attempt.form.variant is Variant.FOLDED else ()
    for wrong in chain.from_iterable(combinations(names, size) for size in range(len(names) + 1)):
        yield Finding(attempt, passed=False, wrong_sites=frozenset(wrong))


def courses(findings: Course, attempt: Attempt) -> Iterator[Course]:
    """Every way on from ``attempt`` until something serves."""
    assert len(findings) < 20, "it does not end"
    for finding in outcomes(attempt):
        course = [*findings, finding]
        following = next_attempt(course)
        if following is None:
            yield course
        else:
            yield from courses(course, following)


ALL = [course for tier in range(4) for course in courses([], Attempt(Form(Variant.FOLDED, tier)))]


def test_every_course_ends_with_a_proof_or_with_the_reference() -> None:
    assert len(ALL) > 100
    for course in ALL:
        assert course[-1].passed or course[-1].attempt == REFERENCE
        assert not any(finding.passed for finding in course[:-1])


def test_nothing_is_tried_twice() -> None:
    for course in ALL:
        attempts = [finding.attempt for finding in course]
        assert len(set(attempts)) == len(attempts)


def test_unfolding_is_bounded_and_never_taken_back() -> None:
    for course in ALL:
        forms = [finding.attempt.form for finding in course if finding.attempt.form != UNFOLDED]
        assert len({form.kept for form in forms}) <= MOST_UNFOLDINGS + 1
        assert all(
            before.kept <= after.kept and before.tier >= after.tier for before, after in pairwise(forms)
        )


def test_once_unfolded_it_stays_so() -> None:
    for course in ALL:
        unfolded = [finding.attempt.form == UNFOLDED for finding in course]
        assert unfolded == sorted(unfolded)


@pytest.mark.parametrize(
    ("attempt", "wrong", "following"),
    [
        (Attempt(FOLDED), A, Attempt(replace(FOLDED, kept=A))),
        (Attempt(replace(FOLDED, kept=A)), frozenset("b"), Attempt(replace(FOLDED, kept=AB))),
        (Attempt(replace(FOLDED, kept=A)), A, Attempt(UNFOLDED)),
        (Attempt(FOLDED), NONE, Attempt(FOLDED, Optimisation.SOUND)),
        (Attempt(FOLDED, Optimisation.SOUND), NONE, Attempt(FOLDED, Optimisation.PRECISE)),
        (Attempt(FOLDED, Optimisation.PRECISE), NONE, Attempt(FOLDED, Optimisation.OFF)),
        (Attempt(FOLDED, Optimisation.OFF), NONE, Attempt(UNFOLDED)),
        (Attempt(replace(FOLDED, tier=3)), NONE, Attempt(FOLDED)),
        (Attempt(replace(FOLDED, tier=3)), A, Attempt(replace(FOLDED, tier=3, kept=A))),
        (Attempt(replace(FOLDED, tier=0), Optimisation.OFF), NONE, Attempt(UNFOLDED)),
        (Attempt(UNFOLDED), NONE, Attempt(UNFOLDED, Optimisation.SOUND)),
        (Attempt(UNFOLDED, Optimisation.PRECISE), NONE, REFERENCE),
        (REFERENCE, NONE, None),
    ],
)
def test_one_step(attempt: Attempt, wrong: frozenset[str], following: Attempt | None) -> None:
    assert next_attempt([Finding(attempt, passed=False, wrong_sites=wrong)]) == following
    assert next_attempt([Finding(attempt, passed=True)]) is None


def test_after_so_many_unfoldings_the_whole_model_is_unfolded() -> None:
    kept = [frozenset("abcd"[:count]) for count in range(MOST_UNFOLDINGS + 1)]
    findings = [
        Finding(Attempt(replace(FOLDED, kept=some)), passed=False, wrong_sites=frozenset("e"))
        for some in kept
    ]
    last = findings[-2].attempt.form
    assert next_attempt(findings[:-1]) == Attempt(replace(last, kept=last.kept | {"e"}))
    assert next_attempt(findings) == Attempt(UNFOLDED)


def test_where_nothing_can_be_proven_the_original_serves_at_once() -> None:
    assert next_attempt([Finding(Attempt(FOLDED), passed=False, proven=False)]) == REFERENCE
    assert next_attempt([Finding(REFERENCE, passed=False, proven=False)]) is None
