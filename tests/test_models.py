"""Encoders by name: the order of the folders, and what a download may not do."""

from __future__ import annotations

import functools
import hashlib
import http.server
import io
import json
import os
import stat
import sys
import threading
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent / "doctor"))

from patients import by_hand

from crosscam import Encoder, models
from crosscam.cli import main
from crosscam.errors import CheckpointError, InputError
from crosscam.models import fetch, folders, resolve


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CROSSCAM_MODELS", str(tmp_path / "home"))
    monkeypatch.setattr(models, "_shipped", lambda: tmp_path / "shipped")
    return tmp_path / "home"


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        if self.path.startswith("/to/"):
            self.send_response(302)
            self.send_header("Location", self.path[4:])
            self.end_headers()
        elif self.path == "/cut.zip":
            self.send_response(200)
            self.send_header("Content-Length", "1000")
            self.end_headers()
            self.wfile.write(b"x" * 10)
        else:
            super().do_GET()


@pytest.fixture
def site(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """Address and folder of a web server on this machine."""
    folder = tmp_path / "site"
    folder.mkdir()
    handler = functools.partial(_Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", folder
        server.shutdown()
        thread.join()


def zipped(
    site: Path, encoder: Path, name: str = "people.zip", *, inside: str = "people/",
    more: Callable[[zipfile.ZipFile], None] | None = None,
) -> str:  # fmt: skip
    """Write an archive of an encoder's folder; returns its SHA-256."""
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(encoder.iterdir()):
            archive.write(file, inside + file.name)
        if more is not None:
            more(archive)
    (site / name).write_bytes(data.getvalue())
    return hashlib.sha256(data.getvalue()).hexdigest()


# --- where ----------------------------------------------------------------------------------------


def test_a_name_is_found_where_it_is_nearest(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert resolve("people") == Path("people")  # nowhere: whoever opens it says so
    by_hand(tmp_path / "shipped" / "people")
    assert resolve("people") == tmp_path / "shipped" / "people"
    by_hand(home / "people")
    assert resolve("people") == home / "people"
    (tmp_path / "people").mkdir()  # `crosscam synth people`: a data set, which hides no model
    assert resolve("people") == home / "people"
    (tmp_path / "people").rmdir()
    by_hand(tmp_path / "people")
    assert resolve("people") == Path("people")
    (tmp_path / "tuned").mkdir()
    by_hand(home / "tuned")
    (tmp_path / "tuned" / "recipe.yaml").touch()  # a run
    assert resolve("tuned") == Path("tuned")
    assert resolve(home / "x" / ".." / "people") == home / "x" / ".." / "people"
    assert resolve("../home/people") == Path("../home/people")  # a path is no name


def test_several_folders_and_the_usual_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    by_hand(tmp_path / "b" / "people")
    monkeypatch.setenv("CROSSCAM_MODELS", f"{tmp_path / 'a'}{os.pathsep}{tmp_path / 'b'}")
    assert resolve("people") == tmp_path / "b" / "people"
    monkeypatch.delenv("CROSSCAM_MODELS")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    if sys.platform.startswith("linux"):
        assert folders()[0] == tmp_path / "data" / "crosscam" / "models"


def test_an_encoder_is_loaded_by_its_name(home: Path) -> None:
    by_hand(home / "people")
    vectors = Encoder.load("people")(np.full((1, 40, 20, 3), 90, np.uint8))
    assert vectors.shape == (1, 96)


def test_list_show_verify(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "list"]) == 0
    assert "no models yet" in capsys.readouterr().out
    by_hand(home / "good")
    by_hand(home / "bad")
    (home / "worse").mkdir()
    (home / "worse" / "card.json").write_text("{")
    (home / ".hidden").mkdir()
    (home / "run").mkdir()
    (home / "run" / "card.json").write_text("{}")
    (home / "run" / "recipe.yaml").touch()
    assert main(["models", "list", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert [m["name"] for m in listed] == ["bad", "good", "worse"]
    assert listed[1]["card"]["dim"] == 96
    assert "cannot be read" in listed[2]["fault"]
    assert main(["models", "show", "good"]) == 0
    assert "license   Apache-2.0" in capsys.readouterr().out
    assert main(["models", "verify", "good"]) == 0
    with (home / "bad" / "encoder.onnx").open("ab") as file:
        file.write(b"x")
    assert main(["models", "verify"]) == 1
    printed = capsys.readouterr().out
    assert "OK    good" in printed
    assert "FAIL  bad" in printed
    assert "FAIL  worse" in printed


# --- fetching -------------------------------------------------------------------------------------


@pytest.mark.parametrize("inside", ["", "people/"])
def test_fetch(inside: str, site: tuple[str, Path], home: Path, tmp_path: Path) -> None:
    address, folder = site
    made = by_hand(tmp_path / "made")
    digest = zipped(folder, made, inside=inside)
    status = main(
        ["models", "fetch", f"{address}/people.zip", "--sha256", digest.upper(), "--allow-http"]
    )
    assert status == 0
    assert sorted(p.name for p in home.iterdir()) == ["people"]  # nothing else is left
    for file in made.iterdir():
        assert (home / "people" / file.name).read_bytes() == file.read_bytes()
    with pytest.raises(InputError, match="exists already"):
        fetch(f"{address}/people.zip", sha256=digest, allow_http=True)
    again = fetch(f"{address}/to//people.zip", sha256=digest, name="other", allow_http=True)
    assert again.folder == home / "other"


def test_http_is_refused_unless_allowed() -> None:
    with pytest.raises(InputError, match="--allow-http"):
        fetch("http://127.0.0.1:9/people.zip", sha256="0" * 64)


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("file:///etc/people.zip", "no address"),
        ("ftp://host/people.zip", "no address"),
        ("people.zip", "no address"),
        ("https:///people.zip", "no address"),
        ("https://[x/people.zip", "no address"),
        ("https://host/", "cannot be called ''"),
        ("https://host/..%2Fpeople.zip", "cannot be called"),
        ("https://host/.people.zip", "cannot be called"),
    ],
)
def test_addresses_that_are_refused(url: str, said: str, home: Path) -> None:
    with pytest.raises(InputError, match=said):
        fetch(url, sha256="0" * 64)
    assert not home.exists()


@pytest.mark.parametrize("digest", ["", "0" * 63, "g" * 64])
def test_a_hash_is_needed(digest: str) -> None:
    with pytest.raises(InputError, match="64 hex digits"):
        fetch("https://host/people.zip", sha256=digest)


def test_redirects_lead_to_no_other_scheme(site: tuple[str, Path], home: Path) -> None:
    address, _ = site
    with pytest.raises(CheckpointError, match="not allowed"):  # urllib's own rule
        fetch(f"{address}/to/file:///etc/passwd", sha256="0" * 64, name="x", allow_http=True)
    request = models.urllib.request.Request("https://host/x.zip")
    with pytest.raises(InputError, match="--allow-http"):
        models._Redirects(allow_http=False).redirect_request(
            request, io.BytesIO(), 302, "", {}, "http://host/x.zip"
        )
    assert list(home.iterdir()) == []


def _escape(name: str) -> Callable[[zipfile.ZipFile], None]:
    return lambda archive: archive.writestr(name, b"x")


def _link(archive: zipfile.ZipFile) -> None:
    entry = zipfile.ZipInfo("people/weights.bin")
    entry.external_attr = (stat.S_IFLNK | 0o777) << 16
    archive.writestr(entry, "/etc/passwd")


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (_escape("../escaped"), "outside its folder"),
        (_escape("people/../../escaped"), "outside its folder"),
        (_escape("/escaped"), "outside its folder"),
        (_escape("people\\..\\escaped"), "outside its folder"),
        (_escape("C:escaped"), "outside its folder"),
        (_link, "no plain file"),
        (_escape("people/deep/file"), "not an encoder"),
        (_escape("other/file"), "not an encoder"),
        (_escape("people/zeros.bin"), None),
        (lambda a: a.writestr("people/zeros.bin", bytes(3_000_000)), "unpacks to more"),
    ],
)
def test_archives_that_reach_out_or_swell(
    more: Callable[[zipfile.ZipFile], None], said: str | None, site: tuple[str, Path],
    home: Path, tmp_path: Path,
) -> None:  # fmt: skip
    address, folder = site
    digest = zipped(folder, by_hand(tmp_path / "made"), more=more)
    url = f"{address}/people.zip"
    if said is None:  # one more plain file does no harm
        assert fetch(url, sha256=digest, allow_http=True, max_bytes=2_000_000).card
        return
    with pytest.raises(CheckpointError, match=said):
        fetch(url, sha256=digest, allow_http=True, max_bytes=2_000_000)
    assert list(home.iterdir()) == []
    assert not list(tmp_path.rglob("escaped*"))


