"""The table of keys, on a real SQLite file and a real PostgreSQL; and the commands about it."""

import json
import re
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest

from shared import keys
from shared.configuration import load_settings
from shared.errors import KeyNotFoundError, SettingsError
from shared.keybook import require_some
from shared.keys import Allowance, opens, read_token
from shared.settings import Settings
from shared.store import Store
from tests.support.commands import minivault
from tests.support.keys import key_book, made
from tests.support.postgres import Postgres


@pytest.fixture(params=["sqlite", "postgresql"])
def own(request: pytest.FixtureRequest, tmp_path: Path) -> Settings:
    if request.param == "sqlite":
        return load_settings(database_url=f"sqlite:///{tmp_path}/keys.db")
    postgres: Postgres = request.getfixturevalue("postgres")
    return load_settings(database_url=postgres.url(postgres.new_database()))


ALL = Allowance(
    rate="60/minute", max_in_flight=3, daily_tokens=2**53 - 1, max_priority=0, models=("a", "b+c")
)


def test_a_key_comes_back_as_it_was_made(own: Settings) -> None:
    with key_book(own) as book:
        assert (book.exists(), book.all(), book.find("0" * 12)) == (False, [], None)
        plain = book.create("plain")
        full = book.create("für 日本 🙂", ALL, admin=True, expires_at=keys.in_seconds(60))
        assert book.exists()
        found = book.find(full.id)
        assert found is not None
        assert (found.name, found.admin, found.allowance) == ("für 日本 🙂", True, ALL)
        assert found.digest == keys.digest(full.secret)
        assert opens(full, found, keys.now())
        other = book.find(plain.id)
        assert other is not None
        assert (other.admin, other.allowance, other.expires_at) == (False, Allowance(), None)
        assert [key.id for key in book.all()] == [plain.id, full.id]


def test_what_one_has_written_the_other_reads_at_once(own: Settings) -> None:
    with key_book(own) as here, key_book(own) as there:
        token = here.create("a")
        for _ in range(3):
            new = there.rotate(token.id)
            found = here.find(token.id)
            assert (opens(token, found, keys.now()), opens(new, found, keys.now())) == (False, True)
            token = new
        there.revoke(token.id)
        assert not opens(token, here.find(token.id), keys.now())
        for change in (there.revoke, there.rotate):
            with pytest.raises(KeyNotFoundError, match=token.id):
                change(token.id)
        assert here.exists()  # for what it has made, and for who must not get in again


def test_that_there_is_no_key_is_known_without_a_wait(tmp_path: Path) -> None:
    file = tmp_path / "keys.db"
    settings = load_settings(database_url=f"sqlite:///{file}")
    with key_book(settings) as book, key_book(settings) as other:
        assert book.is_empty_at_once()
        other.create("first")
        assert not book.is_empty_at_once()
        for each in tmp_path.glob("keys.db*"):  # somebody puts another in its place
            each.unlink()
        assert not book.is_empty_at_once()
        with key_book(settings):
            assert file.exists()
            assert book.is_empty_at_once()


def test_many_may_make_keys_at_once(own: Settings) -> None:
    with ThreadPoolExecutor(8) as threads:
        made_now = list(threads.map(lambda _: made(own), range(8)))
    with key_book(own) as book:
        assert {key.id for key in book.all()} == {token.id for token in made_now}


def test_it_lies_beside_the_interactions(own: Settings) -> None:
    with key_book(own) as book:
        Store.open(own).close()
        assert read_token(book.create("a").text)


def test_a_server_that_was_restarted_is_asked_again(tmp_path: Path, postgres: Postgres) -> None:
    own = load_settings(database_url=postgres.url(postgres.new_database()))
    with key_book(own) as book:
        token = book.create("a")
        with postgres.away():
            pass
        assert book.find(token.id)


# To serve others


