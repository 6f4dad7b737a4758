"""Where a page of usage ended, as text that clients hand back."""

from __future__ import annotations

import base64
import binascii

import msgspec

from api.errors import FieldProblem, InvalidRequestError
from shared.usage import Usage, UsageKey, key_of


def encode_cursor(last: Usage) -> str:
    return base64.urlsafe_b64encode(msgspec.json.encode(key_of(last))).decode()


def decode_cursor(cursor: str | None) -> UsageKey | None:
    """What the page follows.

    Raises:
        InvalidRequestError: the text is not one of ours.
    """
    if cursor is None:
        return None
    try:
        raw = base64.b64decode(cursor.encode(), altchars=b"-_", validate=True)
        return msgspec.json.decode(raw, type=UsageKey)
    except (binascii.Error, msgspec.DecodeError, UnicodeError):
        message = "Take it from `next` of a page of usage."
        raise InvalidRequestError([FieldProblem("cursor", message)]) from None
