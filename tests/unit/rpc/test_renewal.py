"""Files that are read again: when what they say counts, and when it does not."""

import threading
from collections.abc import Sequence
from pathlib import Path

import pytest
from foldserve.errors import ConfigurationError
from foldserve.rpc import renewal
from foldserve.rpc.renewal import Renewals, Renewed
from structlog.testing import capture_logs


def _number(contents: Sequence[bytes]) -> int:
    try:
        return int(contents[0])
    except ValueError:
        raise ConfigurationError("this is no number") from None


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "number").write_text("1")
    return tmp_path / "number"


def test_a_change_counts_once_two_looks_find_the_same(file: Path) -> None:
    renewed = Renewed("the number", [file], _number)
    assert renewed.value == 1
    for text, seen in (("2", 1), ("23", 1), ("23", 23), ("23", 23)):
        file.write_text(text)
        renewed.look()
        assert renewed.value == seen


def test_what_makes_no_sense_or_is_gone_leaves_the_last_that_did_and_is_told_once(file: Path) -> None:
    renewed = Renewed("the number", [file], _number)
    with capture_logs() as lines:
        file.write_text("one")
        for _ in range(4):
            renewed.look()
        file.unlink()
        for _ in range(4):
            renewed.look()
        assert renewed.value == 1
        file.write_text("3")
        for _ in range(4):
            renewed.look()
    assert renewed.value == 3
    assert [(line["log_level"], line.get("reason", "")) for line in lines] == [
        ("error", "this is no number"),
        ("error", f"{file} cannot be read: No such file or directory"),
        ("info", ""),
    ]


def test_what_comes_back_as_it_was_is_no_change(file: Path) -> None:
    renewed = Renewed("the number", [file], _number)
    file.write_text("one")
    renewed.look()
    renewed.look()
    file.write_text("1")
    with capture_logs() as lines:
        renewed.look()
        renewed.look()
    assert renewed.value == 1
    assert [line["event"] for line in lines] == ["the number renewed"]


def test_at_the_start_it_must_be_right(file: Path) -> None:
    file.write_text("one")
    with pytest.raises(ConfigurationError, match="this is no number"):
        Renewed("the number", [file], _number)
    with pytest.raises(ConfigurationError, match="nowhere cannot be read: No such file"):
        Renewed("the number", [file.with_name("nowhere")], _number)


def test_a_look_that_fails_stops_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(renewal, "LOOK_EVERY_S", 0.001)
    looked = threading.Event()

    class Failing:
        def look(self) -> None:
            raise ZeroDivisionError

    class Looking:
        looks = 0

        def look(self) -> None:
            self.looks += 1
            if self.looks == 3:
                looked.set()

    renewals = Renewals([Failing(), Looking()])
    renewals.start()
    assert looked.wait(30)
    renewals.close()
    renewals.close()
