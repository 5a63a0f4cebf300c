"""What ONNX Runtime is told about running on CUDA, and what the GPU calls itself."""

import ctypes
import functools

from foldserve.settings import CudnnSearch

DRIVER_LIBRARY = "libcuda.so.1"
NAME_BYTES = 256


def cuda_options(search: CudnnSearch, *, tf32: bool = False, channels_last: bool = False) -> dict[str, str]:
    """Options of the CUDA provider, which by its own default rounds to ``tf32``: 10 bits of mantissa.

    With ``channels_last`` convolutions and poolings work on NHWC, the layout that tensor cores are made for;
    the provider moves the axes where the model wants NCHW.
    """
    return {
        "use_tf32": _switch(tf32),
        "prefer_nhwc": _switch(channels_last),
        "cudnn_conv_algo_search": search.upper(),
    }


def _switch(is_on: bool) -> str:
    return "1" if is_on else "0"


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
