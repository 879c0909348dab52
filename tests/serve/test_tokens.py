"""Tokens: shown once, hashed at rest, ended at once."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import pytest

from crosscam.errors import GalleryError, InputError
from crosscam.serve.tokens import Role, Token, Tokens

FileLock = pytest.importorskip("filelock").FileLock


def test_a_token_is_found_and_its_secret_is_nowhere_in_the_file(tmp_path: Path) -> None:
    tokens = Tokens(tmp_path / "t.json")
    secret = tokens.add("anna", Role.OPERATOR)
    found = tokens.find(secret)
    assert found is not None
    assert (found.name, found.role) == ("anna", Role.OPERATOR)
    text = (tmp_path / "t.json").read_text()
    assert secret not in text
    assert secret[3:] not in text
    assert (tmp_path / "t.json").stat().st_mode & 0o077 == 0
    assert len(secret) > 40


def test_nobody_is_let_in_by_default(tmp_path: Path) -> None:
    tokens = Tokens(tmp_path / "t.json")
    assert tokens.list() == []
    for guess in ("", "admin", "cc_"):
        assert tokens.find(guess) is None


def test_a_token_added_or_revoked_elsewhere_counts_at_once(tmp_path: Path) -> None:
    service, command = Tokens(tmp_path / "t.json"), Tokens(tmp_path / "t.json")
    secret = command.add("bo", Role.VIEWER)
    assert service.find(secret) is not None
    command.revoke("bo")
    assert service.find(secret) is None


def test_a_token_ends(tmp_path: Path) -> None:
    now = [1000.0]
    tokens = Tokens(tmp_path / "t.json", clock=lambda: now[0])
    secret = tokens.add("c", Role.ADMIN, days=1)
    assert tokens.find(secret) is not None
    now[0] += 86_399
    assert tokens.find(secret) is not None
    now[0] += 1
    assert tokens.find(secret) is None


def test_roles_are_ordered() -> None:
    assert Role.VIEWER < Role.OPERATOR < Role.ADMIN
    assert Role.named("admin") is Role.ADMIN


@pytest.mark.parametrize("name", ["", "x" * 65, "a\nb", "<b>"])
def test_odd_names_are_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="name"):
        Tokens(tmp_path / "t.json").add(name, Role.VIEWER)


def test_clear_errors(tmp_path: Path) -> None:
    tokens = Tokens(tmp_path / "t.json")
    tokens.add("a", Role.VIEWER)
    with pytest.raises(InputError, match="already"):
        tokens.add("a", Role.VIEWER)
    with pytest.raises(InputError, match="no token"):
        tokens.revoke("b")
    with pytest.raises(InputError, match="viewer, operator, admin"):
        Role.named("root")
    with pytest.raises(InputError, match="days"):
        tokens.add("z", Role.VIEWER, days=0)
    (tmp_path / "bad.json").write_text(json.dumps({"tokens": [{"name": 3}]}))
    with pytest.raises(InputError, match="not a file of tokens"):
        Tokens(tmp_path / "bad.json")


def test_of_two_changes_at_a_time_none_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A token that is revoked while another is added stays revoked."""
    adding, revoking = Tokens(tmp_path / "t.json"), Tokens(tmp_path / "t.json")
    old = adding.add("old", Role.ADMIN)
    other = threading.Thread(target=revoking.revoke, args=("old",))
    write = adding._write

    def late(tokens: dict[str, Token]) -> None:
        other.start()
        other.join(0.3)  # all that it can do meanwhile
        write(tokens)

    monkeypatch.setattr(adding, "_write", late)
    new = adding.add("new", Role.VIEWER)
    other.join(10)
    service = Tokens(tmp_path / "t.json")
    assert service.find(old) is None
    assert service.find(new) is not None


def test_who_waits_too_long_is_told_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tokens = Tokens(tmp_path / "t.json")
    tokens.add("a", Role.VIEWER)
    monkeypatch.setattr("crosscam.serve.tokens._WAIT", 0.05)
    with (
        FileLock(tmp_path / "t.json.lock", is_singleton=False),
        pytest.raises(GalleryError, match=r"has been changing .*t\.json for 0\.05 seconds"),
    ):
        tokens.revoke("a")
    tokens.revoke("a")


def test_no_folder_is_made_for_a_token_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no token named 'a'"):
        Tokens(tmp_path / "typo" / "t.json").revoke("a")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"expires": "q"}, "expires of 'a' is a number of seconds, got 'q'"),
        ({"expires": float("nan")}, "expires of 'a' is a number of seconds, got nan"),
        ({"created": None}, "created of 'a'"),
        ({"sha256": 3}, "are text"),
        ({"role": "root"}, "unknown role 'root'"),
        ({"role": 3}, "unknown role '3'"),
        ({"more": 1}, "more"),
    ],
)
def test_a_damaged_entry_is_named(change: dict[str, Any], words: str, tmp_path: Path) -> None:
    path = tmp_path / "t.json"
    Tokens(path).add("a", Role.VIEWER)
    entries = json.loads(path.read_text())
    entries["tokens"][0].update(change)
    path.write_text(json.dumps(entries))
    with pytest.raises(InputError, match=rf"t\.json is not a file of tokens \(.*{words}.*copy"):
        Tokens(path)
