"""What is wrong with a data set on disk, and what to do about it.

``check`` reads a set as training would, judges it by the rules of ``findings.inspect``, then
opens every picture: whether it decodes, and whether the same content lies in two splits.
"""

from __future__ import annotations

import hashlib
import json
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from crosscam.data.datasets import SameCamera, available, options_from_text, parse
from crosscam.data.findings import Count, Finding, Level, Row, finding, inspect, splits
from crosscam.errors import ImageError
from crosscam.image import MAX_BYTES
from crosscam.image import decode as decode_picture
from crosscam.types import JUNK_PID, Dataset, Sample
from crosscam.wording import counted, either

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

__all__ = ["Report", "check", "main_check", "main_list"]

_SMALLEST = 16  # pixels; a person cannot be told on fewer
_CHUNK = 512  # pictures under way at a time


@dataclass(frozen=True)
class Report:
    """Everything ``check`` has to say."""

    name: str
    root: Path
    variant: str
    partial: bool
    rows: tuple[Row, ...]
    findings: tuple[Finding, ...]
    decoded: int  # pictures that were opened, 0 without decoding
    seconds: float

    @property
    def ok(self) -> bool:
        """Whether nothing is an error."""
        return not any(f.level == "error" for f in self.findings)

    def to_dict(self) -> dict[str, Any]:
        """The report as plain values for JSON."""

        def counts(c: Count) -> dict[str, int | None]:
            return {"ids": c.ids, "images": c.images, "cameras": c.cameras}

        return {
            "name": self.name,
            "root": str(self.root),
            "variant": self.variant,
            "partial": self.partial,
            "ok": self.ok,
            "counts": [
                {
                    "split": r.split,
                    "found": counts(r.found),
                    "expected": counts(r.expected),
                    "ok": r.ok,
                }
                for r in self.rows
            ],
            "findings": [f.to_dict() for f in self.findings],
            "decoded": self.decoded,
            "seconds": round(self.seconds, 3),
        }

    def __rich__(self) -> RenderableType:
        from rich.console import Group
        from rich.markup import escape
        from rich.padding import Padding
        from rich.table import Table
        from rich.text import Text

        title = f"{self.name}" + (f" ({self.variant})" if self.variant else "")
        table = Table(title=escape(title), title_justify="left")
        table.add_column("split")
        published = any(r.expected != Count() for r in self.rows)  # own data has no such counts
        for word in ("images", "ids"):
            table.add_column(f"{word} found" if published else word, justify="right")
            if published:
                table.add_column("expected", justify="right")
        table.add_column("cameras", justify="right")
        if published:
            table.add_column("")
        for r in self.rows:
            mark = (
                "[green]ok[/]"
                if r.ok
                else ("[yellow]subset[/]" if self.partial else "[red]wrong[/]")
            )
            known = r.expected.images is not None or r.expected.ids is not None
            cells = [r.split]
            for found, expected in (
                (r.found.images, r.expected.images),
                (r.found.ids, r.expected.ids),
            ):
                cells += [_number(found), _number(expected)] if published else [_number(found)]
            cells.append(_number(r.found.cameras))
            table.add_row(*cells, *([mark if known else ""] if published else []))
        colors = {"error": "red", "warning": "yellow", "info": "cyan"}
        order = list(colors)
        lines: list[RenderableType] = [table]
        for f in sorted(self.findings, key=lambda f: order.index(f.level)):
            said = " ".join(filter(None, (f.found, f.needed)))
            lines.append(Text.assemble((f"{f.level}: ", f"bold {colors[f.level]}"), said))
            lines += [Padding(Text(t), (0, 0, 0, 2)) for t in (f.fix, f.sample()) if t]
        opened = (
            f"{counted(self.decoded, 'picture')} opened" if self.decoded else "no picture opened"
        )
        verdict = ("ok", "bold green") if self.ok else ("not ok", "bold red")
        lines.append(Text.assemble(verdict, f" · {opened} · {self.seconds:.1f} s · {self.root}"))
        return Group(*lines)


