"""Events as chunks, log probabilities and usage."""

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from typing import Any, cast

import pytest

from api.errors import JobCancelledError
from api.feed import Feed
from api.openai.answers import usage_of
from api.openai.body import StreamOptions, derived_seed
from api.openai.chunks import Chunks
from api.openai.feeds import Choices
from api.openai.logprobs import Offsets, chat_logprobs
from api.openai.voices import ChatVoice, CompletionVoice, Name, Voice
from shared import events
from shared.errors import GenerationError, MiniVaultError
from shared.events import (
    AnyEvent,
    Cancelled,
    Done,
    Failed,
    FinishReason,
    Logprob,
    Queued,
    Started,
    Timings,
    Token,
    TokenLogprobs,
)

TIMINGS = Timings(queue=0, prefill=0, decode=0, total=0)
USAGE = events.Usage(prompt_tokens=5, completion_tokens=2, cached_tokens=4)
STARTED = Started(seq=2, prompt_tokens=5)
DONE = Done(seq=5, finish_reason=FinishReason.LENGTH, usage=USAGE, timings=TIMINGS)
FAILED = Failed(seq=5, code="x", message="Torn.", usage=USAGE, timings=TIMINGS)
CANCELLED = Cancelled(seq=5, usage=USAGE, timings=TIMINGS)
TOWER = "🗼".encode()


def logprob(raw: bytes, value: float = -0.5) -> Logprob:
    return Logprob(id=1, raw=raw, logprob=value)


def drawn(raw: bytes, *top: Logprob) -> TokenLogprobs:
    return TokenLogprobs(drawn=logprob(raw), top=top)


def token(text: str, *logprobs: TokenLogprobs, seq: int = 3) -> Token:
    return Token(seq=seq, ids=(1,), text=text, logprobs=logprobs)


class ToldFeed:
    """A feed whose events are known."""

    def __init__(self, said: Sequence[AnyEvent], *, waits: bool = False) -> None:
        self.job_id = "job-1"
        self._said = said
        self._waits = waits

    async def batches(self) -> AsyncIterator[list[AnyEvent]]:
        for event in self._said:
            yield [event]
        if self._waits:
            await asyncio.Event().wait()


def choices_of(*feeds: ToldFeed) -> Choices:
    return Choices([cast("Feed", feed) for feed in feeds])


async def said(*feeds: ToldFeed) -> list[tuple[int, AnyEvent]]:
    choices = choices_of(*feeds)
    async with choices.listening():
        return [each async for each in choices]


async def chunks(
    voice: Voice, *feeds: ToldFeed, options: StreamOptions | None = None, each: int = 1
) -> list[Any]:
    choices = choices_of(*feeds)
    made = Chunks(choices, voice, Name("job-1", 7, "m"), options, each=each)
    async with choices.listening():
        raw = [frame async for frame in made.stream("/v1/completions")]
    assert all(frame.endswith(b"\n\n") for frame in raw)
    datas = [frame.rpartition(b"data: ")[2].strip() for frame in raw]
    return [data.decode() if data == b"[DONE]" else json.loads(data) for data in datas]


async def test_events_of_several_jobs_keep_their_order() -> None:
    feeds = [ToldFeed([STARTED, token(str(n)), token("x"), DONE]) for n in range(3)]
    found = await said(*feeds)
    for number in range(3):
        mine = [event for index, event in found if index == number]
        assert mine == [STARTED, token(str(number)), token("x"), DONE]
    assert [index for index, _ in found] != sorted(index for index, _ in found)


async def test_a_job_that_was_put_back_goes_on_behind_its_failure() -> None:
    again = Queued(seq=6, id="job-1", model="m", position=0)
    assert await said(ToldFeed([STARTED, token("a"), FAILED, again, token("b"), DONE])) == [
        (0, STARTED),
        (0, token("a")),
        (0, token("b")),
        (0, DONE),
    ]


@pytest.mark.parametrize(
    ("end", "error"), [(FAILED, GenerationError), (CANCELLED, JobCancelledError)]
)
async def test_a_choice_that_fails_fails_them_all(
    end: AnyEvent, error: type[MiniVaultError]
) -> None:
    with pytest.raises(error):
        await said(ToldFeed([STARTED], waits=True), ToldFeed([STARTED, end]))


