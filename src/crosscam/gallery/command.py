"""``crosscam gallery``: the verbs, their arguments, and what they print."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from datetime import timezone, tzinfo
from pathlib import Path
from typing import Any

from crosscam.errors import DataError, ImageError, InputError, NotFoundError
from crosscam.files import write_atomically
from crosscam.wording import counted, either

__all__ = ["add_arguments", "run"]

VERBS: dict[str, str] = {
    "add": "Add pictures, lists or videos; makes the gallery where there is none.",
    "search": "Rank the gallery for a person, seen on pictures or known by name.",
    "show": "Write a page of what a gallery holds.",
    "people": "List the named people.",
    "enroll": "Name the person that sightings or pictures show.",
    "confirm": "Say that sightings show a person; searches for them then use these.",
    "reject": "Say that sightings do not show a person; searches for them leave these out.",
    "release": "Take the names off sightings.",
    "rename": "Give a person another name.",
    "merge": "Make one person of several.",
    "split": "Make some of a person's sightings another person.",
    "forget": "Delete sightings for good, with a receipt.",
    "compact": "Index new sightings, erase deleted ones from the files, remove orphans.",
    "stats": "Print figures.",
    "verify": "Look at every sighting, vector and picture file.",
    "reembed": "Make all vectors again by another model.",
    "copy": "Copy a gallery into another folder or onto a server.",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Give the parser of ``crosscam gallery`` its verbs."""
    verbs = parser.add_subparsers(title="verbs", dest="verb", required=True, metavar="VERB")
    made = {}
    for name, text in VERBS.items():
        verb = made[name] = verbs.add_parser(name, help=text, description=text)
        if name != "copy":
            verb.add_argument("--gallery", required=True, metavar="PLACE",
                              help="folder, or http://host:6333/NAME")  # fmt: skip
        verb.add_argument("--pictures", type=Path, metavar="FOLDER",
                          help="where a server's gallery keeps its pictures")  # fmt: skip
        verb.add_argument("--json", action="store_true", help="print JSON")
        verb.add_argument("--quiet", action="store_true", help="no progress bar")
    for name in ("add", "search", "enroll", "reembed"):
        required = name in ("add", "reembed")
        made[name].add_argument("--model", required=required, help="encoder folder")
    _add(made["add"])
    _search(made["search"])
    for name in ("show", "forget"):
        made[name].add_argument("--person", help="name")
        made[name].add_argument("--camera", help="camera")
        made[name].add_argument("--before", metavar="TIME", help="ISO 8601 (UTC) or seconds")
        made[name].add_argument("--id", nargs="+", default=[], help="sightings")
    show, forget = made["show"], made["forget"]
    show.add_argument("--after", metavar="TIME", help="ISO 8601 (UTC) or seconds")
    show.add_argument("--limit", type=int, default=200, help="at most so many sightings")
    show.add_argument("--out", type=Path, default=Path("gallery.html"), help="page to write")
    forget.add_argument("--added-before", metavar="TIME",
                        help="when they came into the gallery, which is always known")  # fmt: skip
    forget.add_argument("--reason", default="", help="goes into the receipt")
    forget.add_argument("--receipt", type=Path, metavar="FILE", help="write the receipt as JSON")
    forget.add_argument("--yes", action="store_true", help="do not ask")
    forget.add_argument("--later", action="store_true",
                        help="leave erasing the store's files to `compact`")  # fmt: skip
    for name in ("enroll", "confirm", "reject"):
        made[name].add_argument("name", help="the person's name")
        kinds = "ids or picture files" if name == "enroll" else "ids"
        made[name].add_argument("sightings", nargs="+", help=kinds)
        if name != "reject":
            made[name].add_argument("--same-frame", action="store_true",
                                    help="allow two sightings of one frame")  # fmt: skip
    made["release"].add_argument("sightings", nargs="+", help="ids")
    made["rename"].add_argument("old")
    made["rename"].add_argument("new")
    made["merge"].add_argument("names", nargs="+")
    made["merge"].add_argument("--into", required=True, metavar="NAME")
    made["split"].add_argument("name")
    made["split"].add_argument("sightings", nargs="+", help="ids")
    made["split"].add_argument("--new", required=True, metavar="NAME")
    copy = made["copy"]
    copy.add_argument("source", metavar="FROM", help="folder, or http://host:6333/NAME")
    copy.add_argument("target", metavar="TO", help="folder, or http://host:6333/NAME")
    copy.add_argument("--to-pictures", type=Path, metavar="FOLDER",
                      help="where the copy keeps its pictures, if it is on a server")  # fmt: skip
    kind = copy.add_mutually_exclusive_group()
    kind.add_argument("--int8", action="store_const", const="int8", dest="quantization",
                      help="make the copy with scalar quantization (default: as FROM)")  # fmt: skip
    kind.add_argument("--no-int8", action="store_const", const="none", dest="quantization",
                      help="make the copy without it")  # fmt: skip


