from http import HTTPStatus

import pytest

from api import errors as api_errors  # so that its classes are among the subclasses
from api.problems import STATUS, problem
from shared.errors import MiniVaultError

NEVER_SENT = {
    "key_not_found",
    "bad_settings",
    "data_dir_unusable",
    "bad_catalog",
    "stack_failed",
    "kernels_unavailable",
    "store_away",
    "undecodable",
}
"""Codes of errors that end a process, or that only the worker meets."""


def subclasses(kind: type[MiniVaultError]) -> set[type[MiniVaultError]]:
    found = set(kind.__subclasses__())
    return found.union(*(subclasses(each) for each in found))


def test_every_error_has_a_code_of_its_own_and_a_status() -> None:
    assert api_errors.StoppingError in subclasses(MiniVaultError)
    kinds = [
        kind for kind in subclasses(MiniVaultError) if kind.__module__.startswith(("api", "shared"))
    ]
    codes = [kind.code for kind in kinds]
    assert len(set(codes)) == len(codes)
    assert set(codes) - NEVER_SENT <= STATUS.keys()
    assert not NEVER_SENT & STATUS.keys()


@pytest.mark.parametrize("code", STATUS)
def test_a_problem_is_as_rfc_9457_has_it(code: str) -> None:
    import json

    response = problem(code, "What happened.")
    assert response.headers["content-type"] == "application/problem+json"
    assert json.loads(bytes(response.body)) == {
        "type": "about:blank",
        "title": HTTPStatus(STATUS[code]).phrase,
        "status": STATUS[code],
        "detail": "What happened.",
        "code": code,
    }
    assert ("retry-after" in response.headers) == (STATUS[code] in {429, 503})


def test_an_unknown_code_is_our_own_mistake() -> None:
    assert problem("whatever", "x").status_code == 500
