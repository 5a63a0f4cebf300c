"""What is told of a server and its models: data for the pages, and the same as JSON.

Times are in seconds, moments in seconds since 1970.
"""

from pydantic import BaseModel, ConfigDict

from foldserve.folding.report import FoldReport
from foldserve.parity.drift import DriftReport
from foldserve.parity.report import LiveParity, ParityReport
from foldserve.runtime.tuning import Tuning
from foldserve.serving.engine_choice import EngineReport
from foldserve.serving.lifecycle import State
from foldserve.serving.servable import Fallback
from foldserve.settings import ParityBudget, ProviderChoice


class _Facts(BaseModel):
    # Infinity is a value here (a distance, a duration beyond all buckets), and JSON has no number for it.
    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, ser_json_inf_nan="strings"
    )


class Durations(_Facts):
    """How long something took, since the model was loaded; estimated from the histogram of the metrics."""

    count: int
    """How often."""

    mean: float | None
    """None for nothing."""

    p50: float | None
    """Median."""

    p99: float | None
    """99th percentile; infinite beyond the last bucket."""


class Calls(_Facts):
    """The RPCs of one method."""

    method: str
    codes: dict[str, int]
    """How many ended with each status code."""

    duration: Durations

    @property
    def count(self) -> int:
        """All of them."""
        return sum(self.codes.values())

    @property
    def failed(self) -> int:
        """Those that were not answered."""
        return self.count - self.codes.get("OK", 0)


class Stage(_Facts):
    """One stage of answered requests."""

    name: str
    """As the metrics have it; ``compute_infer`` with the variant that answered."""

    duration: Durations


class Batch(_Facts):
    """The runs of the engine with one number of rows."""

    rows: int
    runs: int
    mean_seconds: float


class Traffic(_Facts):
    """The requests of one model version."""

    calls: tuple[Calls, ...]
    stages: tuple[Stage, ...]
    batches: tuple[Batch, ...]
    rows: int
    """Rows inferred."""

    runs: int
    """Runs of the engine."""

    waiting: int
    """Requests that wait for the engine now."""

    last_inference: float | None
    """None before the first."""


class PeriodParity(_Facts):
    """The checks of one output in one period: the worst of each measure."""

    start: float
    checks: int
    relative_l2: float
    scaled_max: float


class OutputHistory(_Facts):
    """Parity of one output over time."""

    output: str
    budget: ParityBudget
    """What holds for this output in service."""

    period_seconds: float
    """Length of a period, gaps without checks left out."""

    periods: tuple[PeriodParity, ...]


class ParityFacts(_Facts):
    """How near the served model is to the unfolded, unoptimised one."""

    at_load: ParityReport
    live: LiveParity | None
    """None where nothing is compared in service."""

    history: tuple[OutputHistory, ...]


class ServableFacts(_Facts):
    """All about a model version that serves."""

    summary: dict[str, str | int | float | bool]
    """The facts that the model's metadata has, too."""

    fallback: Fallback | None
    """None while it answers in the form that it was loaded in."""

    fold: FoldReport
    engines: EngineReport
    parity: ParityFacts
    drift: DriftReport | None
    drift_unavailable: str
    """Why nothing is known of its drift; empty where something is."""

    traffic: Traffic
    tuning: Tuning
    load_stages: dict[str, float]
    """What each stage of loading took."""


class ModelFacts(_Facts):
    """One model version."""

    name: str
    version: int | None
    """None for a model none of whose versions was tried."""

    state: State
    reason: str
    """Why it does not serve, or was not brought up to date; empty if there is nothing to say."""

    servable: ServableFacts | None
    """None unless it serves."""


class ServiceOverview(_Facts):
    """A model version that serves, in a line."""

    variant: str
    requested_provider: ProviderChoice
    provider: str
    batch_norms: int
    batch_norms_folded: int
    fallback: Fallback | None
    parity_at_load: float | None
    """Largest relative L2 distance of its outputs; None where nothing was proven."""

    parity_in_service: float | None
    """The same in the last window of checks; None before the first."""

    within_budget: bool
    """Whether all outputs keep their budgets, in service where it was checked, else at load."""

    checks: dict[str, int]
    """Sampled requests by what became of their check; empty where nothing is compared in service."""

    drift: float | None
    """Average distance of the BatchNorms' inputs from training, in standard deviations; None if not known."""

    drift_baseline: float | None
    """The same in the first windows."""

    waiting: int
    requests: int
    failed: int
    duration: Durations


class ModelOverview(_Facts):
    """One model version in a line."""

    name: str
    version: int | None
    state: State
    reason: str
    service: ServiceOverview | None


class ServerFacts(_Facts):
    """A server, and its models in a line each."""

    version: str
    """Of foldserve."""

    started: float
    uptime_seconds: float
    not_ready: str
    """Why the server is not ready; empty when it is."""

    models: tuple[ModelOverview, ...]
    calls: tuple[Calls, ...]
    """Over all models, calls for unknown ones included."""

    shadow_cpu_seconds: float
    """Processor time of comparing with unfolded models."""
