"""Everything that is known about one model and its fold: what ``--json`` and ``--report`` write."""

from collections import Counter
from typing import Self

from pydantic import BaseModel, ConfigDict, Field

from foldserve.folding.report import BATCH_NORMALIZATION, FoldReport, FoldSite, Outcome, Reason
from foldserve.importing import ImportReport
from foldserve.parity.drift import LayerDrift
from foldserve.parity.report import ParityReport, SiteParity
from foldserve.serving.engine_choice import EngineReport


class _Record(BaseModel):
    # Infinity is a value of parity (a NaN on one side only), and JSON has no number for it.
    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, ser_json_inf_nan="strings"
    )


class ModelFile(_Record):
    """A model file and the data files that belong to it."""

    name: str
    bytes: int = Field(ge=0)
    sha256: str
    """Of the file, and of its data files after it."""


class Provenance(_Record):
    """Where a recalibrated model is from."""

    foldserve: str
    """The version that made it."""

    original: ModelFile
    """The model that was recalibrated."""

    data: ModelFile
    """What the statistics were taken from: one file after the other, in the order of their names."""

    samples: int
    """Rows of the data."""


class Recalibration(_Record):
    """A model with statistics taken anew."""

    provenance: Provenance
    before: tuple[LayerDrift, ...]
    """How far the data were from the statistics of the original."""

    after: tuple[LayerDrift, ...]
    """How far they are from the new ones, measured again: rounding."""

    written: ModelFile
    """The model that was written."""

    parity: ParityReport
    """The proof that it folds."""


class Totals(_Record):
    """The fold in numbers."""

    batch_norms: int
    batch_norms_folded: int
    folded_by_tier: dict[int, int]
    """BatchNorms folded in each tier: 0 adjacent, 1 carried, 2 compensated, 3 Relu as maximum."""

    stayed_by_reason: dict[Reason, int]
    """BatchNorms that stay, by reason."""

    other_affines_folded: int
    """Per-channel Mul, Add, Sub and Div that are gone, too."""

    stripped_biases: int
    stripped_parameters: int
    stripped_bytes: int
    created_biases: int
    created_parameters: int
    created_bytes: int

    @classmethod
    def of(cls, fold: FoldReport) -> Self:
        """The totals of a fold report."""
        norms = [site for site in fold.sites if site.operator == BATCH_NORMALIZATION]
        folded = [site for site in fold.sites if site.outcome is Outcome.FOLDED]
        return cls(
            batch_norms=fold.batch_norms,
            batch_norms_folded=fold.batch_norms_folded,
            folded_by_tier=dict(sorted(Counter(s.tier for s in norms if s.tier is not None).items())),
            stayed_by_reason=dict(Counter(s.reason for s in norms if s.reason is not None).most_common()),
            other_affines_folded=sum(site.operator != BATCH_NORMALIZATION for site in folded),
            stripped_biases=len(fold.stripped_biases),
            stripped_parameters=fold.stripped_parameters,
            stripped_bytes=fold.stripped_bytes,
            created_biases=len(fold.created_biases),
            created_parameters=sum(bias.parameters for bias in fold.created_biases),
            created_bytes=sum(bias.bytes for bias in fold.created_biases),
        )


class ModelReport(_Record):
    """One model and its fold."""

    original: ModelFile
    """The file that was read."""

    imported: ImportReport | None = None
    """How it became ONNX; None if it was."""

    max_tier: int
    """The most intrusive tier that was allowed."""

    totals: Totals
    hint: str | None
    """What can be done about an unusual result."""

    fold: FoldReport
    """Site by site."""

    folded: ModelFile | None = None
    """The file that was written; None if none was."""

    parity: ParityReport | None = None
    """The proof of it; None if nothing was written."""

    engines: EngineReport | None = None
    """Which engines were tried; None if that was not asked for."""

    def parity_of(self, site: FoldSite) -> SiteParity | None:
        """The worst of the values compared around ``site``; None if none was."""
        around = {(pair.original, pair.folded) for pair in site.pairs}
        compared = self.parity.sites if self.parity is not None else ()
        near = [found for found in compared if (found.original_value, found.candidate_value) in around]
        return max(near, key=lambda found: found.relative_l2, default=None)
