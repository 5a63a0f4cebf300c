"""Entries of the cache: whole, or not there."""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from foldserve import disk_cache
from foldserve.disk_cache import (
    ENTRY,
    HASHING_THREADS,
    PIECE_BYTES,
    digest_of,
    draft,
    entry_key,
    prune,
    read_entry,
    write_entry,
)
from pydantic import BaseModel, ConfigDict


class Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")

    answer: float


def _make(into: Path) -> Record:
    (into / "weights").write_bytes(b"0123456789")
    return Record(answer=float("inf"))


def test_what_was_written_is_read(tmp_path: Path) -> None:
    assert write_entry(tmp_path / "a", _make) == Record(answer=float("inf"))
    assert read_entry(tmp_path / "a", Record) == Record(answer=float("inf"))
    assert (tmp_path / "a" / "weights").read_bytes() == b"0123456789"


@pytest.mark.parametrize(("processors", "threads"), [(1, 1), (2, 2), (64, HASHING_THREADS)])
def test_a_large_file_is_hashed_by_no_more_threads_than_there_are_processors(
    processors: int, threads: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []

    def pool(most: int, name: str) -> ThreadPoolExecutor:
        asked.append(most)
        return ThreadPoolExecutor(most, name)

    monkeypatch.setattr(disk_cache, "available_cpus", lambda: processors)
    monkeypatch.setattr(disk_cache, "ThreadPoolExecutor", pool)
    file = tmp_path / "weights"
    with file.open("wb") as stream:
        stream.truncate(PIECE_BYTES + 1)
    assert len(digest_of(file)) == 64
    assert asked == [threads]


def test_nothing_is_no_entry(tmp_path: Path) -> None:
    assert read_entry(tmp_path / "a", Record) is None


@pytest.mark.parametrize("name", ["weights", ENTRY])
def test_every_flipped_bit_is_noticed(name: str, tmp_path: Path) -> None:
    def make(into: Path) -> Record:
        (into / "weights").write_bytes(b"01")
        return Record(answer=1.5)

    write_entry(tmp_path / "a", make)
    file = tmp_path / "a" / name
    whole = file.read_bytes()
    for position in range(len(whole)):
        for bit in (0, 4):
            damaged = bytearray(whole)
            damaged[position] ^= 1 << bit
            file.write_bytes(damaged)
            found = read_entry(tmp_path / "a", Record)
            assert found is None or (found == Record(answer=1.5) and name == ENTRY)
    file.write_bytes(whole[:-1])
    assert read_entry(tmp_path / "a", Record) is None


def test_a_missing_file_is_noticed(tmp_path: Path) -> None:
    write_entry(tmp_path / "a", _make)
    (tmp_path / "a" / "weights").unlink()
    assert read_entry(tmp_path / "a", Record) is None


def test_a_new_entry_takes_the_place_of_a_damaged_one(tmp_path: Path) -> None:
    write_entry(tmp_path / "a", _make)
    (tmp_path / "a" / "weights").write_bytes(b"x")
    write_entry(tmp_path / "a", _make)
    assert read_entry(tmp_path / "a", Record) is not None
    assert [child.name for child in tmp_path.iterdir()] == ["a"]


def test_a_maker_that_fails_leaves_nothing(tmp_path: Path) -> None:
    def fail(into: Path) -> Record:
        (into / "half").write_bytes(b"")
        raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        write_entry(tmp_path / "a", fail)
    assert list(tmp_path.iterdir()) == []


def test_a_draft_that_is_not_kept_is_gone(tmp_path: Path) -> None:
    with draft(tmp_path / "a") as made:
        _make(made.folder)
        made.hash_files()
    assert list(tmp_path.iterdir()) == []


def test_files_that_were_hashed_ahead_are_hashed_as_the_others(tmp_path: Path) -> None:
    with draft(tmp_path / "a") as made:
        record = _make(made.folder)
        made.hash_files()
        (made.folder / "later").write_bytes(b"x")
        made.keep(record)
    assert read_entry(tmp_path / "a", Record) == record
    (tmp_path / "a" / "later").write_bytes(b"y")
    assert read_entry(tmp_path / "a", Record) is None


def test_what_is_changed_after_it_was_hashed_is_no_entry(tmp_path: Path) -> None:
    with draft(tmp_path / "a") as made:
        record = _make(made.folder)
        made.hash_files()
        (made.folder / "weights").write_bytes(b"another")
        made.keep(record)
    assert read_entry(tmp_path / "a", Record) is None


def test_every_piece_of_a_large_file_counts_at_its_place(tmp_path: Path) -> None:
    file = tmp_path / "large"
    content = bytearray(2 * PIECE_BYTES + 1)
    content[PIECE_BYTES] = 1
    digests = set()
    for position in (0, PIECE_BYTES - 1, 2 * PIECE_BYTES - 1, 2 * PIECE_BYTES):
        changed = bytearray(content)
        changed[position] ^= 1
        file.write_bytes(changed)
        digests.add(digest_of(file))
    swapped = content[PIECE_BYTES : 2 * PIECE_BYTES] + content[:PIECE_BYTES] + content[2 * PIECE_BYTES :]
    for other in (content, content[:-1], content[:PIECE_BYTES], b"", swapped):
        file.write_bytes(other)
        digests.add(digest_of(file))
    assert len(digests) == 9


def test_keys_tell_contents_and_versions_apart() -> None:
    keys = {
        entry_key(["ab"]),
        entry_key(["a", "b"]),
        entry_key(["ab"], ["numpy"]),
        entry_key(["ab"], ["not-installed"]),
    }
    assert len(keys) == 4
    assert entry_key(["ab"]) == entry_key(["ab"])


def test_what_was_used_longest_ago_goes_first(tmp_path: Path) -> None:
    for age, name in enumerate(["a", "b", "c", "d"]):
        write_entry(tmp_path / "models" / name, _make)
        os.utime(tmp_path / "models" / name / ENTRY, (age, age))
    assert read_entry(tmp_path / "models" / "a", Record) is not None  # used just now
    size = sum(file.stat().st_size for file in (tmp_path / "models" / "a").iterdir())
    prune(tmp_path, 2 * size)
    assert sorted(child.name for child in (tmp_path / "models").iterdir()) == ["a", "d"]


def test_what_was_made_just_now_stays_for_whoever_is_about_to_open_it(tmp_path: Path) -> None:
    write_entry(tmp_path / "models" / "a", _make)
    prune(tmp_path, 0)
    assert read_entry(tmp_path / "models" / "a", Record) is not None
    os.utime(tmp_path / "models" / "a" / ENTRY, (1, 1))
    prune(tmp_path, 0)
    assert list((tmp_path / "models").iterdir()) == []


def test_what_was_never_finished_goes_when_nobody_can_be_at_it_any_more(tmp_path: Path) -> None:
    def interrupted(into: Path) -> Record:
        os.utime(into.parent, (1, 1))
        prune(tmp_path, 10**9)
        assert not into.exists()
        raise KeyboardInterrupt

    def at_work(into: Path) -> Record:
        prune(tmp_path, 0)
        return _make(into)

    with pytest.raises(KeyboardInterrupt):
        write_entry(tmp_path / "models" / "a", interrupted)
    write_entry(tmp_path / "models" / "b", at_work)
    assert [child.name for child in (tmp_path / "models").iterdir()] == ["b"]


def test_an_entry_that_somebody_else_made_in_the_meantime_stays(tmp_path: Path) -> None:
    """Two loads of one model at the same time: neither may take the files away under the other."""

    def make_late(into: Path) -> Record:
        write_entry(tmp_path / "a", _make)
        (into / "weights").write_bytes(b"other")
        return Record(answer=2.0)

    assert write_entry(tmp_path / "a", make_late) == Record(answer=float("inf"))
    assert (tmp_path / "a" / "weights").read_bytes() == b"0123456789"