@pytest.mark.parametrize(
    ("changes", "starts"),
    [
        ({}, True),
        ({"host": "localhost"}, True),
        ({"host": "::1"}, True),
        ({"host": "0.0.0.0"}, False),
        ({"host": "::"}, False),
        ({"host": "192.168.1.5"}, False),
        ({"host": "my-machine"}, False),
        ({"host": "127.0.0.1.example.org"}, False),
        ({"host": ""}, False),
        ({"host": "0.0.0.0", "auth": "open"}, True),
        ({"host": "0.0.0.0", "auth": "required"}, True),
        ({"host": "0.0.0.0", "published_host": "127.0.0.1"}, True),
        ({"host": "127.0.0.1", "published_host": "0.0.0.0"}, False),
    ],
)
def test_others_are_not_served_by_accident(
    tmp_path: Path, changes: dict[str, str], *, starts: bool
) -> None:
    own = load_settings(database_url=f"sqlite:///{tmp_path}/keys.db", **changes)
    with key_book(own) as book:
        if starts:
            require_some(own, book)
        else:
            with pytest.raises(SettingsError, match=r"minivault keys create NAME.*MINIVAULT_AUTH"):
                require_some(own, book)
        book.create("first")
        require_some(own, book)


def test_an_api_that_others_reach_does_not_start_without_a_key(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MINIVAULT_REDIS_URL", settings.effective_redis_url)
    monkeypatch.setenv("MINIVAULT_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("MINIVAULT_HOST", "0.0.0.0")
    for command in ("api", "up"):
        assert minivault(monkeypatch, command) == 78
        assert "minivault keys create NAME" in capsys.readouterr().err


# Commands


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MINIVAULT_DATA_DIR", str(tmp_path / "data"))
    return partial(minivault, monkeypatch)


def test_a_key_is_shown_once_and_kept_nowhere(run, capsys, tmp_path: Path) -> None:
    limits = "--rate 60/minute --concurrency 2 --daily-tokens 9000 --priority 3 --expires 90d"
    assert run("keys", "create", "ci", *limits.split(), "--model", "a", "--model", "b") == 0
    shown = capsys.readouterr()
    token = read_token(shown.out.strip())
    assert token is not None
    assert token.id in shown.err
    assert token.secret not in shown.err
    assert run("keys", "create", "boss", "--admin", "--json") == 0
    boss = json.loads(capsys.readouterr().out)
    assert read_token(boss["key"])
    assert run("keys", "list") == 0
    told = capsys.readouterr().out
    assert re.search(rf"{token.id}\tci\tactive\t", told)
    assert "rate 60/minute, concurrency 2, daily tokens 9000, priority 3, models a b" in told
    assert re.search(rf"{boss['id']}\tboss\tactive\t\S+\tnever\tadmin", told)
    assert run("keys", "rotate", token.id, "--grace", "60") == 0
    new = read_token(capsys.readouterr().out.strip())
    assert new is not None
    assert (new.id, new.secret == token.secret) == (token.id, False)
    assert run("keys", "revoke", token.id, boss["id"]) == 0
    capsys.readouterr()
    assert run("keys", "list", "--json") == 0
    listed = capsys.readouterr().out
    assert {key["state"] for key in json.loads(listed)} == {"revoked"}
    dump = "\n".join(sqlite3.connect(tmp_path / "data/db/minivault.db").iterdump())
    for secret in (token.secret, new.secret, read_token(boss["key"]).secret):
        assert secret not in dump
        assert secret not in listed
        assert keys.digest(secret) not in listed


def test_a_key_of_the_past_is_expired(run, capsys, tmp_path: Path) -> None:
    own = load_settings()
    own.prepare_data_dir()
    with key_book(own) as book:
        book.create("old", expires_at="2001-01-01T00:00:00.000+00:00")
    run("keys", "list")
    assert "\texpired\t" in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments",
    [
        ["create", " "],
        ["create", "two\nlines"],
        ["create", "x", "--rate", "lots"],
        ["create", "x", "--expires", "soon"],
        ["create", "x", "--expires", "2001-01-01"],
        ["create", "x", "--daily-tokens", "0"],
        ["create", "x", "--priority", "10"],
        ["create", "x", "--model", "a,b"],
        ["revoke", "000000000000"],
        ["rotate", "000000000000"],
    ],
)
def test_what_makes_no_sense_is_refused(run, capsys, arguments: list[str]) -> None:
    assert run("keys", *arguments) in (1, 2)
    assert "Traceback" not in capsys.readouterr().err
    run("keys", "list")
    assert capsys.readouterr().out == ""


def test_a_book_opens_where_there_is_no_folder_yet(run, capsys) -> None:
    assert run("keys", "list") == 0
    assert capsys.readouterr().out == ""
