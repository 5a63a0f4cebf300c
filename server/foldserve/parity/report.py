"""What a parity proof found, as frozen data: for the log, the metrics, the RPC and a file."""

from enum import StrEnum

from pydantic import BaseModel, ConfigDict

from foldserve.settings import ParityBudget


class Verdict(StrEnum):
    """What came of a proof."""

    WITHIN_BUDGET = "within_budget"
    ORIGINAL_INACCURATE = "original_inaccurate"
    BREACH = "breach"
    UNPROVEN = "unproven"


class ProbeSource(StrEnum):
    """Where the probe inputs came from."""

    SAMPLES = "samples"
    SYNTHETIC = "synthetic"


class _Report(BaseModel):
    # Infinity is a value here (a NaN on one side only), and JSON has no number for it.
    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, ser_json_inf_nan="strings"
    )


class OutputParity(_Report):
    """One output of the candidate against the reference: the worst of all probes."""

    output: str
    """Name of the output."""

    relative_l2: float
    """‖candidate − reference‖₂ / ‖reference‖₂; for integers, booleans and strings the share that differs."""

    scaled_max: float
    """max|candidate − reference| / max|reference|; for integers, booleans and strings as above."""

    top1_agreement: float | None
    """Share of rows with the same arg-max, over all probes; None for what does not look like class scores."""

    mismatches: int
    """Elements of all probes: NaN or infinite on one side only, or different where they must be equal."""

    within_budget: bool
    """Whether this output keeps the budget."""


class SiteParity(_Report):
    """One fold site: a value of the original against the value of the candidate that should equal it."""

    original_value: str
    """Name of the value in the original model."""

    candidate_value: str
    """Name of the value in the candidate."""

    relative_l2: float
    """As for an output, where the candidate computed this value from the original's own values above it."""

    scaled_max: float
    """As ``relative_l2``."""

    within_budget: bool
    """Whether this value keeps the budget, or float64 says that it is as near the truth as the original's."""


class ProbesReport(_Report):
    """The inputs that the proof rests on."""

    source: ProbeSource
    """The model's own samples, or synthetic."""

    seed: int | None
    """Seed of the synthetic values; None for samples."""

    shapes: tuple[dict[str, tuple[int, ...]], ...]
    """Input name → shape, for each probe that ran."""

    refused: tuple[str, ...]
    """Why probes did not run, one text for each that the reference refused."""


class JudgedOutput(_Report):
    """How far both models are from the float64 truth: the worst of the probes in dispute that were judged."""

    output: str
    """Name of the output."""

    original_error: float
    """‖original − truth‖₂ / ‖truth‖₂."""

    candidate_error: float
    """‖candidate − truth‖₂ / ‖truth‖₂."""

    candidate_acceptable: bool
    """The candidate is within the budget of the truth, or its error is of the order of the original's own."""


class JudgeReport(_Report):
    """What the float64 judge found; consulted only when the two models disagree by more than the budget."""

    breaching_probes: int
    """Probes on which the models disagree by more than the budget."""

    judged_probes: int
    """How many of them were judged before the candidate was found wrong or the judge's time was over."""

    outputs: tuple[JudgedOutput, ...]
    """The outputs in dispute that were judged; empty if no probe could be."""

    failure: str
    """Why the judge could not go on; empty if it did not have to stop."""


class ParityReport(_Report):
    """The result of one proof."""

    verdict: Verdict
    """What came of it."""

    explanation: str
    """The verdict in one or two sentences."""

    reference: str
    """What the candidate was compared with."""

    candidate: str
    """What was compared."""

    budget: ParityBudget
    """The budget that was applied, after scaling by the model's precision."""

    outputs: tuple[OutputParity, ...]
    """Every output, in the model's order; empty if no probe ran."""

    probes: ProbesReport
    """The inputs that were used."""

    judge: JudgeReport | None = None
    """The judge's findings; None if it was not needed or there was none."""

    sites: tuple[SiteParity, ...] = ()
    """Fold by fold and then the outputs, in graph order; empty where they were not compared."""

    @property
    def passed(self) -> bool:
        """Whether the candidate may be served."""
        return self.verdict in {Verdict.WITHIN_BUDGET, Verdict.ORIGINAL_INACCURATE}

    @property
    def first_bad_site(self) -> SiteParity | None:
        """The first fold site that is wrong; None if there is none, or sites were not compared."""
        return next((site for site in self.sites if not site.within_budget), None)


class BreachReport(_Report):
    """An answer that left its budget in service."""

    at: float
    """Seconds since 1970."""

    evidence: str
    """Which outputs, and how far."""


class LiveParity(_Report):
    """What comparing a sample of the answers with the unfolded, unoptimised model found so far."""

    checks: dict[str, int]
    """Sampled requests by what became of their check: ``ok``, ``breach``, ``dropped``, ``error``."""

    window_checks: int
    """Number of the last checks that count for a fallback."""

    window_breaches: int
    """How many of them were breaches."""

    most_breaches: int
    """How many are too many."""

    outputs: tuple[OutputParity, ...]
    """Every output in the window: the worst distances, all top-1 agreement; empty before the first check."""

    last_breach: BreachReport | None
    """None before the first."""

    reference_bytes: int
    """Bytes of the reference's weights while it is open."""

    reference_failure: str
    """Why the reference cannot be run; empty if it can."""
