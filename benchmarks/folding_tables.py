"""The tables of README.md, made from results/folding_*.json."""

import json
from typing import Any

from folding_runs import HERE, OTHERS, OURS, RESULTS

README = HERE / "README.md"
TITLES = dict(zip(OURS, ("tier 0", "tier 1", "tier 2", "tier 3"), strict=True))


def totals(result: dict[str, Any]) -> str:
    """One row per tool: BatchNorms folded, failures, accuracy."""
    summary = result["summary"]
    rows = [
        f"| {summary['models']} models, {summary['batch_norms']} BatchNorms "
        "| folded | share | results not right | error, median | largest |",
        "|---|---|---|---|---|---|",
    ]
    for tool in (*reversed(OURS), *OTHERS):
        cell = summary["tools"][tool]
        name = f"**foldserve, {TITLES[tool]}**" if tool in OURS else tool
        share = cell["folded"] / summary["batch_norms"]
        rows.append(
            f"| {name} | {cell['folded']} | {share:.1%} | {cell['not_right']} "
            f"| {cell['median_ratio']:.2f} × | {cell['largest_ratio']:.2f} × |"
        )
    return "\n".join(rows)


def models(result: dict[str, Any]) -> str:
    """One row per model: the BatchNorms that stay after each tool."""
    tools = (*OURS, *OTHERS)
    rows = [
        f"| model | BatchNorms | {' | '.join(TITLES.get(tool, tool) for tool in tools)} |",
        "|---" * (len(tools) + 2) + "|",
    ]
    for name, row in sorted(result["models"].items()):
        cells = [_cell(row["tools"][tool]) for tool in tools]
        rows.append(f"| {name} | {row['batch_norms']} | {' | '.join(cells)} |")
    return "\n".join(rows)


def _cell(cell: dict[str, Any]) -> str:
    return str(cell["left"]) if cell["verdict"] == "right" else f"**{cell['verdict']}**"


def speed(result: dict[str, Any]) -> str:
    """Time and memory on ResNet-152, and time by depth."""
    large = result["resnet152"]
    rows = [
        f"| ResNet-152, {large['model_bytes'] / 1e6:.0f} MB "
        "| seconds | relative to foldserve | peak memory, model sizes |",
        "|---|---|---|---|",
    ]
    ours = large["seconds"]["foldserve"]
    for tool, seconds in large["seconds"].items():
        name = f"foldserve, {TITLES[tool]}" if tool in OURS else tool
        name = "onnxruntime, making a session" if tool == "onnxruntime" else name
        peak = large["peak_memory_in_model_sizes"][tool]
        rows.append(f"| {name} | {seconds:.2f} | {seconds / ours:.1f} × | {peak:.2f} |")
    rows += ["", "| nodes | tier | processor seconds | µs per node |", "|---|---|---|---|"]
    for tier, steps in result["depth"].items():
        rows += [
            f"| {step['nodes']} | {tier.removeprefix('tier ')} "
            f"| {step['seconds']:.2f} | {step['microseconds_per_node']:.0f} |"
            for step in steps
        ]
    return "\n".join(rows)


def with_tables(text: str) -> str:
    """``text`` with every table for which there is a result."""
    for file, makers in (
        ("folding_comparison", {"totals": totals, "models": models}),
        ("folding_comparison_zoo", {"totals": totals, "models": models}),
        ("folding_speed", {"tables": speed}),
    ):
        path = RESULTS / f"{file}.json"
        if path.exists():
            result = json.loads(path.read_text())
            for kind, maker in makers.items():
                begin, end = f"<!-- {file} {kind}:begin -->\n", f"<!-- {file} {kind}:end -->"
                before, rest = text.split(begin)
                text = before + begin + maker(result) + "\n" + end + rest.split(end)[1]
    return text


if __name__ == "__main__":
    README.write_text(with_tables(README.read_text()))
