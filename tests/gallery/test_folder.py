"""What holds for a gallery in a folder: locks, crashes, full disks, erasing; and for addresses."""

from __future__ import annotations

import errno
import filecmp
import io
import json
import os
import signal
import stat
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import toy
from PIL import Image
from toy_gallery import ToyEncoder, crowd

from crosscam import image
from crosscam.errors import DiskError, GalleryError, ImageError, InputError
from crosscam.gallery import Check, Gallery, Item, Model, Sighting, Where, pictures
from crosscam.gallery.aside import optimize_aside
from crosscam.gallery.edge import _edge_errors, disk_bytes
from crosscam.gallery.pictures import Pictures, exclusive

HERE = Path(__file__).parent


def test_what_is_no_gallery_is_refused(tmp_path: Path, encoder: ToyEncoder) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").write_text("x")
    (tmp_path / "new").mkdir()
    (tmp_path / "torn").mkdir()
    (tmp_path / "torn" / "gallery.json").write_text('{"format": 1,')
    Gallery.create(tmp_path / "g", encoder).close()
    manifest = json.loads((tmp_path / "g" / "gallery.json").read_text())
    (tmp_path / "later").mkdir()
    (tmp_path / "later" / "gallery.json").write_text(json.dumps({**manifest, "format": 2}))
    for name, values in (
        ("blind", {k: v for k, v in manifest.items() if k != "model"}),
        ("dim", {**manifest, "model": {**manifest["model"], "dim": "x"}}),
        ("away", {**manifest, "points": "../g/points-1"}),
    ):
        (tmp_path / name).mkdir()
        (tmp_path / name / "gallery.json").write_text(json.dumps(values))
    (tmp_path / "lost").mkdir()
    (tmp_path / "lost" / "gallery.json").write_text(json.dumps(manifest))
    for name, message in (
        ("nowhere", "is not a gallery .it has no gallery.json"),
        ("file", "is a file; a gallery is a folder"),
        ("photos", "is not a gallery"),
        ("torn", "gallery.json cannot be read"),
        ("later", "format 2, and this crosscam reads 1. Install a newer"),
        ("blind", "does not say what model"),
        ("dim", "does not say what model"),
        ("away", "or where they are. Restore it"),
        ("lost", "has lost its points"),
    ):
        with pytest.raises(GalleryError, match=message):
            Gallery.open(tmp_path / name)
    with pytest.raises(GalleryError, match=r"holds other files .a\.jpg"):
        Gallery.create(tmp_path / "photos", encoder)
    assert not (tmp_path / "nowhere").exists()
    Gallery.create(tmp_path / "new", encoder).close()


def test_a_second_process_is_told_who_has_it(tmp_path: Path, encoder: ToyEncoder) -> None:
    with Gallery.create(tmp_path / "g", encoder, doing="a test") as gallery:
        with pytest.raises(GalleryError, match=rf"in use by process {os.getpid()} .*\(a test\)"):
            Gallery.open(tmp_path / "g")
        code = (
            "import sys; from crosscam.gallery import Gallery\n"
            "try: Gallery.open(sys.argv[1])\n"
            "except Exception as e: print(type(e).__name__, e)"
        )
        run = subprocess.run(
            [sys.executable, "-c", code, str(tmp_path / "g")], capture_output=True, text=True
        )
        assert f"GalleryError {tmp_path / 'g'} is in use by process {os.getpid()}" in run.stdout
        gallery.add(crowd(1))
    with Gallery.open(tmp_path / "g") as gallery:
        assert len(gallery) == 6


def test_a_gallery_that_another_process_is_making_is_in_use(
    tmp_path: Path, encoder: ToyEncoder
) -> None:
    place = tmp_path / "g"
    place.mkdir()
    with exclusive(place, "crosscam gallery add"):
        (place / ".lock.holder.22806.writing").write_text("")
        with pytest.raises(GalleryError, match=r"in use by process .*gallery add\)"):
            Gallery.create(place, encoder)
    Gallery.create(place, encoder).close()


