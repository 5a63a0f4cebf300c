"""The tables of the README and of docs/ that are made from the code; ``make format`` writes them."""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from foldserve.configuration import leaves
from foldserve.observability.metrics import Metrics
from foldserve.serving.triton_fields import FIELDS, Fate
from foldserve.settings import ModelDefaults, ModelSettings, ServerSettings
from prometheus_client import Metric
from pydantic import BaseModel
from pydantic.fields import FieldInfo

ROOT = Path(__file__).resolve().parents[1]
STANDARD_PREFIXES = ("process_", "python_")


def settings_table() -> str:
    """One row per flag: its variable, default and meaning."""
    rows = ["| flag | variable | default | meaning |", "|---|---|---|---|"]
    for leaf in leaves(ServerSettings):
        meaning = (leaf.field.description or "").replace("|", "\\|")
        default = leaf.default if leaf.field.is_required() else f"`{leaf.default}`"
        rows.append(f"| `{leaf.flag}` | `{leaf.variable}` | {default} | {meaning} |")
    return "\n".join(rows)


def model_settings_table() -> str:
    """One row per setting that a model has beside those of the server."""
    rows = ["| setting | meaning |", "|---|---|"]
    for name, field in dotted(ModelSettings):
        if name.partition(".")[0] not in ModelDefaults.model_fields:
            rows.append(f"| `{name}` | {field.description} |")
    return "\n".join(rows)


def dotted(settings: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """Every setting of a model as ``foldserve.yaml`` nests it."""
    for name, field in settings.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from dotted(field.annotation, f"{prefix}{name}.")
        else:
            yield prefix + name, field


def triton_fields_table(fate: Fate, heading: str) -> str:
    """One row per field of ``config.pbtxt`` that meets this fate."""
    rows = [f"| field | {heading} |", "|---|---|"]
    rows += [f"| `{path}` | {one.note} |" for path, one in FIELDS.items() if one.fate is fate]
    return "\n".join(rows)


def metrics_table() -> str:
    """One row per metric of our own: its type, labels and meaning."""
    rows = ["| metric | type | labels | meaning |", "|---|---|---|---|"]
    for metric, labels in own_metrics():
        name = f"{metric.name}_total" if metric.type == "counter" else metric.name
        rows.append(f"| `{name}` | {metric.type} | {', '.join(labels)} | {metric.documentation} |")
    return "\n".join(
        [*rows, "", "Beside them the usual `process_*` and `python_*` metrics of prometheus-client."]
    )


def own_metrics() -> Iterator[tuple[Metric, tuple[str, ...]]]:
    """Every metric that foldserve registers itself, with its label names."""
    metrics = Metrics()
    labels = {
        gauge._name: gauge._labelnames for gauge in vars(metrics).values() if hasattr(gauge, "_labelnames")
    }
    for metric in metrics.registry.collect():
        if not metric.name.startswith(STANDARD_PREFIXES):
            names = getattr(metric, "_labelnames", None) or labels.get(metric.name)
            yield metric, tuple(names or metric.samples[0].labels)


TABLES: dict[Path, dict[str, Callable[[], str]]] = {
    ROOT / "README.md": {
        "model-settings": model_settings_table,
        "settings": settings_table,
        "metrics": metrics_table,
    },
    ROOT / "docs" / "config-pbtxt.md": {
        "config.pbtxt-honoured": partial(triton_fields_table, Fate.HONOURED, "becomes"),
        "config.pbtxt-no-effect": partial(triton_fields_table, Fate.NO_EFFECT, "why"),
        "config.pbtxt-refused": partial(triton_fields_table, Fate.REFUSED, "why, and what to do"),
    },
}
"""The tables of each page, by the names of their marks."""


def with_tables(page: Path) -> str:
    """The text of a page with its tables as they should be."""
    text = page.read_text()
    for name, table in TABLES[page].items():
        before, rest = text.split(f"<!-- {name}:begin -->\n")
        _, after = rest.split(f"<!-- {name}:end -->")
        text = f"{before}<!-- {name}:begin -->\n{table()}\n<!-- {name}:end -->{after}"
    return text


if __name__ == "__main__":
    for page in TABLES:
        page.write_text(with_tables(page))
