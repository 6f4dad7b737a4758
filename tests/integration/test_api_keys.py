"""What API keys open and what they may do, against real API processes."""

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import httpx
import pytest
from redis import Redis

from api import keyring
from api.keyring import Keyring
from shared import keys, names
from shared.allotment import day_of
from shared.errors import StoreError
from shared.job import now
from shared.keys import Token
from shared.settings import Settings
from tests.support.api import api_process, free_port, read_sse, running_api
from tests.support.keys import Asker, bearer, key_book, made, with_database
from tests.support.poll import until
from tests.support.postgres import Postgres
from tests.support.scripted_worker import Script, ScriptedWorker, scripted_worker, words

BODY = {"prompt": "x"}
MODEL = "smollm2-135m"
OTHER = "distilgpt2"


@pytest.fixture
def own(settings: Settings, tmp_path: Path) -> Settings:
    return with_database(settings, tmp_path)


@pytest.fixture
def url(own: Settings) -> Iterator[str]:
    with running_api(own) as url:
        yield url


@pytest.fixture
def worker(redis: Redis) -> Iterator[ScriptedWorker]:
    with scripted_worker(redis, MODEL, words("ok")) as worker:
        yield worker


def status(url: str, headers: dict[str, str] | None = None, path: str = "/models") -> int:
    return httpx.get(url + path, headers=headers).status_code


# When they are needed


def test_no_key_is_needed_until_there_is_one_and_then_at_once_everywhere(
    own: Settings, url: str, tmp_path: Path, worker: ScriptedWorker
) -> None:
    assert own.database_url is not None
    with api_process(own, tmp_path / "log", DATABASE_URL=own.database_url) as (_, other):
        for each in (url, other):
            assert status(each) == 200
            assert status(each, {"Authorization": "Bearer of-the-proxy", "X-API-Key": "y"}) == 200
        token = made(own)
        for each in (url, other):
            refused = httpx.get(f"{each}/models")
            assert (refused.status_code, refused.json()["code"]) == (401, "missing_api_key")
            assert refused.headers["www-authenticate"] == 'Bearer realm="minivault"'
            assert status(each, bearer(token)) == 200
            assert status(each, {"X-API-Key": token.text}) == 200
            assert Asker(each, token).generate().json()["response"] == "ok"
            with key_book(own) as book:
                book.revoke(book.create("short-lived").id)
        with key_book(own) as book:
            book.revoke(token.id)
        for each in (url, other):
            assert status(each, bearer(token)) == 401
            assert status(each) == 401  # to revoke the last one opens nothing


def test_a_revoked_a_rotated_and_an_expired_key_end_at_once(own: Settings, url: str) -> None:
    with key_book(own) as book:
        revoked, rotated, graced = (book.create(name) for name in ("a", "b", "c"))
        expired = book.create("d", expires_at=keys.in_seconds(1.5))
        for token in (revoked, rotated, graced, expired):
            assert status(url, bearer(token)) == 200
        book.revoke(revoked.id)
        assert status(url, bearer(revoked)) == 401
        new = book.rotate(rotated.id)
        assert new.id == rotated.id
        assert (status(url, bearer(rotated)), status(url, bearer(new))) == (401, 200)
        new = book.rotate(graced.id, grace=1.5)
        assert (status(url, bearer(graced)), status(url, bearer(new))) == (200, 200)
        until(lambda: status(url, bearer(graced)) == 401, what="the end of the grace")
        assert status(url, bearer(new)) == 200
        until(lambda: status(url, bearer(expired)) == 401, what="the key's end")
        book.revoke(new.id)
        assert status(url, bearer(new)) == 401


def test_streams_end_with_their_key_and_others_go_on(
    own: Settings, url: str, worker: ScriptedWorker, redis: Redis
) -> None:
    worker.script = words(*"abc", pause=3)
    leaving, staying = made(own), made(own)
    job_id = Asker(url, leaving).submit().json()["id"]
    stay = Asker(url, staying).submit().json()["id"]
    address = f"{url}/jobs/{job_id}/events"
    with httpx.stream("GET", address, headers=bearer(leaving), timeout=20) as response:
        events = read_sse(response)
        assert next(events).event == "queued"
        with key_book(own) as book:
            book.revoke(leaving.id)
        last = list(events)[-1]
    assert (last.event, last.id, last.data["code"]) == ("error", None, "invalid_api_key")
    assert not redis.exists(names.ended(job_id))  # the job goes on
    worker.script = words("quick")
    until(lambda: redis.exists(names.ended(job_id)), seconds=20, what="the job's end")
    assert Asker(url, staying)("GET", f"/jobs/{stay}/events").text.count("event: done") == 1


