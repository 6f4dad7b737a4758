"""Under which names the service may be asked for."""

from __future__ import annotations

import ipaddress
from collections.abc import Collection
from typing import Final

from shared.listen import is_localhost, is_loopback

ANY: Final = "*"


class Hosts:
    """Decides by the `Host` header, against pages that give their own name our address.

    A browser lets a page of evil.example read what evil.example answers. Where that name is
    changed to point to 127.0.0.1 meanwhile (DNS rebinding), whoever answers there is read by the
    page. It can't change the `Host` that its browser sends. Addresses and `localhost` are no
    names that anybody could point elsewhere, so these are always allowed: probes use them.
    """

    def __init__(self, allowed: Collection[str], listens_on: str) -> None:
        """`allowed` as the settings have it; where there is nothing, a loopback address counts."""
        self._any = ANY in allowed or (not allowed and not is_loopback(listens_on))
        self._allowed = frozenset(allowed)

    def allow(self, host: str) -> bool:
        """`host` as the header has it, with or without a port."""
        name = _without_port(host).lower().removesuffix(".")
        return self._any or name in self._allowed or is_localhost(name) or _is_address(name)


def _without_port(host: str) -> str:
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0]


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
