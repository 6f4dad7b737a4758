"""What settings accept, and how they say no."""

from pathlib import Path

import pytest
from redis.connection import parse_url

from shared.catalog import HubSource, add_model, load_catalog
from shared.errors import CatalogError, SettingsError
from shared.settings import load_settings
from shared.store import Store


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("REDIS_URL", "http://user:secret@h"),
        ("REDIS_URL", "redis://user:secret@h:notaport"),
        ("DATABASE_URL", "secret nonsense"),
        ("PORT", "99999"),
        ("TRUSTED_PROXIES", "10.0.0.0/99"),
        ("MODELS", ","),
        ("RATE_LIMIT", "5 per minute"),
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


def test_a_model_that_the_settings_already_name_can_be_added(tmp_path: Path) -> None:
    settings = load_settings(data_dir=tmp_path, models=("mine",))
    source = HubSource(hub="someone/something")
    add_model(settings, "mine", source)
    assert load_catalog(settings)["mine"].source == source
    with pytest.raises(CatalogError, match="already"):
        add_model(settings, "mine", source)
    with pytest.raises(CatalogError, match="no model name"):
        add_model(settings, "../up", source)