def _add(add: argparse.ArgumentParser) -> None:
    add.add_argument("sources", nargs="+", type=Path, metavar="SOURCE",
                     help="folder of crops, CSV list, video, or picture files")  # fmt: skip
    add.add_argument("--camera", default="", help="of all pictures (default: from their names, and "
                     "with --people folder from PERSON/CAMERA/PICTURE); of the rows of a list that "
                     "say none")  # fmt: skip
    add.add_argument("--time", metavar="TIME", help="of all pictures; of the rows of a list that "
                     "say none; of videos: of the first frame")  # fmt: skip
    add.add_argument("--timezone", default="UTC", metavar="ZONE",
                     help="of times without an offset, such as Europe/Berlin")  # fmt: skip
    add.add_argument("--people", choices=("none", "folder", "name"), default="none",
                     help="take names from folders, or numbers from Market-1501 names")  # fmt: skip
    add.add_argument("--int8", action="store_true",
                     help="make the gallery with scalar quantization")  # fmt: skip
    video = add.add_argument_group("videos")
    video.add_argument("--detector", type=Path, metavar="FILE",
                       help="ONNX file that finds people; hog: OpenCV's weak one")  # fmt: skip
    video.add_argument("--detector-kind", choices=("auto", "yolox", "rtdetr", "detr"),
                       default="auto")  # fmt: skip
    video.add_argument("--detector-normalize", action="store_true", help="ImageNet input (RF-DETR)")
    video.add_argument("--person-class", type=int, default=0, help="index of the class person")
    video.add_argument("--threshold", type=float, default=0.5, help="least score of a person")
    video.add_argument("--every", type=float, default=0.2, help="seconds between frames")
    video.add_argument("--crops", type=int, default=4, help="sightings per track, at most")


def _search(search: argparse.ArgumentParser) -> None:
    search.add_argument("queries", nargs="*", type=Path, metavar="PICTURE",
                        help="pictures of one person")  # fmt: skip
    search.add_argument("--sighting", nargs="+", default=[], metavar="ID")
    search.add_argument("--person", help="everything that carries this name")
    search.add_argument("--top", type=int, default=10)
    search.add_argument("--camera", nargs="+", default=[], help="only from these cameras")
    search.add_argument("--not-camera", nargs="+", default=[])
    search.add_argument("--after", metavar="TIME")
    search.add_argument("--before", metavar="TIME")
    search.add_argument("--query-camera", nargs="+", default=[], metavar="CAMERA",
                        help="where the query pictures come from (default: read from "
                        "their names, where cameras matter)")  # fmt: skip
    search.add_argument("--exclude-own-cameras", action="store_true",
                        help="leave out the cameras of the query")  # fmt: skip
    search.add_argument("--group", choices=("track", "person"))
    search.add_argument("--once-per-frame", action="store_true",
                        help="nobody is twice in one frame")  # fmt: skip
    search.add_argument("--include-known", action="store_true",
                        help="with --person: also what carries the name")  # fmt: skip
    search.add_argument("--distinct", action="store_true", help="leave near-copies out")
    search.add_argument("--pool", choices=("mean", "max"), default="mean")
    search.add_argument("--exact", action="store_true", help="do not use the index")
    search.add_argument("--rerank", type=int, default=0, metavar="N",
                        help="re-rank the N best by k-reciprocal encoding")  # fmt: skip
    search.add_argument("--calibration", type=Path, metavar="FILE",
                        help="what scores mean (default: the model's own)")  # fmt: skip
    search.add_argument("--far", type=float, default=0.01, metavar="RATE",
                        help="strangers' searches that may pass for known")  # fmt: skip
    search.add_argument("--out", type=Path, metavar="PAGE", help="also write a page")