def test_archives_that_are_not_what_was_promised(
    site: tuple[str, Path], home: Path, tmp_path: Path
) -> None:
    address, folder = site
    made = by_hand(tmp_path / "made")
    digest = zipped(folder, made)
    with pytest.raises(CheckpointError, match="was promised"):
        fetch(f"{address}/people.zip", sha256="0" * 64, allow_http=True)
    with pytest.raises(CheckpointError, match="more than 100 bytes"):
        fetch(f"{address}/people.zip", sha256=digest, allow_http=True, max_bytes=100)
    with pytest.raises(CheckpointError, match="answers 404"):
        fetch(f"{address}/nothing.zip", sha256=digest, allow_http=True)
    with pytest.raises(CheckpointError, match=r"ended after|connection broke"):
        fetch(f"{address}/cut.zip", sha256=digest, allow_http=True)
    (folder / "noise.zip").write_bytes(b"no archive")
    noise = hashlib.sha256(b"no archive").hexdigest()
    with pytest.raises(CheckpointError, match=r"not a \.zip"):
        fetch(f"{address}/noise.zip", sha256=noise, allow_http=True)
    with (made / "encoder.onnx").open("ab") as file:  # the archive is right, the encoder is not
        file.write(b"x")
    damaged = zipped(folder, made, "damaged.zip")
    with pytest.raises(CheckpointError, match="incomplete or another file"):
        fetch(f"{address}/damaged.zip", sha256=damaged, allow_http=True)
    (made / "card.json").unlink()
    bare = zipped(folder, made, "bare.zip")
    with pytest.raises(CheckpointError, match=r"not an encoder: a \.zip with card"):
        fetch(f"{address}/bare.zip", sha256=bare, allow_http=True)
    assert list(home.iterdir()) == []


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_damage_inside_an_archive_is_named(
    method: int, site: tuple[str, Path], home: Path, tmp_path: Path
) -> None:
    """Each way to compress fails in its own words: zlib.error, OSError, LZMAError, a wrong sum."""
    address, folder = site
    made = by_hand(tmp_path / "made")
    for place in ("data", "sum"):
        data = io.BytesIO()
        with zipfile.ZipFile(data, "w", method) as archive:
            archive.write(made / "card.json", "card.json")
            archive.write(made / "encoder.onnx", "encoder.onnx")
            entry = archive.getinfo("encoder.onnx")
        damaged = bytearray(data.getvalue())
        if place == "data":
            start = entry.header_offset + 30 + len(entry.filename)
            for at in range(start + 12, start + entry.compress_size - 12, 7):
                damaged[at] ^= 0xFF
        else:  # the stated CRC, 16 bytes into the entry of the archive's directory
            at = damaged.rindex(b"encoder.onnx") - 46 + 16
            damaged[at] ^= 0xFF
        (folder / "people.zip").write_bytes(damaged)
        digest = hashlib.sha256(damaged).hexdigest()
        with pytest.raises(CheckpointError, match=r"encoder\.onnx cannot be unpacked"):
            fetch(f"{address}/people.zip", sha256=digest, allow_http=True)
        assert list(home.iterdir()) == []


def test_nobody_answers(home: Path) -> None:
    with pytest.raises(CheckpointError, match="cannot be reached"):
        fetch("http://127.0.0.1:9/people.zip", sha256="0" * 64, allow_http=True)
    assert list(home.iterdir()) == []
