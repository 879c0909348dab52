"""Encoders by name: where they lie, what they are, and how a new one gets there.

    resolve("people")       # the folder of the model, wherever a MODEL is taken
    fetch("https://...", sha256="...", name="people")

A name is looked up, in this order, as an encoder or run below the working folder, in
``$CROSSCAM_MODELS`` (several folders, separated as in ``PATH``) or else the user's own folder for
data, and among the encoders that come with the package.  ``fetch`` writes to the first of them.
"""

from __future__ import annotations

import argparse
import hashlib
import http.client
import json
import os
import re
import sys
import urllib.error
import urllib.parse
import urllib.request
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import resources
from pathlib import Path, PurePosixPath
from typing import IO, Any

from crosscam import probe
from crosscam.card import CARD, Card, is_encoder
from crosscam.errors import CheckpointError, CrosscamError, InputError
from crosscam.files import new_folder

__all__ = [
    "Model",
    "add_arguments",
    "fetch",
    "folders",
    "is_shipped",
    "main",
    "models",
    "resolve",
    "verify",
]

MAX_BYTES = 2_000_000_000
"""Larger downloads, and archives that unpack to more, are refused unless a bound is given."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,99}")
_SHA = re.compile(r"[0-9a-f]{64}")
_FILES = 64  # of an archive; an encoder has four
_SECONDS = 60.0  # without a byte, before a download is given up


@dataclass(frozen=True)
class Model:
    """A model of one of the folders: its card, or why it cannot be used."""

    name: str
    folder: Path
    card: Card | None
    fault: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        card = self.card.to_dict() if self.card else None
        return {"name": self.name, "folder": str(self.folder), "card": card, "fault": self.fault}


def folders() -> list[Path]:
    """Where models are looked for, first the folder that ``fetch`` writes to."""
    named = [Path(p) for p in os.environ.get("CROSSCAM_MODELS", "").split(os.pathsep) if p]
    return [*(named or [_users_own()]), _shipped()]


def models() -> list[Model]:
    """All models that have a name, sorted; one that hides another comes alone."""
    found: dict[str, Model] = {}
    for folder in folders():
        if not folder.is_dir():
            continue
        for path in sorted(folder.iterdir()):
            if path.name in found or not _is_model(path):
                continue
            try:
                found[path.name] = Model(path.name, path, Card.read(path))
            except CrosscamError as error:
                found[path.name] = Model(path.name, path, None, str(error))
    return [found[name] for name in sorted(found)]


def resolve(source: str | Path) -> Path:
    """The path of a model: ``source`` itself if it is one, else the model of that name.

    A folder that is neither encoder nor run hides no model: data sets have the same names.  What
    is neither comes back as it is; whoever opens it says what is missing.
    """
    path = Path(source)
    here = (path / CARD).is_file() or (path / "recipe.yaml").is_file()
    if here or not _NAME.fullmatch(str(source)):
        return path
    for folder in folders():
        if _is_model(folder / path):
            return folder / path
    return path


def verify(folder: Path) -> Card:
    """Compare all files of an encoder with its card, which is returned.

    Raises:
        CheckpointError: a file is missing, incomplete or changed, or the card cannot be read.
    """
    card = Card.read(folder)
    card.verify(folder)
    probe.read(folder, card)
    return card


def fetch(
    url: str,
    *,
    sha256: str,
    name: str = "",
    allow_http: bool = False,
    max_bytes: int = MAX_BYTES,
) -> Model:
    """Get an encoder over the network, as one ``.zip`` of its folder.

    The archive is written under another name and becomes a model only when its hash is right,
    its entries are plain files inside the folder, and they are those that the card lists.  No
    code is run from it.

    Args:
        url: https; with ``allow_http`` also http.
        sha256: of the archive, in hex; whoever offers the model states it.
        name: what the model will be called; default the name of the archive.
        allow_http: let http pass, and redirects to it.
        max_bytes: bound of the download and, apart from it, of what it unpacks to.

    Raises:
        InputError: the address, hash or name cannot be used, or the name is taken.
        CheckpointError: the download failed, is not what was promised, or is no encoder.
    """
    digest = sha256.lower().removeprefix("sha256:")
    if not _SHA.fullmatch(digest):
        raise InputError(
            f"sha256 must be 64 hex digits, got {sha256!r}. Ask whoever offers the model."
        )
    _require_scheme(url, allow_http)
    last = urllib.parse.unquote(PurePosixPath(urllib.parse.urlsplit(url).path).name)
    name = name or last.removesuffix(".zip")
    if not _NAME.fullmatch(name):
        raise InputError(
            f"a model cannot be called {name!r}: give a name (--name) of letters, digits and "
            ". _ + -"
        )
    home = folders()[0]
    target = home / name
    if target.exists():
        raise InputError(
            f"{target} exists already: give another name (--name), or remove it first."
        )
    with new_folder(target) as unpacked:
        archive = unpacked.with_suffix(".zip")
        try:
            got = _download(url, archive, allow_http, max_bytes)
            if got != digest:
                raise CheckpointError(
                    f"{url} has the SHA-256 {got}, and {digest} was promised: it is another or a "
                    "changed file. Nothing was kept."
                )
            _unpack(archive, unpacked, url, max_bytes)
        finally:
            archive.unlink(missing_ok=True)
        card = verify(unpacked)
    return Model(name, target, card)


# --- where ----------------------------------------------------------------------------------------


def _users_own() -> Path:
    """The folder for a user's data, by the custom of the system."""
    if os.name == "nt":
        base = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Application Support"
    else:
        base = Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share")
    return base / "crosscam" / "models"


