"""Methods that are answered later, called like any other."""

from collections.abc import Callable
from typing import Any

import pytest
from foldserve.rpc.calls import begin_of, deferred
from foldserve.rpc.outcome import Caller


def test_a_deferred_method_is_a_method_too() -> None:
    class Servicer:
        @deferred
        def method(self, request: int, _caller: Caller, done: Callable[[str | Exception], None]) -> None:
            done(str(request) if request else ValueError("nothing"))

        def other(self, request: int) -> None:
            """No deferred one."""

    servicer = Servicer()
    context: Any = None
    assert servicer.method(7, context) == "7"
    with pytest.raises(ValueError, match="nothing"):
        servicer.method(0, context)
    told: list[object] = []
    begin = begin_of(servicer.method)
    assert begin is not None
    begin(8, context, told.append)
    assert told == ["8"]
    assert begin_of(servicer.other) is None