def run(options: argparse.Namespace, load: Callable[[str], Any]) -> int:
    """Run a verb; returns the exit status (1 where ``verify`` found a problem).

    ``load`` makes an encoder of what ``--model`` named.
    """
    options.load = load
    verbs: dict[str, Callable[[argparse.Namespace], int]] = {
        "add": _run_add,
        "search": _run_search,
        "show": _run_show,
        "people": _run_people,
        "forget": _run_forget,
        "reembed": _run_reembed,
        "copy": _run_copy,
        "compact": _run_compact,
        "stats": _run_stats,
        "verify": _run_verify,
        "enroll": _run_enroll,
    }
    return verbs.get(options.verb, _run_judgment)(options)


def _run_add(options: argparse.Namespace) -> int:
    from crosscam.gallery import Added, Gallery
    from crosscam.gallery.sighting import camera_name, parse_time

    zone = _zone(options.timezone)
    options.camera = camera_name(options.camera)
    when = parse_time(options.time, zone) if options.time else None
    sources = [_source(path, options) for path in options.sources]  # before a model is loaded
    for kind, paths in sources:
        _require_people(kind, paths[0], options.people)
    # A list that is refused leaves no gallery behind.
    read = [
        (paths, None if kind == "video" else _items(kind, paths, when, zone, options))
        for kind, paths in sources
    ]
    total = Added()
    with (
        Gallery.create(
            options.gallery,
            options.load(options.model),
            pictures=options.pictures,
            quantization="int8" if options.int8 else "none",
            doing="crosscam gallery add",
        ) as gallery,
        _made_for_something(gallery),
    ):
        if options.int8 and gallery.quantization != "int8":
            raise InputError(
                f"{options.gallery} was made without quantization. Make one that has it: "
                f"crosscam gallery copy {options.gallery} NEW --int8."
            )
        for paths, found in read:
            if found is None:
                result = _add_video(gallery, paths[0], when, options)
            else:
                for note in found.notes:
                    print(f"note: {note}", file=sys.stderr)
                with _bar("adding", len(found.items), options) as advance:
                    result = gallery.add(found.items, progress=advance)
            total.ids += result.ids
            total.new += result.new
            total.present += result.present
            total.broken += result.broken
        if total.ids and not any(total.ids):
            raise DataError(f"nothing could be added. {total.text()}")
        count = len(gallery)
    values = {
        "added": total.new,
        "present": total.present,
        "broken": [{"name": n, "why": w} for n, w in total.broken],
        "sightings": count,
    }
    _print(options, values, f"{total.text()}\n{counted(count, 'sighting')} in {options.gallery}")
    return 0


@contextmanager
def _made_for_something(gallery: Any) -> Iterator[None]:
    """Takes a new gallery away where the block fails before anything is in it.

    Left behind, it would refuse every other model.
    """
    try:
        yield
    except BaseException:
        if gallery.made and not len(gallery):
            gallery.discard()
        raise


def _source(path: Path, options: argparse.Namespace) -> tuple[str, list[Path]]:
    from crosscam.gallery.video import VIDEO_EXTENSIONS
    from crosscam.pictures import EXTENSIONS

    suffix = path.suffix.lower()
    if path.is_dir():
        return "folder", [path]
    if not path.exists():
        raise DataError(f"there is nothing at {path}: give a folder, a CSV list, a video or a "
                        "picture.")  # fmt: skip
    if suffix == ".csv":
        return "csv", [path]
    if suffix in VIDEO_EXTENSIONS:
        if options.detector is None:
            raise InputError(
                f"{path} is a video: give --detector, the ONNX file of a person detector "
                "(docs/gallery.md names some), or hog, the weak one of OpenCV."
            )
        return "video", [path]
    if suffix in EXTENSIONS:
        return "files", [path]
    raise DataError(
        f"{path} is no folder, no .csv, no video ({' '.join(sorted(VIDEO_EXTENSIONS))}) and no "
        "picture, by its name. Rename it, or list it in a CSV file."
    )


def _require_people(kind: str, path: Path, people: str) -> None:
    """Refuses ``--people`` where a source has no such names: it would name nobody."""
    if people == "none" or kind == "folder" or (kind == "files" and people == "name"):
        return
    instead = {
        "csv": "a list names people in its column person",
        "video": "nobody in a video has a name yet; enroll them afterwards",
        "files": "give the folder that holds the folders of people",
    }[kind]
    raise InputError(
        f"--people {people} says nothing of {path}: {instead}. Leave it out, or add this by itself."
    )


