"""Several models under one load, each with its share of the requests."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from foldserve_client.load.errors import LoadTestError

CYCLE = 1000
"""Requests after which the order of a mix repeats."""

MODEL = re.compile(r"(?P<name>[^=/]+)(/(?P<version>[^=/]+))?(=(?P<weight>.+))?")


@dataclass(frozen=True)
class Share:
    """A model and its weight in the mix; an empty version leaves the choice to the server."""

    model: str
    version: str = ""
    weight: float = 1.0

    def __str__(self) -> str:
        return f"{self.model}/{self.version}" if self.version else self.model


def parse_share(text: str) -> Share:
    """The share in ``MODEL``, ``MODEL/VERSION`` or ``MODEL/VERSION=WEIGHT``; raises LoadTestError."""
    found = MODEL.fullmatch(text)
    if found is None:
        raise LoadTestError(f"'{text}' is no model: give NAME, NAME/VERSION or NAME/VERSION=WEIGHT")
    try:
        weight = float(found["weight"] or 1)
    except ValueError:
        weight = 0.0
    if not 0 < weight < float("inf"):
        raise LoadTestError(f"'{text}': the weight must be a number above 0")
    return Share(found["name"], found["version"] or "", weight)


def order(weights: Sequence[float], length: int = CYCLE, seed: int = 0) -> NDArray[np.intp]:
    """Which model each request of a cycle is for: as near to the weights as ``length`` allows, shuffled.

    The remainders of rounding go to the models that lost most by it; each model comes at least once.
    """
    exact = np.asarray(weights, np.float64) / sum(weights) * length
    counts = np.maximum(np.floor(exact), 1).astype(np.intp)
    for index in np.argsort(counts - exact, kind="stable")[: max(length - int(counts.sum()), 0)]:
        counts[index] += 1
    models = np.repeat(np.arange(len(weights)), counts)
    return np.random.default_rng(seed).permutation(models)
