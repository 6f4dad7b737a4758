"""What the streams say when nothing disturbs them, kept for the next run that asks the same."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from tests.chaos.crowd import Crowd
from tests.chaos.prompts import Request, digest
from tests.chaos.record import Record
from tests.chaos.target import Target
from tests.chaos.verdict import Answer
from tests.support.models import REAL

_ROOT: Final = Path(__file__).parents[2]
_CACHE: Final = _ROOT / ".cache" / "chaos"
_AT_ONCE: Final = 48
"""More than one worker's slots: both are busy."""


class DisturbedError(Exception):
    """The undisturbed run was not whole; there is nothing to compare with."""


def load(asked: Sequence[Request]) -> dict[int, Answer]:
    """Answers kept by an earlier run, by the number of the request; empty if there are none."""
    try:
        kept = json.loads(_path(asked).read_text())
    except FileNotFoundError:
        return {}
    return {int(number): Answer(*answer) for number, answer in kept.items()}


def save(asked: Sequence[Request], answers: Mapping[int, Answer]) -> None:
    path = _path(asked)
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_suffix(".new")
    new.write_text(json.dumps(answers))
    new.replace(path)


async def record(target: Target, asked: Sequence[Request]) -> list[Record]:
    """Stream everything once, undisturbed.

    Raises:
        DisturbedError: not every stream came whole at the first attempt.
    """
    crowd = Crowd(target.address, asked, at_once=_AT_ONCE, allowed=len(asked))
    await crowd.run()
    for each in crowd.records:
        if each.ending != "done" or each.connections != 1:
            raise DisturbedError(f"stream {each.request.number}: {each.trouble or each.ending}")
    return crowd.records


def answers(records: Sequence[Record]) -> dict[int, Answer]:
    return {
        each.request.number: Answer(each.text, each.usage["completion_tokens"]) for each in records
    }


def _path(asked: Sequence[Request]) -> Path:
    """Named for the requests, the model and the code that computes the answers."""
    code = hashlib.sha256()
    for suffix in ("py", "cpp", "h"):
        for source in sorted((_ROOT / "worker").rglob(f"*.{suffix}")):
            code.update(source.read_bytes())
    code.update((_ROOT / "constraints.txt").read_bytes())
    return _CACHE / f"{REAL}-{digest(asked)}-{code.hexdigest()[:16]}.json"
