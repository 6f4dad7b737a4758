"""Who is asking: the address that limits are counted by."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence
from typing import Final, TypeAlias

from starlette.requests import Request

_Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address
_Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network

LOCAL: Final = "local"
"""A peer without an address, on a Unix socket."""
_SITE_PREFIX: Final = 64
"""Bits of an IPv6 address that a client can't choose; it has 2**64 addresses behind them."""


class Proxies:
    """The proxies whose `X-Forwarded-For` counts."""

    def __init__(self, trusted: Iterable[str]) -> None:
        """`trusted` are addresses or networks."""
        self._networks: Sequence[_Network] = [
            ipaddress.ip_network(each, strict=False) for each in trusted
        ]

    def client(self, request: Request) -> str:
        """Address of the client, as far as it can be believed."""
        peer = request.client.host if request.client else LOCAL
        return self.resolve(peer, request.headers.getlist("x-forwarded-for"))

    def resolve(self, peer: str, forwarded: Sequence[str]) -> str:
        """Walk from our side outwards, for as long as a trusted proxy vouches for the next.

        Each proxy appends the address it saw, so what stands left of the first address that
        we do not trust was written by that stranger.
        """
        address = _parse(peer)
        if address is None:
            return peer
        hops = [hop.strip() for header in forwarded for hop in header.split(",")]
        while hops and self._trusts(address):
            claimed = _parse(hops.pop())
            if claimed is None:
                break
            address = claimed
        return str(address)

    def _trusts(self, address: _Address) -> bool:
        return any(address in network for network in self._networks)


def limit_key(client: str) -> str:
    """What one client's requests are counted under: IPv6 by its network."""
    address = _parse(client)
    if isinstance(address, ipaddress.IPv6Address):
        network = ipaddress.ip_network((int(address), _SITE_PREFIX), strict=False)
        return str(network)
    return client


def _parse(text: str) -> _Address | None:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    # A dual-stack socket reports IPv4 clients like this.
    return getattr(address, "ipv4_mapped", None) or address
