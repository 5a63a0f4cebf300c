"""Answers of the server as rich renderables, for people."""

from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np
from foldserve_proto import fold_service_pb2 as fold_pb
from foldserve_proto import grpc_service_pb2 as pb
from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from foldserve_client.inference import InferResult

BATCH_NORMALIZATION = "BatchNormalization"
UNFOLDED = "unfolded"


def server_metadata(server: pb.ServerMetadataResponse) -> RenderableType:
    """Name, version and extensions."""
    return _facts(
        {"server": server.name, "version": server.version, "extensions": ", ".join(server.extensions)}
    )


def model_metadata(model: pb.ModelMetadataResponse) -> RenderableType:
    """Versions, properties and a table of the tensors."""
    tensors = _table("", "tensor", "datatype", "shape")
    for kind, tensor in [*(("input", t) for t in model.inputs), *(("output", t) for t in model.outputs)]:
        tensors.add_row(kind, escape(tensor.name), tensor.datatype, _shape(tensor.shape))
    facts = {"model": model.name, "versions": ", ".join(model.versions), "platform": model.platform}
    return Group(_facts(facts | dict(sorted(model.properties.items()))), tensors)


def repository_index(index: pb.RepositoryIndexResponse) -> RenderableType:
    """A row for each model version."""
    rows = _table("model", "version", "state", "reason")
    for model in index.models:
        rows.add_row(escape(model.name), model.version, model.state, escape(model.reason))
    return rows


def statistics(answer: pb.ModelStatisticsResponse) -> RenderableType:
    """A row for each model version: what it answered, and what the stages took on average."""
    stages = ("queue", "compute_input", "compute_infer", "compute_output")
    means = [f"{stage.removeprefix('compute_')} ms" for stage in stages]
    rows = _table("model", "version", "answered", "failed", "rows", "runs", *means)
    for model in answer.model_stats:
        requests = model.inference_stats
        rows.add_row(
            escape(model.name),
            model.version,
            str(requests.success.count),
            str(requests.fail.count),
            str(model.inference_count),
            str(model.execution_count),
            *(_mean_ms(getattr(requests, stage)) for stage in stages),
        )
    return rows


def infer_result(result: InferResult) -> RenderableType:
    """Each output: its values, only their beginning and end where there are many."""
    shown: list[RenderableType] = [_facts({"model": f"{result.model_name} version {result.model_version}"})]
    for name, array in result.items():
        shown.append(f"[bold]{escape(name)}[/bold] {array.dtype.name} {_shape(array.shape)}")
        shown.append(Text(np.array2string(array, threshold=256, edgeitems=4, precision=4)))
    return Group(*shown)


def fold_report(response: fold_pb.GetFoldReportResponse) -> RenderableType:
    """What was folded: the totals, then site by site, then the biases that are gone."""
    report = response.report
    sites = _table("BatchNorm", "outcome", "absorbed by", "scale")
    for site in report.sites:
        sites.add_row(
            escape(_affine_name(site)),
            escape("\n".join([_outcome(site), *(f"warning: {warning}" for warning in site.warnings)])),
            escape(", ".join(site.absorbed_by)),
            f"{site.scale_min:.3g} … {site.scale_max:.3g}" if site.HasField("scale_min") else "",
        )
    biases = _table("stripped bias of", "parameters", "bytes", "fate")
    for bias in report.stripped_biases:
        biases.add_row(escape(bias.node), str(bias.parameters), str(bias.bytes), bias.fate)
    rejected, norms = response.variant == UNFOLDED, _batch_norms(report.sites)
    facts = {
        "model": f"{response.model_name} version {response.model_version}, {_served(response)}",
        "provider": f"{response.provider} (asked for {response.requested_provider})",
        "BatchNorms that would fold" if rejected else "BatchNorms folded": _share_folded(norms),
        "operators": _changes(report),
        "initializers": f"{report.initializer_bytes_before} → {report.initializer_bytes_after} bytes",
    }
    if not norms:
        facts["hint"] = (
            "the model has no BatchNorm: most exporters fold it silently; torch.export.save keeps it"
        )
    tables = [*([sites] if report.sites else []), *([biases] if report.stripped_biases else [])]
    return Group(_facts(facts), *tables)


