from pathlib import Path

import pytest

from shared.configuration import load_settings
from shared.settings import Settings
from tests.support import models
from tests.support.postgres import Postgres
from tests.support.rows import with_url


@pytest.fixture
def folder(tmp_path: Path) -> Settings:
    """Settings whose database is a file."""
    settings = load_settings(data_dir=tmp_path)
    settings.prepare_data_dir()
    return settings


@pytest.fixture
def server(folder: Settings, postgres: Postgres) -> Settings:
    """Settings whose database is a new one of the server."""
    return with_url(folder, postgres.url(postgres.new_database()))


@pytest.fixture(params=["sqlite", "postgresql"])
def either(request: pytest.FixtureRequest) -> Settings:
    chosen: Settings = request.getfixturevalue({"sqlite": "folder"}.get(request.param, "server"))
    return chosen


@pytest.fixture(scope="session")
def real_model_folder(clean_environment: None) -> str:
    return str(models.real_model_folder())