def is_shipped(folder: Path) -> bool:
    """Whether a model comes with the package, so that nothing should be written beside it."""
    return folder.resolve().is_relative_to(_shipped().resolve())


def _shipped() -> Path:
    return Path(str(resources.files("crosscam") / "weights"))


def _is_model(path: Path) -> bool:
    """Whether it is an encoder, be it with a broken card; runs have no names."""
    if path.name.startswith(".") or not (path / CARD).is_file():
        return False
    return is_encoder(path) or not (path / "recipe.yaml").is_file()


# --- over the network -----------------------------------------------------------------------------


def _require_scheme(url: str, allow_http: bool) -> None:
    try:
        parts = urllib.parse.urlsplit(url)
        host = parts.hostname
    except ValueError:
        host, parts = None, urllib.parse.urlsplit("")
    if parts.scheme == "http" and not allow_http:
        raise InputError(
            f"{url} is http, which anybody on the way can read and change. Use https, or state "
            "allow_http=True (--allow-http); the hash is checked all the same."
        )
    if parts.scheme not in ("http", "https") or not host:
        raise InputError(
            f"{url} is no address that models are fetched from: https://HOST/NAME.zip is. A model "
            f"on this machine needs no fetching: copy its folder to {folders()[0]}."
        )


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows only to where the first address could have pointed."""

    def __init__(self, allow_http: bool) -> None:
        self.allow_http = allow_http

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: Any,
        newurl: str,
    ) -> urllib.request.Request | None:  # fmt: skip
        _require_scheme(newurl, self.allow_http)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _download(url: str, to: Path, allow_http: bool, max_bytes: int) -> str:
    """Write what ``url`` gives to the file ``to``; returns its SHA-256."""
    opener = urllib.request.build_opener(_Redirects(allow_http))
    digest = hashlib.sha256()
    with to.open("wb") as file, _network_errors(url), opener.open(url, timeout=_SECONDS) as source:
        stated = source.headers.get("Content-Length", "")
        expected = int(stated) if stated.isdigit() else None
        size = 0
        while block := source.read(1 << 20):
            size += len(block)
            if max(size, expected or 0) > max_bytes:
                raise CheckpointError(
                    f"{url} has more than {max_bytes:,} bytes. If it is meant to be so large, "
                    "raise max_bytes (--max-mb). Nothing was kept."
                )
            digest.update(block)
            file.write(block)
        if expected is not None and size != expected:
            raise CheckpointError(
                f"{url} ended after {size:,} of {expected:,} bytes. Fetch it again."
            )
    return digest.hexdigest()


@contextmanager
def _network_errors(url: str) -> Iterator[None]:
    try:
        yield
    except urllib.error.HTTPError as error:
        raise CheckpointError(
            f"{url} answers {error.code} {error.reason}: check the address."
        ) from error
    except urllib.error.URLError as error:
        raise CheckpointError(
            f"{url} cannot be reached ({error.reason}). Check the address and the network."
        ) from error
    except (TimeoutError, ConnectionError, http.client.HTTPException) as error:
        raise CheckpointError(f"{url}: the connection broke ({error}). Fetch it again.") from error


def _unpack(archive: Path, to: Path, url: str, max_bytes: int) -> None:
    """Write the files of a zip flat into ``to``; one folder around them all is left out."""
    try:
        with zipfile.ZipFile(archive) as opened:
            entries = [e for e in opened.infolist() if not e.is_dir()]
            names = [_safe(e, url) for e in entries]
            around = {n.parts[0] for n in names} if all(len(n.parts) > 1 for n in names) else set()
            if len(around) == 1:
                names = [n.relative_to(n.parts[0]) for n in names]
            plain = [str(n) for n in names]
            if len(set(plain)) != len(plain) or len(plain) > _FILES:
                raise CheckpointError(
                    f"{url} holds {len(plain)} files, or one of them twice; an encoder is a card "
                    "and a few files. Nothing was kept."
                )
            if any(len(n.parts) != 1 for n in names) or CARD not in plain:
                raise CheckpointError(
                    f"{url} is not an encoder: a .zip with {CARD} and the files it lists, or of "
                    "one folder with these, is needed. Nothing was kept."
                )
            if sum(e.file_size for e in entries) > max_bytes:
                raise CheckpointError(
                    f"{url} unpacks to more than {max_bytes:,} bytes. Nothing was kept."
                )
            left = max_bytes
            for entry, name in zip(entries, plain, strict=True):
                with opened.open(entry) as source, (to / name).open("xb") as file:
                    while block := _unpacked(source, entry.filename, url):
                        left -= len(block)
                        if left < 0:  # the directory of an archive may state what it likes
                            raise CheckpointError(
                                f"{url} unpacks to more than {max_bytes:,} bytes. Nothing was kept."
                            )
                        file.write(block)
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError) as error:
        raise CheckpointError(
            f"{url} is not a .zip that can be unpacked ({error}). Nothing was kept."
        ) from error


def _unpacked(source: IO[bytes], name: str, url: str) -> bytes:
    try:
        return source.read(1 << 20)
    except Exception as error:  # each way to compress has its own errors
        raise CheckpointError(
            f"{url}: {name} cannot be unpacked ({error}). Whoever made the archive must make it "
            "again. Nothing was kept."
        ) from error


def _safe(entry: zipfile.ZipInfo, url: str) -> PurePosixPath:
    name = PurePosixPath(entry.filename)
    kind = (entry.external_attr >> 16) & 0o170000
    inside = not name.is_absolute() and ".." not in name.parts and name.parts
    if not inside or re.search(r"[\\:\0]", entry.filename) or kind not in (0, 0o100000):
        raise CheckpointError(
            f"{url} holds {entry.filename!r}, which would be written outside its folder or is no "
            "plain file. Nothing was kept."
        )
    return name


# --- the command ----------------------------------------------------------------------------------


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Give the parser of ``crosscam models`` its verbs."""
    verbs = parser.add_subparsers(title="verbs", dest="verb", required=True, metavar="VERB")
    listing = verbs.add_parser("list", help="All models that have a name, and where they lie.")
    listing.add_argument("--json", action="store_true", help="print JSON")
    show = verbs.add_parser("show", help="The card of an encoder.")
    show.add_argument("model", help="name or folder")
    show.add_argument("--json", action="store_true", help="print JSON")
    check = verbs.add_parser("verify", help="Compare the files of encoders with their cards.")
    check.add_argument("model", nargs="*", help="names or folders; default all that have a name")
    get = verbs.add_parser("fetch", help="Get an encoder: one .zip of its folder, over https.")
    get.add_argument("url", help="https://HOST/NAME.zip")
    get.add_argument("--sha256", required=True, help="of the .zip, stated by who offers it")
    get.add_argument("--name", default="", help="what to call it (default: as the .zip)")
    get.add_argument("--allow-http", action="store_true", help="let http pass")
    get.add_argument("--max-mb", type=int, default=MAX_BYTES // 1_000_000, help="largest size")


def main(options: argparse.Namespace) -> int:
    """Run a verb; returns the exit status."""
    if options.verb == "list":
        return _list(as_json=options.json)
    if options.verb == "show":
        card = Card.read(resolve(options.model))
        print(json.dumps(card.to_dict(), indent=1) if options.json else card.text())
        return 0
    if options.verb == "verify":
        return _verify(options.model)
    if options.max_mb < 1:
        raise InputError(f"--max-mb must be 1 or more, got {options.max_mb}.")
    model = fetch(
        options.url,
        sha256=options.sha256,
        name=options.name,
        allow_http=options.allow_http,
        max_bytes=options.max_mb * 1_000_000,
    )
    assert model.card is not None
    print(f"{model.card.text()}\nmodel     {model.name}: {model.folder}")
    return 0


def _list(*, as_json: bool) -> int:
    found = models()
    if as_json:
        print(json.dumps([model.to_dict() for model in found], indent=1))
        return 0
    for model in found:
        what = model.card.describe() if model.card else f"cannot be used: {model.fault}"
        print(f"{model.name:24s} {what}\n{'':24s} {model.folder}")
    if not found:
        print("no models yet")
    print("looked in " + ", ".join(str(folder) for folder in folders()))
    return 0


def _verify(named: list[str]) -> int:
    """Status 1 if one of the models is not as its card says."""
    chosen = [(name, resolve(name)) for name in named] or [(m.name, m.folder) for m in models()]
    bad = 0
    for name, folder in chosen:
        try:
            print(f"OK    {name}  {verify(folder).hash}")
        except CheckpointError as error:
            print(f"FAIL  {name}  {error}")
            bad = 1
    if not chosen:
        print("no models yet")
    return bad
