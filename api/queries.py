"""What requests about the past may ask for, in their query strings."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime
from typing import Annotated, Final, Literal, TypeVar

import msgspec
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema

from api.caller import Caller
from api.cursor import PATTERN
from shared.events import FinishReason
from shared.history import Filter
from shared.usage import UsageFilter

_MAX_TEXT: Final = 256
_MAX_PAGE: Final = 200
_ISO: Final = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")

AnyFilter = TypeVar("AnyFilter", Filter, UsageFilter)


def _in_utc(moment: datetime) -> datetime:
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _iso(value: str) -> str:
    """Numbers would be taken for seconds or for milliseconds, by their size."""
    if not _ISO.match(value):
        raise ValueError("Write it as in ISO 8601: 2026-11-25, or 2026-11-25T09:30:00Z.")
    return value


Day = Annotated[date, BeforeValidator(_iso), WithJsonSchema({"type": "string", "format": "date"})]
Moment = Annotated[
    datetime,
    BeforeValidator(_iso),
    AfterValidator(_in_utc),
    WithJsonSchema(
        {"type": "string", "anyOf": [{"format": "date-time"}, {"format": "date"}]},
    ),
]
Text = Annotated[str, Field(max_length=_MAX_TEXT)]


class _Query(BaseModel):
    model_config = ConfigDict(extra="forbid")  # a filter with a typing error must not be none

    key: Text | None = Field(None, description="Id of the API key that the job came with.")


class Deletion(_Query):
    until: Moment | None = Field(None, description="Made before this moment; UTC if not said.")

    def filter(self) -> Filter:
        return Filter(**self.model_dump(include=set(Filter.__struct_fields__)))


class Selection(Deletion):
    model: Text | None = None
    status: Literal["done", "failed", "cancelled"] | None = None
    finish_reason: FinishReason | None = None
    since: Moment | None = Field(None, description="Made at this moment or later.")
    search: Text = Field(
        "",
        description='Words and `"quoted phrases"`, each of which has to be somewhere in prompt or '
        "response, as a part of a word too and in whatever case.",
    )


class PageQuery(Selection):
    cursor: str | None = Field(
        None, pattern="^[0-9]{1,16}$", description="`next` of the page before this one."
    )
    limit: int = Field(20, ge=1, le=_MAX_PAGE, description="Rows; where texts are long, fewer.")


class UsageQuery(_Query):
    model: Text | None = None
    since: Day | None = Field(None, description="This day or later, in UTC.")
    until: Day | None = Field(None, description="Before this day.")
    cursor: str | None = Field(
        None, pattern=PATTERN, description="`next` of the page before this one."
    )
    limit: int = Field(100, ge=1, le=1000)

    def filter(self) -> UsageFilter:
        return UsageFilter(**self.model_dump(include=set(UsageFilter.__struct_fields__)))


def own(wanted: AnyFilter, caller: Caller) -> AnyFilter | None:
    """Of what is wanted, what is the caller's to have; None: nothing.

    Another's key is not refused: that would say whether there is one.
    """
    if caller.admin or wanted.key == caller.key:
        return wanted
    return msgspec.structs.replace(wanted, key=caller.key) if wanted.key is None else None
