"""The tables of the serving benchmarks in both READMEs, made from results/serving_*.json."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from serving_harness import HANDWRITTEN, HERE, OURS, QUIET_CORES, RESULTS, SYNC_ECHO

Result = dict[str, Any]


def rpc(result: Result) -> str:
    """One row per server and number of callers."""
    rows = [
        "| callers | server | requests/s | server CPU per request | relative to echo | p50 | p99 |",
        "|---|---|---|---|---|---|---|",
    ]
    for measurement in result["measurements"]:
        echo = measurement["servers"][SYNC_ECHO]
        for name, row in measurement["servers"].items():
            rows.append(
                f"| {measurement['callers']} | {_bold(name)} | {row['requests_per_s']:.0f} "
                f"| {row['cpu_ms']:.3f} ms | {row['cpu_ms'] / echo['cpu_ms']:.2f} × "
                f"| {row['p50_ms']:.2f} ms | {row['p99_ms']:.2f} ms |"
            )
    return "\n".join([*rows, "", *map(_in_words, result["measurements"])])


def _in_words(measurement: Result) -> str:
    count = measurement["callers"]
    who = "One caller" if count == 1 else f"{count} callers"
    return (
        f"- {who}: {measurement['mean_batch']:.1f} rows in a run; "
        f"the model by itself takes {measurement['compute_ms']:.3f} ms per row in such a batch. Beyond that, "
        f"foldserve's CPU is **{measurement['cpu_without_compute_relative_to_echo']:.2f} ×** the echo "
        f"server's. Its p50 is {measurement['p50_relative_to_echo']:.2f} × the echo server's, its requests/s "
        f"{measurement['requests_relative_to_handwritten']:.2f} × the hand-written server's."
    )


def latency(result: Result) -> str:
    """One row per server."""
    rows = [
        "| server | requests/s | p50 | p99 | p99.9 | p99.9 ÷ p50 | refused |",
        "|---|---|---|---|---|---|---|",
    ]
    rows += [
        f"| {_bold(name)} | {row['requests_per_s']:.0f} | {row['p50_ms']:.2f} ms | {row['p99_ms']:.2f} ms "
        f"| {row['p99.9_ms']:.2f} ms | {row['p99.9_relative_to_p50']:.1f} "
        f"| {row['not_ok']:.0f} |"
        for name, row in result["servers"].items()
    ]
    return "\n".join(rows)


def compute(result: Result) -> str:
    """One row per model and placement."""
    rows = [
        "| model | server and callers | bare loop, images/s | its best setting | with a bare transport "
        "| foldserve | its CPU per image | rows per run | nothing compared | hand-written |",
        "|---" * 10 + "|",
    ]
    for name, placements in result["models"].items():
        for placement, row in placements.items():
            best, share = row["bare"], row["relative_to_bare"]
            rows.append(
                f"| {name} | {placement} | {row['bare_images_per_s']:.1f} "
                f"| {best['instances']} × {best['threads']} threads, batch {best['batch']} "
                f"| {row['possible_relative_to_bare']:.2f} × | **{share[OURS]:.2f} ×** "
                f"| {row['cpu_relative_to_bare'][OURS]:.2f} × | {row['mean_batch']:.1f} "
                f"| {share['foldserve, nothing compared']:.2f} × | {share[HANDWRITTEN]:.2f} × |"
            )
    return "\n".join(rows)


def overload(result: Result) -> str:
    """One row per model and status code."""
    rows = [
        "| model | capacity/s | goodput | status | requests | p50 | p99 | memory, before → peak |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, row in result["models"].items():
        for code, count in sorted(row["codes"].items(), key=lambda item: -item[1]):
            spread = row["latency_ms"].get(code)
            times = f"{spread['p50']:.0f} ms | {spread['p99']:.0f} ms" if spread else "– | –"
            rows.append(
                f"| {name} | {row['capacity']:.0f} | {row['goodput_relative_to_capacity']:.2f} × | {code} "
                f"| {count} | {times} | {row['rss_before_mb']:.0f} → {row['rss_peak_mb']:.0f} MB |"
            )
    return "\n".join(rows)


def loading(result: Result) -> str:
    """One row per repository, and the stages of each model."""
    rows = ["| repository | first start | second start | faster |", "|---|---|---|---|"]
    rows += [
        f"| {name} | {row['first_s']:.2f} s | {row['second_s']:.2f} s "
        f"| {row['first_relative_to_second']:.1f} × |"
        for name, row in result["repositories"].items()
    ]
    large = result["repositories"]["resnet50"]
    stages = _stages(result)
    rows += [
        "",
        f"Loading ResNet-50 cold takes {large['loading_s']:.2f} s without tuning, "
        f"**{large['cold_load_relative_to_session']:.1f} ×** the {large['session_s']:.2f} s of a session.",
        "",
        f"| model | start | {' | '.join(stages)} |",
        "|---" * (2 + len(stages)) + "|",
    ]
    for row in result["repositories"].values():
        for title in ("first", "second"):
            for model, seconds in row[f"{title}_stages_s"].items():
                cells = [f"{seconds[stage]:.2f} s" if stage in seconds else "–" for stage in stages]
                rows.append(f"| {model} | {title} | {' | '.join(cells)} |")
    return "\n".join(rows)


def _stages(result: Result) -> list[str]:
    found = [
        stage
        for row in result["repositories"].values()
        for title in ("first", "second")
        for seconds in row[f"{title}_stages_s"].values()
        for stage in seconds
    ]
    return list(dict.fromkeys(found))


def memory(result: Result) -> str:
    """Resident memory after a first and a second start, and after some of the cycles."""
    count = len(result["loaded_mb"])
    shown = [number for number in (1, 2, 5, 10, 20, 30, 40, 50) if number <= count]
    rows = [
        "| model | first start | second start | first ÷ second |",
        "|---|---|---|---|",
        *(
            f"| {name} | {row['first_mb']:.0f} MB | {row['second_mb']:.0f} MB "
            f"| {row['first_mb'] / row['second_mb']:.2f} × |"
            for name, row in result["starts"].items()
        ),
        "",
        f"| cycle | {' | '.join(map(str, shown))} |",
        "|---" * (len(shown) + 1) + "|",
        *(
            f"| {title} | {' | '.join(f'{result[key][number - 1]:.0f} MB' for number in shown)} |"
            for title, key in (("loaded", "loaded_mb"), ("unloaded", "unloaded_mb"))
        ),
        "",
        f"Before the first load: {result['at_start_mb']:.0f} MB. Growth over the second half of the cycles: "
        f"{result['growth_mb_per_cycle']:.2f} MB each.",
    ]
    return "\n".join(rows)


def shadow(result: Result) -> str:
    """One row per model and share of requests that are compared."""
    rows = [
        "| model | requests/s | compared | p50 | p99 | p99.9 | p50 ÷ off | p99 ÷ off | checked | dropped |",
        "|---" * 10 + "|",
    ]
    for model, row in result["models"].items():
        for name, server in row["servers"].items():
            times = " | ".join(f"{server[f'p{percent}_ms']:.2f} ms" for percent in ("50", "99", "99.9"))
            ratios = " | ".join(f"{server[f'{key}_ms_relative_to_off']:.2f} ×" for key in ("p50", "p99"))
            checks = server["checks"]
            rows.append(
                f"| {model} | {row['requests_per_s']:.0f} | {name} | {times} | {ratios} "
                f"| {checks['ok'] + checks['breach']:.0f} | {checks['dropped']:.0f} |"
            )
    return "\n".join(rows)


def drift(result: Result) -> str:
    """One row per model."""
    rows = ["| model | outputs that show drift | a run without them | with them | ratio |", "|---" * 5 + "|"]
    for model, row in result["models"].items():
        rows.append(
            f"| {model} | {row['taps']} | {1e3 * row['without_s']:.2f} ms | {1e3 * row['with_s']:.2f} ms "
            f"| {row['ratio']:.2f} × |"
        )
    return "\n".join(rows)


def summary(results: dict[str, Result]) -> str:
    """What was aimed at and what was measured."""
    many, one = (
        next(row for row in results["serving_rpc"]["measurements"] if row["callers"] == callers)
        for callers in (64, 1)
    )
    tail = results["serving_latency"]["servers"][OURS]
    large = results["serving_loading"]["repositories"]["resnet50"]
    requests, cpu = many["requests_relative_to_handwritten"], many["cpu_without_compute_relative_to_echo"]
    rows = [
        ("tiny model, 64 callers", "requests/s ÷ hand-written server's", "≥ 1.5", requests),
        ("", "server CPU beyond the model's own ÷ echo's", "≤ 1.5", cpu),
        ("tiny model, one caller", "p50 ÷ echo's", "≤ 1.5", one["p50_relative_to_echo"]),
        ("tiny model, 70 % of capacity", "p99.9 ÷ p50", "≤ 5", tail["p99.9_relative_to_p50"]),
        *(
            (
                f"{name}, 16 callers, {where}",
                "images/s ÷ bare loop's",
                "≥ 0.95",
                row["relative_to_bare"][OURS],
            )
            for name, placements in results["serving_compute"]["models"].items()
            for where, row in placements.items()
        ),
        *(
            (f"{name}, 3 × capacity", "goodput ÷ capacity", "≥ 0.9", row["goodput_relative_to_capacity"])
            for name, row in results["serving_overload"]["models"].items()
        ),
        ("resnet50, cold", "loading ÷ a bare session", "≤ 2.5", large["cold_load_relative_to_session"]),
        ("resnet50, second start", "first start ÷ second", "≥ 3", large["first_relative_to_second"]),
    ]
    return "\n".join(
        [
            "| load | ratio | aim | measured |",
            "|---|---|---|---|",
            *(f"| {load} | {ratio} | {aim} | {value:.2f} |" for load, ratio, aim, value in rows),
        ]
    )


TABLES: dict[str, Callable[[Result], str]] = {
    "serving_rpc": rpc,
    "serving_rpc_large": rpc,
    "serving_latency": latency,
    "serving_compute": compute,
    "serving_overload": overload,
    "serving_loading": loading,
    "serving_memory": memory,
    "shadow_latency": shadow,
    "drift_cost": drift,
}


def fill(file: Path, name: str, table: str) -> None:
    """Put a table between its two marks in a README."""
    begin, end = f"<!-- {name}:begin -->\n", f"<!-- {name}:end -->"
    before, rest = file.read_text().split(begin)
    file.write_text(before + begin + table + "\n" + end + rest.split(end)[1])


def main() -> None:
    """Write every table for which there is a result, and the summary if there are all."""
    results = {
        name: json.loads(path.read_text()) for name in TABLES if (path := RESULTS / f"{name}.json").exists()
    }
    for name, result in results.items():
        fill(HERE / "README.md", name, TABLES[name](result) + _reservation(result))
    if len(results) == len(TABLES):
        fill(HERE.parent / "README.md", "serving_summary", summary(results))


def _reservation(result: Result) -> str:
    others = result["others_cores"]
    if others <= QUIET_CORES:
        return ""
    return f"\n\nTaken on a busy machine, beside processes that used {others:.2f} cores: take it again."


def _bold(name: str) -> str:
    return f"**{name}**" if name == OURS else name


if __name__ == "__main__":
    main()
