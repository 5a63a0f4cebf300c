"""The one door through which ONNX Runtime enters the server: quiet, and without telemetry.

From version 1.31 on ONNX Runtime writes a device id and an event store under the home folder as soon as it is
imported, unless the environment forbids it first.
"""

import os

os.environ["ORT_DISABLE_TELEMETRY"] = "1"

import onnxruntime

CUDA_PROVIDER = "CUDAExecutionProvider"
CPU_PROVIDER = "CPUExecutionProvider"

LOG_ERRORS = 3
LOG_NOTHING = 4
"""Log severities. What the runtime logs as an error it also raises, so that the log would only repeat it."""

onnxruntime.set_default_logger_severity(LOG_NOTHING)

__all__ = ["CPU_PROVIDER", "CUDA_PROVIDER", "LOG_ERRORS", "LOG_NOTHING", "onnxruntime"]