def _number(n: int | None) -> str:
    return "" if n is None else f"{n:,}"


def check(
    name: str,
    root: str | Path,
    *,
    partial: bool = False,
    decode: bool = True,
    same_camera: SameCamera = "auto",
    threads: int = 2,
    progress: bool = False,
    **options: Any,
) -> Report:
    """Read the data set ``name`` from ``root`` and report what is wrong with it.

    ``partial`` accepts wrong counts; ``decode=False`` leaves the pictures closed (files of equal
    size in two splits are still compared).  Memory: ``threads`` decoded pictures and a hash per
    image.  Other arguments as for ``datasets.load``.

    Raises ``DataError`` where there is nothing to report on: an unknown name, no such folder.
    """
    start = time.perf_counter()
    parsed = parse(name, root, same_camera=same_camera, **options)
    findings = list(inspect(parsed, partial=partial))
    looked = _look(_every(parsed.dataset), decode=decode, threads=threads, progress=progress)
    findings += _unreadable(looked)
    published = any(r.expected != Count() for r in parsed.rows)
    findings += _same_content(parsed.dataset, looked, published)
    if decode:
        findings += _sizes(parsed.dataset, looked)
    return Report(
        name=name,
        root=parsed.dataset.root,
        variant=parsed.dataset.variant,
        partial=partial,
        rows=parsed.rows,
        findings=tuple(findings),
        decoded=len(looked) if decode else 0,
        seconds=time.perf_counter() - start,
    )


# --- opening pictures -----------------------------------------------------------------------------


class _Look(NamedTuple):
    digest: bytes  # of the file's bytes; empty where it was not read
    size: tuple[int, int] | None  # width, height in pixels; None where it was not decoded
    problem: str  # why it cannot be used; empty if it can


def _every(dataset: Dataset) -> list[list[Path]]:
    """The distinct files of train and of each other split."""
    sides = [list(dict.fromkeys(s.path for s in samples)) for _, samples in splits(dataset)]
    sides.append(list(dict.fromkeys(s.path for s in dataset.multi_query)))
    return sides


def _look(
    sides: Sequence[Sequence[Path]], *, decode: bool, threads: int, progress: bool
) -> dict[Path, _Look]:
    from PIL import Image
    from rich.console import Console
    from rich.progress import Progress

    paths = list(dict.fromkeys(p for side in sides for p in side))
    if not decode:
        return _look_at_sizes(sides, paths)
    looked: dict[Path, _Look] = {}
    Image.init()  # Pillow loads its formats at the first use, which is not safe from two threads
    with (
        ThreadPoolExecutor(max_workers=threads) as pool,
        Progress(console=Console(stderr=True), transient=True, disable=not progress) as bar,
    ):
        task = bar.add_task("opening pictures", total=len(paths))
        for i in range(0, len(paths), _CHUNK):
            chunk = paths[i : i + _CHUNK]
            looked.update(zip(chunk, pool.map(_open, chunk), strict=True))
            bar.advance(task, len(chunk))
    return looked


def _look_at_sizes(sides: Sequence[Sequence[Path]], paths: Sequence[Path]) -> dict[Path, _Look]:
    """Without decoding: only files whose size occurs in more than one split are read."""
    sizes: dict[Path, int] = {}
    looked: dict[Path, _Look] = {}
    for path in paths:
        try:
            sizes[path] = path.stat().st_size
        except OSError as error:
            looked[path] = _Look(b"", None, f"cannot be read ({error.strerror})")
    in_sides = [{sizes[p] for p in side if p in sizes} for side in sides]
    seen = Counter(size for side in in_sides for size in side)
    for path, size in sizes.items():
        if size == 0:
            looked[path] = _Look(b"", None, "is empty")
        elif seen[size] > 1:
            looked[path] = _read(path)[0]
        else:
            looked[path] = _Look(b"", None, "")
    return looked


def _digest(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=16).digest()


