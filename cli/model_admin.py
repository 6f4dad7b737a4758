"""What the service does with its models, as its administrator says from the command line."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import httpx

from cli import sse
from cli.client import Client
from cli.patience import Patience
from cli.transport import (
    RequestRefusedError,
    ServiceUnavailableError,
    require_success,
    translated,
)


class ModelAdmin(Client):
    """A client that may change what is served. Use it as a context manager."""

    def change(self, method: str, name: str, action: str, **query: str) -> dict[str, Any]:
        """Have a model loaded, unloaded, pinned or unpinned; the model as it is then.

        Waits until that is done, however long workers take.
        """
        while True:
            request = self._http.build_request(method, _path(name, action), params=query)
            with translated(self._url):
                response = self._http.send(request)
            require_success(response)
            if response.status_code != httpx.codes.ACCEPTED:
                model: dict[str, Any] = response.json()
                return model

    def pull(self, name: str, *, force: bool) -> Iterator[dict[str, Any]]:
        """Have a worker fetch a model: how far it has come, again and again.

        When the connection drops it is asked for again; the pull itself goes on meanwhile.
        """
        patience = Patience()
        while True:
            try:
                for event in self._progress(name, force=force):
                    patience.sign_of_life()
                    if event.name == "done":
                        return
                    data = json.loads(event.data)
                    if event.name == "error":
                        raise RequestRefusedError(data["message"])
                    yield data
            except ServiceUnavailableError as error:
                patience.bear(error)
                force = False  # the one under way will do

    def _progress(self, name: str, *, force: bool) -> Iterator[sse.ServerEvent]:
        query = {"force": str(force).lower()}
        with (
            translated(self._url),
            self._http.stream("POST", _path(name, "pull"), params=query) as response,
        ):
            require_success(response)
            parser = sse.Parser()
            for chunk in response.iter_bytes():
                yield from parser.feed(chunk)
        # Whoever has read an end reads no further.
        raise ServiceUnavailableError(f"{self._url} has ended the stream.", lost=True)


def _path(name: str, action: str) -> str:
    return f"/models/{quote(name, safe='')}/{action}"