def test_what_is_open_stays_open(own: Settings, url: str) -> None:
    made(own)
    assert status(url, path="/healthz") == 200
    assert status(url, path="/readyz") == 503  # no worker; and not 401
    assert status(url, path="/docs") == 200
    assert status(url, path="/static-offline-docs/swagger-ui.css") == 200
    document = httpx.get(f"{url}/openapi.json").json()
    assert set(document["components"]["securitySchemes"]) == {"bearer", "header"}
    assert {"bearer": []} in document["paths"]["/jobs/{job_id}"]["delete"]["security"]
    assert "security" not in document["paths"]["/healthz"]["get"]


def test_metrics_are_an_administrators_or_on_a_port_of_their_own(own: Settings, url: str) -> None:
    admin, plain = Asker(url, made(own, admin=True)), Asker(url, made(own))
    assert admin("GET", "/metrics").status_code == 200
    assert plain.code("GET", "/metrics") == (403, "admin_required")
    assert status(url, path="/metrics") == 401
    port = free_port()
    with running_api(own, metrics_port=port):
        assert status(f"http://127.0.0.1:{port}", path="/metrics") == 200


# Whose jobs


def test_jobs_belong_to_the_key_that_made_them(
    own: Settings, url: str, worker: ScriptedWorker
) -> None:
    mine, theirs, admin = made(own), made(own), made(own, admin=True)
    me, other, operator = (Asker(url, token) for token in (mine, theirs, admin))
    job = me.submit()
    path = job.headers["location"]
    seen = until(lambda: list(worker.seen), what="the job, taken")
    assert seen[0].key == mine.id
    assert seen[0].client == names.of_key(mine.id)
    for asker, expected in ((me, 200), (operator, 200), (other, 404)):
        assert asker("GET", path).status_code == expected
        assert asker("GET", f"{path}/events").status_code == expected
        assert asker("DELETE", path).status_code == expected
    with key_book(own) as book:
        assert Asker(url, book.rotate(mine.id))("GET", path).status_code == 200
    unknown = "/jobs/job-" + "0" * 32
    for method, suffix in (("GET", ""), ("GET", "/events"), ("DELETE", "")):
        bodies = {other(method, each + suffix).text for each in (path, unknown)}
        assert len(bodies) == 1


def test_an_expired_job_is_another_keys_to_know_of_as_little(
    own: Settings, url: str, redis: Redis, worker: ScriptedWorker
) -> None:
    me, other = (Asker(url, made(own)) for _ in range(2))
    path = me.submit().headers["location"]
    job_id = path.removeprefix("/jobs/")
    until(lambda: redis.exists(names.ended(job_id)), what="the job's end")
    redis.delete(names.events(job_id))
    assert me.code("GET", path) == (410, "job_expired")
    assert other.code("GET", path) == (404, "job_not_found")


def test_an_idempotency_key_is_a_keys_own(own: Settings, url: str, worker: ScriptedWorker) -> None:
    me, other = (Asker(url, made(own)) for _ in range(2))
    name = {"Idempotency-Key": "same"}
    first = me("POST", "/jobs", BODY, **name).json()["id"]
    assert me("POST", "/jobs", BODY, **name).json()["id"] == first
    again = me("POST", "/generate/stream", BODY | {"background": True}, **name)
    assert first in again.text
    theirs = other("POST", "/jobs", BODY, **name)
    assert (theirs.status_code, theirs.json()["id"] == first) == (202, False)


def test_jobs_of_before_the_first_key_are_an_administrators(
    own: Settings, url: str, worker: ScriptedWorker
) -> None:
    path = httpx.post(f"{url}/jobs", json=BODY).headers["location"]
    plain, admin = Asker(url, made(own)), Asker(url, made(own, admin=True))
    assert plain("GET", path).status_code == 404
    assert admin("GET", path).status_code == 200