def _items(
    kind: str, paths: Sequence[Path], when: float | None, zone: tzinfo, options: argparse.Namespace
) -> Any:
    from crosscam.gallery import sources

    known = {"camera": options.camera, "time": when}
    if kind == "csv":
        return sources.from_csv(paths[0], zone=zone, **known)
    if kind == "folder":
        return sources.from_folder(paths[0], people=options.people, **known)
    return sources.from_files(paths, people=options.people, **known)


def _add_video(gallery: Any, path: Path, when: float | None, options: argparse.Namespace) -> Any:
    from crosscam.gallery.video import (
        Detector,
        HogDetector,
        OnnxDetector,
        Sampling,
        from_video,
    )

    detector: Detector
    if str(options.detector) == "hog":  # a file of that name is ./hog.onnx
        detector = HogDetector(threshold=options.threshold)
    else:
        detector = OnnxDetector(
            options.detector,
            threshold=options.threshold,
            person=options.person_class,
            kind=options.detector_kind,
            normalize=options.detector_normalize,
        )
    sampling = Sampling(every=options.every, crops=options.crops)
    with _bar(f"watching {path.name}", None, options) as advance:
        items = from_video(
            path, detector, camera=options.camera, start=when, sampling=sampling, progress=advance
        )
        return gallery.add(items, batch=32)


def _run_search(options: argparse.Namespace) -> int:
    from crosscam.gallery.page import found_page
    from crosscam.gallery.sighting import Where

    with _open(options, options.load(options.model) if options.model else None) as gallery:
        found = gallery.search(
            pictures=options.queries,
            sightings=options.sighting,
            person=options.person,
            top=options.top,
            where=Where(
                cameras=tuple(options.camera),
                not_cameras=tuple(options.not_camera),
                after=_time(options.after),
                before=_time(options.before),
            ),
            cameras=options.query_camera,
            exclude_own_cameras=options.exclude_own_cameras,
            group=options.group,
            once_per_frame=options.once_per_frame,
            include_known=options.include_known,
            distinct=options.distinct,
            pool=options.pool,
            exact=options.exact,
            rerank_top=options.rerank,
        )
        said = _judged(options, gallery, found)
        if said is not None:
            found = replace(found, notes=[*found.notes, *said.notes])
        elif found.hits:
            found = replace(found, notes=[*found.notes, _UNCALIBRATED])
        if options.out:
            asked: list[Path | None] = [*options.queries]
            ids = list(options.sighting)
            if options.person:
                ids.append(gallery.people.get(options.person).best)
            asked += [gallery.picture(s) for s in gallery.sightings(ids)]
            found_page(options.out, found, asked, said=said)
    values = found.to_json()
    lines = [
        f"{rank:3d}  {hit.score:.3f}  {_about(hit.sighting)}{_marks(hit)}"
        for rank, hit in enumerate(found, 1)
    ]
    if said is not None:
        for i, (chance, decision) in enumerate(
            zip(said.probabilities, said.decisions, strict=True)
        ):
            lines[i] = f"{lines[i][:10]}  {chance:6.1%} {decision:8s}{lines[i][10:]}"
            values["results"][i] |= {"probability": round(chance, 4), "decision": decision}
        values["decision"] = said.to_json()
        if said.text():
            lines.append(said.text())
    lines += [f"note: {n}" for n in found.notes]
    if not found.hits:
        lines.append("nothing fits.")
    if options.out:
        lines.append(f"page  {options.out}")
    _print(options, values, "\n".join(lines))
    return 0


_UNCALIBRATED = (
    "how sure this is cannot be said, since the model has no calibration: make one of pictures "
    "like yours with crosscam calibrate, or name one with --calibration."
)


def _judged(options: argparse.Namespace, gallery: Any, found: Any) -> Any:
    """What the calibration of the model says, None without one."""
    from crosscam.decision import Calibration, judge
    from crosscam.models import resolve

    calibration: Calibration | None = None
    if options.calibration:
        calibration = Calibration.load(options.calibration, gallery.model.hash)
    elif options.model:
        calibration = Calibration.beside(resolve(options.model), gallery.model.hash)
    if calibration is None:
        return None
    scores = [hit.score for hit in found]
    return judge(calibration, scores, len(gallery), far=options.far, pictures=found.template)


def _about(s: Any) -> str:
    from crosscam.gallery.sighting import format_time, printable

    words = [s.id, f"camera {s.camera}" if s.camera else "", format_time(s.time), s.person,
             s.source]  # fmt: skip
    return printable("  ".join(w for w in words if w))  # older versions kept what they were given


