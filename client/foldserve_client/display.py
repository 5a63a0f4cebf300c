"""Answers of the server as rich renderables, for people."""

from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any, Literal

import numpy as np
from foldserve_proto import fold_service_pb2 as fold_pb
from foldserve_proto import grpc_service_pb2 as pb
from foldserve_proto.model_config_pb2 import DataType, ModelConfig
from google.protobuf.json_format import MessageToDict
from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from foldserve_client.infer_command import Classified
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


def model_config(config: ModelConfig) -> RenderableType:
    """A table of the tensors, then whatever else is set, by the names that it has in ``config.pbtxt``."""
    tensors = _table("", "tensor", "data type", "dims")
    for kind, declared in (("input", config.input), ("output", config.output)):
        for tensor in declared:
            tensors.add_row(kind, escape(tensor.name), DataType.Name(tensor.data_type), _shape(tensor.dims))
    fields = MessageToDict(config, preserving_proto_field_name=True)
    model = fields.pop("name", "")
    facts = [_dotted(name, fields[name]) for name in sorted(fields.keys() - {"input", "output"})]
    return Group(
        _facts({"model": model} | {path: text for one in facts for path, text in one.items()}), tensors
    )


def repository_index(index: pb.RepositoryIndexResponse) -> RenderableType:
    """A row for each model version."""
    rows = _table("model", "version", "state", "reason")
    for model in index.models:
        rows.add_row(escape(model.name), model.version, model.state, escape(model.reason))
    return rows


def statistics(answer: pb.ModelStatisticsResponse) -> RenderableType:
    """A row for each model version: what it answered, and what the stages took on average."""
    stages = ("queue", "compute_input", "compute_infer", "compute_output")
    means = [stage.removeprefix("compute_") for stage in stages]
    rows = _table("model", "version", "ok", "failed", "rows", "runs", *means)
    rows.caption = f"{', '.join(means)}: mean milliseconds of a request"
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


def classes(classified: Classified) -> RenderableType:
    """A row for each image: its classes, the best one first, with their scores."""
    most = max((len(found) for _, found in classified), default=0)
    rows = _table("image", *("best" if rank == 1 else f"{rank}." for rank in range(1, most + 1)))
    for file, found in classified:
        rows.add_row(escape(file), *(escape(f"{one.label or one.index} ({one.value:.3g})") for one in found))
    return rows


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
        "engine": response.engine,
        "BatchNorms that would fold" if rejected else "BatchNorms folded": _share_folded(norms),
        "operators": _changes(report),
        "initializers": f"{report.initializer_bytes_before} → {report.initializer_bytes_after} bytes",
    }
    if not norms:
        facts["hint"] = (
            "the model has no BatchNorm: most exporters fold it silently; torch.export.save keeps it"
        )
    if response.engines.advice:
        facts["faster engine"] = response.engines.advice
    tables = [*([sites] if report.sites else []), *([biases] if report.stripped_biases else [])]
    return Group(_facts(facts), *tables, *_engines(response.engines))


def _engines(report: fold_pb.EngineReport) -> list[RenderableType]:
    """Which engines were tried at load, and why not the others; nothing where none was."""
    if not (report.trials or report.why_not):
        return []
    rows = _table("engine", "times as fast", "rows/s", "relative L2", "top-1")
    rows.columns[0].no_wrap = True
    for trial in report.trials:
        rows.add_row(
            escape(trial.engine),
            *(
                f"{getattr(trial, name):{form}}" if trial.HasField(name) else ""
                for name, form in _MEASURED_OF_ENGINES
            ),
        )
    return [rows, _facts({report.engine: "chosen", **dict(sorted(report.why_not.items()))})]


_MEASURED_OF_ENGINES: tuple[
    tuple[Literal["speedup", "rows_per_s", "relative_l2", "top1_agreement"], str], ...
] = (
    ("speedup", ".2f"),
    ("rows_per_s", ".4g"),
    ("relative_l2", ".1e"),
    ("top1_agreement", ".2%"),
)


def parity(response: fold_pb.GetParityResponse) -> RenderableType:
    """The verdict and its reasons, then output by output."""
    report = response.report
    budget = report.budget
    facts = {
        "parity": report.verdict,
        "explanation": report.explanation,
        "reference": report.reference,
        "candidate": report.candidate,
        "budget": f"relative L2 {budget.relative_l2:g}, scaled max {budget.scaled_max:g}"
        + (f", top-1 agreement {budget.top1_agreement:.2%}" if budget.top1_agreement else ""),
        "probes": f"{len(report.probes.shapes)} {report.probes.source}",
    }
    if report.sites:
        worst = max(report.sites, key=lambda site: site.relative_l2)
        wrong = sum(not site.within_budget for site in report.sites)
        facts["site by site"] = (
            f"{len(report.sites)} values compared, {wrong} wrong, the farthest is '{worst.original_value}' "
            f"(relative L2 {worst.relative_l2:.2e})"
        )
    shown = [_facts(facts), _outputs(report.outputs)]
    if response.HasField("live"):
        shown.append(_facts(_live_facts(response)))
        if response.live.outputs:
            shown.append(_outputs(response.live.outputs))
    return Group(*shown)


