"""Ranked lists as a page and as a picture.

A row is a query on the left and its best gallery images beside it, best first: green frame for
the same person, red for another one, gray where nobody knows.
"""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from crosscam import image
from crosscam.errors import ImageError, InputError
from crosscam.files import write_atomically

__all__ = ["Hit", "Row", "ranked_page", "ranked_picture"]

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
    parts = [_HEAD.format(title=html.escape(title)), f"<h1>{html.escape(title)}</h1>"]
    parts += [f"<p class=note>{html.escape(note)}</p>" for note in notes]
    parts += [_table(table) for table in tables]
    parts.append(
        f"<p class=note>Query on the left, best match first. Number: {html.escape(score)}. "
        f"<b style='color:{_RIGHT}'>Green</b>: same person. <b style='color:{_WRONG}'>Red</b>: "
        "another person.</p>"
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
            text = f"{rank}. {hit.score:.3f}"
            parts.append(_figure(hit.path, kind, text, hit.caption or hit.path.name))
        parts.append("</div>")
    parts.append("</main></body></html>\n")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, "\n".join(parts))
    return path


def ranked_picture(path: Path, rows: Sequence[Row], *, scale: int = 2) -> Path:
    """Write the ranked lists as one PNG or JPEG picture; returns ``path``.

    Crops are drawn at 64x128 pixels times ``scale``.
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
        cells = [(row.query, "#30343b", "query")]
        cells += [
            (h.path, {True: _RIGHT, False: _WRONG, None: _UNKNOWN}[h.correct], f"{h.score:.2f}")
            for h in row.hits
        ]
        for j, (file, color, text) in enumerate(cells):
            left = j * cell_w + pad + (2 * pad if j else 0)
            frame = (left - scale, top - scale, left + width + scale - 1, top + height + scale - 1)
            draw.rectangle(frame, outline=color, width=2 * scale)
            sheet.paste(_thumbnail(file).resize((width, height), Image.Resampling.BICUBIC),
                        (left, top))  # fmt: skip
            draw.rectangle(frame, outline=color, width=2 * scale)
            draw.text((left, top + height + scale), text, fill=color, font=font)
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path, quality=90)
    return path


def _figure(path: Path, kind: str, text: str, title: str) -> str:
    return (
        f"<figure class={kind}><img alt='{html.escape(path.name, quote=True)}' "
        f"title='{html.escape(title, quote=True)}' src='{_data_uri(path)}'>"
        f"<figcaption>{html.escape(text)}</figcaption></figure>"
    )


def _data_uri(path: Path) -> str:
    buffer = io.BytesIO()
    _thumbnail(path).save(buffer, "JPEG", quality=88)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def _thumbnail(path: Path) -> Image.Image:
    """The crop at 64x128; a gray one where it cannot be read (the list still stands)."""
    try:
        return Image.fromarray(image.resize(image.decode(path), _THUMB))
    except ImageError:
        return Image.new("RGB", (_THUMB[1], _THUMB[0]), "#c8ccd2")


def _table(table: Table) -> str:
    head = "".join(f"<th>{html.escape(c)}</th>" for c in table.header)
    body = "".join(
        "<tr>" + "".join(f"<td>{html.escape(c)}</td>" for c in row) + "</tr>" for row in table.rows
    )
    return f"<table><tr>{head}</tr>{body}</table>"


_HEAD = """<!doctype html>
<html lang=en><head><meta charset=utf-8><title>{title}</title>
<meta name=viewport content="width=device-width, initial-scale=1">
<style>
:root {{ color-scheme: light dark; --ink: #1d2127; --soft: #5c6470; --paper: #fff;
  --line: #d9dde3; }}
@media (prefers-color-scheme: dark) {{ :root {{ --ink: #e7eaee; --soft: #a2aab5;
  --paper: #16191d; --line: #343a42; }} }}
body {{ margin: 0; background: var(--paper); color: var(--ink);
  font: 15px/1.5 system-ui, sans-serif; }}
main {{ max-width: 1000px; margin: 0 auto; padding: 24px 16px 48px; }}
h1 {{ font-size: 22px; margin: 0 0 8px; }} h2 {{ font-size: 16px; margin: 28px 0 6px; }}
.note {{ color: var(--soft); margin: 4px 0; max-width: 75ch; overflow-wrap: anywhere; }}
table {{ border-collapse: collapse; margin: 14px 0; font-variant-numeric: tabular-nums; }}
th, td {{ padding: 4px 12px 4px 0; border-bottom: 1px solid var(--line); text-align: left; }}
th {{ color: var(--soft); font-weight: 500; }}
.row {{ display: flex; gap: 6px; overflow-x: auto; padding: 6px 0 10px;
  border-bottom: 1px solid var(--line); }}
figure {{ margin: 0; flex: none; width: 74px; }}
figure.query {{ margin-right: 14px; }}
figure img {{ display: block; width: 64px; height: 128px; border: 4px solid #8a8f98;
  border-radius: 4px; image-rendering: auto; }}
figure.query img {{ border-color: #30343b; }} figure.right img {{ border-color: #1a9850; }}
figure.wrong img {{ border-color: #d73027; }}
figcaption {{ font-size: 12px; color: var(--soft); text-align: center;
  font-variant-numeric: tabular-nums; }}
figure.right figcaption {{ color: #1a9850; }} figure.wrong figcaption {{ color: #d73027; }}
</style></head><body><main>"""
