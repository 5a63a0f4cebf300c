"""The one door through which OpenVINO enters the server: only when it is asked for, and without telemetry.

As soon as it is imported, OpenVINO would report that to its makers, and write an id under the home folder.
"""

import functools
import importlib
import importlib.util
import sys
from types import ModuleType
from typing import Any

TELEMETRY = "openvino_telemetry"
"""The package that reports; OpenVINO does without where it is not there."""


def installed() -> bool:
    """Whether the package is there; it is not imported."""
    return importlib.util.find_spec("openvino") is not None


@functools.cache
def openvino() -> ModuleType:
    """The package; raises ImportError where it is not installed."""
    sys.modules[TELEMETRY] = ModuleType(TELEMETRY)
    return importlib.import_module("openvino")


@functools.cache
def core() -> Any:
    """The runtime itself, one for the whole process; may be used by several threads at once."""
    return openvino().Core()


@functools.cache
def cpu_capabilities() -> frozenset[str]:
    """What the CPU computes by itself, in OpenVINO's words: "FP32", "BF16"."""
    return frozenset(core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"))
