"""What came of working on a gallery: added, forgotten, counted, checked."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from crosscam.gallery.sighting import printable
from crosscam.wording import counted, either, first_lines

__all__ = ["Added", "Check", "Receipt", "Stats"]


@dataclass
class Added:
    """What came of adding: ids in the order of the items, "" for broken pictures."""

    ids: list[str] = field(default_factory=list)
    new: int = 0
    present: int = 0  # were in the gallery already, untouched
    broken: list[tuple[str, str]] = field(default_factory=list)  # (name, why); skipped

    def text(self) -> str:
        said = f"added {counted(self.new, 'sighting')}"
        if self.present:
            said += f", {self.present:,} {either(self.present, 'was', 'were')} there already"
        if self.broken:
            broken = counted(len(self.broken), "broken picture was", "broken pictures were")
            said += f", {broken} skipped:"
            said += first_lines([f"{name}: {why}" for name, why in self.broken], 10)
        return said


@dataclass(frozen=True)
class Receipt:
    """What was forgotten.  It holds no picture and no vector."""

    id: str
    time: str
    asked: dict[str, Any]
    reason: str
    sightings: int
    vectors: int
    feedback: int  # names, confirmations and rejections that went with it
    pictures: int
    picture_hashes: list[str]  # SHA-256 of the picture files that were deleted
    kept_pictures: int  # files that sightings outside this request show too
    erased: bool  # whether nothing is left in any file; else compact() does that

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def text(self) -> str:
        asked = ", ".join(f"{k} {v}" for k, v in self.asked.items())
        lines = [
            f"forgot {asked}: {counted(self.sightings, 'sighting')}, "
            f"{counted(self.vectors, 'vector')}, "
            f"{counted(self.pictures, 'picture')}, "
            f"{counted(self.feedback, 'name or judgment', 'names and judgments')}",
            f"receipt {self.id}, {self.time}",
        ]
        if self.kept_pictures:
            kept = counted(self.kept_pictures, "picture file is", "picture files are")
            it = either(self.kept_pictures, "it", "them")
            lines.append(f"{kept} kept: others show {it} too")
        if not self.erased:
            lines.append("deleted points are still in files until the store rewrites them")
        return "\n".join(lines)


@dataclass(frozen=True)
class Stats:
    """Figures of a gallery."""

    sightings: int
    indexed: int
    named: int
    people: int
    cameras: dict[str, int]
    first: str
    last: str
    pictures: int
    picture_bytes: int
    store_bytes: int  # 0 on a server
    model: dict[str, Any]
    quantization: str
    unerased: bool

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def text(self) -> str:
        cameras = sorted(self.cameras.items(), key=lambda c: (-c[1], c[0]))
        # Older versions kept names as they were given.
        shown = printable(", ".join(f"{name} {n:,}" for name, n in cameras[:8]))
        return "\n".join(
            [
                f"sightings   {self.sightings:,} ({self.indexed:,} indexed), "
                f"{self.named:,} of {counted(self.people, 'named person', 'named people')}",
                f"cameras     {len(cameras):,}: {shown}{' ...' if len(cameras) > 8 else ''}",
                f"time        {self.first or 'unknown'} to {self.last or 'unknown'}",
                f"pictures    {self.pictures:,}, {self.picture_bytes / 1e6:,.1f} MB",
                f"store       {self.store_bytes / 1e6:,.1f} MB, quantization {self.quantization}",
                f"model       {self.model['name'] or 'unnamed'} {self.model['hash'][:23]}, "
                f"{self.model['dim']} dimensions",
            ]
            + (["deleted points are still in files: run compact"] if self.unerased else [])
        )


@dataclass(frozen=True)
class Check:
    """What a check of a gallery found; all empty is sound."""

    sightings: int
    missing: list[str]  # ids whose picture is not there
    damaged: list[str]  # ids whose picture has other bytes than its name says
    bad_vectors: list[str]  # ids whose vector is not finite or not of unit length
    foreign: list[str]  # ids whose vector came from another model
    orphans: list[str]  # pictures that no sighting shows; compact() removes them
    leftovers: list[str]  # half-written files; compact() removes them
    stale: list[str]  # sets of points that are not in use; compact() removes them

    @property
    def sound(self) -> bool:
        """Whether every sighting is whole (what compact() cleans up harms nothing)."""
        return not (self.missing or self.damaged or self.bad_vectors or self.foreign)

    def to_json(self) -> dict[str, Any]:
        return {"sound": self.sound, **asdict(self)}

    def text(self) -> str:
        lines = [
            f"{counted(self.sightings, 'sighting')}: {'all whole' if self.sound else 'PROBLEMS'}"
        ]
        for words, found in (
            ("sightings without their picture", self.missing),
            ("sightings whose picture is damaged", self.damaged),
            ("sightings whose vector is not of unit length", self.bad_vectors),
            ("sightings of another model", self.foreign),
            ("pictures of no sighting (compact removes them)", self.orphans),
            ("half-written files (compact removes them)", self.leftovers),
            ("unused sets of points (compact removes them)", self.stale),
        ):
            if found:
                more = " ..." if len(found) > 3 else ""
                lines.append(f"{len(found):,} {words}: {', '.join(found[:3])}{more}")
        return "\n".join(lines)
