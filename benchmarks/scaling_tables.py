"""The tables and the picture of how cost grows, made from results/scaling_*.json."""

import json
from collections.abc import Callable

import matplotlib as mpl
from scaling_lines import ALONG, PANELS, PAYLOAD, Panel, Result, picture, size
from serving_harness import HERE, OURS, QUIET_CORES, RESULTS, SYNC_ECHO
from serving_tables import fill

PICTURE = RESULTS / "scaling.svg"


def ranged(figure: Result, unit: str = "") -> str:
    """The median, and between which values the rounds were."""
    low, high = min(figure["rounds"]), max(figure["rounds"])
    return f"{digits(figure['median'])}{unit} ({digits(low)}–{digits(high)})"


def digits(value: float) -> str:
    """A number to three digits or to the unit."""
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def times(figure: Result) -> str:
    """A ratio."""
    return f"{figure['median']:.2f} ×"


def ms(figure: Result) -> str:
    """A time."""
    return f"{digits(figure['median'])} ms"


def table(columns: list[str], rows: list[list[str]]) -> str:
    """A table of Markdown."""
    cells = [f"| {' | '.join(line)} |" for line in (columns, *rows)]
    return "\n".join([cells[0], "|---" * len(columns) + "|", *cells[1:]])


def payload(result: Result) -> str:
    """One row per size."""
    one, many = "one_caller", "many_callers"
    rows = [
        [
            size(point["bytes"], PAYLOAD),
            ranged(point[many][OURS]["requests_per_s"]),
            times(point[many]["relative_to_echo"]["requests_per_s"]),
            ms(point[many][OURS]["cpu_ms"]),
            times(point[many]["relative_to_echo"]["cpu_ms"]),
            ms(point[one][OURS]["p50_ms"]),
            ms(point[one][OURS]["p99_ms"]),
            times(point[one]["relative_to_echo"]["p50_ms"]),
        ]
        for point in result["points"]
    ]
    callers = f"{result['callers'][many]} callers"
    columns = ["payload", f"requests/s, {callers}", "÷ echo's", f"CPU per request, {callers}", "÷ echo's"]
    return table([*columns, "p50, one caller", "p99, one caller", "p50 ÷ echo's"], rows)


def concurrency(result: Result) -> str:
    """One row per number of callers."""
    rows = [
        [
            str(point["callers"]),
            *_beside_echo(point),
            ms(point[OURS]["p50_ms"]),
            ms(point[OURS]["p99_ms"]),
            times(point["relative_to_echo"]["p50_ms"]),
            f"{point['mean_batch']['median']:.1f}",
        ]
        for point in result["points"]
    ]
    columns = ["callers", *BESIDE_ECHO, "p50", "p99", "p50 ÷ echo's", "rows in a run"]
    return table(columns, rows)


def models(result: Result) -> str:
    """One row per number of models, and what each further one takes."""
    points = result["points"]
    rows = [
        [
            str(point["models"]),
            *_beside_echo(point),
            ms(point[OURS]["p50_ms"]),
            f"{point['mean_batch']['median']:.1f}",
            f"{point['ready_mb']:.0f} MB",
            f"{point['asked_mb']:.0f} MB",
            f"{point['start_s']:.2f} s",
        ]
        for point in points
    ]
    columns = ["models", *BESIDE_ECHO, "p50", "rows in a run", "memory, ready", "memory, asked", "start"]
    further = points[-1]["models"] - points[0]["models"]
    ready, asked, start = (
        (points[-1][key] - points[0][key]) / further for key in ("ready_mb", "asked_mb", "start_s")
    )
    return (
        table(columns, rows)
        + f"\n\nEach further model takes {ready:.2f} MB once it is ready, {asked:.2f} MB "
        f"once it was asked, and {1e3 * start:.0f} ms of the start."
    )


