"""A gallery with all that guards it: tokens, the audit log, limits, upkeep, figures."""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import itertools
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from crosscam.decision import Calibration, Drift, judge
from crosscam.errors import InputError
from crosscam.files import private_folder, write_atomically
from crosscam.gallery import Found, Gallery, Sighting, Where
from crosscam.serve.audit import AuditLog
from crosscam.serve.limits import RateLimit
from crosscam.serve.retention import DAY, Kept
from crosscam.serve.settings import ServiceSettings
from crosscam.serve.tokens import Token, Tokens

__all__ = ["Service"]

_DRIFT_SAMPLE, _DRIFT_LEAST = 2000, 200  # sightings drawn, pairs needed
_REMEMBERED = 200_000  # sightings that lines of the log named: some 40 MB
_SALT = 32  # bytes
_FRESH = 20_000  # sightings not in the index from which on it is built anew


class Service:
    """A gallery with all that guards it.

    Args:
        gallery: open, with its encoder.
        state: folder of tokens and audit log.
        settings: how it behaves.
        calibration: what scores mean; without one, no probability and no decision is given.
        clock: seconds since 1970 UTC.
    """

    def __init__(
        self,
        gallery: Gallery,
        state: Path,
        settings: ServiceSettings = ServiceSettings(),  # noqa: B008 frozen
        calibration: Calibration | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.gallery, self.state, self.settings = gallery, state, settings
        self.calibration, self.clock = calibration, clock
        private_folder(state)
        self.tokens, self.salt = Tokens(state / "tokens.json", clock), _salt(state / "salt")
        self.audit = AuditLog(state / "audit.jsonl", clock)
        self.limit = RateLimit(settings.per_minute, settings.burst)
        self.turns = threading.BoundedSemaphore(settings.searches)
        self.shows = threading.BoundedSemaphore(settings.searches)
        self.wake, self.soon, self._compacted = threading.Event(), False, 0.0
        self._shown: OrderedDict[tuple[str, str], None] = OrderedDict()
        self._showing, self._retaining = threading.Lock(), threading.Lock()
        self.drift: Drift | None = None
        self.metrics = CollectorRegistry()
        self.requests = Counter(
            "crosscam_requests", "Requests", ["action", "status"], registry=self.metrics
        )
        self.seconds = Histogram(
            "crosscam_request_seconds", "Time of a request", ["action"], registry=self.metrics
        )
        self.failures = Counter(
            "crosscam_retention_failures", "Times that old sightings could not be deleted",
            registry=self.metrics,
        )  # fmt: skip
        self.size = Gauge("crosscam_sightings", "Sightings kept", registry=self.metrics)
        self.size.set_function(lambda: len(self.gallery))

    def close(self) -> None:
        """Lets go of gallery and audit log."""
        self.audit.close()
        self.gallery.close()

    def note(self, token: Token, action: str, **details: Any) -> int:
        """A line of the audit log; returns its number."""
        kept = {k: v for k, v in details.items() if v not in ("", None, [], {})}
        return int(self.audit.append(token.name, token.role.name.lower(), action, **kept)["number"])

    @contextlib.contextmanager
    def reading(self, token: Token, action: str, **details: Any) -> Iterator[dict[str, Any]]:
        """Writes a line when the block ends: what was looked at, or asked for in vain.

        The block adds to the dictionary; ``shown`` in it are the ids that the answer names.
        """
        more: dict[str, Any] = {}
        try:
            yield more
        except Exception as error:
            self.note(token, action, **details, **more, failed=type(error).__name__)
            raise
        self.note(token, action, **details, **more)
        with self._showing:
            for id in more.get("shown", ()):
                self._shown[token.sha256, id] = None
                self._shown.move_to_end((token.sha256, id))
            while len(self._shown) > _REMEMBERED:
                self._shown.popitem(last=False)

    @contextlib.contextmanager
    def changing(
        self, who: str, role: str, action: str, **details: Any
    ) -> Iterator[dict[str, Any]]:
        """Writes a line before the block, and one after it with what came of it."""
        kept = {k: v for k, v in details.items() if v not in ("", None, [], {})}
        of = self.audit.append(who, role, action, stage="begun", **kept)["number"]
        more: dict[str, Any] = {}
        try:
            yield more
        except BaseException as error:
            self.audit.append(who, role, action, stage="failed", of=of, error=type(error).__name__)
            raise
        self.audit.append(who, role, action, stage="done", of=of, **more)

    def seen(self, token: Token, id: str) -> bool:
        """Whether a line of the log has named this sighting to this token lately."""
        with self._showing:
            return (token.sha256, id) in self._shown

    def pseudonym(self, person: str) -> str:
        """What the audit log calls a person: it says nothing once the name is forgotten."""
        return hmac.new(self.salt, person.encode(), hashlib.sha256).hexdigest()[:16]

    def retain(self) -> dict[str, int]:
        """Deletes what is older than it may be; returns how much.

        A sighting is as old as its time says, and as long as it has been in the gallery: one
        without a time, or with one in the future, does not stay for good.
        """
        with self._retaining:
            return self._retain(self.clock())

    def _retain(self, now: float) -> dict[str, int]:
        gone = {"sightings": 0, "audit": 0}
        if self.settings.retention_days:
            cut = now - DAY * self.settings.retention_days
            for before, added_before in ((cut, None), (None, cut)):
                if not self.gallery.points.count(Where(before=before, added_before=added_before)):
                    continue
                limits = {"before": before, "added_before": added_before}
                with self.changing("retention", "service", "forget", **limits) as more:
                    receipt = self.gallery.forget(
                        before=before, added_before=added_before, reason="retention", erase=False
                    )
                    more.update(receipt=receipt.id, deleted=receipt.sightings)
                gone["sightings"] += receipt.sightings
        Kept(self.settings.retention_days, now).write(self.state / "retention.json")
        if self.settings.audit_days:
            gone["audit"] = self.audit.trim(now - DAY * self.settings.audit_days)
        return gone

    def compact(self, stop: threading.Event) -> bool:
        """Rewrites the store's files without what was deleted, and indexes what is new.

        After somebody forgot, as soon as it can be; else once in ``compact_hours``.  Searches and
        changes go on meanwhile.  Returns whether it was done.
        """
        hours, now = self.settings.compact_hours, self.clock()
        if not hours or not self.gallery.points.erases:  # a server does it by itself
            return False
        if not (self.soon or now - self._compacted >= 3600 * hours):
            return False
        fresh = len(self.gallery) - self.gallery.points.indexed()
        if not self.gallery.unerased and fresh < _FRESH:
            return False
        asked, self.soon, done = self.soon, False, False  # what is forgotten now asks again
        try:
            with self.changing("retention", "service", "erase") as more:
                done = self.gallery.compact_aside(stop)
                more["erased"] = done and not self.gallery.unerased
        finally:
            if done:
                self._compacted = now
            else:  # within an hour
                self.soon = self.soon or asked
        return done

    def judge(self, found: Found, far: float) -> dict[str, Any]:
        """What the calibration says of a search: a probability and a decision for every hit."""
        values = found.to_json()
        it = self.calibration
        if it is None:
            return {**values, "decision": None}
        scores = [entry["score"] for entry in values["results"]]
        said = judge(
            it,
            scores,
            len(self.gallery),
            far=far,
            present=self.settings.present,
            pictures=found.template,
        )
        values["notes"] = [*found.notes, *said.notes]
        for entry, chance, decision in zip(
            values["results"], said.probabilities, said.decisions, strict=True
        ):
            entry["probability"], entry["decision"] = round(chance, 4), decision
        return {**values, "decision": said.to_json()}

    def look_for_drift(self) -> None:
        """Compares scores of strangers in the gallery with those of the calibration.

        Ids follow nothing but content, so neighbors in their order are sightings drawn blindly.
        """
        if self.calibration is None:
            return
        points = list(self.gallery.points.scan(Where(), vectors=True, limit=_DRIFT_SAMPLE))
        scores = [
            float(np.clip(a.vector @ b.vector, -1.0, 1.0))
            for a, b in itertools.pairwise(points)
            if a.vector is not None
            and b.vector is not None
            and not _one_person(
                Sighting.from_payload(a.id, a.payload), Sighting.from_payload(b.id, b.payload)
            )
        ]
        if len(scores) >= _DRIFT_LEAST:
            self.drift = self.calibration.drift(scores, self.settings.far)


def _one_person(a: Sighting, b: Sighting) -> bool:
    """Whether two sightings are known to show one person."""
    return (a.track_key is not None and a.track_key == b.track_key) or (
        a.person != "" and a.person == b.person
    )


def _salt(path: Path) -> bytes:
    try:
        salt = bytes.fromhex(path.read_text(encoding="ascii"))
    except FileNotFoundError:
        salt = secrets.token_bytes(_SALT)
        write_atomically(path, salt.hex())  # half a key would be one
        path.chmod(0o600)
    except ValueError:
        salt = b""
    if len(salt) != _SALT:
        raise InputError(
            f"{path} is not the key that people's names in the audit log are hashed with (it has "
            f"{2 * _SALT} hex digits). Bring it back from a copy, or move it away: a new one is "
            "made, and the log no longer tells whose names stand in its older lines."
        )
    return salt
