import pytest

from tests.hosts import network


@pytest.fixture(scope="session", autouse=True)
def own_network() -> None:
    """Before anything else is started."""
    network.move_into_own_network()
