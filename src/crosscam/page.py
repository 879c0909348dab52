"""The frame of the HTML pages that commands write: one file, no script, light and dark.

Pictures are decoded and coded again as small JPEGs: the stored bytes are never shown as they are.
"""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Iterable, Sequence
from pathlib import Path

from PIL import Image

from crosscam import image
from crosscam.errors import ImageError
from crosscam.files import write_atomically

__all__ = ["data_uri", "table", "thumbnail", "write"]


def write(
    path: Path,
    title: str,
    body: Iterable[str],
    *,
    notes: Sequence[str] = (),
    style: str = "",
    width: int = 1000,
) -> Path:
    """Write a page (its folder is made, the write is atomic); returns ``path``.

    Args:
        path: the .html file.
        title: heading; text, as are the notes.
        body: HTML under the notes.
        notes: paragraphs under the heading.
        style: CSS of what stands in the body.
        width: of the column at most, CSS pixels.
    """
    head = f"<!doctype html>\n<html lang=en><head><meta charset=utf-8><title>{html.escape(title)}"
    parts = [
        f"{head}</title>",
        '<meta name=viewport content="width=device-width, initial-scale=1">',
        f"<style>{_STYLE}main {{ max-width: {width}px; }}\n{style}</style></head><body><main>",
        f"<h1>{html.escape(title)}</h1>",
        *(f"<p class=note>{html.escape(note)}</p>" for note in notes),
        *body,
        "</main></body></html>\n",
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, "\n".join(parts))
    return path


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """An HTML table of text."""
    head = "".join(f"<th>{html.escape(cell)}</th>" for cell in header)
    body = "".join(
        "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows
    )
    return f"<table><tr>{head}</tr>{body}</table>"


def thumbnail(path: Path | None, height: int, widths: tuple[int, int]) -> Image.Image:
    """A picture ``height`` pixels high, as wide as its shape asks within ``widths``.

    A gray one of 2 : 1 where there is none, or none that can be read: the page still stands.
    """
    try:
        if path is None:
            raise ImageError("there is none")
        picture = image.decode(path)
    except ImageError:
        return Image.new("RGB", (height // 2, height), "#c8ccd2")
    least, most = widths
    width = max(least, min(most, round(picture.shape[1] * height / picture.shape[0])))
    return Image.fromarray(image.resize(picture, (height, width)))


def data_uri(picture: Image.Image) -> str:
    """A picture as the ``src`` of an image, so that the page needs no other file."""
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=88)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


_STYLE = """
:root { color-scheme: light dark; --ink: #1d2127; --soft: #5c6470; --paper: #fff;
  --line: #d9dde3; }
@media (prefers-color-scheme: dark) { :root { --ink: #e7eaee; --soft: #a2aab5;
  --paper: #16191d; --line: #343a42; } }
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 15px/1.5 system-ui, sans-serif; }
main { margin: 0 auto; padding: 24px 16px 48px; }
h1 { font-size: 22px; margin: 0 0 8px; } h2 { font-size: 16px; margin: 26px 0 5px; }
.note { color: var(--soft); margin: 4px 0; max-width: 75ch; overflow-wrap: anywhere; }
table { border-collapse: collapse; margin: 14px 0; font-variant-numeric: tabular-nums; }
th, td { padding: 4px 12px 4px 0; border-bottom: 1px solid var(--line); text-align: left; }
th { color: var(--soft); font-weight: 500; }
"""
