"""Reports as rich tables, for people."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table

from foldserve.commands.report import ModelFile, ModelReport, Recalibration, Totals
from foldserve.folding.report import BATCH_NORMALIZATION, FoldReport, FoldSite, Outcome
from foldserve.parity.drift import LayerDrift, average
from foldserve.parity.report import ParityReport, SiteParity
from foldserve.serving.engine_choice import EngineReport

TIERS = {0: "adjacent", 1: "carried", 2: "compensated", 3: "Relu as maximum"}


def model_report(report: ModelReport) -> RenderableType:
    """The sites, the operators, and then, where the eye ends up, the totals."""
    shown: list[RenderableType] = []
    if report.fold.sites:
        shown.append(_sites(report))
    shown += [operators(report.fold), _facts(facts(report))]
    if report.engines is not None:
        shown += engines(report.engines)
    if report.hint is not None:
        shown.append(f"[yellow]{escape(report.hint)}[/yellow]")
    return Group(*shown)


def parity_report(parity: ParityReport) -> RenderableType:
    """Output by output, the values inside that are outside the budget, and the verdict."""
    outputs = _table("output", "relative L2", "scaled max", "top-1 agreement", "within budget")
    for output in parity.outputs:
        outputs.add_row(
            escape(output.output),
            f"{output.relative_l2:.2e}",
            f"{output.scaled_max:.2e}",
            "" if output.top1_agreement is None else f"{output.top1_agreement:.2%}",
            yes_or_no(output.within_budget),
        )
    budget = parity.budget
    said = {
        "parity": f"{parity.verdict}: {parity.explanation}",
        "budget": f"relative L2 {budget.relative_l2:g}, scaled max {budget.scaled_max:g}",
        "probes": f"{len(parity.probes.shapes)} {parity.probes.source}",
    }
    if (bad := parity.first_bad_site) is not None:
        said["first bad value"] = f"{bad.original_value} (relative L2 {bad.relative_l2:.2e})"
    return Group(*([outputs] if parity.outputs else []), _facts(said))


def engines(report: EngineReport) -> list[RenderableType]:
    """Every engine that was tried, why not the others, and what a wider budget would allow."""
    rows = _table("engine", "speed", "rows/s", "ms/row", "relative L2", "top-1", "MB")
    rows.columns[0].no_wrap = True
    for trial in report.trials:
        chosen = trial.engine == report.engine
        rows.add_row(
            f"[bold]{trial.engine}[/bold]" if chosen else trial.engine,
            _number(trial.speedup, ".2f", unit=" ×"),
            _number(trial.rows_per_s, ",.0f"),
            _number(trial.row_seconds, ".3g", times=1e3),
            _number(trial.relative_l2, ".1e"),
            _number(trial.top1_agreement, ".4g", times=100, unit="%"),
            _number(trial.memory_bytes, ".3g", times=1e-6),
        )
    said = {report.engine: "chosen", **report.why_not}
    return [rows, _facts(said), *([f"[yellow]{escape(report.advice)}[/yellow]"] if report.advice else [])]


def _number(value: float | None, form: str, *, times: float = 1.0, unit: str = "") -> str:
    return "" if value is None else f"{value * times:{form}}{unit}"


def recalibration_report(found: Recalibration, folder: Path) -> RenderableType:
    """How far the data were from each BatchNorm's statistics, and what was written to ``folder``."""
    layers = _table("BatchNorm", "mean", "variance")
    for layer in found.before:
        layers.add_row(escape(layer.layer), f"{layer.mean:.3g}", f"{layer.variance:.3g}")
    said = {
        "model": described(found.provenance.original),
        "data": f"{found.provenance.samples} samples; {described(found.provenance.data)}",
        "distance": f"{_distance(found.before)} before, {_distance(found.after)} after",
        "written": f"{folder}: {described(found.written)}",
        "parity": f"{found.parity.verdict}: {found.parity.explanation}",
    }
    return Group(layers, _facts(said))


def _distance(layers: Sequence[LayerDrift]) -> str:
    overall = average(layers)
    return "unknown" if overall is None else f"mean {overall.mean:.2g}, variance {overall.variance:.2g}"


def breach(parity: ParityReport, fold: FoldReport) -> str:
    """Why a folded model was not written, naming the first bad site where one is known."""
    bad = parity.first_bad_site
    if bad is None:
        return "[red]not written: the proof did not hold[/red]"
    pair = (bad.original_value, bad.candidate_value)
    around = [s for s in fold.sites if pair in {(near.original, near.folded) for near in s.pairs}]
    name = escape(around[0].name if around else bad.original_value)
    return f"[red]not written: the first bad site is {name}; leave it as it is with --keep '{name}'[/red]"


