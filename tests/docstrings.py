"""Runs the examples in docstrings, ``await`` among them, as ``python -m asyncio`` would."""

import ast
import asyncio
import contextlib
import doctest
import inspect
import io
import traceback
from typing import Any

CHECKER = doctest.OutputChecker()


def examples(docstring: str | None) -> list[doctest.Example]:
    """What a docstring shows."""
    return doctest.DocTestParser().get_examples(inspect.cleandoc(docstring or ""))


def check(shown: list[doctest.Example], known: dict[str, Any], runner: asyncio.Runner) -> None:
    """Run examples one after the other; raises AssertionError where one gives something else."""
    for example in shown:
        got = _given(example.source, known, runner)
        told = doctest.Example(example.source, example.want)
        assert CHECKER.check_output(example.want, got, doctest.ELLIPSIS), (
            CHECKER.output_difference(told, got, doctest.ELLIPSIS) + f"from {example.source}"
        )


def _given(source: str, known: dict[str, Any], runner: asyncio.Runner) -> str:
    """What an interpreter would print; of an exception its last line, as examples show it."""
    code = compile(source, "<example>", "single", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        try:
            given = eval(code, known)
            if inspect.iscoroutine(given):
                runner.run(given)
        except Exception as error:
            print("Traceback (most recent call last):")
            print(*traceback.format_exception_only(error), end="")
    return printed.getvalue()
