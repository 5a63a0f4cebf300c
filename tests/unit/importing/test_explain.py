"""What is said about failures that are hard to bring about with a real program."""

from itertools import pairwise

import pytest
from foldserve.importing.explain import explain


def _chain(*errors: Exception) -> Exception:
    for effect, cause in pairwise(errors):
        effect.__cause__ = cause
    return errors[0]


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (MemoryError(), "out of memory. Allow the import more"),
        (
            RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"),
            "out of memory (can't allocate",
        ),
        (
            _chain(RuntimeError("Failed to convert"), ValueError("axis 7 is out of range")),
            "ValueError: axis 7 is out of range",
        ),
        (
            _chain(
                RuntimeError("a page"),
                RuntimeError(
                    "Error when translating node %pad : call_function[aten.pad]. See the stack trace"
                ),
                TypeError("no\nreason"),
            ),
            "while translating %pad : call_function[aten.pad]: TypeError: no reason",
        ),
        (KeyError("x" * 2000), "KeyError: 'xxx"),
    ],
)
def test_the_first_cause_is_named_in_a_line(error: Exception, words: str) -> None:
    text = explain(error)
    assert text.startswith(words)
    assert "\n" not in text
    assert len(text) < 400
