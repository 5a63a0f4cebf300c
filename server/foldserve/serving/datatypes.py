"""The protocol's element types and numpy's, side by side."""

import ml_dtypes
import numpy as np

DTYPES: dict[str, np.dtype[np.generic]] = {
    "BOOL": np.dtype(np.bool_),
    "UINT8": np.dtype(np.uint8),
    "UINT16": np.dtype(np.uint16),
    "UINT32": np.dtype(np.uint32),
    "UINT64": np.dtype(np.uint64),
    "INT8": np.dtype(np.int8),
    "INT16": np.dtype(np.int16),
    "INT32": np.dtype(np.int32),
    "INT64": np.dtype(np.int64),
    "FP16": np.dtype(np.float16),
    "FP32": np.dtype(np.float32),
    "FP64": np.dtype(np.float64),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "BYTES": np.dtype(np.object_),
}
"""KServe V2 datatype name → numpy dtype; BYTES are object arrays of ``bytes``."""

_NAMES = {dtype: name for name, dtype in DTYPES.items()}


def datatype_name(dtype: np.dtype[np.generic]) -> str:
    """The protocol's name of a numpy dtype; raises KeyError for a type that the protocol does not have."""
    return _NAMES[dtype]
