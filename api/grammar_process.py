"""The process that looks at grammars: one a line comes in, what is wrong with it goes out.

The library takes regular expressions apart, and some of a kilobyte keep it busy without end or fill
the memory. No thread can be stopped in there. So it is a process, which the kernel ends.
"""

from __future__ import annotations

import contextlib
import json
import resource
import signal
import sys
import time
from typing import Any, Final

import msgspec

from api.finite import has_finite_value, is_deeper
from shared.errors import InvalidGrammarError
from shared.grammars import byte_tokenizer, matcher, raise_for
from shared.job import Grammar, GrammarKind

CPU_SECONDS: Final = 2.0
"""For one grammar. Schemas as people write them take a thousandth of it."""
MAX_BYTES: Final = 65_536
"""Of a schema, or of choices."""
MAX_PATTERN: Final = 4_096
"""Characters of a regular expression."""
MAX_DEPTH: Final = 64
"""Of a schema, in braces and brackets."""
_MEMORY: Final = 2**30
_STEPS: Final = 64
_STEPS_SECONDS: Final = 0.1
"""Of CPU for these steps; usual ones take a hundredth. Whoever shares a batch waits for them."""


def main() -> None:
    """Until there are no more lines."""
    with contextlib.suppress(ValueError, OSError):  # not every system has it
        resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    for line in sys.stdin.buffer:
        signal.setitimer(signal.ITIMER_PROF, CPU_SECONDS)  # whose signal nobody handles
        complaint = complaint_of(msgspec.json.decode(line, type=Grammar))
        signal.setitimer(signal.ITIMER_PROF, 0)
        sys.stdout.buffer.write(msgspec.json.encode(complaint) + b"\n")
        sys.stdout.buffer.flush()


def complaint_of(grammar: Grammar) -> str:
    """Why no response can be held to it; empty where one can."""
    try:
        _examine(grammar)
    except InvalidGrammarError as error:
        return error.detail
    return ""


def _examine(grammar: Grammar) -> None:
    match grammar.kind:
        case GrammarKind.JSON_OBJECT:
            return
        case GrammarKind.CHOICE:
            _examine_choices(_read(grammar.value))
        case GrammarKind.REGEX:
            if len(grammar.value) > MAX_PATTERN:
                raise InvalidGrammarError(f"A pattern may have {MAX_PATTERN} characters.")
            _try(grammar)
        case GrammarKind.JSON_SCHEMA:
            schema = _read(grammar.value)
            if not isinstance(schema, dict):
                raise InvalidGrammarError("A JSON Schema must be an object.")
            if "x-guidance" in schema:  # tells the library to ignore what it can't do
                raise InvalidGrammarError("`x-guidance` is not supported.")
            if not has_finite_value(schema):
                raise InvalidGrammarError("What this schema requires never ends.")
            _try(grammar)


def _examine_choices(choices: Any) -> None:
    if not isinstance(choices, list) or not choices:
        raise InvalidGrammarError("There must be something to choose from.")
    for choice in choices:
        if not isinstance(choice, str) or not choice:
            raise InvalidGrammarError("Choices must be texts, and none of them empty.")
        if "\0" in choice or choice != choice.encode(errors="replace").decode():
            raise InvalidGrammarError("Choices must be Unicode, without NUL.")


def _try(grammar: Grammar) -> None:
    """Go some steps: what is empty or too complex may show itself only on the way."""
    trial = matcher(grammar, byte_tokenizer())
    began = time.process_time()
    for _ in range(_STEPS):
        allowed = trial.compute_bitmask()
        raise_for(trial)
        if trial.is_stopped():
            return
        trial.consume_token(_first(allowed))
    raise_for(trial)
    if time.process_time() - began > _STEPS_SECONDS:
        raise InvalidGrammarError("This grammar takes too long to follow.")


def _first(allowed: bytes) -> int:
    """The highest allowed byte but NUL, which ends texts: letters come before brackets' ends."""
    bits = int.from_bytes(allowed, "little")
    return bits.bit_length() - 1


def _read(value: str) -> Any:
    if len(value.encode(errors="replace")) > MAX_BYTES:
        raise InvalidGrammarError(f"A grammar may have {MAX_BYTES} bytes.")
    try:
        document = json.loads(value)
    except (ValueError, RecursionError) as error:
        raise InvalidGrammarError("This grammar is not JSON.") from error
    if is_deeper(document, MAX_DEPTH):
        raise InvalidGrammarError(f"A grammar may be {MAX_DEPTH} levels deep.")
    return document


if __name__ == "__main__":
    main()
