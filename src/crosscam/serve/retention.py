"""What a service may delete by itself: what it has been keeping under the same retention.

A folder of old pictures that somebody added while the service was down, or a flag that somebody
forgot, must not cost an archive.  So the service writes down how long it keeps sightings and when
it last deleted what was due, and the next start compares.
"""

from __future__ import annotations

import contextlib
import json
import math
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from crosscam.errors import InputError
from crosscam.files import write_atomically
from crosscam.gallery import Gallery, Where
from crosscam.serve.audit import entry_of, lines_of

__all__ = ["DAY", "Kept", "recalled", "unasked"]

DAY = 86_400.0


@dataclass(frozen=True)
class Kept:
    """How long sightings were kept, in days (0: for ever), and the Unix time of the last upkeep.

    All that was due at that time was gone then.
    """

    days: float
    until: float

    def write(self, path: Path) -> None:
        """Replaces the file ``path``; it is the old one or the new one after a crash."""
        write_atomically(path, json.dumps(asdict(self)))

    @classmethod
    def read(cls, path: Path) -> Kept | None:
        """What stands in the file ``path``; None where there is none.

        Raises:
            InputError: it is damaged.
        """
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            found = cls(float(values["days"]), float(values["until"]))
            if not (found.days >= 0 and math.isfinite(found.days + found.until)):
                raise ValueError(f"{values} is out of range")
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(
                f"{path} does not say how long this service keeps sightings ({error}). Move it "
                "away; the next start then goes by the audit log, and asks before it deletes more."
            ) from error
        return found


def recalled(log: Path) -> tuple[Kept | None, float]:
    """What an audit log tells, which versions before the record wrote already: the last upkeep that
    deleted something, None if there was none, and the Unix time of the last line, 0 without one."""
    kept, last = None, b""
    with contextlib.suppress(FileNotFoundError), log.open("rb") as file:
        for last in lines_of(file):
            entry = entry_of(last) if b'"who":"retention"' in last else None
            if entry and (entry.get("role"), entry.get("action")) == ("service", "forget"):
                cut = entry.get("before", entry.get("added_before"))
                if isinstance(cut, float):  # which the line that only says "done" has not
                    kept = Kept(round((entry["time"] - cut) / DAY, 3), entry["time"])
    entry = entry_of(last)
    ran = entry["time"] if entry else 0.0
    # The hourly upkeep is a day late at most.  What was due then and is still there shows that it
    # no longer deleted: sightings were kept for ever since.
    return kept and replace(kept, until=max(kept.until, ran - DAY)), ran


def unasked(gallery: Gallery, kept: Kept | None, days: float, now: float, last: float = 0.0) -> int:
    """How many sightings a retention of ``days`` would delete that nobody has agreed to.

    Agreed to is what has become due since the last upkeep by the retention of then: what a service
    that was down for a while catches up with, and what came in while it ran.  Not agreed to is what
    else was due before (so it was added since, while the service was down), and what a shorter
    retention makes due.  Without a last upkeep it is all.

    Args:
        gallery: open.
        kept: of the last upkeep; None if there was none.
        days: retention from now on; 0 deletes nothing.
        now: Unix time in seconds.
        last: when the service is known to have run last.  Nobody else adds while it runs, and when
            it ends all that is due is deleted, unless it is killed.
    """

    def due(cut: float) -> int:
        count = gallery.points.count
        both = count(Where(before=cut, added_before=cut))
        return count(Where(before=cut)) + count(Where(added_before=cut)) - both

    if not days:
        return 0
    cut, last = now - DAY * days, min(last, now)
    if kept is None or not kept.days:
        return due(cut)
    until = min(kept.until, now)
    old = min(cut, until - DAY * kept.days)
    before = due(old)
    if last > until:
        count = gallery.points.count
        after = count(Where(before=old, added_before=last + 0.001))  # as precise as the log
        before -= after - count(Where(before=old, added_before=until))
    shorter = due(cut) - due(now - DAY * kept.days) if days < kept.days else 0
    return before + shorter
