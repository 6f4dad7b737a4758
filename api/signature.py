"""Signed as the Standard Webhooks specification has it (standardwebhooks.com)."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from pathlib import Path
from typing import Final

from shared.errors import SettingsError
from shared.secret import read_secret
from shared.settings import PREFIX

_SETTING: Final = f"{PREFIX}WEBHOOK_SECRET_FILE"
_PREFIX: Final = "whsec_"
_SHORTEST: Final = 24
_LONGEST: Final = 64


class Signer:
    def __init__(self, secret: bytes) -> None:
        self._secret = secret

    @classmethod
    def read(cls, path: Path) -> Signer:
        """Raises SettingsError if the file holds no key."""
        text = read_secret(path, _SETTING)
        try:
            secret = base64.b64decode(text.removeprefix(_PREFIX), validate=True)
        except binascii.Error:
            secret = b""
        if not text.startswith(_PREFIX) or not _SHORTEST <= len(secret) <= _LONGEST:
            raise SettingsError(
                f"{_SETTING}: {path} holds no {_PREFIX} and {_SHORTEST} to {_LONGEST} bytes in "
                f'base64. Make one: echo "{_PREFIX}$(openssl rand -base64 32)"'
            )
        return cls(secret)

    def headers(self, message_id: str, timestamp: int, body: bytes) -> dict[str, str]:
        """What goes with a body; `timestamp` in seconds since the epoch."""
        signed = b".".join((message_id.encode(), str(timestamp).encode(), body))
        digest = hmac.new(self._secret, signed, hashlib.sha256).digest()
        return {
            "webhook-id": message_id,
            "webhook-timestamp": str(timestamp),
            "webhook-signature": f"v1,{base64.b64encode(digest).decode()}",
        }
