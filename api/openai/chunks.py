"""A request's events as OpenAI's chunks: `data:` frames, and `[DONE]`."""

from __future__ import annotations

import secrets
from collections.abc import AsyncGenerator, Iterable, Iterator, Mapping
from typing import Final

import msgspec

from api.openai.answers import Usage, usage_of
from api.openai.body import StreamOptions
from api.openai.feeds import Choices, Said, Spoken
from api.openai.voices import ChunkChoice, Name, Voice
from api.problems import problem_of
from api.sse import Last, one_line, pieces
from shared import events
from shared.errors import MiniVaultError
from shared.events import Done, Token

DONE: Final = Last(b"data: [DONE]\n\n")
PING: Final = b": ping\n"
"""A comment without the blank line: behind an `id:`, OpenAI's Python SDK takes any blank line for
the end of an event, and fails on its empty data."""
_PADDED: Final = 64
"""Obfuscated chunks have sizes that are multiples of this."""

_encode: Final = msgspec.json.Encoder().encode


class Chunks:
    """One request's. Of a single job they carry the numbers of its events as `id:`."""

    def __init__(
        self,
        choices: Choices,
        voice: Voice,
        name: Name,
        options: StreamOptions | None,
        *,
        each: int,
    ) -> None:
        """`each` is the number of choices for each prompt."""
        self._choices = choices
        self._voice = voice
        self._numbered = len(choices.job_ids) == 1
        self._each = each
        self._with_usage = bool(options and options.include_usage)
        self._obfuscated = bool(options and options.include_obfuscation)
        head = {
            "id": voice.id_prefix + name.number,
            "object": voice.chunk_object,
            "created": name.created,
            "model": name.model,
        }
        self._head = _encode(head)[:-1] + b',"choices":['
        self._tail = b'],"usage":null' if self._with_usage else b"]"
        self._opened: set[int] = set()
        self._usages: dict[int, events.Usage] = {}

    async def stream(self, path: str) -> AsyncGenerator[bytes]:
        """A failure is told in a frame of its own, as at `path`, and then there is no `[DONE]`."""
        try:
            async for batch in self._choices.batches():
                for piece in pieces(self._frames(batch)):
                    yield piece
        except MiniVaultError as error:
            yield b"data: %s\n\n" % one_line(bytes(problem_of(error).at(path).body))
            return
        if self._with_usage:
            usages: Mapping[int, events.Usage] = dict(sorted(self._usages.items()))
            yield self._last(usage_of(usages.values(), for_each_prompt=self._each))
        yield DONE

    def piece(self, token: Token) -> bytes:
        """A token of the only choice, for the short way."""
        return b"".join(self._frames([(0, token)]))

    def _frames(self, batch: Iterable[Said]) -> Iterator[bytes]:
        for index, event in batch:
            for choice in self._said(index, event):
                yield self._frame(choice, event.seq)

    def _said(self, index: int, event: Spoken) -> Iterator[ChunkChoice]:
        if index not in self._opened:
            self._opened.add(index)
            if opening := self._voice.opening(index):
                yield opening
        if isinstance(event, Token):
            if choice := self._voice.token(index, event):
                yield choice
        elif isinstance(event, Done):
            self._usages[index] = event.usage
            yield self._voice.ending(index, event)

    def _frame(self, choice: ChunkChoice, seq: int) -> bytes:
        data = self._head + one_line(_encode(choice)) + self._tail
        if self._obfuscated:
            padding = secrets.token_urlsafe(_PADDED)[: -len(data) % _PADDED]
            data += b',"obfuscation":"%s"' % padding.encode()
        number = b"id: %d\n" % seq if self._numbered else b""
        return b"%sdata: %s}\n\n" % (number, data)

    def _last(self, usage: Usage) -> bytes:
        return b'data: %s],"usage":%s}\n\n' % (self._head, _encode(usage))
