"""Who may do what: bearer tokens with roles.

A token is 256 random bits, shown once when it is made.  The file holds only its SHA-256, which
for a random token of that length cannot be turned back (a slow hash is for passwords, which
people choose).  There is no default token.
"""

from __future__ import annotations

import enum
import hashlib
import json
import math
import re
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from crosscam.errors import GalleryError, InputError, MissingExtraError
from crosscam.files import private_folder, write_atomically

__all__ = ["Role", "Token", "Tokens"]

_PREFIX = "cc_"
_WAIT = 30.0  # seconds for another process that changes the file


class Role(enum.IntEnum):
    """What a token allows; each role may do all that the ones below it may."""

    VIEWER = 1  # look at sightings and people, search
    OPERATOR = 2  # add sightings, enroll people, confirm and reject matches
    ADMIN = 3  # forget, read the audit log

    @classmethod
    def named(cls, name: str) -> Role:
        """The role called ``name`` (viewer, operator, admin)."""
        try:
            return cls[name.upper()]
        except KeyError as error:
            known = ", ".join(role.name.lower() for role in cls)
            raise InputError(f"unknown role {name!r}; choose one of: {known}.") from error


@dataclass(frozen=True)
class Token:
    """An entry of the file.  ``expires`` is a Unix time in seconds, None never."""

    name: str
    role: Role
    sha256: str
    created: float
    expires: float | None = None


class Tokens:
    """The tokens of a service, in the file ``path``.

    The file is read again whenever it has changed, so that a token added or revoked on the
    command line counts at once.  Whoever changes it holds ``tokens.json.lock`` meanwhile, so that
    of two changes at a time none is lost.

    Raises:
        InputError: the file is not one of tokens.
    """

    def __init__(self, path: Path, clock: Callable[[], float] = time.time) -> None:
        self.path, self.clock = path, clock
        self._lock = threading.Lock()
        self._seen: tuple[int, int] | None = None
        self._tokens: dict[str, Token] = {}
        self._read()

    def add(self, name: str, role: Role, *, days: float | None = None) -> str:
        """Makes a token and returns it; it cannot be shown again.

        Args:
            name: whose it is, 1 to 64 letters, digits, spaces or ``.-_@``; it stands in the audit.
            role: what it allows.
            days: days until it ends; None never.

        Raises:
            InputError: a name that is taken or no name, or days out of range.
            GalleryError: another process holds the file for too long.
        """
        if not re.fullmatch(r"[\w.\-@ ]{1,64}", name):
            raise InputError(
                f"a token needs a name of 1 to 64 letters, digits, spaces or .-_@, got {name!r}."
            )
        if days is not None and not 0 < days <= 36_525:
            raise InputError(f"days must be above 0 and at most 36,525, got {days}.")
        with self._changing():
            if any(t.name == name for t in self._tokens.values()):
                raise InputError(f"there is a token named '{name}' already; revoke it first.")
            secret = _PREFIX + secrets.token_urlsafe(32)
            now = self.clock()
            ends = None if days is None else now + 86_400 * days
            token = Token(name, role, _digest(secret), now, ends)
            self._write({**self._tokens, token.sha256: token})
        return secret

    def revoke(self, name: str) -> None:
        """Ends the token called ``name``.

        Raises:
            InputError: there is none.
            GalleryError: another process holds the file for too long.
        """
        if self.path.exists():  # else no folder is made for a lock
            with self._changing():
                kept = {k: t for k, t in self._tokens.items() if t.name != name}
                if len(kept) < len(self._tokens):
                    self._write(kept)
                    return
        raise InputError(f"there is no token named '{name}'.")

    def find(self, secret: str) -> Token | None:
        """The token that ``secret`` is, None if it is none or has ended."""
        with self._lock:
            self._read()
            token = self._tokens.get(_digest(secret))
        if token is None or (token.expires is not None and token.expires <= self.clock()):
            return None
        return token

    def list(self) -> list[Token]:
        """All tokens, oldest first."""
        with self._lock:
            self._read()
            return sorted(self._tokens.values(), key=lambda t: t.created)

    @contextmanager
    def _changing(self) -> Iterator[None]:
        """The tokens as they are in the file, which nobody else changes meanwhile."""
        try:
            from filelock import FileLock, Timeout
        except ImportError as error:
            raise MissingExtraError(
                "tokens need filelock: pip install 'crosscam[serve,gallery]'."
            ) from error
        private_folder(self.path.parent)
        lock = FileLock(self.path.with_name(f"{self.path.name}.lock"), is_singleton=False)
        with self._lock:
            try:
                lock.acquire(timeout=_WAIT)
            except Timeout:
                raise GalleryError(
                    f"another process has been changing {self.path} for {_WAIT:g} seconds. Wait "
                    f"until it is done, or end it if it hangs; it holds {lock.lock_file}."
                ) from None
            except OSError as error:
                raise GalleryError(
                    f"{lock.lock_file} cannot be locked ({error.strerror or error}). Run this as "
                    "the user whose folder it is."
                ) from error
            try:
                self._seen = None
                self._read()
                yield
            finally:
                lock.release()

    def _read(self) -> None:
        try:
            status = self.path.stat()
        except FileNotFoundError:
            self._seen, self._tokens = None, {}
            return
        seen = (status.st_mtime_ns, status.st_ino)
        if seen == self._seen:
            return
        try:
            entries = json.loads(self.path.read_text(encoding="utf-8"))["tokens"]
            tokens = [_token(entry) for entry in entries]
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(
                f"{self.path} is not a file of tokens ({error}). Bring it back from a copy, or "
                "move it away and make tokens anew: crosscam token add NAME --role ROLE."
            ) from error
        self._seen, self._tokens = seen, {t.sha256: t for t in tokens}

    def _write(self, tokens: dict[str, Token]) -> None:
        entries = [{**asdict(t), "role": t.role.name.lower()} for t in tokens.values()]
        write_atomically(self.path, json.dumps({"tokens": entries}, indent=1))
        self.path.chmod(0o600)
        self._seen = None
        self._read()


def _token(entry: dict[str, Any]) -> Token:
    """An entry of the file; ``ValueError``, ``KeyError`` or ``TypeError`` where it is none."""
    token = Token(**{**entry, "role": Role.named(str(entry["role"]))})
    if not isinstance(token.name, str) or not isinstance(token.sha256, str):
        raise TypeError("a name and a sha256 are text")
    for key, seconds in (("created", token.created), ("expires", token.expires)):
        if key == "expires" and seconds is None:
            continue
        if not isinstance(seconds, (int, float)) or not math.isfinite(seconds):
            raise TypeError(f"{key} of {token.name!r} is a number of seconds, got {seconds!r}")
    return token


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()
