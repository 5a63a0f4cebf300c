"""Execution providers: what was asked for, what this machine has, and so what is taken.

ONNX Runtime lists CUDA as available wherever it was built with it, and falls back to the CPU without an
exception where CUDA cannot be loaded. So a probe really runs a convolution on CUDA, in a child process: there
the runtime's complaints can be read instead of littering the terminal, and a driver that hangs or crashes
takes nobody with it.
"""

import ctypes
import functools
import subprocess
import sys
from dataclasses import dataclass

from foldserve.errors import ProviderUnavailable
from foldserve.runtime.cuda import DRIVER_LIBRARY
from foldserve.runtime.messages import first_logged_error
from foldserve.runtime.onnxruntime_module import CUDA_PROVIDER, onnxruntime
from foldserve.runtime.session import Provider
from foldserve.settings import ProviderChoice

PROBE_TIMEOUT_S = 120.0


@dataclass(frozen=True)
class CudaProbe:
    """What was found out about CUDA here; each check is made only where those before it passed."""

    offered: bool
    """The installed ONNX Runtime was built with CUDA."""

    driver_error: str = ""
    """Why NVIDIA's driver cannot be loaded; empty if it can."""

    session_error: str = ""
    """Why a session does not run on CUDA; empty if it does."""


def choose_provider(requested: ProviderChoice, probe: CudaProbe) -> Provider:
    """The provider for a request: ``auto`` takes CUDA only where it really runs.

    Raises :class:`ProviderUnavailable` where CUDA is demanded and does not run: the reason and the remedy.
    """
    if requested is ProviderChoice.CPU:
        return Provider.CPU
    reason = _why_not_cuda(probe)
    if not reason:
        return Provider.CUDA
    if requested is ProviderChoice.AUTO:
        return Provider.CPU
    raise ProviderUnavailable(
        f"provider 'cuda' was requested, but {reason}; or choose provider 'auto' or 'cpu'"
    )


def resolve_provider(requested: ProviderChoice) -> Provider:
    """:func:`choose_provider` on this machine, which is examined once per process and never for ``cpu``."""
    return Provider.CPU if requested is ProviderChoice.CPU else choose_provider(requested, probe_cuda())


@functools.cache
def probe_cuda() -> CudaProbe:
    """Find out, once per process, whether sessions run on CUDA here."""
    if CUDA_PROVIDER not in onnxruntime.get_available_providers():
        return CudaProbe(offered=False)
    try:
        ctypes.CDLL(DRIVER_LIBRARY)
    except OSError as error:
        return CudaProbe(offered=True, driver_error=str(error))
    return CudaProbe(offered=True, session_error=attempt_in_child())


def attempt_in_child(timeout_s: float = PROBE_TIMEOUT_S) -> str:
    """Why a child process cannot run a convolution on CUDA; empty if it can."""
    command = [sys.executable, "-P", "-m", "foldserve.runtime.cuda_attempt"]
    try:
        child = subprocess.run(command, capture_output=True, text=True, timeout=timeout_s, check=False)
    except subprocess.TimeoutExpired:
        return f"a first session did not answer within {timeout_s:g} s"
    if child.returncode == 0:
        return ""
    return first_logged_error(child.stderr) or f"a first session ended with exit status {child.returncode}"


def _why_not_cuda(probe: CudaProbe) -> str:
    if not probe.offered:
        return "the installed ONNX Runtime is built without CUDA: install foldserve[gpu], not foldserve[cpu]"
    if probe.driver_error:
        return f"NVIDIA's driver is missing ({probe.driver_error}): install it, or give the container the GPU"
    if probe.session_error:
        return (
            f"no session runs on it ({probe.session_error}): "
            "install the CUDA and cuDNN libraries that this ONNX Runtime needs"
        )
    return ""
