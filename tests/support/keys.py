"""API keys for tests: a book of their own, and who sends what."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from shared.keybook import KeyBook
from shared.keys import Allowance, Token
from shared.settings import Settings


def with_database(settings: Settings, folder: Path) -> Settings:
    """Settings whose keys nobody else sees."""
    return settings.model_copy(update={"database_url": f"sqlite:///{folder}/keys.db"})


@contextmanager
def key_book(settings: Settings) -> Iterator[KeyBook]:
    book = KeyBook.open(settings)
    try:
        yield book
    finally:
        book.close()


def made(settings: Settings, name: str = "test", *, admin: bool = False, **allowed: Any) -> Token:
    """A new key."""
    with key_book(settings) as book:
        return book.create(name, Allowance(**allowed), admin=admin)


def bearer(token: Token) -> dict[str, str]:
    return {"Authorization": f"Bearer {token.text}"}


class Asker:
    """Somebody with a key."""

    def __init__(self, url: str, token: Token) -> None:
        self.url = url
        self.headers = bearer(token)

    def __call__(self, method: str, path: str, body: Any = None, **headers: str) -> httpx.Response:
        return httpx.request(
            method, self.url + path, json=body, headers=self.headers | headers, timeout=20
        )

    def generate(self, **fields: Any) -> httpx.Response:
        return self("POST", "/generate", {"prompt": "x"} | fields)

    def submit(self, **fields: Any) -> httpx.Response:
        return self("POST", "/jobs", {"prompt": "x"} | fields)

    def code(self, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, str]:
        response = self(method, path, body, **headers)
        return response.status_code, response.json().get("code", "")
