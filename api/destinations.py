"""Where webhooks may go: what a client names must not reach what only this machine can reach."""

from __future__ import annotations

import ipaddress
from collections.abc import Collection
from typing import Final, NamedTuple, TypeAlias
from urllib.parse import urlsplit

from api.errors import FieldProblem, InvalidRequestError, WebhookNotAllowedError

ANY: Final = "*"
_Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address
_TUNNELS: Final = tuple(
    map(ipaddress.IPv6Network, ("64:ff9b::/96", "64:ff9b:1::/48", "2002::/16", "2001::/32"))
)
"""Where IPv4 addresses hide in IPv6 ones that pass for public."""


class Destination(NamedTuple):
    """A URL that may be asked for, if the host's addresses are allowed."""

    url: str
    scheme: str
    host: str
    port: int


class Destinations:
    """Names are matched as they are, and addresses when they are known.

    What a name stands for is decided by whoever runs its DNS, so a name that is allowed is
    allowed to lead to public addresses only. An address that is not public must be in a network
    that was listed.
    """

    def __init__(self, allowed: Collection[str]) -> None:
        """`allowed` as the settings have it."""
        self._names: set[str] = set()
        self._networks: list[ipaddress.IPv4Network | ipaddress.IPv6Network] = []
        for each in allowed:
            try:
                self._networks.append(ipaddress.ip_network(each))
            except ValueError:
                self._names.add(each.removesuffix("."))

    def check(self, url: str) -> Destination:
        """What can be said before the name is looked up.

        Raises:
            InvalidRequestError: it is no URL to post to.
            WebhookNotAllowedError: it may not be asked for.
        """
        try:
            parts = urlsplit(url)
            host, port = parts.hostname or "", parts.port
            plain = url.isascii() and url.isprintable() and not {" ", "\\"} & set(url)
        except ValueError:
            raise _invalid("It is no URL.") from None
        if not plain or parts.scheme not in ("http", "https") or not host or port == 0:
            raise _invalid("It is no http or https URL in ASCII.")
        if parts.username is not None or parts.password is not None or parts.fragment:
            raise _invalid("It must have no user, no password and no fragment.")
        destination = Destination(
            url, parts.scheme, host, port or {"http": 80, "https": 443}[parts.scheme]
        )
        literal = _parse(host)
        if literal is not None:
            self.check_address(destination, host)
        elif ANY not in self._names and host.removesuffix(".") not in self._names:
            raise WebhookNotAllowedError(f"Webhooks may not go to {host[:100]}.")
        elif parts.scheme == "http" and not self._networks:
            raise WebhookNotAllowedError("Webhooks go by https.")
        return destination

    def check_address(self, destination: Destination, address: str) -> None:
        """Whether this is an address where it may really go.

        Raises:
            WebhookNotAllowedError: it is not.
        """
        parsed = _parse(address)
        if parsed is not None and any(parsed in network for network in self._networks):
            return
        is_named = _parse(destination.host) is None or ANY in self._names
        if parsed is None or not is_named or not _is_public(parsed):
            raise WebhookNotAllowedError("Webhooks may not go to this address.")
        if destination.scheme != "https":
            raise WebhookNotAllowedError("Webhooks go by https.")


def _parse(text: str) -> _Address | None:
    """Plain addresses only: `127.1` and `2130706433` are names, which are looked up and checked."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


def _is_public(address: _Address) -> bool:
    return (
        address.is_global
        and not address.is_multicast
        and not address.is_reserved
        and not any(address in tunnel for tunnel in _TUNNELS if address.version == tunnel.version)
    )


def _invalid(message: str) -> InvalidRequestError:
    return InvalidRequestError([FieldProblem("webhook_url", message)])