# What they may use


def test_a_key_sees_and_uses_its_models_alone(
    own: Settings, redis: Redis, worker: ScriptedWorker
) -> None:
    with (
        running_api(own, models=(MODEL, OTHER)) as url,
        scripted_worker(redis, OTHER, words("other")),
    ):
        limited = Asker(url, made(own, models=(OTHER,)))
        free, none = Asker(url, made(own)), Asker(url, made(own, models=("elsewhere",)))
        models = limited("GET", "/models").json()["models"]
        assert [(each["name"], each["default"]) for each in models] == [(OTHER, True)]
        assert limited.generate().json()["model"] == OTHER
        refused = limited.generate(model=MODEL)
        assert (refused.status_code, refused.json()["code"]) == (404, "unknown_model")
        assert MODEL not in refused.text
        assert free.generate().json()["model"] == MODEL
        assert none("GET", "/models").json()["models"] == []
        assert none.generate().json()["code"] == "unknown_model"


def test_a_key_has_a_highest_priority(own: Settings, url: str, worker: ScriptedWorker) -> None:
    urgent, plain = Asker(url, made(own, max_priority=5)), Asker(url, made(own))
    assert urgent.submit(priority=5).status_code == 202
    for refused in (urgent.submit(priority=6), plain.submit(priority=1)):
        assert (refused.status_code, refused.json()["code"]) == (403, "priority_not_allowed")


def test_a_key_has_so_many_jobs_in_flight_over_all_processes(own: Settings, url: str) -> None:
    token = made(own, max_in_flight=3)
    with running_api(own) as other, ThreadPoolExecutor(12) as threads:
        # Two servers in one process must not both be at their first request at once: pydantic then
        # makes what it knows of a body twice at the same time, and stumbles.
        assert [Asker(each, made(own)).submit().status_code for each in (url, other)] == [202] * 2
        ways = [url, other] * 6
        answers = list(threads.map(lambda each: Asker(each, token).submit(), ways))
        assert sorted(answer.status_code for answer in answers) == [202] * 3 + [429] * 9
        refused = next(answer for answer in answers if answer.status_code == 429)
        assert refused.json()["code"] == "too_many_in_flight"
        assert Asker(url, made(own)).submit().status_code == 202


def test_a_keys_rate_is_shared_by_all_processes_and_is_its_own(
    own: Settings, url: str, worker: ScriptedWorker
) -> None:
    token = made(own, rate="4/minute")
    with running_api(own, rate_limit="2/minute") as other:
        ways = [url, other] * 3
        answers = [Asker(each, token).generate() for each in ways]
        assert [answer.status_code for answer in answers] == [200] * 4 + [429] * 2
        assert answers[0].headers["ratelimit-policy"] == '"default";q=4;w=60'
        plain, off = Asker(other, made(own)), Asker(other, made(own, rate="off"))
        assert [plain.generate().status_code for _ in range(3)] == [200, 200, 429]
        assert [off.generate().status_code for _ in range(4)] == [200] * 4


# Tokens of a day


def account(redis: Redis, token: Token) -> dict[str, int]:
    found: dict[bytes, bytes] = redis.hgetall(names.tokens(token.id, day_of(now())))
    return {name.decode(): int(value) for name, value in found.items()}


def said(count: int) -> Script:
    return words(*(["a"] * count))


def test_a_days_tokens_hold_under_many_connections(
    own: Settings, url: str, redis: Redis, worker: ScriptedWorker
) -> None:
    """Each answer uses 1 + 10 tokens of the 273 + 27 that it has to set aside."""
    worker.script = said(10)
    token = made(own, daily_tokens=1000)
    with running_api(own) as other, ThreadPoolExecutor(20) as threads:

        def ask(each: str) -> httpx.Response:
            return Asker(each, token).generate(max_tokens=27)

        answers = list(threads.map(ask, [url, other] * 60))
        served = [answer for answer in answers if answer.status_code == 200]
        until(lambda: set(account(redis, token)) == {"total"}, what="everything settled")
        used = sum(answer.json()["usage"]["total_tokens"] for answer in served)
        assert account(redis, token) == {"total": used}
        assert used <= 1000
        refused = [answer for answer in answers if answer.status_code != 200]
        assert refused
        for answer in refused:
            assert (answer.status_code, answer.json()["code"]) == (429, "daily_tokens_exhausted")
            then = datetime.now(UTC) + timedelta(seconds=int(answer.headers["retry-after"]))
            midnight = (then + timedelta(hours=12)).replace(hour=0, minute=0)  # the nearest
            assert abs(then - midnight) < timedelta(minutes=2)
        # One after the other, until nothing is left that would do.
        while ask(url).status_code == 200:
            pass
        total = account(redis, token)["total"]
        assert 1000 - 300 < total <= 1000
    assert 86_400 < redis.ttl(names.tokens(token.id, day_of(now()))) <= 2 * 86_400


