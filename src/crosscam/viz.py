"""Ranked lists as a page and as a picture, and maps laid over pictures.

A row of a ranked list is a query on the left and its best gallery images beside it, best first.
The same person has a check and a solid green frame, another one a cross and a dashed red frame,
so that right and wrong can be told without telling red from green; gray is where nobody knows.
"""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from crosscam import image, page
from crosscam.errors import InputError

__all__ = ["PICTURES", "Block", "Hit", "Row", "overlay", "ranked_page", "ranked_picture", "sheet"]

PICTURES = (".jpg", ".jpeg", ".png")
"""Suffixes of ranked lists that are written as a picture."""

_RIGHT, _WRONG, _UNKNOWN = "#1a9850", "#d73027", "#8a8f98"
_THUMB = (128, 64)  # height, width in pixels: what a crop is shown at


@dataclass(frozen=True)
class Hit:
    """One gallery image of a ranked list."""

    path: Path
    score: float
    correct: bool | None = None  # None: nobody knows
    caption: str = ""


@dataclass(frozen=True)
class Row:
    """A query and its ranked list."""

    query: Path
    hits: Sequence[Hit]
    caption: str = ""
    group: str = ""  # rows of one group stand under one heading


@dataclass(frozen=True)
class Table:
    """A small table of figures above the lists."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]] = field(default_factory=list)


def ranked_page(
    path: Path,
    title: str,
    rows: Sequence[Row],
    *,
    notes: Sequence[str] = (),
    tables: Sequence[Table] = (),
    score: str = "cosine similarity",
) -> Path:
    """Write a page that holds its pictures itself and needs no other file; returns ``path``.

    Args:
        path: the .html file to write (its folder is made; the write is atomic).
        title: heading.
        rows: ranked lists.
        notes: sentences under the heading: data, protocol, command.
        tables: tables of figures.
        score: what the number under a hit is.
    """
    parts = [page.table(table.header, table.rows) for table in tables]
    parts.append(
        f"<p class=note>Query on the left, best match first. Number: {html.escape(score)}. "
        f"<b style='color:{_RIGHT}'>\u2713, solid green frame</b>: same person. "
        f"<b style='color:{_WRONG}'>\u2717, dashed red frame</b>: another person.</p>"
        if any(h.correct is not None for r in rows for h in r.hits)
        else f"<p class=note>Query on the left, best match first. Number: {html.escape(score)}.</p>"
    )
    group = ""
    for row in rows:
        if row.group != group:
            group = row.group
            parts.append(f"<h2>{html.escape(group)}</h2>")
        parts.append("<div class=row>")
        parts.append(_figure(row.query, "query", "query", row.caption or row.query.name))
        for rank, hit in enumerate(row.hits, 1):
            kind = {True: "right", False: "wrong", None: "unknown"}[hit.correct]
            mark = {True: "\u2713 ", False: "\u2717 ", None: ""}[hit.correct]
            text = f"{mark}{rank}. {hit.score:.3f}"
            parts.append(_figure(hit.path, kind, text, hit.caption or hit.path.name))
        parts.append("</div>")
    return page.write(path, title, parts, notes=notes, style=_STYLE)


def ranked_picture(path: Path, rows: Sequence[Row], *, scale: int = 2) -> Path:
    """Write the ranked lists as one PNG or JPEG picture; returns ``path``.

    Crops are drawn at 64x128 pixels times ``scale``.  ``crosscam search`` writes such pictures;
    those of an evaluation, with what is right and wrong, are ``ranked_picture(path,
    result.rows())``.
    """
    if not rows:
        raise InputError("a picture of ranked lists needs at least one row.")
    height, width = _THUMB[0] * scale, _THUMB[1] * scale
    pad, line = 5 * scale, 9 * scale
    columns = 1 + max(len(r.hits) for r in rows)
    cell_w, cell_h = width + 2 * pad, height + 2 * pad + line
    sheet = Image.new("RGB", (columns * cell_w + 3 * pad, len(rows) * cell_h + pad), "white")
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(7 * scale)
    for i, row in enumerate(rows):
        top = i * cell_h + pad
        cells: list[tuple[Path, str, str, bool | None]] = [(row.query, "#30343b", "query", None)]
        cells += [
            (
                h.path,
                {True: _RIGHT, False: _WRONG, None: _UNKNOWN}[h.correct],
                f"{h.score:.2f}",
                h.correct,
            )
            for h in row.hits
        ]
        for j, (file, color, text, correct) in enumerate(cells):
            left = j * cell_w + pad + (2 * pad if j else 0)
            frame = (left - scale, top - scale, left + width + scale - 1, top + height + scale - 1)
            sheet.paste(_thumbnail(file).resize((width, height), Image.Resampling.BICUBIC),
                        (left, top))  # fmt: skip
            draw.rectangle(frame, outline=color, width=2 * scale)
            if correct is False:
                _dash(draw, frame, 2 * scale)
            draw.text((left, top + height + scale), text, fill=color, font=font)
            if correct is not None:
                _mark(draw, correct, (left + width - line, top + height + 2 * scale), scale, color)
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path, quality=90)
    return path


@dataclass(frozen=True)
class Block:
    """Columns of a sheet that stand together."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[image.Picture]]  # one row a picture, one cell a column


