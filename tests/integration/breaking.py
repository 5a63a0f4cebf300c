"""Models of which a form answers wrongly, and callers who find out: for tests of what follows."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from foldserve.runtime.onnxruntime_session import OnnxRuntimeSession
from foldserve.server import Server
from foldserve.serving.servable import Servable
from foldserve.settings import ProviderChoice
from foldserve_client import Client
from numpy.typing import NDArray
from running import scraped
from small_models import add_model, batch_norm, chain, convolution
from watching import until, watching

POSITIVE = np.random.default_rng(5).uniform(0.1, 1, size=(1, 3, 8, 8)).astype(np.float32)


def servable(server: Server, name: str) -> Servable:
    return server._manager.servable(name)


class Caller:
    """Sends a model the same request again and again, one check after the other."""

    def __init__(self, watched: tuple[Server, Client], model: str, inputs: NDArray[np.float32]) -> None:
        self._server, self._client = watched
        self._model, self._inputs = model, inputs

    def until(self, condition: Callable[[], Any], what: str) -> None:
        """Send it until something holds."""

        def asked() -> Any:
            self._client.infer(self._model, self._inputs)
            until(lambda: not self._server._manager._shadowing._worker._waiting, "the check ends")
            return condition()

        until(asked, what)


def of_net(name: str, **labels: str) -> tuple[str, frozenset[tuple[str, str]]]:
    return name, frozenset({"model": "net", "version": "1", **labels}.items())


def padded_then_pooled() -> ir.Model:
    """What ONNX Runtime's Pad_Fusion gets wrong for negative values: the gate leaves that out."""
    weight = np.random.default_rng(0).uniform(0.1, 1, size=(4, 3, 3, 3)).astype(np.float32)
    one = np.ones(4, np.float32)
    return chain(
        ["batch", 3, 8, 8],
        ("Conv", [weight], {}),
        ("BatchNormalization", [1.5 * one, 0 * one, 0 * one, one], {}),
        ("Pad", [np.array([0, 0, 1, 1, 0, 0, 1, 1], np.int64)], {}),
        ("MaxPool", [], {"kernel_shape": [3, 3], "strides": [2, 2]}),  # type: ignore[dict-item]  # ints
    )


def disputes(server: Server, verdict: str) -> float:
    return scraped(server).get(of_net("foldserve_parity_disputes_total", verdict=verdict), 0)


def sensitive() -> ir.Model:
    """A bias that the mean takes away again: what is left of a small input in float32 is mostly rounding."""
    one = np.ones(4, np.float32)
    weight = np.random.default_rng(1).normal(size=(4, 3, 3, 3)).astype(np.float32)
    return chain(
        ["batch", 3, 8, 8],
        ("Conv", [weight, 20 * one], {}),
        ("BatchNormalization", [one, 0 * one, 20 * one, one], {}),
    )


def plant(server: Server, name: str, model: ir.Model) -> None:
    """Have ``model`` answer in place of the fold."""
    servable(server, name)._batcher.use(in_session(model))


def in_session(model: ir.Model) -> OnnxRuntimeSession:
    return OnnxRuntimeSession(
        ir.to_proto(model).SerializeToString(), provider=ProviderChoice.CPU, optimise=False
    )


def scaled(model: ir.Model, factor: float) -> ir.Model:
    """The model with its first constant multiplied."""
    copy = model.clone()
    name, value = next(iter(copy.graph.initializers.items()))
    assert value.const_value is not None
    value.const_value = ir.tensor(value.const_value.numpy() * np.float32(factor), name=name)
    return copy


def foldable() -> ir.Model:
    """A convolution and its BatchNorm."""
    return chain(["batch", 3, 8, 8], convolution(3), batch_norm())


@contextmanager
def serving_net(folder: Path, model: ir.Model) -> Iterator[tuple[Server, Client]]:
    """A server of one model, "net", whose answers are all compared."""
    add_model(folder / "repository", "net", model)
    with watching(folder / "repository", cache_dir=folder / "cache") as pair:
        yield pair
