"""What pub/sub has lost behind the last message of a job."""

import time

import httpx
from redis import Redis

from api import feed
from shared import names
from shared.events import Started, Token, encode
from shared.settings import Settings
from tests.support.api import read_sse, running_api
from tests.support.scripted_worker import Author


def test_a_lost_message_is_missed_soon(settings: Settings, redis: Redis) -> None:
    with (
        running_api(settings) as url,
        httpx.stream("POST", f"{url}/generate/stream", json={"prompt": "x"}) as response,
    ):
        events = read_sse(response)
        job_id = next(events).data["id"]
        author = Author(redis, job_id)
        author.append(Started(seq=2, prompt_tokens=1))
        assert next(events).event == "started"
        unheard = {"event": encode(Token(seq=3, ids=(1,), text="lost on the way"))}
        began = time.monotonic()
        redis.xadd(names.events(job_id), unheard, id="3-0")
        found = next(events)
        assert time.monotonic() - began < feed.SILENCE_SECONDS / 2
    assert (found.id, found.data) == (3, {"text": "lost on the way"})


def test_a_log_that_is_gone_ends_its_stream(settings: Settings, redis: Redis) -> None:
    with (
        running_api(settings) as url,
        httpx.stream("POST", f"{url}/generate/stream", json={"prompt": "x"}) as response,
    ):
        events = read_sse(response)
        job_id = next(events).data["id"]
        Author(redis, job_id).append(Started(seq=2, prompt_tokens=1))
        assert next(events).event == "started"
        began = time.monotonic()
        redis.delete(names.events(job_id))
        (told,) = events
        assert time.monotonic() - began < feed.SILENCE_SECONDS / 2
    assert (told.event, told.data["code"]) == ("error", "job_not_found")
