"""What holds for a gallery in a folder: locks, crashes, full disks, erasing; and for addresses."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import toy
from PIL import Image
from toy_gallery import ToyEncoder, crowd

from crosscam.errors import DiskError, GalleryError, InputError
from crosscam.gallery import Gallery, Item, Model, Sighting

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
    (tmp_path / "lost").mkdir()
    (tmp_path / "lost" / "gallery.json").write_text(json.dumps(manifest))
    for name, message in (
        ("nowhere", "is not a gallery .it has no gallery.json"),
        ("file", "is a file; a gallery is a folder"),
        ("photos", "is not a gallery"),
        ("torn", "gallery.json cannot be read"),
        ("later", "format 2, and this crosscam reads 1. Install a newer"),
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