def test_what_a_cancelled_job_has_not_used_is_given_back(
    own: Settings, url: str, redis: Redis
) -> None:
    token = made(own, daily_tokens=2000)
    asker = Asker(url, token)
    path = asker.submit(max_tokens=100).headers["location"]
    aside = account(redis, token)
    assert aside["total"] == aside[path.removeprefix("/jobs/")] == 1 + 256 + 16 + 100
    with scripted_worker(redis, MODEL, words("a", "b")):
        until(lambda: asker("GET", path).json()["status"] == "done", what="the job's end")
        until(lambda: account(redis, token) == {"total": 3}, what="everything settled")


def test_every_job_of_a_key_without_a_daily_limit_leaves_nothing(
    own: Settings, url: str, redis: Redis, worker: ScriptedWorker
) -> None:
    token = made(own)
    assert Asker(url, token).generate().status_code == 200
    assert account(redis, token) == {}


# The database


def test_while_the_database_is_away_what_was_known_goes_on(
    settings: Settings, postgres: Postgres, worker: ScriptedWorker
) -> None:
    own = settings.model_copy(update={"database_url": postgres.url(postgres.new_database())})
    with running_api(own) as url:
        known, revoked = made(own), made(own)
        assert status(url, bearer(known)) == status(url, bearer(revoked)) == 200
        with key_book(own) as book:
            book.revoke(revoked.id)
        assert status(url, bearer(revoked)) == 401
        for outage in (postgres.away, postgres.frozen):
            unseen = made(own)
            with outage():
                assert Asker(url, known).generate().status_code == 200
                assert status(url, bearer(revoked)) == 401
                assert status(url, bearer(Token(known.id, "0" * 64))) == 401
                assert status(url) == 401
                refused = httpx.get(f"{url}/models", headers=bearer(unseen))
                assert (refused.status_code, refused.json()["code"]) == (503, "store_unavailable")
                assert "minivault@" not in refused.text
            seen = partial(status, url, bearer(unseen))
            until(lambda seen=seen: seen() == 200, seconds=30, what="the database")


def test_a_process_that_has_never_seen_the_keys_lets_nobody_in(
    settings: Settings, postgres: Postgres
) -> None:
    own = settings.model_copy(update={"database_url": postgres.url(postgres.new_database())})
    token = made(own)
    with postgres.away():
        with running_api(own) as url:
            assert status(url) == status(url, bearer(token)) == 503
            assert status(url, path="/healthz") == 200
            postgres.start()
            until(lambda: status(url, bearer(token)) == 200, what="the database")
            assert status(url) == 401
        postgres.stop()


def test_where_no_key_was_needed_an_outage_changes_nothing(
    settings: Settings, postgres: Postgres
) -> None:
    own = settings.model_copy(update={"database_url": postgres.url(postgres.new_database())})
    with running_api(own) as url:
        assert status(url) == 200
        with postgres.away():
            assert status(url) == 200


async def test_nobody_waits_long_for_a_database_that_hangs(
    settings: Settings, postgres: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keyring, "LOOK_SECONDS", 0.3)
    own = settings.model_copy(update={"database_url": postgres.url(postgres.new_database())})
    ring = Keyring(own)
    async with ring.opened():
        assert not await ring.required()
        with postgres.frozen():
            loop = asyncio.get_running_loop()
            began = loop.time()
            for _ in range(20):  # only the first of them waits
                with pytest.raises(StoreError):
                    await ring.find("0" * 12)
            assert not await ring.required()
            assert loop.time() - began < 1