def _read(path: Path) -> tuple[_Look, bytes]:
    try:
        size = path.stat().st_size
        if size > MAX_BYTES:
            return _Look(b"", None, f"has {size:,} bytes; at most {MAX_BYTES:,} are read"), b""
        data = path.read_bytes()
    except OSError as error:
        return _Look(b"", None, f"cannot be read ({error.strerror})"), b""
    return (_Look(_digest(data), None, "") if data else _Look(b"", None, "is empty")), data


def _open(path: Path) -> _Look:
    """Read and decode one file, whole."""
    look, data = _read(path)
    if look.problem:
        return look
    try:
        height, width, _ = decode_picture(data).shape
    except ImageError as error:
        # What is wrong with it; what to do is said once for all such files.
        reason = str(error).removeprefix("the upload ").partition(". ")[0].rstrip(".")
        return look._replace(problem=reason)
    return look._replace(size=(width, height))


# --- what the pictures tell -----------------------------------------------------------------------


def _unreadable(looked: dict[Path, _Look]) -> Iterator[Finding]:
    files = counted(len(looked), "image file")
    bad = {path: look.problem for path, look in looked.items() if look.problem}
    empty = [path for path, problem in bad.items() if problem == "is empty"]
    if empty:
        yield finding(
            "error",
            "empty-file",
            f"{len(empty):,} of {files} {either(len(empty), 'is', 'are')} empty (0 bytes).",
            "Every file must be a picture.",
            "Copy or unpack them again; a full disk leaves such files behind.",
            empty,
        )
    corrupt = [f"{path} ({problem})" for path, problem in bad.items() if problem != "is empty"]
    if corrupt:
        yield finding(
            "error",
            "corrupt-image",
            f"{len(corrupt):,} of {files} cannot be decoded to the end.",
            "Every file must be a whole picture.",
            "Copy or unpack them again; a download that was cut off leaves such files behind.",
            corrupt,
        )


def _sizes(dataset: Dataset, looked: dict[Path, _Look]) -> Iterator[Finding]:
    sizes = {path: look.size for path, look in looked.items() if look.size is not None}
    tiny = [f"{path} ({w}x{h})" for path, (w, h) in sizes.items() if min(w, h) < _SMALLEST]
    if tiny:
        yield finding(
            "warning",
            "tiny-image",
            f"{counted(len(tiny), 'image is', 'images are')} smaller than {_SMALLEST} pixels on a "
            "side.",
            "A person cannot be told on so few pixels.",
            "Look at them; remove them from your own lists, leave them in a benchmark.",
            tiny,
        )
    if not sizes:
        return
    different = sorted(set(sizes.values()))
    if len(different) == 1:
        w, h = different[0]
        varies = dataset.name in ("cuhk03", "cuhk03-np") and len(sizes) > 100
        yield finding(
            "warning" if varies else "info",
            "one-size",
            either(len(sizes), "The one image is", f"All {len(sizes):,} images are")
            + f" {w}x{h} pixels (width x height).",
            "The original crops of this set differ in size." if varies else "",
            "These are resized copies: say so beside every number measured on them."
            if varies
            else "",
        )
    else:
        widths, heights = sorted(w for w, _ in sizes.values()), sorted(h for _, h in sizes.values())
        yield finding(
            "info",
            "sizes",
            f"Images are {widths[0]} to {widths[-1]} pixels wide (median {_median(widths)}) and "
            f"{heights[0]} to {heights[-1]} high (median {_median(heights)}).",
        )


