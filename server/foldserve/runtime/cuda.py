"""What ONNX Runtime is told about running on CUDA, and what the GPU calls itself."""

import ctypes
import functools

from foldserve.settings import CudnnSearch

DRIVER_LIBRARY = "libcuda.so.1"
NAME_BYTES = 256


def cuda_options(search: CudnnSearch, *, tf32: bool = False) -> dict[str, str]:
    """Options of the CUDA provider, which by its own default rounds to ``tf32``: 10 bits of mantissa."""
    return {"use_tf32": "1" if tf32 else "0", "cudnn_conv_algo_search": search.upper()}


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
