"""The result of a soak as a file and as a picture."""

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

PANELS = {
    "rss_mb": "resident memory, MB",
    "files": "open files",
    "threads": "threads",
}


def write(result: dict[str, Any], folder: Path) -> None:
    """Write ``soak.json`` and ``soak.svg`` into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "soak.json").write_text(json.dumps(_rounded(result)) + "\n")
    with mpl.rc_context({"svg.hashsalt": "soak", "svg.fonttype": "none"}):
        picture(result).savefig(folder / "soak.svg", metadata={"Date": None})


def picture(result: dict[str, Any]) -> Figure:
    """Each thing that may not grow over time, the second half shaded, and how much the callers did."""
    samples = result["samples"]
    minutes = [sample["at_s"] / 60 for sample in samples]
    figure = Figure(figsize=(9, 9), layout="constrained")
    axes = figure.subplots(len(PANELS) + 1, sharex=True)
    for axis, (name, label) in zip(axes[:-1], PANELS.items(), strict=True):
        axis.plot(minutes, [sample[name] for sample in samples], linewidth=1)
        axis.set_ylim(bottom=0)
        axis.set_ylabel(label)
        growth, most = result["growth_per_minute"][name], result["most_growth_per_minute"][name]
        axis.set_title(
            f"lowest values of the second half: {growth:+.2f} in a minute (at most {most:g})",
            fontsize="small",
            loc="right",
        )
        axis.axvspan(minutes[len(minutes) // 2], minutes[-1], alpha=0.08)
    rates = [
        (later["acts"] - earlier["acts"]) / (later["at_s"] - earlier["at_s"])
        for earlier, later in pairwise(samples)
    ]
    axes[-1].plot(minutes[1:], rates, linewidth=1)
    axes[-1].set_ylim(bottom=0)
    axes[-1].set_ylabel("callers' acts per second")
    axes[-1].set_xlabel("minutes")
    return figure


def _rounded(value: Any) -> Any:
    """The same with as many digits as mean something, so that the file stays small."""
    match value:
        case float():
            return round(value, 3)
        case dict():
            return {name: _rounded(one) for name, one in value.items()}
        case list():
            return [_rounded(one) for one in value]
        case _:
            return value
