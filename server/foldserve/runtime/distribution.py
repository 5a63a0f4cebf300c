"""Which distribution provides ONNX Runtime: exactly one, or the environment is broken."""

from collections.abc import Sequence
from importlib.metadata import packages_distributions

from foldserve.errors import ConfigurationError


def require_single_onnxruntime() -> str:
    """The name of the installed distribution that provides ``onnxruntime``.

    Raises :class:`ConfigurationError` when there is none, or more than one: they write into the same folder,
    so that what runs is a mixture of both. Call it before anything imports ONNX Runtime.
    """
    return single_provider(packages_distributions().get("onnxruntime", []))


def single_provider(distributions: Sequence[str]) -> str:
    """The one name in ``distributions``; raises :class:`ConfigurationError` for none and for several."""
    names = sorted(set(distributions))
    if not names:
        raise ConfigurationError(
            "ONNX Runtime is not installed; install it with: "
            "pip install 'foldserve[cpu]' (or 'foldserve[gpu]' where there is an NVIDIA GPU)"
        )
    if len(names) > 1:
        flavour = "gpu" if "onnxruntime-gpu" in names else "cpu"
        raise ConfigurationError(
            f"{len(names)} distributions provide ONNX Runtime and overwrite each other: {', '.join(names)}; "
            f"keep one: pip uninstall --yes {' '.join(names)} && pip install 'foldserve[{flavour}]'"
        )
    return names[0]