def test_every_picture_that_can_be_opened_has_a_name() -> None:
    assert set(pictures._SUFFIXES) == set(image._FORMATS)
    shown = Image.fromarray(toy.person(1, 1, 1))
    for kind, suffix in pictures._SUFFIXES.items():
        for more in ({"big_tiff": True}, {}) if kind == "TIFF" else ({},):
            buffer = io.BytesIO()
            shown.save(buffer, kind, **more)
            assert image.decode(buffer.getvalue()).shape == (*shown.size[::-1], 3)
            assert pictures.picture_name(buffer.getvalue()).endswith(f".{suffix}")
    with pytest.raises(ImageError, match="known format"):
        pictures.picture_name(b"P")


@pytest.mark.parametrize("error", [IndexError, TypeError, SyntaxError, struct.error])
def test_a_format_that_stumbles_over_the_bytes_is_not_theirs(
    error: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    def stumble(begin: bytes) -> bool:  # as Pillow 10.3 does over b"P"
        raise error

    Image.init()
    monkeypatch.setitem(Image.OPEN, "JPEG", (Image.OPEN["JPEG"][0], stumble))
    with pytest.raises(ImageError, match="known format"):
        pictures.picture_name(b"P")
    assert pictures.picture_name(b"\x89PNG\r\n\x1a\n").endswith(".png")


def test_odd_characters_in_paths(tmp_path: Path, encoder: ToyEncoder) -> None:
    from crosscam.gallery.sources import from_folder

    base = os.fsencode(tmp_path) + "/Fußgänger 人 'a\"b".encode()
    os.mkdir(base)  # noqa: PTH102 bytes
    Image.fromarray(toy.person(0, 0, 0)).save(tmp_path / "x.jpg")
    os.rename(tmp_path / "x.jpg", base + b"/bad\xff_c3.jpg")  # noqa: PTH104
    folder = Path(os.fsdecode(base))
    with Gallery.create(folder / "g\n1", encoder) as gallery:
        added = gallery.add(from_folder(folder).items)
        s = gallery.sighting(added.ids[0])
        assert s.camera == "3"
        assert s.source.endswith("bad\N{REPLACEMENT CHARACTER}_c3.jpg")


def test_a_full_disk_loses_nothing(
    tmp_path: Path, encoder: ToyEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    items = crowd(2)
    with Gallery.create(tmp_path / "g", encoder) as gallery:
        first = gallery.add(items[:4])
        write = Path.write_bytes

        def full(self: Path, data: bytes) -> int:
            if len(list(gallery.pictures.names())) >= 6:
                write(self, data[:10])
                raise OSError(errno.ENOSPC, "No space left on device")
            return write(self, data)

        with monkeypatch.context() as patch:
            patch.setattr(Path, "write_bytes", full)
            with pytest.raises(DiskError, match="disk is full"):
                gallery.add(items, batch=3)
        assert {s.id for s in gallery.find()} >= set(first.ids)
        assert gallery.verify().sound
        left = 12 - len(gallery)
        assert left > 0
        assert gallery.add(items).new == left


def test_there_is_room_before_the_engine_writes(
    tmp_path: Path, encoder: ToyEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def free(mebibytes: int) -> None:
        left = SimpleNamespace(free=mebibytes << 20)
        monkeypatch.setattr("shutil.disk_usage", lambda folder: left)

    free(60)
    with pytest.raises(DiskError, match=r"disk is full .60 MiB are free, and this needs 64"):
        Gallery.create(tmp_path / "g", encoder)
    free(90)
    with Gallery.create(tmp_path / "g", encoder) as gallery:
        ids = gallery.add(crowd(1)).ids
        free(63)  # which is enough for all but adding and rewriting
        with pytest.raises(DiskError, match=r"needs 65.*all sightings that were acknowledged"):
            gallery.add(crowd(2))
        with pytest.raises(DiskError, match="disk is full"):
            gallery.add_vectors(np.eye(1, 48), [Sighting("")])
        assert {s.id for s in gallery.find()} == set(ids)
        gallery.people.enroll("Anna", ids[:2])
        receipt = gallery.forget(person="Anna")
        assert (receipt.sightings, receipt.erased) == (2, False)
        for write in (gallery.compact, lambda: gallery.compact_aside(threading.Event())):
            with pytest.raises(DiskError, match="disk is full"):
                write()
        store = disk_bytes(tmp_path / "g" / gallery._manifest["points"])
        free((store * 5 // 2 >> 20) + 75)  # enough to copy, but not to rewrite the copy as well
        with monkeypatch.context() as patch:
            patch.setattr("shutil.copytree", lambda *a, **k: pytest.fail("copied in vain"))
            with pytest.raises(DiskError, match="disk is full"):
                gallery.compact_aside(threading.Event())
        free((store * 5 // 2 >> 20) + 77)
        gallery._home.copy(gallery._manifest["points"], f"points-{'ab' * 8}")
        free(7)
        with pytest.raises(DiskError, match="7 MiB are free, and this needs 8"):
            gallery.people.enroll("Bert", ids[2:])
        assert gallery.search(sightings=ids[2:3], top=9).hits  # looking goes on
        free(1000)
        assert gallery.add(crowd(2)).new == 8
        assert gallery.forget(ids=ids[2:3]).erased
        assert gallery.verify().sound


def test_what_was_forgotten_is_in_no_file(tmp_path: Path, encoder: ToyEncoder) -> None:
    with Gallery.create(tmp_path / "g", encoder) as gallery:
        ids = gallery.add([*crowd(1), Item(toy.person(5, 5, 5), source="a-marker-in-the-log")]).ids
        gallery.people.enroll("Anna Marker", ids[-1:])
        vector = gallery.points.get(ids[-1:], vectors=True)[0].vector
        needles = [b"Anna Marker", b"a-marker-in-the-log", vector[:8].tobytes()]
        assert all(_files_with(tmp_path, n) for n in needles)
        receipt = gallery.forget(person="Anna Marker", erase=False)
        assert not receipt.erased
        assert gallery.stats().unerased
        assert any(_files_with(tmp_path, n) for n in needles)
        gallery.compact()
        assert not any(_files_with(tmp_path, n) for n in needles)
        assert not gallery.stats().unerased
        assert len(gallery) == 6
        # The log still takes changes after it was rinsed.
        gallery.people.enroll("Bert", ids[:1])
    with Gallery.open(tmp_path / "g") as gallery:
        assert gallery.people.names() == {"Bert": 1}


class _Killed(BaseException):
    pass


def _kill(*args: Any, **more: Any) -> bool:
    raise _Killed


_NEEDLE = b"Zacharias Unforgettable"


def test_what_was_forgotten_is_in_no_points_that_a_kill_left_behind(
    tmp_path: Path, encoder: ToyEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Gallery.create(tmp_path / "g", encoder) as gallery:
        gallery.add([*crowd(1), Item(toy.person(5, 5, 5), person=_NEEDLE.decode())])
        (s,) = gallery.people.sightings(_NEEDLE.decode())
        leftover = gallery.pictures.path(s.picture).with_name(f".{s.picture}.writing")
        leftover.write_bytes(b"half of a picture")
        with monkeypatch.context() as patch:
            patch.setattr(type(gallery._home), "drop", lambda self, name: None)  # dead by then
            patch.setattr("crosscam.gallery.gallery.optimize_aside", _kill)
            with pytest.raises(_Killed):
                gallery.compact_aside(threading.Event())
            patch.setattr(gallery._home, "write", _kill)
            with pytest.raises(_Killed):
                gallery.reembed(ToyEncoder(seed=1))
        leftover.write_bytes(b"half of a picture")
        assert len(gallery.verify().stale) == 2
        assert len({p.relative_to(tmp_path).parts[1] for p in _files_with(tmp_path, _NEEDLE)}) == 3
        assert gallery.forget(person=_NEEDLE.decode()).erased
        assert gallery.verify() == Check(6, [], [], [], [], [], [], [])
        assert not _files_with(tmp_path, _NEEDLE)


def test_points_that_cannot_be_dropped_are_not_said_to_be_erased(
    tmp_path: Path, encoder: ToyEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Gallery.create(tmp_path / "g", encoder) as gallery:
        ids = gallery.add(crowd(1)).ids
        gallery._home.copy(gallery._manifest["points"], f"points-{'ab' * 8}.0123abcd")
        with monkeypatch.context() as patch:
            patch.setattr("shutil.rmtree", lambda *a, **k: _raise(OSError("in use")))
            assert not gallery.forget(ids=ids[:1]).erased
        assert gallery.unerased
        assert gallery.forget(ids=ids[1:2]).erased
        assert gallery.verify().stale == []


def test_a_copy_of_points_keeps_the_holes_of_their_files(
    tmp_path: Path, encoder: ToyEncoder
) -> None:
    with Gallery.create(tmp_path / "g", encoder) as gallery:
        gallery.add(crowd(2))
        gallery.points.flush()
        name, new = gallery._manifest["points"], f"points-{'ab' * 8}"
        gallery._home.copy(name, new)
        old, copy = tmp_path / "g" / name, tmp_path / "g" / new
        files = [p.relative_to(old) for p in old.rglob("*") if p.is_file()]
        assert filecmp.cmpfiles(old, copy, files, shallow=False)[0] == files
        os.sync()  # blocks are counted once they are written
        assert disk_bytes(copy) <= disk_bytes(old) + 65_536 * len(files)
        assert sum((old / p).stat().st_size for p in files) > 2 * disk_bytes(copy)


def _raise(error: Exception) -> None:
    raise error


def test_forgetting_during_a_compaction_leaves_its_copy_and_says_so(
    tmp_path: Path, encoder: ToyEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Gallery.create(tmp_path / "g", encoder) as gallery:
        gallery.add([*crowd(1), Item(toy.person(5, 5, 5), person=_NEEDLE.decode())])

        def busy(*args: Any) -> bool:
            receipt = gallery.forget(person=_NEEDLE.decode())
            assert (receipt.sightings, receipt.erased) == (1, False)
            return True

        monkeypatch.setattr("crosscam.gallery.gallery.optimize_aside", busy)
        assert gallery.compact_aside(threading.Event(), patience=0)
        assert (len(gallery), gallery.unerased) == (6, True)
        assert _files_with(tmp_path, _NEEDLE)
        assert gallery.forget(person="nobody").erased
        assert not _files_with(tmp_path, _NEEDLE)


def test_a_resumed_reembedding_does_not_bring_back_what_was_forgotten(
    tmp_path: Path, encoder: ToyEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Gallery.create(tmp_path / "g", encoder) as gallery:
        gallery.add([*crowd(1), Item(toy.person(5, 5, 5), person=_NEEDLE.decode())])
        with monkeypatch.context() as patch:
            patch.setattr(gallery._home, "write", _kill)
            with pytest.raises(_Killed):
                gallery.reembed(ToyEncoder(seed=1))
        gallery.forget(person=_NEEDLE.decode(), erase=False)
        assert gallery.reembed(ToyEncoder(seed=1)) == 0
        assert gallery.unerased
        gallery.compact()
        assert not _files_with(tmp_path, _NEEDLE)
        assert len(gallery) == 6


def test_compacting_aside_removes_what_nothing_shows_and_nothing_else(
    tmp_path: Path, encoder: ToyEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Gallery.create(tmp_path / "g", encoder) as gallery:
        with monkeypatch.context() as patch:
            patch.setattr(gallery.points, "add", _kill)
            with pytest.raises(_Killed):
                gallery.add([Item(toy.person(5, 5, 5))])
        gallery.add(crowd(1))
        (orphan,) = gallery.verify().orphans
        leftover = gallery.pictures.path(orphan).with_name(f".{orphan}.writing")
        leftover.write_bytes(b"half of a picture")
        # As if all points were added after it had looked for the first time.
        monkeypatch.setattr(gallery, "_pictures_used", set)
        monkeypatch.setattr("crosscam.gallery.gallery.optimize_aside", lambda *args: True)
        assert gallery.compact_aside(threading.Event(), patience=0)
        assert gallery.verify() == Check(6, [], [], [], [], [], [], [])


def _files_with(folder: Path, needle: bytes) -> list[Path]:
    return [p for p in folder.rglob("*") if p.is_file() and needle in p.read_bytes()]


def test_quantized_vectors_are_scored_again_by_the_vectors_themselves(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((600, 32)).astype(np.float32)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    with Gallery.create(tmp_path / "g", Model("ab" * 32, 32), quantization="int8") as gallery:
        assert gallery.quantization == "int8"
        ids = gallery.add_vectors(x, [Sighting("", time=float(i)) for i in range(600)])
        gallery.compact()
        found = gallery.search(vectors=x[7:8], top=5)
        order = np.argsort(-(x @ x[7]), kind="stable")[:5]
        assert [h.sighting.id for h in found] == [ids[i] for i in order]
        np.testing.assert_allclose([h.score for h in found], (x @ x[7])[order], atol=1e-5)
        assert found.hits[0].picture is None


def test_a_panic_of_the_engine_is_an_error_of_the_gallery(tmp_path: Path) -> None:
    class PanicException(BaseException):  # what pyo3 raises, by the name it has
        pass

    with (
        pytest.raises(GalleryError, match=r"cannot be used \(index out of bounds\)"),
        _edge_errors(tmp_path),
    ):
        raise PanicException("index out of bounds")
    for other in (KeyboardInterrupt, SystemExit):
        with pytest.raises(other), _edge_errors(tmp_path):
            raise other


def test_addresses(tmp_path: Path, encoder: ToyEncoder) -> None:
    with pytest.raises(InputError, match="give --pictures"):
        Gallery.open("http://127.0.0.1:9/people")
    with pytest.raises(GalleryError, match=r"no Qdrant server answers at http://127\.0\.0\.1:9/p"):
        Gallery.create("http://127.0.0.1:9/people", encoder, pictures=tmp_path / "p")
    with pytest.raises(InputError, match="letters, digits"):
        Gallery.open("http://127.0.0.1:9/a/b", pictures=tmp_path / "p")
    # The lock of the pictures was let go of.
    with pytest.raises(GalleryError, match="no Qdrant server"):
        Gallery.open("http://127.0.0.1:9", pictures=tmp_path / "p")


WRITER = """
import sys
sys.path[:0] = [{here!r}, {tests!r}]
from toy_gallery import ToyEncoder, crowd
from crosscam.gallery import Gallery
def acknowledged(ids):
    for i in ids:
        sys.stdout.write(i + "\\n")
    sys.stdout.flush()
with Gallery.create({place!r}, ToyEncoder()) as gallery:
    print("open", flush=True)
    gallery.add(crowd(40, 4, 4), batch=8, acknowledged=acknowledged)
print("done", flush=True)
"""


@pytest.mark.slow
@pytest.mark.flushed
def test_killed_at_any_moment_it_keeps_what_was_acknowledged(tmp_path: Path) -> None:
    place = str(tmp_path / "g")
    code = WRITER.format(here=str(HERE), tests=str(HERE.parent), place=place)
    rng = np.random.default_rng(0)
    acknowledged: set[str] = set()
    kills = orphans = 0
    for _ in range(6):
        process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        assert process.stdout.readline() == "open\n"
        before = len(acknowledged)
        # Killed after some more new ones were acknowledged, and a moment.
        lines = []
        while len(acknowledged | set(lines)) < before + 24:
            line = process.stdout.readline().strip()
            if line in ("", "done"):
                break
            lines.append(line)
        time.sleep(rng.uniform(0, 0.05))
        process.send_signal(signal.SIGKILL)
        rest = process.stdout.read().split()
        process.stdout.close()
        process.wait()
        kills += process.returncode == -signal.SIGKILL
        acknowledged |= {i for i in [*lines, *rest] if len(i) == 36}
        with Gallery.open(place, ToyEncoder()) as gallery:
            check = gallery.verify()
            assert check.sound, check.text()
            assert acknowledged <= {s.id for s in gallery.find()}
            orphans += len(check.orphans)
            gallery.compact()
            after = gallery.verify()
            assert (after.orphans, after.leftovers, after.stale) == ([], [], [])
            assert after.sightings == check.sightings
    assert kills >= 4
    with Gallery.open(place, ToyEncoder()) as gallery:
        result = gallery.add(crowd(40, 4, 4))
        assert result.new + result.present == 640
        assert len(gallery) == 640


@pytest.mark.slow
def test_compacting_aside_keeps_what_is_changed_meanwhile(
    tmp_path: Path, encoder: ToyEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    items = crowd(4, 2, 2)
    with Gallery.create(tmp_path / "g", encoder) as gallery:
        ids = gallery.add(items).ids
        gallery.people.enroll("Anna", ids[:1])
        gallery.people.enroll("Bert", ids[4:5])
        first = gallery.forget(person="Anna", erase=False)
        assert (first.erased, gallery.unerased) == (False, True)

        def busy(*args: Any) -> bool:
            """While the copy is optimized: one more, one less, one renamed, and a search."""
            more = Item(toy.person(9, 1, 1), camera="9")
            assert gallery.add([more]).new == 1
            gallery.people.rename("Bert", "Berta")
            gallery.forget(ids=ids[8:9], erase=False)
            assert gallery.search(pictures=[items[4].picture], top=1).hits[0].sighting.id == ids[4]
            assert not gallery.compact_aside(threading.Event())  # one at a time
            return optimize_aside(*args)

        monkeypatch.setattr("crosscam.gallery.gallery.optimize_aside", busy)
        assert gallery.compact_aside(threading.Event(), patience=0)
        assert gallery.unerased  # what was deleted meanwhile
        want = {*ids[1:8], *ids[9:]} | {s.id for s in gallery.find(Where(cameras=("9",)))}
        assert {s.id for s in gallery.find()} == want
        assert len(want) == len(items) - 1
        assert gallery.people.names() == {"Berta": 1}
        before = {p.id: p for p in gallery.points.scan(Where(), vectors=True)}
        monkeypatch.setattr("crosscam.gallery.gallery.optimize_aside", optimize_aside)
        assert gallery.compact_aside(threading.Event(), patience=0)
        assert not gallery.unerased
        assert gallery.verify() == Check(len(want), [], [], [], [], [], [], [])
    with Gallery.open(tmp_path / "g", encoder) as gallery:
        for p in gallery.points.scan(Where(), vectors=True):
            assert p.payload == before[p.id].payload
            np.testing.assert_array_equal(p.vector, before[p.id].vector)
        assert len(gallery) == len(before)


@pytest.mark.slow
def test_what_was_forgotten_is_in_no_file_after_compacting_aside(
    tmp_path: Path, encoder: ToyEncoder
) -> None:
    with Gallery.create(tmp_path / "g", encoder) as gallery:
        gallery.add(crowd(2, 2, 2, person="Zacharias Unforgettable"))
        gallery.add([Item(toy.person(7, 1, 1), person="Somebody Else")])
        gallery.forget(person="Zacharias Unforgettable", erase=False)
        assert _files_with(tmp_path, b"Unforgettable")
        assert gallery.compact_aside(threading.Event(), patience=0)
        assert not _files_with(tmp_path, b"Unforgettable")
        assert _files_with(tmp_path, b"Somebody Else")
        assert len(gallery) == 1


def test_compacting_aside_that_fails_or_is_stopped_changes_nothing(
    tmp_path: Path, encoder: ToyEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Gallery.create(tmp_path / "g", encoder) as gallery:
        ids = gallery.add(crowd(2, 2, 2)).ids
        gallery.forget(ids=ids[:1], erase=False)
        stop = threading.Event()
        stop.set()
        assert not gallery.compact_aside(stop)
        monkeypatch.setattr("crosscam.gallery.aside.__name__", "crosscam.nothing")
        with pytest.raises(GalleryError, match="could not be compacted"):
            gallery.compact_aside(threading.Event())
        assert gallery.unerased
        assert [p.name for p in tmp_path.glob("g/points-*")] == [f"points-{'00' * 8}"]
        gallery.add(crowd(3, 1, 1))
        assert len(gallery) == len(ids) - 1 + 2  # the one that was deleted is new again
        assert gallery.verify().sound


def test_only_the_owner_may_look_into_a_gallery(tmp_path: Path, encoder: ToyEncoder) -> None:
    with Gallery.create(tmp_path / "new" / "g", encoder) as gallery:
        gallery.add(crowd(1, 1, 1))
    assert stat.S_IMODE((tmp_path / "new" / "g").stat().st_mode) == 0o700
    shared = tmp_path / "shared"
    shared.mkdir(mode=0o755)  # somebody made it so on purpose
    Gallery.create(shared, encoder).close()
    assert stat.S_IMODE(shared.stat().st_mode) == 0o755


@pytest.mark.flushed
def test_a_picture_is_flushed_with_the_folders_its_name_stands_in(
    tmp_path: Path, encoder: ToyEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    flushed: list[Path] = []
    for name in ("flush", "flush_folder"):
        monkeypatch.setattr(f"crosscam.gallery.pictures.{name}", flushed.append)
    with Gallery.create(tmp_path / "g", encoder) as gallery:
        (id,) = gallery.add([Item(toy.person(1, 1, 1))]).ids
        path = gallery.picture(gallery.sighting(id))
        assert path is not None
        assert {path, path.parent, path.parent.parent} <= set(flushed)
        flushed.clear()
        gallery.forget(ids=[id], erase=False)
        assert flushed == [path.parent]


def test_pictures_are_counted_once_and_then_kept_count_of(
    tmp_path: Path, encoder: ToyEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def looked(pictures: Pictures) -> tuple[int, int]:
        sizes = [p.stat().st_size for p in pictures.folder.rglob("*.jpg")]
        return len(sizes), sum(sizes)

    with Gallery.create(tmp_path / "g", encoder) as gallery:
        gallery.add(crowd(2, 1, 1))
        assert gallery.pictures.totals() == looked(gallery.pictures)
        monkeypatch.setattr(Pictures, "_files", lambda self: pytest.fail("looked at all again"))
        ids = gallery.add(crowd(3, 2, 1)).ids
        assert gallery.pictures.totals() == looked(gallery.pictures)
        gallery.forget(ids=ids[:2], erase=False)
        assert gallery.pictures.totals() == looked(gallery.pictures)
        assert gallery.stats().pictures == 4


def test_a_copy_that_a_kill_left_behind_is_removed_by_the_next_compaction(
    tmp_path: Path, encoder: ToyEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    def kill(*args: Any) -> bool:
        raise Killed

    names = lambda: {p.name for p in tmp_path.glob("g/points-*")}  # noqa: E731
    with Gallery.create(tmp_path / "g", encoder) as gallery:
        gallery.add(crowd(2, 1, 1))
        first = names()
        monkeypatch.setattr("crosscam.gallery.gallery.optimize_aside", kill)
        monkeypatch.setattr(type(gallery._home), "drop", lambda self, name: None)  # dead by then
        with pytest.raises(Killed):
            gallery.compact_aside(threading.Event())
        monkeypatch.undo()
        left = names() - first
        assert len(left) == 1
        assert gallery.verify().stale == sorted(left)
        monkeypatch.setattr("crosscam.gallery.gallery.optimize_aside", lambda *args: True)
        assert gallery.compact_aside(threading.Event(), patience=0)
        assert len(names()) == 1
        assert not names() & (first | left)
        assert len(gallery) == 2
