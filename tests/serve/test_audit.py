"""The audit log: it only grows, shows what was changed, and survives a crash."""

from __future__ import annotations

import hashlib
import itertools
import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from crosscam.errors import DiskError, InputError
from crosscam.serve.audit import AuditLog


@pytest.fixture(autouse=True)
def _closed(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Closes every log that a test opens."""
    opened: list[AuditLog] = []
    start = AuditLog.__init__

    def remember(self: AuditLog, *args: object, **kwargs: object) -> None:
        start(self, *args, **kwargs)  # type: ignore[arg-type]
        opened.append(self)

    monkeypatch.setattr(AuditLog, "__init__", remember)
    yield
    for log in opened:
        log.close()


def filled(path: Path, count: int = 5) -> AuditLog:
    ticks = iter(range(1000, 9999))
    log = AuditLog(path, clock=lambda: float(next(ticks)))
    for i in range(count):
        log.append(
            "anna" if i % 2 else "bo", "viewer", "search", picture=f"{i:064x}", reason="test"
        )
    return log


def test_lines_are_chained_by_the_hash_of_the_line_before(tmp_path: Path) -> None:
    log = filled(tmp_path / "audit.jsonl")
    lines = (tmp_path / "audit.jsonl").read_bytes().splitlines()
    assert json.loads(lines[0])["previous"] == "0" * 64
    for before, line in itertools.pairwise(lines):
        assert json.loads(line)["previous"] == hashlib.sha256(before).hexdigest()
    assert log.verify() == 5


@pytest.mark.parametrize("change", ["edit", "remove", "insert", "swap"])
def test_a_change_by_hand_shows(change: str, tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    log = filled(path)
    lines = path.read_bytes().splitlines(keepends=True)
    if change == "edit":
        lines[2] = lines[2].replace(b"search", b"looked")
    elif change == "remove":
        del lines[2]
    elif change == "insert":
        lines.insert(2, lines[1])
    else:
        lines[1], lines[2] = lines[2], lines[1]
    path.write_bytes(b"".join(lines))
    with pytest.raises(InputError, match="does not follow"):
        log.verify()


def test_a_line_cut_short_by_a_crash_is_removed_and_the_chain_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    filled(path).close()
    with path.open("ab") as file:
        file.write(b'{"number":6,"who":"an')
    log = AuditLog(path)
    assert log.append("c", "admin", "forget", person=3)["number"] == 6
    assert log.verify() == 6


def test_entries_newest_first_and_by_whom(tmp_path: Path) -> None:
    log = filled(tmp_path / "a.jsonl")
    assert [e["number"] for e in log.entries(newest=2)] == [5, 4]
    assert [e["number"] for e in log.entries(who="anna")] == [4, 2]
    assert log.entries(action="forget") == []


def test_retention_keeps_the_rest_of_the_chain(tmp_path: Path) -> None:
    log = filled(tmp_path / "a.jsonl")
    assert log.trim(before=1003.0) == 3
    assert [e["number"] for e in log.entries()] == [5, 4]
    assert log.append("c", "viewer", "search")["number"] == 6
    assert log.verify() == 3
    assert log.trim(before=1e12) == 2
    assert log.append("c", "viewer", "search")["number"] == 7
    assert log.verify() == 2


def test_a_second_process_is_refused(tmp_path: Path) -> None:
    log = filled(tmp_path / "a.jsonl")
    with pytest.raises(InputError, match="another process"):
        AuditLog(tmp_path / "a.jsonl")
    log.close()
    AuditLog(tmp_path / "a.jsonl").close()


def test_threads_do_not_mix_their_lines(tmp_path: Path) -> None:
    log = AuditLog(tmp_path / "a.jsonl")
    threads = [
        threading.Thread(target=lambda: [log.append("t", "viewer", "search") for _ in range(20)])
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert log.verify() == 80


def test_a_full_disk_leaves_the_chain_whole(tmp_path: Path) -> None:
    resource = pytest.importorskip("resource")
    path = tmp_path / "audit.jsonl"
    log = filled(path)
    size = path.stat().st_size
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 20, hard))
    try:
        with pytest.raises(DiskError, match="all lines before this one"):
            log.append("c", "viewer", "search")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.stat().st_size == size
    assert log.append("c", "viewer", "search")["number"] == 6
    assert log.verify() == 6


def test_lines_cut_off_at_the_end_show(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    log = filled(path)
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:-1]))
    with pytest.raises(InputError, match="not the last one"):
        log.verify()


def test_a_line_that_cannot_be_read_hides_no_other_and_outlives_retention(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    log = filled(path)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:2], b'"nothing"\n', *lines[3:]]))
    assert [e["number"] for e in log.entries()] == [5, 4, 2, 1]
    assert log.trim(before=1003.0) == 2
    with pytest.raises(InputError, match="line 1 is not a line of the log"):
        log.verify()
