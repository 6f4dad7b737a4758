"""Events on their way into logs, each with the next number of its job's."""

from __future__ import annotations

from typing import cast

import msgspec

from shared.events import AnyEvent, Event, Token
from worker.engine.base import Output
from worker.run import Run


class Numbered:
    """What goes out in one round trip, without what comes from runs that are fenced.

    Tokens of a run that lie side by side share an event.
    """

    def __init__(self) -> None:
        self.events: list[tuple[Run, AnyEvent]] = []
        """In the order in which they came."""
        self._latest: dict[Run, int] = {}
        """Where the latest event of each run is."""

    def add(self, run: Run, draft: Event | Output) -> None:
        """An event, whatever number it has, or the event that comes of an output, if one does."""
        if run.fenced:
            return
        if isinstance(draft, Event):
            event = msgspec.structs.replace(draft, seq=self._next(run))
            self._put(run, cast("AnyEvent", event))
        elif draft.ids or draft.text:
            self._add_tokens(run, draft)

    def _add_tokens(self, run: Run, output: Output) -> None:
        """To the run's latest event, if it has tokens: an echoed prompt is an event by itself."""
        at = self._latest.get(run)
        latest = None if at is None else self.events[at][1]
        if at is None or not isinstance(latest, Token) or not latest.ids:
            ids, text, logprobs = output.ids, output.text, output.logprobs
            self._put(run, Token(seq=self._next(run), ids=ids, text=text, logprobs=logprobs))
        else:
            joined = Token(
                seq=latest.seq,
                ids=latest.ids + output.ids,
                text=latest.text + output.text,
                logprobs=latest.logprobs + output.logprobs,
            )
            self.events[at] = (run, joined)

    def _next(self, run: Run) -> int:
        at = self._latest.get(run)
        return 1 + (run.last_seq if at is None else self.events[at][1].seq)

    def _put(self, run: Run, event: AnyEvent) -> None:
        self._latest[run] = len(self.events)
        self.events.append((run, event))
