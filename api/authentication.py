"""Every request's caller is known before anything else looks at the request."""

from __future__ import annotations

import re
from typing import Final

from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send
from structlog.contextvars import bind_contextvars

from api.caller import Caller
from api.errors import AmbiguousKeyError, InvalidKeyError, MissingKeyError
from api.gate import is_inside
from api.problems import problem_of
from api.proxies import limit_key
from api.state import State
from shared import keys, names
from shared.errors import MiniVaultError
from shared.logging import get_logger
from shared.settings import Settings

AUTHORIZATION: Final = b"authorization"
X_API_KEY: Final = b"x-api-key"
_BEARER: Final = re.compile(r"bearer +(\S+)", re.IGNORECASE)
_OPEN: Final = {"/healthz", "/readyz"}
"""For probes, which have no secrets."""
_DOCS: Final = {"/docs", "/docs/oauth2-redirect", "/openapi.json"}
"""They say what the source says. A browser could not send a key for a page."""
_DOCS_FILES: Final = "/static-offline-docs/"

log = get_logger()


class Authentication:
    """Whatever is not named here needs a key, where keys are needed: what nobody thought of, too.

    It comes before the body is read and before a path is looked up: who has no key learns nothing
    of what there is.
    """

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self._app = app
        self._metrics_port = settings.metrics_port

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            state: State = scope["state"]["app"]
            address = limit_key(state.proxies.client(Request(scope)))
            try:
                scope["state"]["caller"] = await self._caller(scope, state, address)
            except MiniVaultError as error:
                await problem_of(error)(scope, receive, send)
                return
        await self._app(scope, receive, send)

    async def _caller(self, scope: Scope, state: State, address: str) -> Caller:
        anybody = Caller(address)
        if is_inside(scope.get("server"), self._metrics_port) or is_open(scope["path"]):
            return anybody
        if not await state.keyring.required():
            return anybody
        try:
            return await _identified(scope, state)
        except (AmbiguousKeyError, InvalidKeyError, MissingKeyError):
            await state.logins.failed(address)
            raise


def is_open(path: str) -> bool:
    """Whether a path is everybody's, wherever keys are needed."""
    return path in _OPEN or path in _DOCS or path.startswith(_DOCS_FILES)


async def _identified(scope: Scope, state: State) -> Caller:
    token = _token(scope)
    key = await state.keyring.find(token.id)
    if not keys.opens(token, key, keys.now()) or key is None:
        log.info("key refused", key_id=token.id)
        raise InvalidKeyError
    bind_contextvars(key_id=key.id)
    return Caller(client=names.of_key(key.id), key=key.id, admin=key.admin, allowance=key.allowance)


def _token(scope: Scope) -> keys.Token:
    """The request's one token. Two could be read as either, by whoever stands in front."""
    given = [each for each in scope["headers"] if each[0] in (AUTHORIZATION, X_API_KEY)]
    if not given:
        raise MissingKeyError
    if len(given) > 1:
        raise AmbiguousKeyError
    [(name, raw)] = given
    text = raw.strip(b" \t").decode("latin-1")  # which belongs to no header's value
    if name == AUTHORIZATION:
        match = _BEARER.fullmatch(text)
        text = match[1] if match else ""
    token = keys.read_token(text)
    if token is None:
        raise InvalidKeyError
    return token
