"""The useful part of what ONNX Runtime and OpenVINO say.

Around the one sentence that tells what was wrong, their messages carry terminal colours, error numbers,
source positions of a build machine and C++ signatures.
"""

import re

_COLOUR = re.compile(r"\x1b\[[\d;]*m")
_NOISE = (
    re.compile(r"\[ONNXRuntimeError\] : \d+ : [A-Z_]+ : "),
    # a source position and the C++ signature behind it
    re.compile(r"\S*/onnxruntime/\S+:\d+ [^()]+\((?:[^()]|\([^()]*\))*\)(?: const)?(?: \[.*?\])? "),
    re.compile(r"\b\w+\.(?:cc|h):\d+ \w+ "),
    re.compile(r"^Load model from .*? failed: ?"),
    re.compile(r"^Exception during initialization: "),
    re.compile(r"^Failed to load library \S+ with error: "),
    # OpenVINO's, from here on
    re.compile(r"Exception from \S+:\d+:"),
    re.compile(r"Check '.*' failed at \S+:\d+:"),
    re.compile(r"FrontEnd API failed with \w+:"),
    re.compile(r"While validating (?:ONNX )?node '.*?'(?: with friendly_name|:) "),
    re.compile(r"Loading input model|Failed operations detailed log:|-- \S+ with a message:"),
    re.compile(r"Summary:(?:\s+-- Conversion is failed .*)?"),
)
_LOGGED_ERROR = re.compile(r"\[E:onnxruntime[^\]]*\] (.*)")


def useful_part(message: str) -> str:
    """``message`` on one line, without the runtime's own bookkeeping."""
    for pattern in _NOISE:
        message = pattern.sub("", message)
    return " ".join(message.split()).rstrip(".")


def first_logged_error(log: str) -> str:
    """The first error in the runtime's log output, or its last line if none is marked as an error."""
    log = _COLOUR.sub("", log).strip()
    match = _LOGGED_ERROR.search(log)
    return useful_part(match[1] if match else log.rpartition("\n")[2])