def facts(report: ModelReport) -> dict[str, str]:
    """The totals, in words."""
    totals, fold = report.totals, report.fold
    said = {"model": described(report.original)}
    if report.imported is not None:
        said["imported"] = f"by torch {report.imported.torch_version}, operator set {report.imported.opset}"
    said |= {
        "BatchNorms folded": folded_share(totals),
        "BatchNorms that stay": _reasons(totals) or "none",
        "other affines folded": str(totals.other_affines_folded),
        "biases stripped": f"{totals.stripped_biases} ({totals.stripped_parameters:,} parameters, "
        f"{totals.stripped_bytes:,} bytes)",
        "biases created": f"{totals.created_biases} ({totals.created_parameters:,} parameters, "
        f"{totals.created_bytes:,} bytes)",
        "operators": f"{sum(fold.operators_before.values())} → {sum(fold.operators_after.values())}",
        "weights": f"{fold.initializer_bytes_before:,} → {fold.initializer_bytes_after:,} bytes",
    }
    if report.folded is not None:
        said["written"] = described(report.folded)
    if report.parity is not None:
        said["parity"] = f"{report.parity.verdict}: {report.parity.explanation}"
    return said


def folded_share(totals: Totals) -> str:
    """Such as "17 of 18: 9 adjacent, 8 compensated"."""
    tiers = counted({TIERS[tier]: count for tier, count in totals.folded_by_tier.items()})
    return f"{totals.batch_norms_folded} of {totals.batch_norms}{f': {tiers}' if tiers else ''}"


def counted(counts: Mapping[str, int]) -> str:
    """Such as "9 adjacent, 8 compensated"; empty if there is nothing."""
    return ", ".join(f"{count} {name}" for name, count in counts.items())


def _reasons(totals: Totals) -> str:
    return counted({reason.replace("_", " "): count for reason, count in totals.stayed_by_reason.items()})


def described(file: ModelFile) -> str:
    """Name, size and hash of a file."""
    return f"{file.name}, {file.bytes:,} bytes, sha256 {file.sha256}"


def site_name(site: FoldSite) -> str:
    """The site's name, with its operator where it is a BatchNorm in disguise."""
    return site.name if site.operator == BATCH_NORMALIZATION else f"{site.name} ({site.operator})"


def site_outcome(site: FoldSite) -> str:
    """What became of a site, and why."""
    if site.outcome is Outcome.FOLDED:
        way = f"folded {site.direction}" if site.direction is not None else "folded"
        return way if site.tier is None else f"{way}, tier {site.tier}"
    return f"stays ({site.reason}): {site.detail}"


def scale_range(site: FoldSite) -> str:
    """Smallest and largest scale; empty where the parameters are not known."""
    if site.scale_min is None or site.scale_max is None:
        return ""
    return f"{site.scale_min:.3g} … {site.scale_max:.3g}"


def parity_of_site(found: SiteParity | None) -> str:
    """The relative L2 distance at a site; empty if it was not compared."""
    return "" if found is None else f"{found.relative_l2:.1e}{'' if found.within_budget else ' (!)'}"


def operators(fold: FoldReport) -> Table:
    """Every operator, how often before and after."""
    table = _table("operator")
    table.add_column("before", justify="right")
    table.add_column("after", justify="right")
    for name, before, after in operator_counts(fold):
        style = None if before == after else "bold"
        table.add_row(escape(name), str(before), str(after), style=style)
    return table


def operator_counts(fold: FoldReport) -> list[tuple[str, int, int]]:
    """Operator, number before and after; those that changed first."""
    before, after = fold.operators_before, fold.operators_after
    counts = [(name, before.get(name, 0), after.get(name, 0)) for name in sorted({*before, *after})]
    return sorted(counts, key=lambda count: count[1] == count[2])


def yes_or_no(holds: bool) -> str:
    """A "no" that nobody overlooks."""
    return "yes" if holds else "[red]NO[/red]"


def _sites(report: ModelReport) -> Table:
    proven = report.parity is not None
    table = _table("site", "outcome", "absorbed by", "scale", *(["parity"] if proven else []))
    for site in report.fold.sites:
        warnings = [f"[yellow]warning: {warning}[/yellow]" for warning in site.warnings]
        row = [
            escape(site_name(site)),
            "\n".join([escape(site_outcome(site)), *warnings]),
            escape(_some(site.absorbed_by)),
            scale_range(site),
        ]
        table.add_row(*row, *([parity_of_site(report.parity_of(site))] if proven else []))
    return table


def _some(names: Iterable[str], most: int = 3) -> str:
    listed = list(names)
    more = len(listed) - most
    return ", ".join(listed[:most]) + (f" and {more} more" if more > 0 else "")


def _facts(said: Mapping[str, str]) -> Table:
    grid = Table.grid(padding=(0, 2))
    grid.add_column()
    grid.add_column(overflow="fold")
    for name, value in said.items():
        grid.add_row(f"[bold]{escape(name)}[/bold]", escape(value))
    return grid


def _table(*columns: str) -> Table:
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    return table
