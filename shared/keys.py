"""API keys: what one is, what it may do, and how a secret is known without being kept.

A token is `mv-<id>-<secret>`. The id finds the record; the secret has 256 random bits, so that its
plain SHA-256 gives nothing away: there is nothing to guess that a slow hash would slow down.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from datetime import UTC, datetime, timedelta
from typing import Final, NamedTuple

import msgspec

_TOKEN: Final = re.compile(r"mv-([0-9a-f]{12})-([0-9a-f]{64})")
_NO_DIGEST: Final = "0" * 64
"""Equal to no secret's, as far as anybody knows."""


class Allowance(msgspec.Struct, frozen=True, kw_only=True):
    """What a key may do. Where it says nothing, the settings do, as for everybody."""

    rate: str | None = None
    """Requests, written as `MINIVAULT_RATE_LIMIT` is."""
    max_in_flight: int | None = None
    """Jobs that may wait and run at once."""
    daily_tokens: int | None = None
    """Tokens of prompts and responses in a day of UTC; None: as many as it likes."""
    max_priority: int | None = None
    models: tuple[str, ...] | None = None
    """Those it may name; None: all that are served."""


class Key(msgspec.Struct, frozen=True, kw_only=True):
    """A key's record. Times of day are ISO 8601 in UTC, of one width, so that they compare."""

    id: str
    name: str
    digest: str
    """Of the secret."""
    former_digest: str | None = None
    former_until: str | None = None
    """Until when the secret before the last rotation still counts."""
    admin: bool = False
    allowance: Allowance = Allowance()
    created_at: str
    expires_at: str | None = None
    rotated_at: str | None = None
    revoked_at: str | None = None

    def state(self, at: str) -> str:
        """active, expired or revoked."""
        if self.revoked_at is not None:
            return "revoked"
        return "active" if self.expires_at is None or at < self.expires_at else "expired"


class Token(NamedTuple):
    """What a client has. Its text is shown once, when it is made."""

    id: str
    secret: str

    @property
    def text(self) -> str:
        return f"mv-{self.id}-{self.secret}"


def new_token(key_id: str | None = None) -> Token:
    """For a new key, or for one that has an id already."""
    return Token(key_id or secrets.token_hex(6), secrets.token_hex(32))


def read_token(text: str) -> Token | None:
    """None if it is no token at all."""
    match = _TOKEN.fullmatch(text)
    return Token(match[1], match[2]) if match else None


def digest(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


def opens(token: Token, key: Key | None, at: str) -> bool:
    """Whether the token is that of a key in force.

    The same work is done for an id that nobody has, so that time does not tell which exist.
    """
    given = digest(token.secret)
    is_last = hmac.compare_digest(given, key.digest if key else _NO_DIGEST)
    former = key.former_digest if key else None
    is_former = hmac.compare_digest(given, former or _NO_DIGEST)
    if key is None or key.state(at) != "active":
        return False
    return is_last or (is_former and at < (key.former_until or ""))


def now() -> str:
    return time_text(datetime.now(UTC))


def in_seconds(seconds: float) -> str:
    return time_text(datetime.now(UTC) + timedelta(seconds=seconds))


def time_text(time: datetime) -> str:
    return time.astimezone(UTC).isoformat(timespec="milliseconds")
