"""Models at run time through the API: real worker processes, pretended engines and files."""

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from redis import Redis

from shared import names
from shared.settings import Settings
from tests.support.api import Sse, api_process, read_sse, running_api, stream
from tests.support.commands import minivault
from tests.support.jobs import Submitter, ended, generation, text, under_way
from tests.support.keys import Asker, made, with_database
from tests.support.poll import until
from tests.support.stock import FakeModel, FakeShelf, change_model, write_stock
from tests.support.valkey import running_valkey
from tests.support.workers import Crew, crew

DEFAULT = "smollm2-135m"


@pytest.fixture
def own(settings: Settings) -> Iterator[Settings]:
    """Room for two models; `extra` and `other` are in the catalog, `huge` fits nowhere."""
    own = settings.model_copy(update={"rate_limit": "off", "max_loaded_models": 2})
    models = {
        "extra": FakeModel(),
        "other": FakeModel(),
        "huge": FakeModel(bytes=2**50),
        "absent": FakeModel(ready=False, pull_seconds=0.6),
    }
    write_stock(own, FakeShelf(available=2**40, models=models))
    yield own
    (own.data_dir / "fake-stock.json").unlink()


@pytest.fixture
def workers(own: Settings) -> Iterator[Crew]:
    with crew(own, hurried=True, load_seconds=0.2) as made:
        yield made


@pytest.fixture
def url(own: Settings) -> Iterator[str]:
    with running_api(own) as url:
        yield url


def view(url: str, name: str) -> dict[str, Any]:
    listed = httpx.get(f"{url}/models").json()["models"]
    found: dict[str, Any] = next(each for each in listed if each["name"] == name)
    return found


def act(url: str, method: str, path: str, **more: Any) -> httpx.Response:
    return httpx.request(method, f"{url}/models/{path}", timeout=40, **more)


def code(response: httpx.Response) -> tuple[int, str]:
    return response.status_code, response.json()["code"]


def pull(url: str, name: str, **params: Any) -> list[Sse]:
    with httpx.stream("POST", f"{url}/models/{name}/pull", params=params, timeout=40) as response:
        assert response.status_code == 200, response.read()
        return list(read_sse(response))


def says(url: str, model: str) -> str:
    return str(stream(url, {"prompt": "hello", "temperature": 0, "model": model})[-1].event)


def test_a_catalog_model_is_served_once_it_is_loaded_by_every_process(
    own: Settings, workers: Crew, url: str
) -> None:
    workers.start(2)
    body = {"prompt": "hello", "model": "extra"}
    assert code(httpx.post(f"{url}/generate", json=body)) == (404, "unknown_model")
    assert not view(url, "extra")["served"]
    with running_api(own) as second:
        for _ in range(2):  # again changes nothing
            loaded = act(url, "POST", "extra/load")
            assert (loaded.status_code, loaded.json()["served"]) == (200, True)
            assert loaded.json()["loaded"]
        assert says(second, "extra") == "done"
        assert len(view(second, "extra")["workers"]) == 1


@pytest.mark.parametrize("path", ["load", "unload", "pull"])
def test_only_the_catalog_s_models_can_be_named(workers: Crew, url: str, path: str) -> None:
    workers.start(1)
    for name in ("nobody", "..%2Fetc", "org%2Fmodel", "%00", "x" * 500):
        assert act(url, "POST", f"{name}/{path}").status_code == 404
        assert act(url, "PUT", f"{name}/pin").status_code == 404


def test_a_web_page_of_somebody_else_s_changes_nothing(workers: Crew, url: str) -> None:
    workers.start(1)
    origin = {"Origin": "https://example.org"}
    for path in ("load", "unload", "pull"):
        bare = act(url, "POST", f"{DEFAULT}/{path}", headers=origin, content=b"")
        assert code(bare) == (415, "unsupported_media_type")
    asked = act(url, "POST", f"{DEFAULT}/load", headers=origin, json={})
    assert asked.status_code == 200  # a browser would have asked first, and been told no


def test_who_is_no_administrator_sees_what_is_served_and_changes_nothing(
    own: Settings, workers: Crew, tmp_path: Path
) -> None:
    workers.start(1)
    keyed = with_database(own, tmp_path)
    token = made(keyed)
    with running_api(keyed) as url:
        ask = Asker(url, token)
        listed = ask("GET", "/models").json()["models"]
        assert [each["name"] for each in listed] == [DEFAULT]
        for method, path in (
            ("POST", "load"),
            ("POST", "unload"),
            ("PUT", "pin"),
            ("DELETE", "pin"),
            ("POST", "pull"),
        ):
            assert ask.code(method, f"/models/extra/{path}", {}) == (403, "admin_required")


def test_without_a_worker_nothing_can_be_asked(url: str) -> None:
    for path in ("load", "unload", "pull"):
        assert code(act(url, "POST", f"{DEFAULT}/{path}")) == (503, "no_worker")


