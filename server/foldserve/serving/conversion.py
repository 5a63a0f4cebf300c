"""Models in the precision that an engine wants: which conversion, and what that needs."""

from pathlib import Path

from foldserve.converting.float16 import to_float16
from foldserve.converting.int8 import quantise
from foldserve.errors import UnsupportedModel
from foldserve.parity.probes import ProbeSet
from foldserve.parity.report import ProbeSource
from foldserve.runtime.cpus import cpu_features
from foldserve.settings import Precision

EXACT_INT8 = frozenset({"avx512_vnni", "avx_vnni", "amx_int8", "asimddp"})
"""Features of processors that add up products of 8 bits in 32; without them the sums saturate at 16."""


def convert(model: Path, precision: Precision, probes: ProbeSet, destination: Path) -> None:
    """Write ``model`` in ``precision``, int8 or float16, to ``destination``.

    int8 is calibrated on every other batch of ``probes``, which must be the model's own samples: what is
    proven on all of them is proven on inputs unseen as well. Raises
    :class:`~foldserve.errors.LoadFailed` where the model cannot be converted, and OSError.
    """
    if precision is Precision.FLOAT16:
        to_float16(model, destination)
        return
    if probes.source is not ProbeSource.SAMPLES:
        raise UnsupportedModel(
            "int8 is calibrated on inputs as the model gets them, and it has none of its own; "
            "put samples.npz into its folder"
        )
    reduce_range = cpu_features().isdisjoint(EXACT_INT8)
    quantise(model, probes.probes[1::2] or probes.probes, destination, reduce_range=reduce_range)
