"""A report as one web page that needs nothing else: for a browser, a phone, an e-mail."""

import onnx_ir as ir
from markupsafe import Markup

from foldserve.commands import display
from foldserve.commands.drawing import draw
from foldserve.commands.neighbourhood import Graphs
from foldserve.commands.report import ModelReport
from foldserve.folding.report import FoldSite, Outcome
from foldserve.templates import render

TEMPLATE = "fold_report.html.j2"


def page(report: ModelReport, original: ir.Model, folded: ir.Model) -> str:
    """The report as HTML, with a picture of the graph before and after around every site that folded.

    The nodes of both models must have the names that the report has for them.
    """
    graphs = Graphs(original, folded, report.fold.sites)
    return render(
        TEMPLATE,
        report=report,
        facts=display.facts(report),
        operators=display.operator_counts(report.fold),
        sites=[
            {
                "site": site,
                "name": display.site_name(site),
                "outcome": display.site_outcome(site),
                "scale": display.scale_range(site),
                "parity": report.parity_of(site),
                "pictures": _pictures(graphs, site),
            }
            for site in report.fold.sites
        ],
    )


def _pictures(graphs: Graphs, site: FoldSite) -> list[tuple[str, Markup]]:
    """Captions and pictures; SVG that :mod:`~foldserve.commands.drawing` has escaped itself."""
    around = graphs.around(site) if site.outcome is Outcome.FOLDED else None
    captions = ("before", "after")
    return [
        (caption, Markup(draw(graph, f"{site.name}, {caption}")))
        for caption, graph in zip(captions, around or (), strict=False)
        if graph.boxes
    ]