def test_what_does_not_fit_is_refused_with_numbers_and_the_worker_lives(
    own: Settings, workers: Crew, url: str, redis: Redis
) -> None:
    worker = workers.start_one()
    refused = act(url, "POST", "huge/load")
    assert code(refused) == (507, "model_too_large")
    assert "needs 1048576.06 GiB" in refused.json()["detail"]
    assert not view(url, "huge")["served"]
    named = own.model_copy(update={"models": (DEFAULT, "huge")})
    with running_api(named) as other, crew(named, hurried=True) as more:
        workers.disband()
        worker = more.start_one()
        response = httpx.post(f"{other}/generate", json={"prompt": "x", "model": "huge"})
        assert code(response) == (507, "model_too_large")
        assert worker.process.poll() is None
        assert says(other, DEFAULT) == "done"


def test_an_idle_model_makes_room_and_a_pinned_one_does_not(
    workers: Crew, url: str, redis: Redis
) -> None:
    worker = workers.start_one()
    assert act(url, "PUT", f"{DEFAULT}/pin").json()["pinned"]
    for name in ("extra", "other"):
        assert act(url, "POST", f"{name}/load").status_code == 200
    until(lambda: set(workers.info(worker).loaded) == {DEFAULT, "other"}, what="the swap")
    assert code(act(url, "PUT", "other/pin")) == (503, "no_place")
    assert code(act(url, "POST", f"{DEFAULT}/unload")) == (409, "model_pinned")
    for _ in range(2):
        assert not act(url, "DELETE", f"{DEFAULT}/pin").json()["pinned"]
    assert act(url, "POST", f"{DEFAULT}/unload").status_code == 200
    until(lambda: workers.info(worker).loaded == ("other",), what="the default model's end")
    assert says(url, DEFAULT) == "done"  # it comes back when it is needed


def test_a_pinned_model_that_workers_die_of_is_left_alone(
    own: Settings, redis: Redis, url: str
) -> None:
    redis.sadd(names.SERVED, "extra")
    redis.sadd(names.PINNED, "extra")
    redis.hset(names.PIN_DEATHS, "extra", 3)
    with crew(own, hurried=True) as workers:
        worker = workers.start_one()
        until(lambda: "extra" in workers.info(worker).models, what="its look at the pins")
        assert says(url, DEFAULT) == "done"
        assert workers.info(worker).loaded == (DEFAULT,)
        act(url, "PUT", "extra/pin")  # an administrator who has mended it
        until(lambda: "extra" in workers.info(worker).loaded, what="the pinned model")


def test_pins_outlive_workers(own: Settings, redis: Redis, url: str) -> None:
    roomy = own.model_copy(update={"max_loaded_models": 3})
    with crew(roomy, hurried=True, load_seconds=0.2) as workers:
        first = workers.start_one()
        act(url, "POST", "extra/load")
        assert act(url, "PUT", "extra/pin").status_code == 200
        first.kill()
        second = workers.start_one()
        until(lambda: "extra" in workers.info(second).loaded, what="the pinned model")
        until(lambda: not redis.exists(names.PIN_DEATHS), what="the note that it lives")