async def test_to_begin_is_to_wait_for_the_first_news_but_not_for_long() -> None:
    choices = choices_of(ToldFeed([FAILED]))
    async with choices.listening():
        with pytest.raises(GenerationError):
            await choices.begin(10)
    choices = choices_of(ToldFeed([], waits=True))
    async with choices.listening():
        await choices.begin(0.01)
    choices = choices_of(ToldFeed([STARTED, DONE]))
    async with choices.listening():
        await choices.begin(10)
        assert [event async for _, event in choices] == [STARTED, DONE]


async def test_a_chat_is_streamed_as_deltas() -> None:
    feed = ToldFeed([STARTED, token(""), token("Hi"), DONE])
    options = StreamOptions(include_usage=True)
    found = await chunks(ChatVoice(logprobs=False), feed, options=options)
    head = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 7, "model": "m"}

    def chunk(delta: dict[str, str], reason: str | None = None) -> dict[str, Any]:
        choice = {"index": 0, "delta": delta, "finish_reason": reason, "logprobs": None}
        return {**head, "choices": [choice], "usage": None}

    usage = {
        "prompt_tokens": 5,
        "completion_tokens": 2,
        "total_tokens": 7,
        "prompt_tokens_details": {"cached_tokens": 4},
    }
    assert found == [
        chunk({"role": "assistant", "content": ""}),
        chunk({"content": "Hi"}),
        chunk({}, "length"),
        {**head, "choices": [], "usage": usage},
        "[DONE]",
    ]


async def test_a_failure_is_the_last_frame() -> None:
    found = await chunks(ChatVoice(logprobs=False), ToldFeed([STARTED, token("Hi"), FAILED]))
    assert found[-1] == {
        "error": {
            "message": "Torn.",
            "type": "server_error",
            "param": None,
            "code": "generation_failed",
        }
    }


async def test_a_completion_tells_where_its_tokens_begin() -> None:
    said = [
        STARTED,
        token("a", drawn(b"a", logprob(b"b", -1), logprob(b"a"))),
        token("", drawn(TOWER[:2])),
        token("🗼!", drawn(TOWER[2:]), drawn(b"!", logprob(b"\xff", float("-inf")))),
        DONE,
    ]
    found = await chunks(CompletionVoice(logprobs=2, choices=1), ToldFeed(said))
    logprobs = [each["choices"][0]["logprobs"] for each in found[:-1]]
    assert logprobs[0] == {
        "text_offset": [0],
        "token_logprobs": [-0.5],
        "tokens": ["a"],
        "top_logprobs": [{"b": -1.0, "a": -0.5}],
    }
    assert [each["tokens"] for each in logprobs[1:3]] == [
        ["bytes:\\xf0\\x9f"],
        ["bytes:\\x97\\xbc", "!"],
    ]
    assert [each["text_offset"] for each in logprobs[1:3]] == [[1], [1, 2]]
    assert logprobs[2]["top_logprobs"] == [{}, {"bytes:\\xff": -9999.0}]
    assert logprobs[3] is None


def test_no_likeliest_tokens_unless_they_were_asked_for() -> None:
    assert Offsets(top=False).logprobs([drawn(b"a", logprob(b"b"))]).top_logprobs is None


def test_a_chats_log_probabilities_have_the_bytes() -> None:
    (found,) = chat_logprobs([drawn(TOWER[:2], logprob(b"b", float("-inf")))]).content
    assert (found.token, found.bytes, found.logprob) == ("\ufffd", tuple(TOWER[:2]), -0.5)
    assert [(top.token, top.logprob) for top in found.top_logprobs] == [("b", -9999.0)]


def test_a_prompt_counts_once() -> None:
    first = events.Usage(prompt_tokens=5, completion_tokens=1, cached_tokens=2)
    second = events.Usage(prompt_tokens=7, completion_tokens=10, cached_tokens=0)
    usage = usage_of([first, first, second, second], for_each_prompt=2)
    assert (usage.prompt_tokens, usage.completion_tokens, usage.total_tokens) == (12, 22, 34)
    assert usage.prompt_tokens_details.cached_tokens == 2


def test_seeds_follow_from_the_requests_own() -> None:
    seeds = [derived_seed(5, choice) for choice in range(64)]
    assert seeds[0] == 5
    assert len(set(seeds)) == 64
    assert all(0 <= seed < 2**53 for seed in [*seeds, derived_seed(-1, 0), derived_seed(2**63, 0)])
    assert derived_seed(-1, 0) != derived_seed(1, 0)