def rows_of_a_request(result: Result) -> str:
    """One row per number of rows."""
    rows = []
    for point in result["points"]:
        number = point["rows"]
        ours, echo, loop = (point[key]["cpu_ms"]["median"] / number for key in (OURS, SYNC_ECHO, "loop"))
        rows.append(
            [
                str(number),
                f"{digits(point[OURS]['requests_per_s']['median'] * number)}",
                f"{digits(ours)} ms",
                f"{digits(echo)} ms",
                f"{digits(loop)} ms",
                f"{ours / (echo + loop):.2f} ×",
                ms(point[OURS]["p50_ms"]),
                f"{point['mean_batch']['median']:.1f}",
            ]
        )
    columns = [
        "rows",
        "rows/s",
        "CPU per row",
        "echo's",
        "session loop's",
        "÷ both floors",
        "p50",
        "rows in a run",
    ]
    return table(columns, rows)


def cores(result: Result) -> str:
    """One row per number of cores and instances."""
    first = result["points"][0][OURS]["requests_per_s"]["median"]
    rows = [
        [
            str(point["cores"]),
            f"{point['instances']} × {point['threads']}",
            ranged(point[OURS]["requests_per_s"]),
            f"{point[OURS]['requests_per_s']['median'] / first:.2f} ×",
            times(point["relative_to_loop"]["requests_per_s"]),
            ms(point[OURS]["cpu_ms"]),
            times(point["relative_to_loop"]["cpu_ms"]),
            ms(point[OURS]["p50_ms"]),
            ms(point[OURS]["p99_ms"]),
            f"{point['mean_batch']['median']:.1f}",
        ]
        for point in result["points"]
    ]
    columns = [
        "cores",
        "instances × threads",
        "requests/s",
        "÷ the first row's",
        "÷ the loops'",
        "CPU per request",
    ]
    return table([*columns, "÷ the loops'", "p50", "p99", "rows in a run"], rows)


BESIDE_ECHO = ["requests/s", "÷ echo's", "CPU per request", "÷ echo's"]


def _beside_echo(point: Result) -> list[str]:
    ratios = point["relative_to_echo"]
    return [
        ranged(point[OURS]["requests_per_s"]),
        times(ratios["requests_per_s"]),
        ms(point[OURS]["cpu_ms"]),
        times(ratios["cpu_ms"]),
    ]


def knees(results: dict[str, Result]) -> str:
    """One row per line of the picture."""
    rows = [
        [f"{panel.title}, over {ALONG[panel.along]}", name, *_bend(panel, name, results[panel.result])]
        for panel in PANELS
        if panel.result in results
        for name in panel.lines
    ]
    return table(["", "server", "knee at", "with each doubling before it", "after it"], rows)


def _bend(panel: Panel, name: str, result: Result) -> list[str]:
    found = panel.knee(name, result)
    if found is None:
        return ["none", f"{panel.growth(name, result):.2f} ×", ""]
    return [size(found.at, panel.along), f"{found.before:.2f} ×", f"{found.after:.2f} ×"]


def conditions(result: Result) -> str:
    """The machine, and whether it was quiet."""
    where = result["conditions"]
    text = (
        f"{where['processor']}, {where['cores']} cores, {where['date']}, Python {where['python']}, "
        f"onnxruntime {where['onnxruntime']}, grpcio {where['grpcio']}; medians of {result['rounds']} rounds"
    )
    if result["others_cores"] <= QUIET_CORES:
        return f"{text}."
    return f"{text}; beside other processes that used {result['others_cores']:.2f} cores: take it again."


TABLES: dict[str, Callable[[Result], str]] = {
    "scaling_payload": payload,
    "scaling_concurrency": concurrency,
    "scaling_models": models,
    "scaling_rows": rows_of_a_request,
    "scaling_cores_tiny": cores,
    "scaling_cores_mobilenet_v2": cores,
}


def main() -> None:
    """Write every table for which there is a result, the knees, and the picture."""
    results = {
        name: json.loads(path.read_text()) for name in TABLES if (path := RESULTS / f"{name}.json").exists()
    }
    for name, result in results.items():
        fill(HERE / "README.md", name, f"{TABLES[name](result)}\n\n{conditions(result)}")
    fill(HERE / "README.md", "scaling_knees", knees(results))
    with mpl.rc_context({"svg.hashsalt": "scaling", "svg.fonttype": "none"}):
        picture(results).savefig(PICTURE, metadata={"Date": None})


if __name__ == "__main__":
    main()
