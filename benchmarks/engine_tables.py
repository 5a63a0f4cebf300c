"""The tables of the engines in benchmarks/README.md, made from results/engines.json."""

import json
from collections.abc import Callable, Sequence
from typing import Any

from serving_harness import HERE, QUIET_CORES, RESULTS
from serving_tables import fill

Result = dict[str, Any]

AIM_FIRST, AIM_SHARE, AIM_TIMES = 1.5, 0.95, 4.5
SPED_UP, WIDE, DIGITS = "resnet50", "5e-2, int8", "digits"


def tried(result: Result) -> str:
    """One row per model and engine, those that are unavailable with the reason."""
    rows = [
        "| model | engine | times as fast | images/s | one image | relative L2 | top-1 | memory | "
        "held-out digits | why not |",
        "|---" * 10 + "|",
    ]
    for model, row in result["models"].items():
        report, right = row["engines"], row.get("accuracy", {})
        for trial in report["trials"]:
            engine = trial["engine"]
            cells = [
                _cell(trial["speedup"], "{:.2f} ×"),
                _cell(trial["rows_per_s"], "{:.0f}"),
                _cell(trial["row_seconds"], "{:.3g} ms", 1e3),
                _cell(trial["relative_l2"], "{:.1e}"),
                _cell(trial["top1_agreement"], "{:.4g} %", 100),
                _cell(trial["memory_bytes"], "{:.0f} MB", 1e-6),
                _cell(right.get(engine), "{:.4g} %", 100),
            ]
            chosen = engine == report["engine"]
            name = f"**{engine}**" if chosen else engine
            rows.append(f"| {model} | {name} | {' | '.join(cells)} | {report['why_not'].get(engine, '')} |")
    return "\n".join(rows)


def served(result: Result) -> str:
    """One row per model and budget."""
    rows = [
        "| model | budget | engine | rows per run | images/s | relative to the default budget | bare loop | "
        "relative to it |",
        "|---" * 8 + "|",
    ]
    rows += [
        f"| {model} | {budget} | {one['engine']} | {one['rows']:.1f} | {one['served']:.1f} "
        f"| {one['relative_to_default']:.2f} × | {one['bare']:.1f} | {one['relative_to_bare']:.2f} × |"
        for model, row in result["models"].items()
        for budget, one in row["served"].items()
    ]
    return "\n".join(rows)


def first(result: Result) -> str:
    """One row per model, engine and number of rows."""
    rows = [
        "| model | engine | asked | rows | first | next ones, median | ratio | the echo server's own "
        "| without what it adds |",
        "|---" * 9 + "|",
    ]
    rows += [
        f"| {model} | {one['engine']} | {'a server' if one['through_server'] else 'a session'} "
        f"| {one['rows']} | {1e3 * one['first_s']:.3g} ms | {1e3 * one['next_s']:.3g} ms "
        f"| {one['ratio']:.2f} × | {_cell(one.get('echo_ratio'), '{:.2f} ×')} "
        f"| {_cell(one.get('beyond_echo'), '{:.2f} ×')} |"
        for model, row in result["models"].items()
        for one in row["first"]
    ]
    return "\n".join(rows)


def aims(result: Result) -> str:
    """What was aimed at and what was measured."""
    models = result["models"]
    requests = [one for row in models.values() for one in row["first"]]
    rows = ["| aim | measured |", "|---|---|"]
    if SPED_UP in models:
        one = models[SPED_UP]["served"][WIDE]
        rows += [
            f"| {SPED_UP} with {WIDE}: ≥ {AIM_TIMES} × the default budget's images/s "
            f"| {one['relative_to_default']:.2f} × ({one['engine']}) |",
            f"| and ≥ {AIM_SHARE} × a bare loop of its engine | {one['relative_to_bare']:.2f} × |",
        ]
    first_aim = f"first request ≤ {AIM_FIRST} × the next ones' median"
    rows += [
        f"| {first_aim} | {_reached([one['ratio'] for one in requests])} |",
        f"| without what the echo server's own first one adds "
        f"| {_reached([one.get('beyond_echo', one['ratio']) for one in requests])} |",
    ]
    if DIGITS in models:
        right = models[DIGITS]["accuracy"].values()
        rows.append(
            f"| held-out digits read right: the same at every engine | {min(right):.2%} to {max(right):.2%} |"
        )
    return "\n".join(rows)


def layouts(result: Result) -> str:
    """One row per model."""
    table = ["| model | blocks of channels, times as fast as NCHW |", "|---|---|"]
    for model, row in result["models"].items():
        found = [f"{rows} at a time: {speedup:.2f} ×" for rows, speedup in row["layouts"].items()]
        table.append(f"| {model} | {', '.join(found)} |")
    return "\n".join(table)


TABLES: dict[str, Callable[[Result], str]] = {
    "engines_aims": aims,
    "engines_tried": tried,
    "engines_served": served,
    "engines_layouts": layouts,
    "engines_first": first,
}


def main() -> None:
    """Write every table."""
    result = json.loads((RESULTS / "engines.json").read_text())
    for name, table in TABLES.items():
        fill(
            HERE / "README.md", name, table(result) + (_conditions(result) if name == "engines_aims" else "")
        )


def _conditions(result: Result) -> str:
    others = result["others_cores"]
    busy = "" if others <= QUIET_CORES else f", beside other processes that used {others:.2f} cores"
    return f"\n\n{result['processor']}, one core for each server{busy}."


def _reached(ratios: Sequence[float]) -> str:
    return f"{sum(ratio <= AIM_FIRST for ratio in ratios)} of {len(ratios)}, largest {max(ratios):.2f} ×"


def _cell(value: float | None, form: str, scale: float = 1) -> str:
    return "–" if value is None else form.format(scale * value)


if __name__ == "__main__":
    main()