def _marks(hit: Any) -> str:
    marks = [f"{k} {v:.2f}" for k, v in hit.parts.items()]
    if hit.count > 1:
        marks.append(f"best of {hit.count}")
    if hit.copy_of:
        marks.append("near-copy")
    return f"  ({', '.join(marks)})" if marks else ""


def _run_show(options: argparse.Namespace) -> int:
    from crosscam.gallery.page import gallery_page

    if options.limit < 1:
        raise InputError(f"--limit must be 1 or more, got {options.limit}.")
    where = _where(options)
    with _open(options) as gallery:
        page = gallery_page(options.out, gallery, where, limit=options.limit)
        chosen = [s.to_json() for s in gallery.find(where, limit=options.limit)] \
            if options.json else []  # fmt: skip
    _print(options, {"page": str(page), "sightings": chosen}, f"page  {page}")
    return 0


def _run_people(options: argparse.Namespace) -> int:
    with _open(options) as gallery:
        people = [gallery.people.get(name) for name in gallery.people.names()]
    lines = [
        f"{p.name}: {counted(p.sightings, 'sighting')} "
        f"({p.confirmed} confirmed, {p.rejected} rejected), "
        f"cameras {', '.join(p.cameras)}" + (f", {p.first} to {p.last}" if p.first else "")
        for p in people
    ]
    _print(options, [p.to_json() for p in people], "\n".join(lines or ["nobody is named yet."]))
    return 0


def _run_enroll(options: argparse.Namespace) -> int:
    """Sightings by id, and pictures: those that have none there are added first."""
    from crosscam.gallery import sources

    files = [Path(s) for s in options.sightings if Path(s).suffix]
    ids = [s for s in options.sightings if not Path(s).suffix]
    if files and not options.model:
        raise InputError("to enroll from picture files, give --model.")
    with _open(options, options.load(options.model) if options.model else None) as gallery:
        fresh = []
        for file in files:
            try:
                there = [s.id for s in gallery.showing(file)]
            except ImageError:  # adding says what is wrong
                there = []
            if not there:
                fresh.append(file)
                continue
            ids += there
            print(f"note: {file} is in the gallery already, and is not added again: "
                  f"{', '.join(there)}.", file=sys.stderr)  # fmt: skip
        if fresh:
            added = gallery.add(sources.from_files(fresh).items)
            if added.broken:
                raise DataError(f"nobody was enrolled. {added.text()}")
            ids += added.ids
        changed = gallery.people.enroll(options.name, ids, same_frame=options.same_frame)
    _print(options, [s.to_json() for s in changed],
           f"{counted(len(changed), 'sighting')} {either(len(changed), 'shows', 'show')} "
           f"{options.name}")  # fmt: skip
    return 0


def _run_judgment(options: argparse.Namespace) -> int:
    with _open(options) as gallery:
        people, verb = gallery.people, options.verb
        if verb == "confirm":
            changed = people.confirm(options.name, options.sightings, same_frame=options.same_frame)
        elif verb == "reject":
            changed = people.reject(options.name, options.sightings)
        elif verb == "release":
            changed = people.release(options.sightings)
        elif verb == "split":
            changed = people.split(options.name, options.sightings, options.new)
        else:
            count = (
                people.rename(options.old, options.new)
                if verb == "rename"
                else people.merge(options.names, options.into)
            )
            _print(options, {"changed": count}, f"changed {counted(count, 'sighting')}")
            return 0
    _print(options, [s.to_json() for s in changed], f"changed {counted(len(changed), 'sighting')}")
    return 0


def _run_forget(options: argparse.Namespace) -> int:
    where = _where(options)
    if not where:
        raise InputError(
            "say what to forget: --person, --camera, --before, --added-before or --id."
        )
    with _open(options) as gallery:
        if options.person:
            options.person = gallery.people.called(options.person)
        if options.camera:
            camera = gallery.spelled("camera", options.camera)
            if camera is None:
                raise NotFoundError(f"no sighting is of camera {options.camera!r}.")
            options.camera = camera
        gallery.sightings(options.id)  # says which are not there
        where = replace(_where(options), verbatim=True)
        if not options.yes:
            count = gallery.points.count(where)
            if not count:
                raise NotFoundError("no sighting fits that: there is nothing to delete.")
            if not sys.stdin.isatty():
                deleted = counted(count, "sighting")
                raise InputError(f"this deletes {deleted} for good: give --yes.")
            answer = input(
                f"delete {count:,} of {counted(len(gallery), 'sighting')} for good? [y/N] "
            )
            if answer.strip().lower() not in ("y", "yes"):
                print("nothing was deleted")
                return 0
        receipt = gallery.forget(
            person=options.person,
            camera=options.camera,
            before=_time(options.before),
            added_before=_time(options.added_before),
            ids=options.id,
            reason=options.reason,
            erase=not options.later,
        )
    if options.receipt:
        write_atomically(options.receipt, json.dumps(receipt.to_json(), indent=1) + "\n")
    _print(options, receipt.to_json(), receipt.text())
    return 0


