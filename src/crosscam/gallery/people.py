"""The named people of a gallery, and what was said about who is on which sighting.

A name stands on the sightings that show its bearer, together with who said so (it came with the
data, somebody enrolled or confirmed it); a rejection stands on the sighting it is about.  So a
person is what carries the name, and every change is a change of points.  Searching for a person
asks with the sightings that carry the name and leaves out those that were rejected.
"""

from __future__ import annotations

import difflib
import functools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar

from crosscam.errors import InputError, NotFoundError
from crosscam.gallery.sighting import (
    UNKNOWN,
    Sighting,
    Where,
    clean_name,
    format_time,
    valid_id,
)
from crosscam.wording import counted

if TYPE_CHECKING:
    from crosscam.gallery.gallery import Gallery

__all__ = ["People", "Person"]

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True)
class Person:
    """A named person: how many sightings, from where and when, and how many were rejected."""

    name: str
    sightings: int
    cameras: dict[str, int]
    first: str
    last: str
    confirmed: int
    rejected: int
    best: str  # the id of the sighting that shows them best: highest quality, then newest

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def _in_turn(change: Callable[Concatenate[People, P], T]) -> Callable[Concatenate[People, P], T]:
    """What a change is judged by stays so until it is made: other threads' changes wait."""

    @functools.wraps(change)
    def held(self: People, /, *args: P.args, **kwargs: P.kwargs) -> T:
        with self._gallery.changing():
            return change(self, *args, **kwargs)

    return held


def _distinct(ids: Sequence[str]) -> list[str]:
    """Every id once, however it is written."""
    return list(dict.fromkeys(map(valid_id, ids)))


