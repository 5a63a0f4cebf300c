"""Marks: left by processes that end while they open a model, and by no others."""

from pathlib import Path

from foldserve.serving.marks import ends_under, forgive, leave, under
from unit.serving.openers import ends_while_opening


def test_processes_that_end_leave_one_each_until_somebody_lives(tmp_path: Path) -> None:
    marks = tmp_path / "opening" / "key"
    assert ends_under(marks) == 0
    ends_while_opening(marks)
    leave(marks)
    assert ends_under(marks) == 2
    with under(marks) as is_marked:
        assert is_marked
        assert ends_under(marks) == 2
    assert not marks.exists()


def test_whoever_opens_it_at_the_same_time_has_not_ended(tmp_path: Path) -> None:
    """Servers that share a cache."""
    with under(tmp_path / "key"):
        with under(tmp_path / "key"):
            assert ends_under(tmp_path / "key") == 0
        assert ends_under(tmp_path / "key") == 0
    assert not (tmp_path / "key").exists()


def test_a_process_that_is_stopped_meanwhile_leaves_none(tmp_path: Path) -> None:
    with under(tmp_path / "key"):
        forgive()
        assert list((tmp_path / "key").iterdir()) == []


def test_where_nothing_can_be_written_there_are_none(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with under(tmp_path / "file" / "key") as is_marked:
        assert not is_marked
    leave(tmp_path / "file" / "key")
    assert ends_under(tmp_path / "file" / "key") == 0
