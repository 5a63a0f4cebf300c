"""Writing the original of a model into a cache entry; apart, for it needs the graph library."""

from pathlib import Path

import onnx_ir as ir

from foldserve.parity.taps import tapped
from foldserve.serving.model_file import without_files
from foldserve.serving.original_record import ORIGINAL, REFERENCE, WEIGHTS, OriginalRecord


def write(model: ir.Model, folder: Path) -> OriginalRecord:
    """Write both graphs and their weights into ``folder``, which exists."""
    ir.save(without_files(model), folder / ORIGINAL, external_data=WEIGHTS)
    # Read again, its weights lie in the file, and whatever is saved refers to them there.
    original = ir.load(folder / ORIGINAL)
    with_taps = tapped(original)
    reference, layers = original, 0
    if with_taps is not None:
        reference, statistics = with_taps
        statistics.save(folder)
        layers = len(statistics.layers)
    ir.save(reference, folder / REFERENCE)
    return OriginalRecord(weights_bytes=(folder / WEIGHTS).stat().st_size, tapped_layers=layers)
