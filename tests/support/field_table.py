"""The docs' tables of request fields, held against what is published and what a server does.

A table stands under the heading that names its endpoint. Its rows begin with the field and with
what becomes of it: `supported`, `refused` or `ignored`.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, get_args, get_origin

import httpx

DOCS: Final = Path(__file__).parents[2] / "docs"
STATUSES: Final = {"supported", "refused", "ignored"}
_ROW: Final = re.compile(r"\| `([^`]+)` \| (\w+) \|")


@dataclass(frozen=True)
class Samples:
    """Fields to send with a minimal body; each is merged into it."""

    taken: Sequence[Mapping[str, Any]] = ()
    """Answered with 200."""
    refused: Sequence[Mapping[str, Any]] = ()
    """Answered with a 400 whose `param` is the row's field."""
    param: str = ""
    """The field as errors name it, where that is not the row's."""
    headers: Mapping[str, str] = field(default_factory=dict)


def rows(document: str, heading: str) -> dict[str, str]:
    """Field and status of the table under `heading`, without those of later headings."""
    text = (DOCS / document).read_text(encoding="utf-8")
    _, found, rest = text.partition(f"\n## {heading}\n")
    assert found, f"{document} has no heading {heading!r}"
    section = rest.partition("\n## ")[0]
    table = dict(_ROW.findall(section))
    assert table, f"no rows under {heading!r}"
    assert set(table.values()) <= STATUSES
    return table


def published(*params: type) -> set[str]:
    """Names of all fields in the SDK's types of parameters; of unions, those of each member."""
    names: set[str] = set()
    for kind in params:
        if get_origin(kind) is None:
            for base in (kind, *getattr(kind, "__orig_bases__", ())):
                names |= set(getattr(base, "__annotations__", {}))
        else:
            names |= published(*get_args(kind))
    return names


def assert_holds(
    url: str, body: Mapping[str, Any], name: str, status: str, samples: Samples
) -> None:
    """`status` is what the docs say of the field `name`; `body` is a request on its own."""
    if status == "refused":
        assert samples.refused, f"{name} has no sample that shows how it is refused"
    else:
        assert samples.taken, f"{name} has no sample that shows that it is taken"
    for sample in samples.taken:
        answer = httpx.post(url, json={**body, **sample}, headers=samples.headers)
        assert answer.status_code == 200, (sample, answer.text)
    for sample in samples.refused:
        answer = httpx.post(url, json={**body, **sample}, headers=samples.headers)
        error = answer.json()["error"]
        assert answer.status_code == 400, (sample, answer.text)
        assert (error["type"], error["param"]) == (
            "invalid_request_error",
            samples.param or name,
        ), (sample, error)
