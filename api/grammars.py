"""Whether a response can be held to what a request asks, before anything is queued."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import msgspec

from api.grammar_process import CPU_SECONDS
from shared.errors import InvalidGrammarError
from shared.job import Grammar
from shared.settings import PREFIX

_REMEMBERED: Final = 256
_COMMAND: Final = (sys.executable, "-P", "-m", "api.grammar_process")
_CODE: Final = Path(__file__).parents[1]


class GrammarCheck:
    """Asks a process, one grammar after the other; it is started when first needed.

    Clients send the same schema again and again, so what was found is kept.
    """

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="grammars")
        self._process: subprocess.Popen[bytes] | None = None
        self._complaint = lru_cache(_REMEMBERED)(self._ask)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _: type[BaseException] | None, __: BaseException | None, ___: TracebackType | None
    ) -> None:
        self._thread.shutdown(cancel_futures=True)
        self._end()

    async def check(self, grammar: Grammar) -> None:
        """Return if there may be a response that fits.

        Raises:
            InvalidGrammarError: there is none, or none that this service could hold a model to.
        """
        loop = asyncio.get_running_loop()
        complaint = await loop.run_in_executor(self._thread, self._complaint, grammar)
        if complaint:
            raise InvalidGrammarError(complaint)

    def _ask(self, grammar: Grammar) -> str:
        """On the thread."""
        process = self._process or self._start()
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(msgspec.json.encode(grammar) + b"\n")
            process.stdin.flush()
            answer = process.stdout.readline()
        except BrokenPipeError:
            answer = b""
        if answer:
            return msgspec.json.decode(answer, type=str)
        if self._end() == -signal.SIGPROF:
            return f"To examine this grammar takes more than {CPU_SECONDS:g} s."
        # Perhaps of too little memory, which it has not used up alone: nothing is kept of that.
        raise InvalidGrammarError("This grammar can't be examined.")

    def _start(self) -> subprocess.Popen[bytes]:
        # It needs none of our settings, with their passwords, and nothing of the folder we are in.
        variables = {
            name: value for name, value in os.environ.items() if not name.startswith(PREFIX)
        }
        # In a session of its own: what a terminal sends to all is for the API alone.
        self._process = subprocess.Popen(  # noqa: S603  (our own module)
            _COMMAND,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**variables, "PYTHONPATH": str(_CODE)},
            start_new_session=True,
        )
        return self._process

    def _end(self) -> int:
        process, self._process = self._process, None
        if process is None:
            return 0
        process.kill()
        process.communicate()
        return process.returncode
