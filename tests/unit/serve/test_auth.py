"""API keys: what is kept of them, and who is let in."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest

from orchestrator.errors import StoreError, TaskError
from serve.auth import KeyFile, Keyring, basic, bearer, digest, parse_variable


def test_a_key_is_kept_as_its_hash_in_a_file_for_its_owner_alone(tmp_path: Path) -> None:
    text, key = KeyFile(tmp_path).create("ci")

    stored = (tmp_path / "api_keys.json").read_text()
    secret = text.split("_", 2)[2]
    assert text.startswith(f"rsk_{key.id}_") and len(secret) == 43
    assert secret not in stored and text not in stored
    assert json.loads(stored)[0]["sha256"] == digest(text)
    assert (tmp_path / "api_keys.json").stat().st_mode & 0o777 == 0o600
    assert [path.name for path in tmp_path.iterdir() if path.suffix not in (".json", ".lock")] == []


def test_a_known_key_is_told_from_any_other(tmp_path: Path) -> None:
    text, key = KeyFile(tmp_path).create("ci")
    KeyFile(tmp_path).create("other")
    ring = Keyring(tmp_path)

    assert ring.whose(text) == key
    for wrong in ("", "x", text[:-1], text + "x", key.sha256, "\udcff", f"rsk_{key.id}_"):
        assert ring.whose(wrong) is None


def test_a_revoked_key_is_refused_soon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("serve.auth.time.monotonic", lambda: now[0])
    text, key = KeyFile(tmp_path).create("ci")
    ring = Keyring(tmp_path)
    assert ring.whose(text) is not None

    KeyFile(tmp_path).revoke(key.id)
    now[0] = 2.0

    assert ring.whose(text) is None
    assert ring.is_empty
    with pytest.raises(TaskError, match="there is no key"):
        KeyFile(tmp_path).revoke(key.id)


def test_keys_may_come_as_hashes_in_the_environment(tmp_path: Path) -> None:
    text, key = KeyFile(tmp_path / "elsewhere").create("ci")

    ring = Keyring(tmp_path, f" {key.id}:{key.sha256}, ")

    found = ring.whose(text)
    assert found is not None and found.id == key.id


def test_a_key_may_belong_to_a_tenant(tmp_path: Path) -> None:
    text, key = KeyFile(tmp_path / "elsewhere").create("ci", "web")

    here, there = Keyring(tmp_path / "elsewhere").whose(text), Keyring(tmp_path, key.entry).whose(text)

    assert here is not None and there is not None
    assert (here.tenant, there.tenant, there.id) == ("web", "web", key.id)
    with pytest.raises(TaskError, match="cannot name a tenant"):
        KeyFile(tmp_path).create("ci", "a b")
    with pytest.raises(TaskError, match="entry 1"):
        parse_variable(f"{key.id}@../x:{key.sha256}")


def test_a_key_in_the_place_of_a_hash_is_refused_and_not_repeated(tmp_path: Path) -> None:
    text, key = KeyFile(tmp_path).create("ci")

    with pytest.raises(TaskError, match="entry 2") as caught:
        parse_variable(f"{key.id}:{key.sha256} {text}")

    assert text not in str(caught.value)


@pytest.mark.parametrize("name", ["", " ", "a b", "ü", "x" * 65, "../x"])
def test_a_key_has_a_plain_name(tmp_path: Path, name: str) -> None:
    with pytest.raises(TaskError, match="cannot name a key"):
        KeyFile(tmp_path).create(name)


@pytest.mark.parametrize("content", ["{", '{"a": 1}', "[1]", '[{"id": "a"}]'])
def test_a_broken_key_file_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "api_keys.json").write_text(content)

    with pytest.raises(StoreError, match=r"api_keys\.json cannot be read"):
        Keyring(tmp_path).whose("x")


def test_a_home_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    with pytest.raises(StoreError, match="cannot be written"):
        KeyFile(tmp_path / "file").create("ci")


def test_headers_are_taken_apart_without_trust() -> None:
    password = base64.b64encode(b"anybody:rsk_1_x").decode()

    assert bearer("Bearer  rsk_1_x ") == "rsk_1_x"
    assert bearer("bearer x") == "x"
    assert bearer(f"Basic {password}") is None
    assert basic(f"Basic {password}") == "rsk_1_x"
    for broken in ("Basic %%%", "Basic /w==", "Bearer x"):
        assert basic(broken) is None
