"""Tokens: shown once, hashed at rest, ended at once."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from crosscam.errors import InputError
from crosscam.serve.tokens import Role, Tokens


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
