import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest
from redis import Redis

from shared.configuration import load_settings
from shared.redis import connect
from shared.settings import PREFIX, Settings
from tests.support.postgres import Postgres, running_postgres
from tests.support.valkey import running_valkey

# How long an example takes says how busy the machine is.
hypothesis.settings.register_profile(
    "busy", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("busy")


@pytest.fixture(autouse=True, scope="session")
def clean_environment() -> Iterator[None]:
    """The developer's own settings must not reach the tests."""
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.upper().startswith(PREFIX)]:
            patch.delenv(name)
        yield


@pytest.fixture(scope="session")
def short_tmp() -> Iterator[Path]:
    """A temporary folder whose path fits into a Unix socket's name."""
    folder = Path(tempfile.mkdtemp(prefix="mv-"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def session_settings(clean_environment: None, short_tmp: Path) -> Iterator[Settings]:
    """Settings whose embedded Valkey runs for the whole session."""
    settings = load_settings(data_dir=short_tmp / "shared", rate_limit="off")
    with running_valkey(settings):
        yield settings


@pytest.fixture
def settings(session_settings: Settings) -> Settings:
    """`session_settings` with an empty Valkey."""
    with connect(session_settings, "test") as client:
        client.flushall()
    return session_settings


@pytest.fixture
def redis(settings: Settings) -> Iterator[Redis]:
    with connect(settings, "test") as client:
        yield client


@pytest.fixture(scope="session")
def postgres(short_tmp: Path) -> Iterator[Postgres]:
    """Whoever takes it away brings it back."""
    with running_postgres(short_tmp / "postgres") as server:
        yield server