def parity(response: fold_pb.GetParityResponse) -> RenderableType:
    """The verdict and its reasons, then output by output."""
    report = response.report
    budget = report.budget
    outputs = _table("output", "relative L2", "scaled max", "top-1 agreement", "within budget")
    for output in report.outputs:
        outputs.add_row(
            escape(output.output),
            f"{output.relative_l2:.2e}",
            f"{output.scaled_max:.2e}",
            f"{output.top1_agreement:.2%}" if output.HasField("top1_agreement") else "",
            "yes" if output.within_budget else "NO",
        )
    facts = {
        "parity": report.verdict,
        "explanation": report.explanation,
        "reference": report.reference,
        "candidate": report.candidate,
        "budget": f"relative L2 {budget.relative_l2:g}, scaled max {budget.scaled_max:g}",
        "probes": f"{len(report.probes.shapes)} {report.probes.source}",
    }
    if report.sites:
        worst = max(report.sites, key=lambda site: site.relative_l2)
        wrong = sum(not site.within_budget for site in report.sites)
        facts["site by site"] = (
            f"{len(report.sites)} values compared, {wrong} wrong, the farthest is '{worst.original_value}' "
            f"(relative L2 {worst.relative_l2:.2e})"
        )
    return Group(_facts(facts), outputs)


def _mean_ms(duration: pb.StatisticDuration) -> str:
    return f"{duration.ns / duration.count / 1e6:.3f}" if duration.count else ""


def _affine_name(site: fold_pb.FoldSite) -> str:
    """The site's name, with its operator where it is a BatchNorm in disguise."""
    return site.name if site.operator == BATCH_NORMALIZATION else f"{site.name} ({site.operator})"


def _outcome(site: fold_pb.FoldSite) -> str:
    if site.outcome == "folded":
        return f"folded {site.direction}, tier {site.tier}"
    return f"{site.outcome} ({site.reason}): {site.detail}"


def _served(response: fold_pb.GetFoldReportResponse) -> str:
    """What of the fold serves: with nothing folded, its result is the original."""
    report = response.report
    if response.variant == UNFOLDED:
        return "served unfolded: the fold below did not keep parity"
    if report.stripped_biases or any(site.outcome == "folded" for site in report.sites):
        return f"served {response.variant}"
    return "served as it is: nothing was folded" if report.sites else "served as it is: nothing to fold"


def _batch_norms(sites: Iterable[fold_pb.FoldSite]) -> list[fold_pb.FoldSite]:
    return [site for site in sites if site.operator == BATCH_NORMALIZATION]


def _share_folded(norms: Sequence[fold_pb.FoldSite]) -> str:
    return f"{sum(site.outcome == 'folded' for site in norms)} of {len(norms)}"


def _changes(report: fold_pb.FoldReport) -> str:
    """Operators whose number changed, such as "BatchNormalization 3 → 0"."""
    before, after = Counter(report.operators_before), Counter(report.operators_after)
    changed = [
        f"{name} {before[name]} → {after[name]}"
        for name in sorted(before | after)
        if before[name] != after[name]
    ]
    return ", ".join(changed) or "unchanged"


def _shape(shape: Iterable[int]) -> str:
    return " × ".join("?" if size < 0 else str(size) for size in shape) or "scalar"


def _facts(facts: dict[str, str]) -> Table:
    grid = Table.grid(padding=(0, 2))
    for name, value in facts.items():
        grid.add_row(f"[bold]{escape(name)}[/bold]", escape(value))
    return grid


def _table(*columns: str) -> Table:
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    return table