def test_the_same_from_the_command_line(
    own: Settings,
    workers: Crew,
    url: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    workers.start(1)

    def run(*arguments: str) -> int:
        return minivault(monkeypatch, "models", *arguments, "--url", url)

    def said(line: str) -> bool:
        return line in capsys.readouterr().out.splitlines()  # the API's log is there, too

    assert run("pull", "absent", "--remote") == 0
    assert said("absent is ready")
    assert run("load", "absent") == 0
    assert said("absent is loaded.")
    assert says(url, "absent") == "done"
    assert run("pin", "absent") == 0
    assert said("absent is pinned.")
    assert run("unpin", "absent") == 0
    assert said("absent is no longer pinned.")
    assert run("unload", "absent", "--withdraw") == 0
    assert said("absent is withdrawn.")
    assert view(url, "absent")["served"] is False
    assert run("load", "nobody") == 1
    change_model(own, "other", ready=False, pull_problem="no way out")
    assert run("pull", "other", "--remote", "--force") == 1


def test_running_jobs_end_before_their_model_goes(own: Settings, redis: Redis, url: str) -> None:
    long = generation("x" * 400, model="extra")
    with crew(own, hurried=True, step_seconds=0.005) as workers:
        worker = workers.start_one()
        act(url, "POST", "extra/load")
        until(lambda: "extra" in workers.info(worker).models, what="its queue")
        Submitter(own).submit(long)
        under_way(redis, [long])
        assert act(url, "POST", "extra/unload").status_code == 200
        assert text(ended(redis, long.id)) == "x" * 400
        until(lambda: workers.info(worker).loaded == (DEFAULT,), what="its end")


def test_a_withdrawn_model_does_what_waits_and_takes_no_more(
    own: Settings, redis: Redis, workers: Crew, url: str
) -> None:
    worker = workers.start_one()
    act(url, "POST", "extra/load")
    assert code(act(url, "POST", f"{DEFAULT}/unload", params={"withdraw": "true"})) == (
        409,
        "model_in_settings",
    )
    withdrawn = act(url, "POST", "extra/unload", params={"withdraw": "true"})
    assert (withdrawn.status_code, withdrawn.json()["served"]) == (200, False)
    body = {"prompt": "hello", "model": "extra"}
    assert httpx.post(f"{url}/generate", json=body).status_code == 404
    until(lambda: workers.info(worker).models == (DEFAULT,), what="its queue's end")
    late = generation("late", model="extra")  # admitted by a process that had not heard
    Submitter(own).submit(late)
    assert text(ended(redis, late.id)) == "late"


def test_a_pull_tells_how_far_it_is_and_whoever_asks_again_joins_it(
    own: Settings, workers: Crew, url: str
) -> None:
    workers.start(2)
    found: list[list[Sse]] = []
    change_model(own, "absent", pull_seconds=2.0)
    threads = [threading.Thread(target=lambda: found.append(pull(url, "absent"))) for _ in "abc"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(found) == 3
    for events in found:
        assert events[-1] == Sse("done", {"model": "absent"})
        told = [event.data for event in events[:-1] if event.data["total"]]
        assert {event.event for event in events[:-1]} == {"progress"}
        assert [each["done"] for each in told] == sorted(each["done"] for each in told)
        assert {each["stage"] for each in told} == {"Downloading"}
    again = pull(url, "absent")
    assert [event.event for event in again] == ["done"]
    assert act(url, "POST", "absent/load").status_code == 200


def test_a_pull_that_fails_says_why_and_can_be_tried_again(
    own: Settings, workers: Crew, url: str
) -> None:
    workers.start(1)
    change_model(own, "absent", pull_problem="no way to the index", pull_seconds=0.1)
    assert pull(url, "absent")[-1].data == {
        "code": "model_unavailable",
        "message": "no way to the index",
    }
    assert code(act(url, "POST", "absent/load")) == (503, "model_unavailable")
    change_model(own, "absent", pull_problem="")
    assert pull(url, "absent")[-1].event == "done"


def test_a_pull_goes_on_when_its_worker_is_killed(
    own: Settings, workers: Crew, url: str, redis: Redis
) -> None:
    workers.start(2)
    change_model(own, "absent", pull_kills=1, pull_seconds=0.4)
    assert pull(url, "absent")[-1].event == "done"
    assert redis.hgetall(names.PULLS) == {}


def test_a_pull_that_kills_every_worker_is_given_up(
    own: Settings, workers: Crew, url: str, redis: Redis
) -> None:
    workers.start(4)
    change_model(own, "absent", pull_kills=9, pull_seconds=0.2)
    end = pull(url, "absent")[-1]
    assert (end.event, end.data["code"]) == ("error", "worker_lost")
    assert redis.hgetall(names.PULLS) == {}


def test_a_pull_outlives_the_api_and_its_client(
    own: Settings, workers: Crew, tmp_path: Path, redis: Redis
) -> None:
    workers.start(1)
    change_model(own, "absent", pull_seconds=2.0)
    with (
        api_process(own, tmp_path / "api.log") as (process, url),
        httpx.stream("POST", f"{url}/models/absent/pull", timeout=40) as response,
    ):
        next(read_sse(response))
        process.kill()
    with api_process(own, tmp_path / "api2.log") as (_, url):
        events = pull(url, "absent")
    assert events[-1].event == "done"
    assert until(lambda: not redis.hexists(names.PULLS, "absent"), what="the wish's end")


def test_a_worker_that_is_killed_as_it_loads_is_told(own: Settings, redis: Redis, url: str) -> None:
    with crew(own, hurried=True, load_seconds=30) as workers:
        worker = workers.start_one()
        answers: list[httpx.Response] = []
        thread = threading.Thread(target=lambda: answers.append(act(url, "POST", "extra/load")))
        thread.start()
        until(lambda: "extra" in workers.info(worker).coming, what="the load")
        worker.kill()
        workers.report(worker)
        thread.join(20)
        assert code(answers[0]) == (503, "model_unavailable")
        assert "died" in answers[0].json()["detail"]
        assert not redis.smembers(names.SERVED)


def test_what_was_decided_outlives_redis(session_settings: Settings, short_tmp: Path) -> None:
    own = session_settings.model_copy(
        update={"data_dir": short_tmp / "again", "max_loaded_models": 3}
    )
    own.prepare_data_dir()
    write_stock(own, FakeShelf(models={"extra": FakeModel()}))
    with crew(own, hurried=True) as workers, running_api(own) as url:
        with running_valkey(own):
            worker = workers.start_one()
            assert act(url, "POST", "extra/load").status_code == 200
            assert act(url, "PUT", "extra/pin").status_code == 200
        assert code(act(url, "POST", "extra/load")) == (503, "redis_unavailable")
        with running_valkey(own):
            until(lambda: answers_models(url), what="the API's way back")
            assert view(url, "extra")["served"]
            assert view(url, "extra")["pinned"]
            until(lambda: "extra" in workers.info(worker).loaded, what="its heartbeat")
            assert says(url, "extra") == "done"


def answers_models(url: str) -> bool:
    return httpx.get(f"{url}/models").status_code == 200