def drift(response: fold_pb.GetDriftResponse) -> RenderableType:
    """The average of all layers, its baseline, then layer by layer."""
    facts = {"model": f"{response.model_name} version {response.model_version}"}
    if response.unavailable:
        return _facts(facts | {"drift": f"unknown: {response.unavailable}"})
    drift = response.drift
    unusable = f", {drift.unusable_rows} rows with NaN or infinity left out" if drift.unusable_rows else ""
    facts["windows"] = f"{drift.windows} of {drift.window_rows} rows each, {drift.rows} rows so far{unusable}"
    scores = _table("layer", "mean", "variance")
    if drift.HasField("overall"):
        scores.add_row("[bold]all layers[/bold]", *_scores(drift.overall))
    if drift.HasField("baseline"):
        scores.add_row("[bold]all layers, first windows[/bold]", *_scores(drift.baseline))
    for layer in drift.layers:
        scores.add_row(escape(layer.layer), *_scores(layer))
    if not drift.windows:
        return _facts(facts | {"drift": "unknown before the first window is whole"})
    return Group(_facts(facts), scores)


def _scores(drift: fold_pb.DriftScores | fold_pb.LayerDrift) -> tuple[str, str]:
    return f"{drift.mean:.3f}", f"{drift.variance:.3f}"


def _outputs(found: Iterable[fold_pb.OutputParity]) -> Table:
    outputs = _table("output", "relative L2", "scaled max", "top-1 agreement", "within budget")
    for output in found:
        outputs.add_row(
            escape(output.output),
            f"{output.relative_l2:.2e}",
            f"{output.scaled_max:.2e}",
            f"{output.top1_agreement:.2%}" if output.HasField("top1_agreement") else "",
            "yes" if output.within_budget else "NO",
        )
    return outputs


def _live_facts(response: fold_pb.GetParityResponse) -> dict[str, str]:
    """Parity since the load."""
    live = response.live
    facts = {
        "in service": ", ".join(f"{count} {result}" for result, count in sorted(live.checks.items())),
        "last checks": (
            f"{live.window_breaches} of {live.window_checks} breaches; {live.most_breaches} are too many"
        ),
    }
    if live.reference_failure:
        facts["not compared"] = live.reference_failure
    if live.HasField("last_breach"):
        facts["last breach"] = f"{_time(live.last_breach.at)}: {live.last_breach.evidence}"
    if response.HasField("fallback"):
        facts["fallback"] = (
            f"since {_time(response.fallback.since)} the {response.fallback.variant} model on "
            f"{response.fallback.engine} answers; reset it with "
            f"'foldserve-client reset {response.model_name}'"
        )
    return facts


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds).astimezone().isoformat(sep=" ", timespec="seconds")


def _mean_ms(duration: pb.StatisticDuration) -> str:
    return f"{duration.ns / duration.count / 1e6:.3f}" if duration.count else ""


def _affine_name(site: fold_pb.FoldSite) -> str:
    """The site's name, with its operator where it is a BatchNorm in disguise."""
    name = site.name.removesuffix(f"/{BATCH_NORMALIZATION}")  # the column's heading says so
    return name if site.operator == BATCH_NORMALIZATION else f"{name} ({site.operator})"


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


def _dotted(path: str, value: Any) -> dict[str, str]:
    """What is in a field, each value under the path to it."""
    match value:
        case dict():
            inner = [_dotted(f"{path}.{name}", one) for name, one in value.items()]
        case [dict(), *_]:
            inner = [_dotted(f"{path}[{index}]", one) for index, one in enumerate(value)]
        case list():
            return {path: ", ".join(map(str, value))}
        case _:
            return {path: str(value).lower() if isinstance(value, bool) else str(value)}
    return {name: text for one in inner for name, text in one.items()}


def _facts(facts: dict[str, str]) -> Table:
    grid = Table.grid(padding=(0, 2))
    for name, value in facts.items():
        grid.add_row(f"[bold]{escape(name)}[/bold]", escape(value))
    return grid


def _table(*columns: str) -> Table:
    table = Table(box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    for column in columns:
        table.add_column(column, overflow="fold")
    return table
