"""What a service may delete by itself: what it has been keeping under the same retention.

A folder of old pictures that somebody added while the service was down, or a flag that somebody
forgot, must not cost an archive.  So the service writes down how long it keeps sightings and when
it last deleted what was due, and the next start compares.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path

from crosscam.errors import InputError
from crosscam.files import write_atomically
from crosscam.gallery import Gallery, Where

__all__ = ["DAY", "Kept", "unasked"]

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
                "away; the next start then asks before it deletes what is old."
            ) from error
        return found


def unasked(gallery: Gallery, kept: Kept | None, days: float, now: float) -> int:
    """How many sightings a retention of ``days`` would delete that nobody has agreed to.

    Agreed to is what has become due since the last upkeep by the retention of then: what a service
    that was down for a while catches up with.  Not agreed to is what was due before (so it was
    added since), and what a shorter retention makes due.  Without a last upkeep it is all.

    Args:
        gallery: open.
        kept: of the last upkeep; None if there was none.
        days: retention from now on; 0 deletes nothing.
        now: Unix time in seconds.
    """

    def due(cut: float) -> int:
        count = gallery.points.count
        both = count(Where(before=cut, added_before=cut))
        return count(Where(before=cut)) + count(Where(added_before=cut)) - both

    if not days:
        return 0
    cut = now - DAY * days
    if kept is None or not kept.days:
        return due(cut)
    before = due(min(cut, min(kept.until, now) - DAY * kept.days))
    shorter = due(cut) - due(now - DAY * kept.days) if days < kept.days else 0
    return before + shorter
