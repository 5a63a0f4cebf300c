"""From torch's exceptions, a page each, to a sentence that names the cause and what to do."""

import re

_LONGEST = 300

_KNOWN: tuple[tuple[str, str], ...] = (
    (
        r"No ONNX function found for <OpOverload\(op='([^']+)'",
        "operator {} has no ONNX counterpart. Rewrite the model without it and export it again",
    ),
    (
        r"failed to resolve torch\.ops\.(\S+) to an operator",
        "operator {} is unknown to torch here: it comes from an extension or another version of torch. "
        "Rewrite the model with torch's own operators and export it again",
    ),
    (
        r"Deserializing (\S+) in pytree is not registered",
        "the model takes or returns {}, a type that only its own library knows. "
        "Wrap the model so that it takes and returns tensors, tuples or dicts, and export it again",
    ),
    (
        r"(Serialized schema version .*)",
        "{} The program was saved by another version of torch: save it again with the one installed here",
    ),
    (
        r"(can't allocate memory|bad_alloc|Unable to allocate|Cannot allocate memory)",
        "out of memory ({}). Allow the import more of it, or export the model to ONNX on a larger machine",
    ),
    (
        r"Error when translating node return \((.*?)\)\. See",
        "not all outputs ({}) are tensors. Return only tensors and export the model again",
    ),
)
"""What torch writes, and what it means; the first that matches is taken."""


def explain(error: BaseException) -> str:
    """The cause of ``error`` and what to do, in a sentence or two."""
    chain = [error]
    while (cause := chain[-1].__cause__) is not None:
        chain.append(cause)
    everything = "\n".join(str(link) for link in chain)
    for pattern, meaning in _KNOWN:
        if found := re.search(pattern, everything):
            return meaning.format(found[1])
    if isinstance(chain[-1], MemoryError):
        return "out of memory. Allow the import more of it, or export the model to ONNX on a larger machine"
    node = re.search(r"Error when translating node (%\w+ .*?)\. See", everything)
    where = f"while translating {_shortened(node[1])}: " if node else ""
    return f"{where}{type(chain[-1]).__name__}: {_shortened(str(chain[-1]))}"


def _shortened(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _LONGEST else f"{line[:_LONGEST]}…"