class People:
    """The people of a gallery; made by ``Gallery.people``."""

    def __init__(self, gallery: Gallery) -> None:
        self._gallery = gallery

    def names(self) -> dict[str, int]:
        """All names, sorted, and how many sightings carry each."""
        return dict(sorted(self._gallery.points.values("person", Where()).items()))

    def get(self, name: str) -> Person:
        """A person; ``NotFoundError`` if nobody has that name."""
        own = self.sightings(name)
        cameras: dict[str, int] = {}
        for s in own:
            cameras[s.camera or UNKNOWN] = cameras.get(s.camera or UNKNOWN, 0) + 1
        times = [s.time for s in own if s.time is not None]
        best = max(own, key=lambda s: (s.quality or 0.0, s.time or 0.0, s.id))
        return Person(
            name=own[0].person,
            sightings=len(own),
            cameras=dict(sorted(cameras.items())),
            first=format_time(min(times) if times else None),
            last=format_time(max(times) if times else None),
            confirmed=sum(s.how == "confirmed" for s in own),
            rejected=self._gallery.points.count(
                Where(rejected_for=(own[0].person,), verbatim=True)
            ),
            best=best.id,
        )

    def sightings(self, name: str) -> list[Sighting]:
        """The sightings that carry a name, oldest first; ``NotFoundError`` if none does."""
        own = list(self._gallery.find(Where(persons=(self.called(name),), verbatim=True)))
        if not own:  # forgotten since
            raise NotFoundError(self.unknown(name))
        return sorted(own, key=lambda s: (s.time or 0.0, s.id))

    def called(self, name: str) -> str:
        """``name`` as the gallery writes it; ``NotFoundError`` if nobody is called so."""
        found = self._gallery.spelled("person", name)
        if found is None:
            raise NotFoundError(self.unknown(name))
        return found

    def spelled(self, name: str) -> str:
        """``name`` as the gallery writes it, or as it would: tidied."""
        return self._gallery.spelled("person", name) or clean_name(name)

    def unknown(self, name: str) -> str:
        """The message for a name that nobody has."""
        known = list(self.names())
        close = difflib.get_close_matches(name, known, 3, 0.6)
        hint = f" Did you mean {', '.join(close)}?" if close else ""
        people = counted(len(known), "person", "people")
        return f"nobody in the gallery is called {name!r} ({people}).{hint}"

    @_in_turn
    def enroll(self, name: str, ids: Sequence[str], *, same_frame: bool = False) -> list[Sighting]:
        """Name the person that sightings show; adds to a person who is there already.

        Raises:
            NotFoundError: an unknown id.
            InputError: a sighting that carries another name (merge or split changes that), or two
                sightings in one frame, where nobody can be twice (unless ``same_frame``).
        """
        return self._name(name, ids, "enrolled", same_frame)

    @_in_turn
    def confirm(self, name: str, ids: Sequence[str], *, same_frame: bool = False) -> list[Sighting]:
        """Say that sightings found by a search do show a person; their vectors join the template.

        A rejection said before is taken back.  Raises as :meth:`enroll`.
        """
        return self._name(name, ids, "confirmed", same_frame)

    @_in_turn
    def reject(self, name: str, ids: Sequence[str]) -> list[Sighting]:
        """Say that sightings do not show a person; searches for them leave these out from now on.

        A sighting that carried the name loses it.  The name must be somebody's.
        """
        name = self.called(name)
        now = self._now()

        def change(s: Sighting) -> Sighting:
            if s.person == name:
                s = replace(s, person="", how="")
            return replace(s, rejected=tuple(sorted({*s.rejected, name})), decided=now)

        return self._change(self._wanted(ids), change)

    def release(self, ids: Sequence[str]) -> list[Sighting]:
        """Take names off sightings, without a rejection."""
        return self._change(
            self._wanted(ids),
            lambda s: replace(s, person="", how="", decided=self._now()),
        )

    @_in_turn
    def rename(self, old: str, new: str) -> int:
        """Give a person another name that is free; returns of how many sightings."""
        old, new = self.called(old), clean_name(new)
        there = self._gallery.spelled("person", new)
        if there == new or there not in (None, old):
            raise InputError(
                f"somebody is called {there!r} already; merge makes one person of two."
            )
        return self._move(old, new)

    @_in_turn
    def merge(self, names: Sequence[str], into: str) -> int:
        """Make one person of several; returns how many sightings changed their name.

        A sighting that was rejected for one of them and carries another's name keeps the name.
        """
        into = self.spelled(into)
        known = self.names()
        names = [self.called(name) for name in names]
        others = [n for n in dict.fromkeys(names) if n != into]
        if not others or (len(others) == 1 and into not in known):
            raise InputError("merging needs two people; to change one person's name, rename them.")
        return sum(self._move(name, into) for name in others)

    @_in_turn
    def split(self, name: str, ids: Sequence[str], new: str) -> list[Sighting]:
        """Make some of a person's sightings another person, and reject them for the first.

        ``new`` may be somebody already.  At least one sighting must stay.
        """
        new, name = self.spelled(new), self.called(name)
        own = {s.id for s in self.sightings(name)}
        wanted = _distinct(ids)
        strange = [i for i in wanted if i not in own]
        if strange:
            raise InputError(f"sighting {strange[0]} does not carry the name {name!r}.")
        if new == name:
            raise InputError("a split needs another name than the one that is split.")
        if not wanted or len(wanted) == len(own):
            raise InputError(
                f"a split takes some of the {counted(len(own), 'sighting')} of {name!r}, got "
                f"{len(wanted)}; to change the name of all, rename."
            )
        now = self._now()

        def change(s: Sighting) -> Sighting:
            rejected = tuple(sorted({*s.rejected, name} - {new}))
            return replace(s, person=new, how="enrolled", rejected=rejected, decided=now)

        return self._change(self._gallery.sightings(wanted), change)

    # --- inside -----------------------------------------------------------------------------------

    def _now(self) -> float:
        """Seconds since 1970, to the millisecond, as times are written."""
        return round(self._gallery.clock(), 3)

    def _wanted(self, ids: Sequence[str]) -> list[Sighting]:
        return self._gallery.sightings(_distinct(ids))

    def _name(self, name: str, ids: Sequence[str], how: str, same_frame: bool) -> list[Sighting]:
        name = self.spelled(name)
        wanted = self._wanted(ids)
        if not wanted:
            raise InputError("naming a person needs at least one sighting.")
        taken = [s for s in wanted if s.person not in ("", name)]
        if taken:
            raise InputError(
                f"sighting {taken[0].id} carries the name {taken[0].person!r} already"
                f"{f' (and {len(taken) - 1} more)' if len(taken) > 1 else ''}. Split it off, "
                "merge the two people, or release it first."
            )
        if not same_frame:
            self._require_once_per_frame(name, wanted)
        now = self._now()

        def change(s: Sighting) -> Sighting:
            # What was confirmed or enrolled before stays said that way.
            said = s.how if s.person == name and s.how == "confirmed" else how
            rejected = tuple(r for r in s.rejected if r != name)
            return replace(s, person=name, how=said, rejected=rejected, decided=now)

        return self._change(wanted, change)

    def _require_once_per_frame(self, name: str, wanted: Sequence[Sighting]) -> None:
        seen: dict[tuple[str, str], str] = {}
        known = list(self._gallery.find(Where(persons=(name,), verbatim=True)))
        named = {s.id for s in known}
        for s in [*known, *(w for w in wanted if w.id not in named)]:
            key = s.frame_key
            if key is not None and seen.setdefault(key, s.id) != s.id and s.id not in named:
                raise InputError(
                    f"sightings {seen[key]} and {s.id} are from one frame (camera {key[0]!r}), and "
                    "nobody is twice in one frame. If they are two boxes of one person, say so "
                    "(--same-frame)."
                )

    def _move(self, old: str, new: str) -> int:
        own = Where(persons=(old,), verbatim=True)
        count = self._gallery.points.count(own)
        if not count:
            raise NotFoundError(self.unknown(old))
        with self._gallery.changing():
            # Rejections first: killed in between, the old name still stands and this can be
            # said again.
            touched = []
            for s in self._gallery.find(Where(rejected_for=(old,), verbatim=True)):
                names = {*s.rejected, new} - {old, s.person}
                touched.append(replace(s, rejected=tuple(sorted(names))))
            self._write(touched)
            self._gallery.points.update(own, {"person": new})
            both = self._gallery.find(Where(persons=(new,), rejected_for=(new,), verbatim=True))
            self._write([replace(s, rejected=tuple(r for r in s.rejected if r != new))
                         for s in list(both)])  # fmt: skip
            self._gallery.flush()
        return count

    def _change(
        self, sightings: Sequence[Sighting], change: Callable[[Sighting], Sighting]
    ) -> list[Sighting]:
        with self._gallery.changing():
            # Read again inside: another thread may have changed them since.
            fresh = self._gallery.sightings([s.id for s in sightings])
            changed = [change(s) for s in fresh]
            self._write(changed)
            self._gallery.flush()
        return changed

    def _write(self, sightings: Iterable[Sighting]) -> None:
        self._gallery.points.replace_payloads({s.id: s.payload() for s in sightings})
