"""``crosscam token`` and what ``crosscam serve`` refuses."""

from __future__ import annotations

import re
import shutil
import socket
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest

from crosscam.cli import main
from crosscam.decision import fit
from crosscam.decision.trials import of_pairs
from crosscam.errors import CheckpointError, InputError
from crosscam.serve.audit import AuditLog
from crosscam.serve.command import (
    _calibration,
    _in_address,
    _loopback,
    _require_agreement,
    _require_tls,
)
from crosscam.serve.retention import Kept
from crosscam.serve.tokens import Role, Tokens


def test_tokens_come_and_go(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = ["--state", str(tmp_path)]
    assert main(["token", "add", "Ann", "--role", "operator", "--days", "7", *place]) == 0
    secret = capsys.readouterr().out.strip()
    found = Tokens(tmp_path / "tokens.json").find(secret)
    assert found is not None
    assert found.role is Role.OPERATOR
    assert main(["token", "list", *place]) == 0
    listed = capsys.readouterr().out
    assert re.search(r"Ann +operator +until 20\d\d-\d\d-\d\d \d\d:\d\d UTC", listed)
    assert secret not in listed
    Tokens(tmp_path / "tokens.json", lambda: 0.0).add("Old", Role.VIEWER, days=1)
    assert main(["token", "add", "Bea", "--role", "viewer", *place]) == 0
    capsys.readouterr()
    assert main(["token", "list", *place]) == 0
    listed = capsys.readouterr().out
    assert re.search(r"Old +viewer +ended 1970-01-02 00:00 UTC", listed)
    assert re.search(r"Bea +viewer +never ends", listed)
    assert main(["token", "revoke", "Ann", *place]) == 0
    assert Tokens(tmp_path / "tokens.json").find(secret) is None
    assert main(["token", "add", "x", "--role", "root", *place]) == 1
    assert "viewer, operator, admin" in capsys.readouterr().err


def test_a_port_that_is_taken_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = ["--gallery", str(tmp_path / "g")]
    assert main(["token", "add", "a", "--role", "viewer", *place]) == 0
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = str(other.getsockname()[1])
        assert main(["serve", *place, "--new", "--model", "m", "--port", port]) == 1
        said = capsys.readouterr()
        assert f"cannot listen on 127.0.0.1, port {port} (" in said.err
        assert "give another --port" in said.err
        assert "page" not in said.out
    assert main(["serve", *place, "--new", "--model", "nosuch", "--port", port]) == 1
    assert "cannot listen" not in capsys.readouterr().err


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two certificates with their keys, one key encrypted, and a file that is neither."""
    if shutil.which("openssl") is None:
        pytest.skip("no openssl on this machine")
    folder = tmp_path_factory.mktemp("tls")
    make = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1",
            "-subj", "/CN=localhost", "-days", "1"]  # fmt: skip
    for name, how in (("a", ["-nodes"]), ("b", ["-nodes"]), ("c", ["-passout", "pass:secret"])):
        files = ["-out", str(folder / f"{name}.pem"), "-keyout", str(folder / f"{name}.key")]
        subprocess.run([*make, *files, *how], check=True, capture_output=True)
    (folder / "text").write_text("nothing")
    return folder


@pytest.mark.parametrize(
    ("certificate", "key", "words"),
    [
        ("a.pem", "a.key", None),
        ("c.pem", "c.key", None),  # the server asks for the passphrase
        ("none", "a.key", r"none cannot be read \(No such file.*--tls-cert"),
        ("a.pem", "none", r"none cannot be read \(No such file.*--tls-key"),
        ("text", "a.key", "text holds no certificate"),
        ("a.key", "a.key", r"a\.key holds no certificate"),
        ("a.pem", "text", "text holds no private key"),
        ("a.pem", "a.pem", r"a\.pem holds no private key"),
        ("a.pem", "b.key", r"b\.key is not the key of the certificate .*a\.pem"),
    ],
)
def test_files_of_tls_are_looked_at_first(
    certificate: str, key: str, words: str | None, tls: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if words is None:
        _require_tls(tls / certificate, tls / key)
        return
    start = ["serve", "--gallery", str(tls / "g"), "--model", "m", "--host", "0.0.0.0"]
    files = ["--tls-cert", str(tls / certificate), "--tls-key", str(tls / key)]
    assert main([*start, *files]) == 1
    said = capsys.readouterr()
    assert re.search(words, said.err)
    assert said.out == ""


def test_addresses_of_the_sixth_version_stand_in_brackets() -> None:
    assert _in_address("::1") == "[::1]"
    assert _in_address("127.0.0.1") == "127.0.0.1"
    assert _in_address("example.org") == "example.org"


def test_a_place_without_a_gallery_is_said_to_be_none(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "people.gallery").mkdir()
    (tmp_path / "people.gallery" / "gallery.json").write_text("{}")
    typo = tmp_path / "poeple.gallery"
    start = ["serve", "--gallery", str(typo), "--model", "people"]
    add = ["token", "add", "Ann", "--role", "admin", "--gallery"]
    assert main([*add, str(typo)]) == 0
    said = capsys.readouterr()
    assert f"note: {typo} is not a gallery (there is nothing)." in said.err
    assert len(said.out.split()) == 1  # the token, and nothing else
    for there, needed in (
        ("there is nothing", lambda: typo.mkdir()),
        ("it has no gallery.json, and holds nothing", lambda: (typo / "a.jpg").touch()),
        ("it has no gallery.json, and holds a.jpg", lambda: None),
    ):
        before = set(tmp_path.rglob("*"))
        assert main(start) == 1
        said = capsys.readouterr()
        assert f"{typo} is not a gallery ({there}). Is {tmp_path / 'people.gallery'}" in said.err
        assert f"crosscam gallery add PICTURES --gallery {typo}" in said.err
        assert "--new" in said.err
        assert set(tmp_path.rglob("*")) == before
        needed()
    (typo / "gallery.json").write_text("{}")
    assert main([*add[:2], "Bea", *add[3:], str(typo)]) == 0
    assert capsys.readouterr().err == ""
    assert main(["serve", "--gallery", str(tmp_path / "people.gallery"), "--model", "m"]) == 1
    assert "nobody may use this service yet" in capsys.readouterr().err


def test_an_empty_gallery_is_made_only_when_asked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    started = []
    monkeypatch.setattr("uvicorn.run", lambda app, **_: started.append(app))
    place = ["--gallery", str(tmp_path / "g")]
    assert main(["token", "add", "a", "--role", "admin", *place]) == 0
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    start = ["serve", *place, "--model", "people-small", "--port", port]
    assert main(start) == 1
    assert main([*start, "--new"]) == 0
    assert main(start) == 0
    assert main([*start, "--new"]) == 0  # one that is there is taken
    assert len(started) == 3
    assert capsys.readouterr().out.count("g: 0 sightings, people-small") == 3


def test_the_state_of_a_folder_lies_beside_it(tmp_path: Path) -> None:
    assert main(["token", "add", "a", "--role", "viewer", "--gallery", str(tmp_path / "g")]) == 0
    assert (tmp_path / "g.service" / "tokens.json").is_file()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--host", "0.0.0.0"], "in the clear"),
        (["--host", "example.org"], "in the clear"),
        (["--tls-cert", "c.pem"], "both"),
        ([], "crosscam gallery add"),
        (["--new"], "crosscam token add"),
        (["--far", "2"], "far must be in [0.001, 0.3], got 2"),
        (["--far", "nan"], "far must be in"),
        (["--present", "1"], "present must be between 0 and 1"),
        (["--retention-days", "inf"], "retention_days must be in"),
        (["--per-minute", "-3"], "per_minute must be in"),
        (["--port", "70000"], "--port must be in"),
    ],
)
def test_what_is_unsafe_is_refused(
    words: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    start = ["serve", "--gallery", str(tmp_path / "g"), "--model", str(tmp_path / "m")]
    assert main([*start, *words]) == 1
    assert message in capsys.readouterr().err


def test_a_server_gallery_needs_a_state_folder(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["token", "list", "--gallery", "http://host:6333/people"]
    assert main(words) == 1
    assert "--state" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("host", "local"),
    [("127.0.0.1", True), ("localhost", True), ("::1", True), ("0.0.0.0", False),
     ("192.168.1.2", False), ("::", False)],
)  # fmt: skip
def test_loopback(host: str, local: bool) -> None:
    assert _loopback(host) is local


def test_no_start_deletes_what_nobody_agreed_to(tmp_path: Path) -> None:
    pytest.importorskip("qdrant_edge")
    from crosscam.gallery import Gallery, Model, Sighting

    now, day = time.time(), 86_400.0
    record = tmp_path / "retention.json"
    with Gallery.create(tmp_path / "g", Model("ab" * 32, 4)) as gallery:
        ages = (0, 104, 33, None)
        times = [None if age is None else now - day * age for age in ages]
        gallery.add_vectors(np.eye(4), [Sighting("", time=t) for t in times])

        def start(days: float, agreed: int = 0) -> None:
            _require_agreement(gallery, tmp_path, days, "g", agreed)

        with pytest.raises(InputError, match=r"2 of 4 sightings are older .*-delete 2"):
            start(30)
        with pytest.raises(InputError, match="would delete them"):
            start(30, 1)
        start(30, 2)
        start(0)
        start(365)
        # Started before, over an empty gallery: the old one was added after its last upkeep.
        AuditLog(tmp_path / "audit.jsonl").close()
        Kept(30.0, now - 5 * day).write(record)
        with pytest.raises(InputError, match=r"1 of 4 .* at 20.*Z; .* added since"):
            start(30)
        # The one of 33 days became due while the service was down, and needs no agreement.
        start(30, 1)
        with pytest.raises(InputError, match="1 of 4"):
            start(32)
        start(120)
        # A shorter retention, and one after none.
        Kept(120.0, now - 5 * day).write(record)
        start(120)
        with pytest.raises(InputError, match=r"2 of 4 .* kept for 120 days"):
            start(30)
        start(110)
        Kept(0.0, now - 5 * day).write(record)
        with pytest.raises(InputError, match=r"2 of 4 .* kept for ever"):
            start(30)
        gallery.forget(before=now - 100 * day)
        Kept(30.0, now - 5 * day).write(record)
        start(30)  # down for five days: what became due meanwhile may go
        start(29.5)
        Kept(30.0, now - 2 * day).write(record)
        with pytest.raises(InputError, match="1 of 3"):
            start(30)
        # A clock that was wrong once agrees to nothing that is not due now.
        Kept(30.0, now + 500 * day).write(record)
        with pytest.raises(InputError, match="1 of 3"):
            start(30)


def test_what_a_service_did_and_took_in_itself_needs_no_agreement(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("qdrant_edge")
    from crosscam.gallery import Gallery, Model, Sighting

    now, day = time.time(), 86_400.0
    ran = now - 3600  # the last upkeep; a minute later it was killed
    at = [ran + 0.25]
    with Gallery.create(tmp_path / "g", Model("ab" * 32, 4)) as gallery:

        def add(row: int, age: float, added: float) -> None:
            gallery.clock = lambda: added
            gallery.add_vectors(np.eye(4)[row : row + 1], [Sighting("", time=now - age * day)])

        add(0, 30 + 0.5 / 24, ran - 10)  # due since
        add(1, 400, ran + 60)  # an upload
        with pytest.raises(InputError, match="2 of 2"):
            _require_agreement(gallery, tmp_path, 30, "g")
        # As versions before retention.json left it.
        with AuditLog(tmp_path / "audit.jsonl", lambda: at[0]) as log:
            log.append("retention", "service", "forget", stage="begun", before=ran - 30 * day)
            log.append("retention", "service", "forget", stage="done", of=1)
        with pytest.raises(InputError, match=r"1 of 2 .* added since"):
            _require_agreement(gallery, tmp_path, 30, "g")
        at[0] = ran + 60
        with AuditLog(tmp_path / "audit.jsonl", lambda: at[0]) as log:
            log.append("Ann", "operator", "add", stage="done")
        _require_agreement(gallery, tmp_path, 30, "g")
        add(2, 29.7, ran + 1)
        with pytest.raises(InputError, match=r"1 of 3 .* for 30 days"):
            _require_agreement(gallery, tmp_path, 29, "g")
        # Kept for ever since: the log goes on, and nothing is deleted.
        shutil.copy(tmp_path / "audit.jsonl", tmp_path / "before.jsonl")
        with AuditLog(tmp_path / "audit.jsonl", lambda: ran + 3 * day) as log:
            log.append("Ann", "viewer", "list")
        monkeypatch.setattr("crosscam.serve.command.time.time", lambda: ran + 3 * day + 60)
        with pytest.raises(InputError, match=r"3 of 3 .* added since"):
            _require_agreement(gallery, tmp_path, 30, "g")
        monkeypatch.undo()
        (tmp_path / "before.jsonl").replace(tmp_path / "audit.jsonl")
        # The same with a record; what somebody added afterwards still asks.
        Kept(30.0, ran).write(tmp_path / "retention.json")
        _require_agreement(gallery, tmp_path, 30, "g")
        add(3, 400, ran + 61)
        with pytest.raises(InputError, match=r"1 of 4 .* added since"):
            _require_agreement(gallery, tmp_path, 30, "g")


@pytest.mark.parametrize(
    "text",
    ["", "{}", "[1]", '{"days": "x", "until": 1}', '{"days": NaN, "until": 1}',
     '{"days": -1, "until": 1}'],
)  # fmt: skip
def test_a_damaged_record_of_retention_is_named(text: str, tmp_path: Path) -> None:
    (tmp_path / "r.json").write_text(text)
    with pytest.raises(InputError, match=r"r\.json does not say how long .* Move it away"):
        Kept.read(tmp_path / "r.json")


def test_the_calibration_of_another_encoder_is_refused(tmp_path: Path) -> None:
    class Encoder:
        hash = "b" * 64

    assert _calibration(tmp_path, Encoder()) is None
    it = fit(of_pairs([0.9, 0.1], [True, False]), model="a" * 64, data="d")
    it.save(tmp_path / "calibration.json")
    with pytest.raises(InputError, match="Calibrate this encoder"):
        _calibration(tmp_path, Encoder())
    own = tmp_path / "own.json"  # named on the command line, it is the one that counts
    mine = fit(of_pairs([0.9, 0.1], [True, False]), model="b" * 64, data="mine")
    mine.save(own)
    assert _calibration(tmp_path, Encoder(), own) == mine
    with pytest.raises(CheckpointError, match="no calibration at"):
        _calibration(tmp_path, Encoder(), tmp_path / "none.json")
