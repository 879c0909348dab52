"""What a gallery holds and what a search found, as pages that hold their pictures themselves."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from crosscam import page
from crosscam.decision import Judgment
from crosscam.gallery.gallery import Gallery
from crosscam.gallery.search import Found, Hit
from crosscam.gallery.sighting import Sighting, Where, format_time
from crosscam.wording import counted

__all__ = ["Section", "Tile", "found_page", "gallery_page", "write_page"]

_HEIGHT, _WIDEST = 160, 120  # of a thumbnail, in pixels


@dataclass(frozen=True)
class Tile:
    """A picture and lines of text under it."""

    picture: Path | None
    lines: Sequence[str]
    strong: str = ""  # the line above the others
    asked: bool = False  # drawn as the query


@dataclass(frozen=True)
class Section:
    """Tiles under a heading."""

    heading: str
    tiles: Sequence[Tile]
    note: str = ""


def found_page(
    path: Path,
    found: Found,
    queries: Sequence[Path | None],
    *,
    title: str = "Search",
    said: Judgment | None = None,
) -> Path:
    """Write a search's results; ``queries`` are the pictures that were asked with.

    ``said`` is what a calibration makes of them; without it there are scores and no decisions.
    """
    asked = [Tile(q, [q.name if q else ""], "query", asked=True) for q in queries]
    tiles = [_hit(rank, hit) for rank, hit in enumerate(found.hits, 1)]
    if said is not None:
        tiles = [
            replace(tile, lines=[f"{chance:.1%} {decision}", *tile.lines])
            for tile, chance, decision in zip(
                tiles, said.probabilities, said.decisions, strict=True
            )
        ]
    notes = [
        "Best match first. The number is the cosine similarity of the vectors; a match is a lead, "
        "not an identification: people in like clothes look alike.",
        *found.notes,
    ]
    if said is not None and said.text():
        sentence = f"{said.text()}. Calibrated on {said.data}."
        notes.insert(0, sentence[0].upper() + sentence[1:])
    if not found.hits:
        notes.append("Nothing in the gallery fits the filters.")
    sections = [Section("Asked with", asked)] if asked else []
    return write_page(path, title, [*sections, Section("Found", tiles)], notes)


def gallery_page(
    path: Path, gallery: Gallery, where: Where, *, limit: int = 200, title: str = "Gallery"
) -> Path:
    """Write sightings: people first, then what nobody named, by camera; oldest first."""
    total = gallery.points.count(where)
    chosen = list(gallery.find(where, limit=limit))
    chosen.sort(key=lambda s: (s.time or 0.0, s.camera, s.frame, s.id))
    people: dict[str, list[Sighting]] = {}
    rest: dict[str, list[Sighting]] = {}
    for s in chosen:
        (people if s.person else rest).setdefault(s.person or s.camera, []).append(s)
    sections = [_section(gallery, name, people[name]) for name in sorted(people)]
    sections += [
        _section(gallery, f"Camera {camera}" if camera else "Camera unknown", rest[camera])
        for camera in sorted(rest)
    ]
    note = counted(total, "sighting fits", "sightings fit")
    if total > len(chosen):
        note += f"; {counted(len(chosen), 'is', 'are')} shown"
    return write_page(path, title, sections, [f"{note}."])


def write_page(path: Path, title: str, sections: Iterable[Section], notes: Sequence[str]) -> Path:
    """Write a page (its folder is made, the write is atomic); returns ``path``."""
    parts: list[str] = []
    for section in sections:
        parts.append(f"<section><h2>{html.escape(section.heading)}</h2>")
        if section.note:
            parts.append(f"<p class=note>{html.escape(section.note)}</p>")
        parts.append("<div class=tiles>")
        parts += [_tile(t) for t in section.tiles]
        parts.append("</div></section>")
    return page.write(path, title, parts, notes=notes, style=_STYLE, width=1080)


def _section(gallery: Gallery, heading: str, sightings: Sequence[Sighting]) -> Section:
    tiles = [Tile(gallery.picture(s), [*_facts(s), s.id]) for s in sightings]
    return Section(heading, tiles, counted(len(sightings), "sighting"))


def _hit(rank: int, hit: Hit) -> Tile:
    lines = _facts(hit.sighting)
    if hit.sighting.person:
        lines.insert(0, hit.sighting.person)
    lines += [f"{name} {score:.2f}" for name, score in hit.parts.items()]
    if hit.count > 1:
        lines.append(f"best of {hit.count}")
    if hit.copy_of:
        lines.append("near-copy of the query" if hit.copy_of == "query" else "near-copy of another")
    return Tile(hit.picture, [*lines, hit.sighting.id], f"{rank}. {hit.score:.3f}")


def _facts(s: Sighting) -> list[str]:
    lines = [f"camera {s.camera}"] if s.camera else []
    if s.time is not None:
        lines.append(format_time(round(s.time)).replace("T", " ").replace("Z", ""))
    return lines


def _tile(tile: Tile) -> str:
    strong = f"<b>{html.escape(tile.strong)}</b>" if tile.strong else ""
    lines = "".join(f"<span>{html.escape(line)}</span>" for line in tile.lines)
    alt = html.escape(tile.strong or (tile.lines[0] if tile.lines else "sighting"), quote=True)
    kind = " class=asked" if tile.asked else ""
    picture = page.data_uri(page.thumbnail(tile.picture, _HEIGHT, (1, _WIDEST)))
    return (
        f"<figure{kind}><img alt='{alt}' src='{picture}'>"
        f"<figcaption>{strong}{lines}</figcaption></figure>"
    )


_STYLE = """
.tiles { display: flex; flex-wrap: wrap; gap: 12px; padding: 6px 0 10px;
  border-bottom: 1px solid var(--line); }
figure { margin: 0; width: 124px; }
figure img { display: block; height: 160px; border-radius: 4px; }
figure.asked img { outline: 3px solid var(--ink); }
figcaption { font-size: 12px; line-height: 1.35; margin-top: 4px; color: var(--soft);
  font-variant-numeric: tabular-nums; overflow-wrap: anywhere; }
figcaption b, figcaption span { display: block; } figcaption b { color: var(--ink); }
figcaption span:last-child { font-size: 9px; user-select: all; }
"""
