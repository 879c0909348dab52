"""Who searched for whom, when and why: a log that only grows.

One JSON object a line.  Each line carries the SHA-256 of the line before it, so that a line
changed, removed or put between shows.  A line is on the disk before the answer goes out.  Lines
name people and sightings by id and pictures by hash, never by name or content: what is forgotten
in the gallery leaves nothing to read here.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from crosscam.errors import InputError
from crosscam.files import disk_errors, replacing

__all__ = ["AuditLog"]

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
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("a+b")
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
                self._file.write(line + b"\n")
                self._file.flush()
                os.fsync(self._file.fileno())
            self._last, self._number = _digest(line), self._number + 1
        return entry

    def entries(
        self, *, newest: int = 100, who: str | None = None, action: str | None = None
    ) -> list[dict[str, Any]]:
        """The last ``newest`` lines, newest first, of one person or action if named."""
        found: list[dict[str, Any]] = []
        for line in self._lines():
            entry = json.loads(line)
            if who not in (None, entry.get("who")) or action not in (None, entry.get("action")):
                continue
            found.append(entry)
            if len(found) > 2 * newest:
                del found[:-newest]
        return found[-newest:][::-1] if newest else []

    def verify(self) -> int:
        """Checks the chain from the first line to the last; returns how many lines there are.

        Raises:
            InputError: names the first line that does not follow from the one before it.
        """
        before, count = None, 0
        for number, line in enumerate(self._lines(), 1):
            try:
                entry = json.loads(line)
                previous = entry["previous"]
            except (ValueError, KeyError, TypeError) as error:
                raise InputError(f"{self.path} line {number} is not a line of the log.") from error
            if before is not None and previous != before:
                raise InputError(
                    f"{self.path} line {number} does not follow from line {number - 1}: the log "
                    "was changed by hand."
                )
            if number == 1 and entry["number"] == 1 and previous != _START:
                raise InputError(f"{self.path} line 1 does not start the log.")
            before, count = _digest(line), number
        return count

    def trim(self, before: float) -> int:
        """Removes lines older than the Unix time ``before`` (retention); returns how many.

        The chain of what is left stays whole: its first line still names the removed one's hash.
        """
        with self._lock:
            lines = list(self._lines())
            kept = [line for line in lines if json.loads(line)["time"] >= before]
            if not kept and lines:
                kept = lines[-1:]  # the chain goes on from the last line
            if len(kept) < len(lines):
                with replacing(self.path) as temporary:
                    temporary.write_bytes(b"".join(line + b"\n" for line in kept))
                self._file.close()
                self._file = self.path.open("a+b")
                _hold(self._file, self.path)
            return len(lines) - len(kept)

    def close(self) -> None:
        """Lets another process have the log."""
        self._file.close()

    def __enter__(self) -> AuditLog:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _lines(self) -> Iterator[bytes]:
        with self.path.open("rb") as file:
            for line in file:
                if line.endswith(b"\n"):
                    yield line[:-1]

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


def _digest(line: bytes) -> str:
    return hashlib.sha256(line).hexdigest()
