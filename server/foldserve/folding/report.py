"""What folding did and why: one record per affine, per bias stripped and per bias created.

Everything here is data: frozen, JSON-able, and written so that the text of a record makes sense without
the model.

A name that exists in both models stands for the same value: a value that had to change its meaning on the
way got a new name. ``FoldSite.pairs`` lists those around a site, for a comparison site by site.
"""

from collections import Counter
from enum import StrEnum

from pydantic import BaseModel, ConfigDict, Field

BATCH_NORMALIZATION = "BatchNormalization"


class Outcome(StrEnum):
    """What became of an affine."""

    FOLDED = "folded"
    STAYED = "stayed"


class Direction(StrEnum):
    """Which way the affine travelled until something absorbed it."""

    UP = "up"
    DOWN = "down"
    BOTH = "both"
    """Part of it (the shift) went up and part of it (the scale) down."""

    MERGED = "merged"
    """The branch was merged into a convolution that runs beside it."""


class Reason(StrEnum):
    """Why an affine stays. The codes are stable: logs and metric labels use them."""

    TRAINING_MODE = "training_mode"
    """The BatchNormalization uses the statistics of the batch."""

    RUNTIME_PARAMETERS = "runtime_parameters"
    """Its parameters are graph inputs or computed at run time."""

    RUNTIME_WEIGHT = "runtime_weight"
    """The weight that would absorb it is computed at run time, or an input of the graph can override it."""

    GRAPH_INPUT = "graph_input"
    """It reads an input of the graph, so nothing lies above it."""

    GRAPH_OUTPUT = "graph_output"
    """A value that would have to change is an output of the graph."""

    SHARED_VALUE = "shared_value"
    """A value that would have to change has other readers, which cannot make up for it."""

    OPERATOR = "operator"
    """An operator in the way carries no affine."""

    CHANNELS = "channels"
    """An operator in the way mixes channels, or the channel axis cannot be followed through it."""

    PADDING = "padding"
    """Padding with zeros does not see the shift."""

    SHIFT = "shift"
    """An operator in the way carries a scale but not a shift."""

    SIGN = "sign"
    """An operator in the way carries only scales of one sign."""

    DEAD_CHANNEL = "dead_channel"
    """A scale of zero would have to be undone."""

    OVERFLOW = "overflow"
    """A result does not fit the element type of the weight."""

    QUANTIZED = "quantized"
    """The scale of a quantised weight cannot take it."""

    ADDED_WORK = "added_work"
    """Folding would add an operator to the graph."""

    CONFLICT = "conflict"
    """Two paths ask for different changes of the same value."""

    TOO_FAR = "too_far"
    """The change would reach more of the graph than the planner follows."""

    UNKNOWN_SHAPE = "unknown_shape"
    """A rank or dimension that the rule needs is not known."""

    TIER = "tier"
    """It could be folded, but only in a higher tier than the caller allows."""

    EXCLUDED = "excluded"
    """The caller asked to leave it."""


class SiteWarning(StrEnum):
    """Something about the parameters that their owner should know."""

    UNTRAINED = "untrained"
    """Every mean is 0 and every variance 1: the statistics were never collected."""

    DEAD_CHANNELS = "dead_channels"
    """Some scales are zero: those channels carry no information."""

    HUGE_SCALE = "huge_scale"
    """Some |scale| exceeds 1e4: the channel hardly varied in training."""

    EPSILON_DOMINATES = "epsilon_dominates"
    """Some variance is smaller than epsilon."""


class BiasFate(StrEnum):
    """Why a bias is gone."""

    ABSORBED = "absorbed"
    """It merged with the shift of an affine."""

    ZERO = "zero"
    """It was exactly zero."""

    DEAD = "dead"
    """The next operator cannot see a per-channel shift."""


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class ValuePair(_Record):
    """Two values, one of each model, that are the same function of the model's inputs."""

    original: str
    """Name of the value in the original model."""

    folded: str
    """Name of the value in the folded model."""


class FoldSite(_Record):
    """One affine of the original model (a BatchNormalization, or one in disguise) and its fate."""

    name: str
    """Name of the node, or of its output where the node has no name."""

    operator: str
    """``BatchNormalization``, or ``Mul``, ``Add``, ``Sub``, ``Div`` for a per-channel constant."""

    outcome: Outcome

    tier: int | None = Field(default=None, ge=0, le=3)
    """0 adjacent, 1 carried, 2 compensated, 3 Relu as maximum; None if it stayed."""

    direction: Direction | None = None
    """None if it stayed."""

    reason: Reason | None = None
    """Why it stayed; None if it was folded."""

    detail: str
    """One sentence: what happened, or what stood in the way and where."""

    absorbed_by: tuple[str, ...] = ()
    """Names of the nodes whose constants changed."""

    channels: int | None = Field(default=None, ge=0)
    """Number of channels; None where the parameters are not known."""

    scale_min: float | None = None
    """Smallest scale s = γ/√(σ²+ε); None where the parameters are not known."""

    scale_max: float | None = None
    """Largest scale."""

    warnings: tuple[SiteWarning, ...] = ()

    output: str
    """Name of the affine's output in the original model."""

    pairs: tuple[ValuePair, ...] = ()
    """Values around this site that both models agree on; the affine's own output first, where it survives."""


class StrippedBias(_Record):
    """A bias of the original model that the folded one no longer has as such."""

    node: str
    parameters: int = Field(ge=0)
    """Number of elements."""

    bytes: int = Field(ge=0)
    fate: BiasFate


class CreatedBias(_Record):
    """A bias that the folded model has and the original had not."""

    node: str
    parameters: int = Field(ge=0)
    """Number of elements."""

    bytes: int = Field(ge=0)


class FoldReport(_Record):
    """Everything that folding did to one model."""

    sites: tuple[FoldSite, ...]
    """In the order in which the original model lists them."""

    stripped_biases: tuple[StrippedBias, ...]
    created_biases: tuple[CreatedBias, ...]
    operators_before: dict[str, int]
    """Number of nodes of each operator, bodies of control flow included."""

    operators_after: dict[str, int]
    initializer_bytes_before: int = Field(ge=0)
    initializer_bytes_after: int = Field(ge=0)

    @property
    def batch_norms(self) -> int:
        """Number of BatchNormalizations in the original model."""
        return sum(site.operator == BATCH_NORMALIZATION for site in self.sites)

    @property
    def batch_norms_folded(self) -> int:
        """How many of them are gone."""
        return sum(
            site.operator == BATCH_NORMALIZATION and site.outcome is Outcome.FOLDED for site in self.sites
        )

    @property
    def arrived_folded(self) -> bool:
        """True where the original has no BatchNormalization: usually its exporter folded it already."""
        return not any(site.operator == BATCH_NORMALIZATION for site in self.sites)

    @property
    def hint(self) -> str | None:
        """What the model's owner can do about an unusual result; None where there is nothing to say."""
        if self.arrived_folded:
            return (
                "no BatchNormalization found: most exporters fold it silently. To keep the statistics (and "
                "with them the detection of drift), save the model with torch.export.save and serve the .pt2"
            )
        return None

    @property
    def stripped_parameters(self) -> int:
        """Elements of all biases stripped."""
        return sum(bias.parameters for bias in self.stripped_biases)

    @property
    def stripped_bytes(self) -> int:
        """Bytes of all biases stripped."""
        return sum(bias.bytes for bias in self.stripped_biases)

    def reasons(self) -> dict[Reason, int]:
        """How often each reason kept an affine in the model."""
        return dict(Counter(site.reason for site in self.sites if site.reason is not None))
