"""The tables and the picture of the comparison with other servers, made from results/peers.json."""

import json
from statistics import median
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure
from peer_recipes import PEERS
from serving_harness import HANDWRITTEN, HERE, OURS, RESULTS, SYNC_ECHO
from serving_tables import fill

Result = dict[str, Any]
PICTURE = RESULTS / "peers.svg"
FLOORS = (HANDWRITTEN, SYNC_ECHO)
LOOP = "session loop"
GREY, OUR_COLOUR, THEIR_COLOUR = "#7d8590", "#2da44e", "#6e9bd1"
"""Seen on white and on black."""


def servers(result: Result, model: str) -> dict[str, Result]:
    """What was measured of one model, by server, in the order of the peers."""
    measured = result["models"].get(model, {}).get("servers", {})
    return {name: measured[name] for name in PEERS if name in measured}


def ours(result: Result, model: str) -> dict[str, list[float]]:
    """foldserve's figures beside each peer; some starts found its cache."""
    pairs = [entry["foldserve"] for entry in servers(result, model).values() if "foldserve" in entry]
    return {key: sorted(pair[key] for pair in pairs) for key in pairs[0]}


def details(result: Result) -> str:
    """One row per model and server."""
    rows = [
        "| model, callers | server | front end | requests/s | foldserve's ÷ its | p50 | p99 "
        "| CPU per request | memory | start |",
        "|---" * 10 + "|",
    ]
    for model, measured in result["models"].items():
        title = f"{model}, {measured['callers']}"
        if not servers(result, model):
            continue
        rows.append(f"| {title} | **{OURS}** | Python, gRPC | {_our_cells(ours(result, model))} |")
        for name, entry in servers(result, model).items():
            if "failed" in entry:
                reason = entry["failed"].splitlines()[0].replace("|", "/")[:120]
                rows.append(f"| {title} | {name} | {entry['front']} | not measured: {reason} |{' – |' * 6}")
            else:
                rows.append(
                    f"| {title} | {name} | {entry['front']} | {_cells(entry['peer'], entry['ratio'])} |"
                )
        if loop := measured["servers"].get(LOOP):
            best = loop["loop"]
            rows.append(
                f"| {title} | {LOOP}, batches of {best['batch']} | none | {_rate(best['images_per_s'])} "
                f"| – | – | – | {best['cpu_ms']:.2f} ms | – | – |"
            )
    return "\n".join([*rows, "", _conditions(result)])


def _rate(rate: float) -> str:
    return f"{rate:.0f}" if rate >= 100 else f"{rate:.1f}"


def _our_cells(figures: dict[str, list[float]]) -> str:
    middle = {key: median(values) for key, values in figures.items()}
    memory, start = figures["memory_mb"], figures["start_s"]
    return (
        f"{_rate(middle['requests_per_s'])} | 1 | {middle['p50_ms']:.1f} ms | {middle['p99_ms']:.1f} ms "
        f"| {middle['cpu_ms']:.2f} ms | {memory[0]:.0f} to {memory[-1]:.0f} MB "
        f"| {start[0]:.1f} to {start[-1]:.1f} s"
    )


def _cells(figures: dict[str, float], ratio: float) -> str:
    return (
        f"{_rate(figures['requests_per_s'])} | {ratio:.2f} × | {figures['p50_ms']:.1f} ms "
        f"| {figures['p99_ms']:.1f} ms | {figures['cpu_ms']:.2f} ms | {figures['memory_mb']:.0f} MB "
        f"| {figures['start_s']:.1f} s"
    )


def _conditions(result: Result) -> str:
    where = result["conditions"]
    pinned = sorted({pin for pins in where["peers"].values() for pin in pins if not pin.startswith("numpy")})
    return (
        f"{_machine(result)} Python {where['python']}, onnxruntime {where['onnxruntime']} everywhere; "
        f"{', '.join(pinned)}."
    )


