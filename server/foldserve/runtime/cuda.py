"""What ONNX Runtime is told about running on CUDA, and what the GPU calls itself."""

import ctypes
import functools

from foldserve.settings import CudnnSearch, ParityBudget

DRIVER_LIBRARY = "libcuda.so.1"
NAME_BYTES = 256

TF32_RELATIVE_L2 = 2e-3
"""About what TF32 moves answers by: 10 bits of mantissa, several layers deep."""


def cuda_options(budget: ParityBudget, search: CudnnSearch) -> dict[str, str]:
    """Options of the CUDA provider; TF32 only within the budget, which by default is far too strict for it.

    The proof at load has the last word, on the very session that has these options.
    """
    return {
        "use_tf32": "1" if budget.relative_l2 >= TF32_RELATIVE_L2 else "0",
        "cudnn_conv_algo_search": search.upper(),
    }


@functools.cache
def device_name() -> str:
    """What the first GPU, on which sessions run, calls itself; empty where the driver does not tell."""
    try:
        driver = ctypes.CDLL(DRIVER_LIBRARY)
    except OSError:
        return ""
    name = ctypes.create_string_buffer(NAME_BYTES)
    device = ctypes.c_int()
    failed = driver.cuInit(0) or driver.cuDeviceGet(ctypes.byref(device), 0)
    return "" if failed or driver.cuDeviceGetName(name, NAME_BYTES, device) else name.value.decode()
