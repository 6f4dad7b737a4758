"""What settings accept, and how they say no."""

from pathlib import Path

import pytest
from redis.connection import parse_url
from sqlalchemy import create_engine, make_url

from cli.dashboard import serve
from shared.catalog import HubSource, add_model, load_catalog
from shared.configuration import load_settings
from shared.errors import CatalogError, SettingsError
from shared.redis import redact
from shared.sentinel import parse
from shared.settings import Settings
from shared.store import Store


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("REDIS_URL", "http://user:secret@h"),
        ("REDIS_URL", "redis://user:secret@h:notaport"),
        ("REDIS_URL", "redis+sentinel://:secret@one:26379"),
        ("REDIS_URL", "redis+sentinel://:secret@/mini"),
        ("REDIS_URL", "redis+sentinel://:secret@one:port/mini/0"),
        ("REDIS_URL", "redis+sentinel://:secret@one/mini/zero"),
        ("DATABASE_URL", "secret nonsense"),
        ("DATABASE_URL", "mysql://user:secret@h/d"),
        ("DATABASE_URL", "postgresql+asyncpg://user:secret@h/d"),
        ("DATABASE_URL", "postgresql://user:secret@h:notaport/d"),
        ("PORT", "99999"),
        ("TRUSTED_PROXIES", "10.0.0.0/99"),
        ("MODELS", ","),
        ("RATE_LIMIT", "5 per minute"),
        ("ALLOWED_HOSTS", "https://mine.example"),
        ("ALLOWED_HOSTS", "mine.example:443"),
        ("DOCS", "perhaps"),
    ],
)
def test_a_value_that_can_not_be_used_is_one_line_without_secrets(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(f"MINIVAULT_{name}", value)
    with pytest.raises(SettingsError) as refused:
        load_settings()
    assert str(refused.value).startswith(f"MINIVAULT_{name}")
    assert "\n" not in str(refused.value)
    assert "secret" not in str(refused.value)


def test_all_problems_are_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINIVAULT_SLOT", "3")
    monkeypatch.setenv("MINIVAULT_WORKERS", "0")
    with pytest.raises(SettingsError) as refused:
        load_settings()
    lines = str(refused.value).splitlines()
    assert lines[0] == "MINIVAULT_SLOT is not a setting. Did you mean MINIVAULT_SLOTS?"
    assert lines[1].startswith("MINIVAULT_WORKERS=0: ")


@pytest.mark.parametrize("folder", ["c#", "wh?at", "a%20b", "with space"])
def test_any_folder_name_survives_in_the_urls(tmp_path: Path, folder: str) -> None:
    settings = load_settings(data_dir=tmp_path / folder, redis_url=None)
    assert parse_url(settings.effective_redis_url)["path"] == str(settings.socket_path)
    settings.logs_dir.mkdir(parents=True)
    (settings.data_dir / "db").mkdir()
    Store.open(settings).close()
    assert (settings.data_dir / "db" / "minivault.db").exists()


def test_a_new_data_folder_is_its_owners_alone(tmp_path: Path) -> None:
    settings = load_settings(data_dir=tmp_path / "new")
    settings.prepare_data_dir()
    assert settings.data_dir.stat().st_mode & 0o777 == 0o700


def test_a_model_that_the_settings_already_name_can_be_added(tmp_path: Path) -> None:
    settings = load_settings(data_dir=tmp_path, models=("mine",))
    source = HubSource(hub="someone/something")
    add_model(settings, "mine", source)
    assert load_catalog(settings)["mine"].source == source
    with pytest.raises(CatalogError, match="already"):
        add_model(settings, "mine", source)
    with pytest.raises(CatalogError, match="no model name"):
        add_model(settings, "../up", source)


def test_redis_password_may_lie_in_a_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text("p@ss/word#1\n")
    monkeypatch.setenv("MINIVAULT_REDIS_PASSWORD_FILE", str(file))
    settings = load_settings(redis_url="rediss://host:6380/2")
    found = parse_url(settings.effective_redis_url)
    assert (found["host"], found["port"], found["db"]) == ("host", 6380, 2)
    assert found["password"] == "p@ss/word#1"
    assert redact(settings) == "rediss://host:6380/2"


@pytest.mark.parametrize(
    ("url", "content", "reason"),
    [
        ("redis://host", None, "can't be read (No such file or directory)"),
        ("redis://host", b"", "is empty"),
        ("redis://host", b"\xff\xfe", "it is no text"),
        ("redis://:other@host", b"secret", "goes with a MINIVAULT_REDIS_URL that has no password"),
        (None, b"secret", "goes with a MINIVAULT_REDIS_URL that has no password"),
    ],
)
def test_a_password_file_that_can_not_be_used_is_one_line(
    tmp_path: Path, url: str | None, content: bytes | None, reason: str
) -> None:
    file = tmp_path / "password"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(SettingsError) as refused:
        load_settings(redis_url=url, redis_password_file=file)
    assert str(refused.value).startswith("MINIVAULT_REDIS_PASSWORD_FILE")
    assert reason in str(refused.value)
    assert "secret" not in str(refused.value)


def test_a_sentinel_url_names_hosts_and_a_service(tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text("p@ss/word#1")
    url = "redis+sentinel://one:26380,two,[::1]:7/mini/3"
    settings = load_settings(redis_url=url, redis_password_file=file)
    sentinels, service, options = parse(settings.effective_redis_url)
    assert sentinels == [("one", 26380), ("two", 26379), ("::1", 7)]
    assert (service, options) == ("mini", {"db": 3, "username": None, "password": "p@ss/word#1"})
    assert redact(settings) == url


def test_the_databases_password_may_lie_in_a_file(tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text("p@ss/word#1\n")
    settings = load_settings(
        database_url="postgresql://me@host/minivault?sslmode=require", database_password_file=file
    )
    found = make_url(settings.effective_database_url)
    assert (found.username, found.password) == ("me", "p@ss/word#1")
    assert (found.host, found.database, found.query["sslmode"]) == ("host", "minivault", "require")


@pytest.mark.parametrize(
    "url", [None, "sqlite:////a.db", "postgresql://host/d", "postgresql://me:other@host/d"]
)
def test_a_database_url_without_room_for_a_password(tmp_path: Path, url: str | None) -> None:
    file = tmp_path / "password"
    file.write_text("secret")
    with pytest.raises(SettingsError, match="names a user and has no password") as refused:
        load_settings(database_url=url, database_password_file=file)
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize("url", ["postgresql://me@host/d", "postgresql+psycopg://me@host/d"])
def test_postgresql_means_psycopg_3(url: str) -> None:
    settings = load_settings(database_url=url)
    assert create_engine(settings.effective_database_url).driver == "psycopg"


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "example.org"])
def test_a_dashboard_for_other_machines_needs_a_password(settings: Settings, host: str) -> None:
    with pytest.raises(SettingsError, match="MINIVAULT_DASHBOARD_PASSWORD_FILE"):
        serve(settings.model_copy(update={"dashboard_host": host}))