def _run_compact(options: argparse.Namespace) -> int:
    with _open(options) as gallery:
        removed = gallery.compact()
        indexed, count = gallery.points.indexed(), len(gallery)
    _print(options, {"removed": removed, "indexed": indexed, "sightings": count},
           f"removed {counted(removed, 'unused file or set', 'unused files and sets')}; "
           f"{indexed:,} of {counted(count, 'sighting')} indexed")  # fmt: skip
    return 0


def _run_stats(options: argparse.Namespace) -> int:
    with _open(options) as gallery:
        stats = gallery.stats()
    _print(options, stats.to_json(), stats.text())
    return 0


def _run_verify(options: argparse.Namespace) -> int:
    with _open(options) as gallery, _bar("verifying", len(gallery), options) as advance:
        check = gallery.verify(progress=advance)
    _print(options, check.to_json(), check.text())
    return 0 if check.sound else 1


def _run_reembed(options: argparse.Namespace) -> int:
    encoder = options.load(options.model)
    with _open(options) as gallery, _bar("embedding", len(gallery), options) as advance:
        count = gallery.reembed(encoder, progress=advance)
        name = gallery.model.name or gallery.model.short
    _print(options, {"embedded": count}, f"embedded {counted(count, 'picture')}; "
           f"the model is now {name}")  # fmt: skip
    return 0


def _run_copy(options: argparse.Namespace) -> int:
    from crosscam.gallery.gallery import Gallery

    doing = "crosscam gallery copy"
    with ExitStack() as stack:
        source = stack.enter_context(
            Gallery.open(options.source, pictures=options.pictures, doing=doing)
        )
        target = stack.enter_context(
            Gallery.create(
                options.target,
                source.model,
                pictures=options.to_pictures,
                quantization=options.quantization or source.quantization,
                doing=doing,
            )
        )
        if options.quantization not in (None, target.quantization):
            raise InputError(
                f"{options.target} is there already, and has the quantization "
                f"{target.quantization!r}. Copy into a new one, or leave --int8 and --no-int8 out."
            )
        advance = stack.enter_context(_bar("copying", len(source), options))
        new = source.copy_to(target, progress=advance)
        count = len(target)
    _print(options, {"copied": new, "sightings": count},
           f"copied {counted(new, 'new sighting')}; {count:,} in {options.target}")  # fmt: skip
    return 0


# --- shared ---------------------------------------------------------------------------------------


def _open(options: argparse.Namespace, encoder: Any = None) -> Any:
    from crosscam.gallery.gallery import Gallery

    return Gallery.open(
        options.gallery,
        encoder,
        pictures=options.pictures,
        doing=f"crosscam gallery {options.verb}",
    )


def _where(options: argparse.Namespace) -> Any:
    from crosscam.gallery.sighting import Where

    return Where(
        ids=tuple(options.id),
        persons=(options.person,) if options.person else (),
        cameras=(options.camera,) if options.camera else (),
        after=_time(getattr(options, "after", None)),
        before=_time(options.before),
        added_before=_time(getattr(options, "added_before", None)),
    )


def _time(text: str | None) -> float | None:
    from crosscam.gallery.sighting import parse_time

    return parse_time(text) if text else None


def _zone(name: str) -> tzinfo:
    if name.upper() in ("UTC", "Z"):
        return timezone.utc
    from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise InputError(
            f"{name!r} is not a time zone; names look like Europe/Berlin or UTC."
        ) from None


def _print(options: argparse.Namespace, values: Any, text: str) -> None:
    print(json.dumps(values, indent=1, ensure_ascii=False) if options.json else text)


@contextmanager
def _bar(
    words: str, total: int | None, options: argparse.Namespace
) -> Iterator[Callable[[float], None]]:
    """A function that counts what is done, on a terminal with a bar."""
    if options.quiet or not sys.stderr.isatty():
        yield lambda _: None
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    columns: Iterable[Any] = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    )  # fmt: skip
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(words, total=total)
        yield lambda done: bar.advance(task, done)
