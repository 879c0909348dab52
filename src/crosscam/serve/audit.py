"""Who searched for whom, when and why: a log that only grows.

One JSON object a line.  Each line carries the SHA-256 of the line before it, so that a line
changed, removed or put between shows; lines cut off at the end show as long as the log is open.
Whoever may write to the file and takes the trouble can make all hashes anew: copy the log to a
place that the service cannot write to, if that matters.  A line is on the disk before the answer
goes out.  Lines name people and sightings by id and pictures by hash, never by name or content:
what is forgotten in the gallery leaves nothing to read here, but for what somebody wrote as a
reason.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from crosscam.errors import InputError
from crosscam.files import disk_errors, private_folder, replacing

__all__ = ["AuditLog", "entry_of", "lines_of"]

_START = "0" * 64


class AuditLog:
    """The log in the file ``path``; made if there is none.

    A line that a crash cut short was never acknowledged and is removed on opening.  One process
    at a time may hold the log.

    Raises:
        InputError: another process holds it.
    """

    def __init__(self, path: Path, clock: Callable[[], float] = time.time) -> None:
        self.path, self.clock = path, clock
        self._lock = threading.Lock()
        with disk_errors(path, "none"):
            private_folder(path.parent)
            self._file = path.open("a+b", buffering=0)
        _hold(self._file, path)
        path.chmod(0o600)
        self._last, self._number = _START, 0
        self._recover()

    def append(self, who: str, role: str, action: str, **details: Any) -> dict[str, Any]:
        """Adds a line and returns it once it is on the disk.

        Args:
            who: name of the token.
            role: its role.
            action: what was done, as ``search``.
            details: plain values; ids and hashes, no content.
        """
        with self._lock:
            entry = {
                "number": self._number + 1,
                "time": round(self.clock(), 3),
                "who": who,
                "role": role,
                "action": action,
                **details,
                "previous": self._last,
            }
            line = json.dumps(entry, ensure_ascii=False, separators=(",", ":")).encode()
            with disk_errors(self.path, "all lines before this one"):
                self._write(line + b"\n")
            self._last, self._number = _digest(line), self._number + 1
        return entry

    def entries(
        self, *, newest: int = 100, who: str | None = None, action: str | None = None
    ) -> list[dict[str, Any]]:
        """The last ``newest`` lines, newest first, of one person or action if named."""
        found: list[dict[str, Any]] = []
        for line in self._lines():
            entry = entry_of(line)
            if entry is None:  # verify() names it
                continue
            if who not in (None, entry.get("who")) or action not in (None, entry.get("action")):
                continue
            found.append(entry)
            if len(found) > 2 * newest:
                del found[:-newest]
        return found[-newest:][::-1] if newest else []

    def verify(self) -> int:
        """Checks the chain from the first line to the last; returns how many lines there are.

        Raises:
            InputError: names the first line that does not follow from the one before it, or says
                that the last ones are missing.
        """
        with self._lock:  # what comes later is not looked at
            file, whole, last = self.path.open("rb"), self.path.stat().st_size, self._last
        with file:
            return self._follow(file, whole, last)

    def _follow(self, file: BinaryIO, whole: int, last: str) -> int:
        before, count = None, 0
        for number, line in enumerate(lines_of(file, whole), 1):
            entry = entry_of(line)
            if entry is None:
                raise InputError(f"{self.path} line {number} is not a line of the log.")
            previous = entry["previous"]
            if before is not None and previous != before:
                raise InputError(
                    f"{self.path} line {number} does not follow from line {number - 1}: the log "
                    "was changed by hand."
                )
            if number == 1 and entry["number"] == 1 and previous != _START:
                raise InputError(f"{self.path} line 1 does not start the log.")
            before, count = _digest(line), number
        if (before or _START) != last:
            raise InputError(
                f"{self.path} ends with line {count}, which is not the last one that was written: "
                "the log was changed by hand."
            )
        return count

    def trim(self, before: float) -> int:
        """Removes lines older than the Unix time ``before`` (retention); returns how many.

        The chain of what is left stays whole: its first line still names the removed one's hash.
        """
        with self._lock:
            lines = list(self._lines())
            # What cannot be read stays: it shows that somebody changed the log.
            kept = [x for x in lines if (entry := entry_of(x)) is None or entry["time"] >= before]
            if not kept and lines:
                kept = lines[-1:]  # the chain goes on from the last line
            if len(kept) < len(lines):
                with replacing(self.path) as temporary:
                    temporary.write_bytes(b"".join(line + b"\n" for line in kept))
                self._file.close()
                self._file = self.path.open("a+b", buffering=0)
                _hold(self._file, self.path)
            return len(lines) - len(kept)

    def close(self) -> None:
        """Lets another process have the log."""
        self._file.close()

    def __enter__(self) -> AuditLog:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _write(self, line: bytes) -> None:
        """The whole line is on the disk, or nothing of it is in the file."""
        whole = self.path.stat().st_size
        try:
            left = memoryview(line)
            while left:
                left = left[self._file.write(left) :]
            os.fsync(self._file.fileno())
        except OSError:
            with contextlib.suppress(OSError):
                self._file.truncate(whole)
            raise

    def _lines(self) -> Iterator[bytes]:
        with self.path.open("rb") as file:
            yield from lines_of(file)

    def _recover(self) -> None:
        whole, last = 0, b""
        with self.path.open("rb") as file:
            for line in file:
                if not line.endswith(b"\n"):
                    break
                whole, last = whole + len(line), line[:-1]
        if whole < self.path.stat().st_size:
            self._file.truncate(whole)
        if last:
            try:
                entry: Mapping[str, Any] = json.loads(last)
                self._last, self._number = _digest(last), int(entry["number"])
            except (ValueError, KeyError, TypeError) as error:
                raise InputError(
                    f"the last line of {self.path} is not a line of the log. Move the file away; "
                    "a new log is then begun."
                ) from error


def _hold(file: Any, path: Path) -> None:
    with contextlib.suppress(ImportError):  # Windows locks nothing here
        import fcntl

        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            file.close()
            raise InputError(
                f"another process writes to {path}. Stop the other service first."
            ) from error


def lines_of(file: BinaryIO, whole: float = math.inf) -> Iterator[bytes]:
    """The whole lines among the first ``whole`` bytes."""
    for line in file:
        whole -= len(line)
        if whole < 0:
            return
        if line.endswith(b"\n"):
            yield line[:-1]


def entry_of(line: bytes) -> dict[str, Any] | None:
    """A line as it was written; None where it is not one of the log."""
    try:
        entry = json.loads(line)
        fits = isinstance(entry["previous"], str) and float(entry["time"]) + entry["number"] > 0
    except (ValueError, KeyError, TypeError):
        return None
    return entry if fits else None


def _digest(line: bytes) -> str:
    return hashlib.sha256(line).hexdigest()