def sheet(path: Path, blocks: Sequence[Block], *, height: int = 192) -> Path:
    """Write blocks of cells side by side as one PNG or JPEG picture; returns ``path``.

    Every cell is drawn ``height`` pixels high, as wide as its picture's shape asks.
    """
    if not blocks or not blocks[0].rows:
        raise InputError("a sheet needs at least one block of one row.")
    gap, space, head = 4, 20, 44
    left = gap
    places: list[list[tuple[int, int]]] = []
    for block in blocks:
        places.append([])
        for cell in block.rows[0]:
            width = max(round(height * cell.shape[1] / cell.shape[0]), 1)
            places[-1].append((left, width))
            left += width + gap
        left += space
    rows = len(blocks[0].rows)
    drawn = Image.new("RGB", (left - space, head + rows * (height + gap)), "white")
    draw = ImageDraw.Draw(drawn)
    title, label = ImageFont.load_default(15), ImageFont.load_default(11)
    for block, columns in zip(blocks, places, strict=True):
        across = columns[-1][0] + columns[-1][1] - columns[0][0]
        draw.text((columns[0][0], 4), _fitting(block.title, title, across), "#1d2127", title)
        for (at, width), name in zip(columns, block.columns, strict=True):
            draw.text((at, 26), _fitting(name, label, width), "#5c6470", label)
        for number, cells in enumerate(block.rows):
            top = head + number * (height + gap)
            for (at, width), cell in zip(columns, cells, strict=True):
                shown = Image.fromarray(cell).resize((width, height), Image.Resampling.BICUBIC)
                drawn.paste(shown, (at, top))
    path.parent.mkdir(parents=True, exist_ok=True)
    drawn.save(path, quality=90)
    return path


def overlay(picture: image.Picture, values: npt.NDArray[np.floating]) -> image.Picture:
    """A map [h, w] as colors over a picture [H, W, 3], from dark (its least) to light (its most).

    The picture shines through in gray.  A map that is the same everywhere is dark.
    """
    low, high = float(values.min()), float(values.max())
    scaled = (values - low) / (high - low) if high > low else np.zeros_like(values)
    cells = Image.fromarray((255 * scaled).astype(np.uint8))
    size = (picture.shape[1], picture.shape[0])
    level = np.asarray(cells.resize(size, Image.Resampling.BILINEAR)) / 255
    at = np.linspace(0, 1, len(_HEAT))
    heat = np.stack([np.interp(level, at, channel) for channel in np.array(_HEAT).T], -1)
    gray = picture.mean(-1, keepdims=True)
    mixed: image.Picture = (0.35 * gray + 0.65 * heat).astype(np.uint8)
    return mixed


_HEAT = ((0, 0, 40), (85, 15, 110), (190, 50, 85), (250, 140, 10), (255, 250, 160))


def _dash(draw: ImageDraw.ImageDraw, frame: tuple[int, int, int, int], width: int) -> None:
    """White gaps, half as long as the dashes between them, in a frame ``width`` pixels wide."""
    left, top, right, bottom = frame
    dash, gap = 4 * width, 2 * width
    for x in range(left + dash, right - dash, dash + gap):
        for y in (top, bottom - width + 1):
            draw.rectangle((x, y, x + gap - 1, y + width - 1), fill="white")
    for y in range(top + dash, bottom - dash, dash + gap):
        for x in (left, right - width + 1):
            draw.rectangle((x, y, x + width - 1, y + gap - 1), fill="white")


def _mark(
    draw: ImageDraw.ImageDraw, correct: bool, corner: tuple[int, int], scale: int, color: str
) -> None:
    """A check or a cross, 6 x 6 pixels times ``scale``, right and below of ``corner``."""
    strokes = [[(0, 3), (2, 6), (6, 0)]] if correct else [[(0, 0), (6, 6)], [(0, 6), (6, 0)]]
    for stroke in strokes:
        points = [(corner[0] + x * scale, corner[1] + y * scale) for x, y in stroke]
        draw.line(points, fill=color, width=max(scale, 2), joint="curve")


def _fitting(text: str, font: Any, width: int) -> str:
    """``text``, cut from the left until it is at most ``width`` pixels wide."""
    shown = text
    while shown and font.getlength(shown) > width:
        text = text[1:]
        shown = f"\u2026{text}" if text else ""
    return shown


def _figure(path: Path, kind: str, text: str, title: str) -> str:
    return (
        f"<figure class={kind}><img alt='{html.escape(path.name, quote=True)}' "
        f"title='{html.escape(title, quote=True)}' src='{page.data_uri(_thumbnail(path))}'>"
        f"<figcaption>{html.escape(text)}</figcaption></figure>"
    )


def _thumbnail(path: Path) -> Image.Image:
    return page.thumbnail(path, _THUMB[0], (_THUMB[1], _THUMB[1]))


_STYLE = """
.row { display: flex; gap: 6px; overflow-x: auto; padding: 6px 0 10px;
  border-bottom: 1px solid var(--line); }
figure { margin: 0; flex: none; width: 74px; }
figure.query { margin-right: 14px; }
figure img { display: block; width: 64px; height: 128px; border: 4px solid #8a8f98;
  border-radius: 4px; image-rendering: auto; }
figure.query img { border-color: #30343b; } figure.right img { border-color: #1a9850; }
figure.wrong img { border-color: #d73027; border-style: dashed; }
figcaption { font-size: 12px; color: var(--soft); text-align: center;
  font-variant-numeric: tabular-nums; }
figure.right figcaption { color: #1a9850; } figure.wrong figcaption { color: #d73027; }
"""