def _machine(result: Result) -> str:
    where = result["conditions"]
    entries = [entry for measured in result["models"].values() for entry in measured["servers"].values()]
    days = sorted({entry["date"] for entry in entries})
    others = [max(0.0, entry["others_cores"]) for entry in entries if "others_cores" in entry]
    return (
        f"{where['processor']}, {where['cores']} cores, {' and '.join(days)}, beside other processes that "
        f"used {min(others):.2f} to {max(others):.2f} cores."
    )


def summary(result: Result) -> str:
    """One row per server for the README: how much more foldserve answers, and what the tiny model takes."""
    models = list(result["models"])
    tiny = models[0]
    rows = [
        f"| server | {' | '.join(models)} | p99, {tiny} | CPU per request, {tiny} | memory, {tiny} |",
        "|---" * (len(models) + 4) + "|",
    ]
    first = ours(result, tiny)
    rates = " | ".join(f"{_rate(median(ours(result, model)['requests_per_s']))}/s" for model in models)
    memory = f"{first['memory_mb'][0]:.0f} to {first['memory_mb'][-1]:.0f} MB"
    times = f"{median(first['p99_ms']):.0f} ms | {median(first['cpu_ms']):.2f} ms"
    rows.append(f"| **{OURS}** | {rates} | {times} | {memory} |")
    for name in (name for name in PEERS if name not in FLOORS):
        entries = [servers(result, model).get(name, {}) for model in models]
        ratios = " | ".join(f"{entry['ratio']:.2f} ×" if "ratio" in entry else "–" for entry in entries)
        own = entries[0].get("peer")
        rows.append(f"| {name} | {ratios} | {_short(own) if own else '– | – | –'} |")
    return "\n".join([*rows, "", _machine(result)])


def _short(figures: dict[str, float]) -> str:
    return f"{figures['p99_ms']:.0f} ms | {figures['cpu_ms']:.2f} ms | {figures['memory_mb']:.0f} MB"


def picture(result: Result) -> Figure:
    """Each server's requests per second relative to foldserve's, model by model."""
    models = [model for model in result["models"] if servers(result, model)]
    with mpl.rc_context({"text.color": GREY, "xtick.color": GREY, "ytick.color": GREY}):
        figure = Figure(figsize=(9, 3.6), layout="constrained", facecolor="none")
        (axes,) = figure.subplots(1, len(models), sharey=True, squeeze=False)
        for axis, model in zip(axes, models, strict=True):
            measured = servers(result, model)
            names = [OURS, *(name for name in PEERS if name not in FLOORS)]
            ratios = [measured.get(name, {}).get("ratio") for name in names[1:]]
            bars = [1.0, *(1 / ratio if ratio else 0.0 for ratio in ratios)]
            colours = [OUR_COLOUR, *[THEIR_COLOUR] * len(ratios)]
            axis.barh(names, bars, color=colours)
            for row, bar in enumerate(bars):
                axis.text(bar, row, f" {bar:.2f}" if bar else " –", va="center", fontsize="small")
            axis.set_title(f"{model}, {result['models'][model]['callers']} callers", color=GREY)
            axis.set_xlim(0, 1.2 * max(bars))
            axis.set_facecolor("none")
            for side, spine in axis.spines.items():
                spine.set_visible(side == "left")
                spine.set_color(GREY)
            axis.set_xticks([])
        axes[0].invert_yaxis()
        figure.supxlabel("requests per second relative to foldserve's", fontsize="small", color=GREY)
    return figure


def main() -> None:
    """Write the tables of both READMEs and the picture."""
    result = json.loads((RESULTS / "peers.json").read_text())
    fill(HERE / "README.md", "peers", details(result))
    fill(HERE.parent / "README.md", "peers_summary", summary(result))
    with mpl.rc_context({"svg.hashsalt": "peers", "svg.fonttype": "none"}):
        picture(result).savefig(PICTURE, metadata={"Date": None})


if __name__ == "__main__":
    main()
