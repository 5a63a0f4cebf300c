"""May requests share a run of a model? Only if a row's answer does not depend on the rows beside it.

The shapes must allow it (a first dimension that varies, in every input and output), and it is tried: a
network that normalises with the statistics of its batch, or that mixes its rows, has such shapes too.
"""

from collections.abc import Sequence

import numpy as np

from foldserve.errors import ExecutionFailed
from foldserve.parity.gate import keeps
from foldserve.parity.measures import distance
from foldserve.parity.probes import Probe
from foldserve.runtime.no_rows import rows_are_open
from foldserve.runtime.session import Session
from foldserve.settings import ParityBudget


def rows_are_independent(
    session: Session, probe: Probe, budget: ParityBudget, others: Sequence[Probe] = ()
) -> bool:
    """Whether rows of ``probe`` have the same answer, within the budget, by themselves as among the others.

    The first row, one in the middle and the last are tried: whatever mixes rows reaches one of them. A row
    that is one of ``others`` is asked for as that, which a session that remembers need not compute.
    """
    if not rows_are_open((*session.inputs, *session.outputs)):
        return False
    sizes = {array.shape[0] for array in probe.values()}
    if len(sizes) != 1 or (rows := sizes.pop()) < 2:
        return False
    try:
        together = session.run(probe)
        tried = sorted({0, rows // 2, rows - 1})
        alone = [session.run(_alone(probe, row, others)) for row in tried]
    except ExecutionFailed:
        return False
    return all(
        whole.shape[:1] == (rows,)
        and keeps(budget, distance(whole[tried], np.concatenate([outputs[index] for outputs in alone])))
        for index, whole in enumerate(together)
    )


def _alone(probe: Probe, row: int, others: Sequence[Probe]) -> Probe:
    single = {name: array[row : row + 1] for name, array in probe.items()}
    same = (one for one in others if all(np.array_equal(one[name], single[name]) for name in single))
    return next(same, single)
