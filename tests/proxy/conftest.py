import os

import pytest

from tests.proxy.proxies import KINDS, Proxy, chosen


def _kinds() -> list[type[Proxy]]:
    return chosen(os.environ.get("PROXIES", " ".join(KINDS)))


def pytest_configure() -> None:
    try:
        _kinds()
    except ValueError as error:
        raise pytest.UsageError(str(error)) from None


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "kind" in metafunc.fixturenames:
        kinds = _kinds()
        names = [kind.__name__ for kind in kinds]
        metafunc.parametrize("kind", kinds, ids=names, scope="module")
