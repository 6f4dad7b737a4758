"""One POST to an address that a client has named."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Mapping
from typing import Final

import httpx

from api.destinations import Destination, Destinations
from api.errors import WebhookNotAllowedError

_SECONDS: Final = 15.0
"""For all of it. Less than a lease."""


class UndeliverableError(Exception):
    """Nobody was reached. The text says what happened, and not to whom."""


class Courier:
    """Connects to an address that it has checked, and to no other.

    The name is looked up once, and the request is sent to the address that came of it, with the
    name in `Host` and in TLS: a name that leads elsewhere a moment later changes nothing. No
    redirect is followed, no proxy of the environment used, and of the answer only the status read.
    """

    def __init__(self, destinations: Destinations) -> None:
        self._destinations = destinations
        self._http = httpx.AsyncClient(
            verify=ssl.create_default_context(),
            trust_env=False,
            follow_redirects=False,
            timeout=_SECONDS,
            limits=httpx.Limits(max_keepalive_connections=0),
        )

    async def close(self) -> None:
        await self._http.aclose()

    async def post(self, url: str, body: bytes, headers: Mapping[str, str]) -> int:
        """The answer's status.

        Raises:
            WebhookNotAllowedError: it may not go there.
            UndeliverableError: nobody answers there in time.
        """
        destination = self._destinations.check(url)
        try:
            async with asyncio.timeout(_SECONDS):
                for address in await self._addresses(destination):
                    try:
                        return await self._post(destination, address, body, headers)
                    except (httpx.ConnectError, httpx.ConnectTimeout):
                        continue  # a host may be there by one of its addresses only
        except (TimeoutError, httpx.TransportError, OSError) as error:
            raise UndeliverableError(type(error).__name__) from error
        raise UndeliverableError("no connection")

    async def _addresses(self, destination: Destination) -> list[str]:
        """All of them allowed: a name that also leads inside is not to be trusted with chance."""
        loop = asyncio.get_running_loop()
        found = await loop.getaddrinfo(
            destination.host, destination.port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP
        )
        addresses = list(dict.fromkeys(str(entry[4][0]) for entry in found))
        for address in addresses:
            self._destinations.check_address(destination, address)
        if not addresses:
            raise WebhookNotAllowedError("The name leads nowhere.")
        return addresses

    async def _post(
        self, destination: Destination, address: str, body: bytes, headers: Mapping[str, str]
    ) -> int:
        named = httpx.URL(destination.url)
        host = named.netloc.decode("ascii")
        async with self._http.stream(
            "POST",
            named.copy_with(host=address),
            content=body,
            headers={**headers, "Host": host},
            extensions={"sni_hostname": named.host},
        ) as response:
            return response.status_code