def _median(values: Sequence[int]) -> int:
    return values[len(values) // 2]


class _Place(NamedTuple):
    split: str
    sample: Sample

    def __str__(self) -> str:
        return f"{self.split}/{self.sample.path.name}"


def _same_content(
    dataset: Dataset, looked: dict[Path, _Look], published: bool
) -> Iterator[Finding]:
    """Files with the same bytes in two splits, or under two ids.

    In a ``published`` set that is worth knowing but part of the set; in one's own it is an error.
    """
    level: Level = "warning" if published else "error"
    remove = "Remove one of the two files" + (
        ", unless the set was published so." if published else "."
    )
    groups: dict[bytes, dict[Path, list[_Place]]] = defaultdict(dict)
    for split, samples in splits(dataset):
        for s in samples:
            digest = looked[s.path].digest
            if digest:
                groups[digest].setdefault(s.path, []).append(_Place(split, s))
    across: list[str] = []
    itself: list[str] = []
    left_out = 0
    two_ids: list[str] = []
    for of in groups.values():
        if len(of) < 2:  # one file; if it is listed twice, the rules on paths say so
            continue
        places = [p for listed in of.values() for p in listed]
        train = [p for p in places if p.split == "train"]
        query = [p for p in places if p.split == "query"]
        gallery = [p for p in places if p.split == "gallery" and p.sample.pid != JUNK_PID]
        if train and (query or gallery):
            across.append(f"{train[0]} = {(query or gallery)[0]}")
        for q in query:
            for g in gallery:
                if q.sample.path == g.sample.path or q.sample.pid != g.sample.pid:
                    continue
                if dataset.protocol.same_camera == "drop" and q.sample.camid == g.sample.camid:
                    left_out += 1
                else:
                    itself.append(f"{q} = {g}")
        people = {p.sample.pid for p in places} - {JUNK_PID}
        if len(people) > 1:
            names = " = ".join(f"{p} (id {p.sample.pid})" for p in places[:2])
            two_ids.append(names)
    if across:
        yield finding(
            level,
            "same-file-train-test",
            f"{counted(len(across), 'picture lies', 'pictures lie')} in train and, with the same "
            "content, in query or gallery.",
            "A test is only fair on pictures that training never saw.",
            remove,
            across,
        )
    if itself:
        yield finding(
            level,
            "same-file-query-gallery",
            f"{counted(len(itself), 'query lies', 'queries lie')}, with the same content, in the "
            f"gallery as well, and no camera rule leaves {either(len(itself), 'it', 'them')} out.",
            "A query must not find itself.",
            remove,
            itself,
        )
    if left_out:
        yield finding(
            "info",
            "query-in-gallery",
            f"{counted(left_out, 'query lies', 'queries lie')} in the gallery as well.",
            "The camera rule leaves images of the query's own camera out.",
        )
    if two_ids:
        yield finding(
            "warning",
            "same-file-two-ids",
            f"{counted(len(two_ids), 'picture occurs', 'pictures occur')} under two different ids.",
            "The same picture shows the same person.",
            "Correct the id in your own lists; a benchmark is better left as it is published.",
            two_ids,
        )


# --- the command line's way in --------------------------------------------------------------------


def main_check(
    name: str,
    root: str | Path,
    *,
    partial: bool = False,
    decode: bool = True,
    as_json: bool = False,
    options: Sequence[str] = (),
    console: Console | None = None,
) -> int:
    """``crosscam data check``: print the report; returns the exit status, 0 if all is well.

    ``options`` are ``key=value`` words for the set ("boxes=labeled", "same_camera=keep").  With
    ``as_json`` the report goes to standard output as one JSON object and nothing else does.
    """
    from rich.console import Console

    report = check(
        name,
        root,
        partial=partial,
        decode=decode,
        progress=sys.stderr.isatty(),
        **options_from_text(name, options),
    )
    if as_json:
        sys.stdout.write(json.dumps(report.to_dict(), indent=2) + "\n")
    else:
        (console or Console()).print(report)
    return 0 if report.ok else 1


def main_list(*, as_json: bool = False, console: Console | None = None) -> int:
    """``crosscam data list``: print what can be read, with options and their defaults."""
    from rich.console import Console
    from rich.table import Table

    if as_json:
        sys.stdout.write(json.dumps([info._asdict() for info in available()], indent=2) + "\n")
        return 0
    table = Table("name", "what it is", "options (default)", box=None)
    for info in available():
        table.add_row(info.name, info.summary, " ".join(info.options))
    (console or Console()).print(table)
    return 0
