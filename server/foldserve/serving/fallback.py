"""When parity breaks in service the unfolded model takes over, and nobody waits for it or notices.

The fold goes on answering until another session is open that has proven itself on the very input that broke
parity; then one assignment swaps the two. What runs at that moment finishes where it began.
"""

from collections.abc import Iterator, Mapping

from foldserve.errors import ExecutionFailed, FoldserveError
from foldserve.observability.logging import get_logger
from foldserve.parity.gate import keeps
from foldserve.parity.measures import distance
from foldserve.parity.shadow import Breach
from foldserve.runtime.session import Session
from foldserve.serving.ladder import LESS, Optimisation
from foldserve.serving.opening import Opening, in_words
from foldserve.serving.original import ORIGINAL, Original
from foldserve.serving.reshaped import reshaped
from foldserve.serving.servable import Fallback, Servable
from foldserve.settings import ParityBudget, ProviderChoice

PARITY_BREACH = "parity_breach"
"""The reason that is counted."""

log = get_logger()


def take_over(
    servable: Servable,
    original: Original,
    opening: Opening,
    budgets: Mapping[str, ParityBudget],
    breach: Breach,
) -> None:
    """Let the unfolded model answer; where it cannot be opened the fold goes on, and may trip again."""
    model_log = log.bind(model=servable.name, version=servable.version)
    threads = servable.provenance.tuning.layout.threads
    try:
        for provider, optimisation in _ladder(ProviderChoice(servable.provider)):
            file = original.files()[0] / ORIGINAL
            session = reshaped(opening.open(file, provider, optimisation, threads), opening.settings)
            if _answers_rightly(session, breach, budgets):
                break
    except FoldserveError as error:
        model_log.error("parity broke, and the unfolded model cannot take over", reason=str(error))
        if servable.shadow is not None:
            servable.shadow.reset()
        return
    fallback = Fallback(
        since=breach.at_s,
        reason=PARITY_BREACH,
        evidence=breach.evidence,
        runtime_optimisation=in_words(optimisation),
    )
    if servable.fall_back(session, fallback):
        model_log.error(
            "parity broke in service: the unfolded model answers from now on",
            evidence=breach.evidence,
            runtime_optimisation=fallback.runtime_optimisation,
        )


def _ladder(provider: ProviderChoice) -> Iterator[tuple[ProviderChoice, Optimisation]]:
    """What to try, the fastest first; the last is what the reference runs on, so it is right."""
    optimisation: Optimisation | None = Optimisation.ALL
    while optimisation is not None:
        yield provider, optimisation
        optimisation = LESS.get(optimisation)
    yield ProviderChoice.CPU, Optimisation.OFF


def _answers_rightly(session: Session, breach: Breach, budgets: Mapping[str, ParityBudget]) -> bool:
    """Whether ``session`` answers the input that broke parity as the reference does."""
    names = list(breach.expected)
    try:
        answered = session.run(breach.sample.inputs, names)
    except ExecutionFailed:
        return False
    return all(
        keeps(budgets[name], distance(breach.expected[name], array))
        for name, array in zip(names, answered, strict=True)
    )
