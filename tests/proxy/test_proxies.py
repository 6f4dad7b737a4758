"""MiniVault behind the proxies of docs/proxies.md, as their examples set them up."""

import itertools
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from redis import Redis

from shared import names
from shared.redis import connect
from shared.settings import Settings
from tests.proxy.proxies import AT_ONCE, NAME, SILENCE_SECONDS, Proxy
from tests.support.api import Sse, api_process, read_sse
from tests.support.poll import until
from tests.support.raw import line
from tests.support.workers import crew

STEP_SECONDS = 0.05
LENGTH = 40
HEADERS = {"Host": NAME}
GRACE = 1
STREAM = "/generate/stream"


@dataclass
class Site:
    proxy: Proxy
    api: str
    folder: Path
    redis: Redis

    def client(self, address: str = "127.0.0.1") -> httpx.Client:
        """One that asks from that address."""
        transport = httpx.HTTPTransport(local_address=address)
        return httpx.Client(
            base_url=self.proxy.url, headers=HEADERS, transport=transport, timeout=20
        )


@contextmanager
def running_site(
    kind: type[Proxy], settings: Settings, folder: Path, **changes: str
) -> Iterator[Site]:
    usual = {
        "TRUSTED_PROXIES": "127.0.0.1",
        "ALLOWED_HOSTS": NAME,
        "DISCONNECT_GRACE": str(GRACE),
        "PING_SECONDS": str(SILENCE_SECONDS / 4),
    }
    with (
        api_process(settings, folder / "api.log", **{**usual, **changes}) as (_, api),
        connect(settings, "test") as redis,
    ):
        site = Site(kind(api, folder / "proxy"), api, folder, redis)
        try:
            site.proxy.start()
            yield site
        finally:
            site.proxy.kill()


@pytest.fixture(scope="module")
def site(
    kind: type[Proxy], session_settings: Settings, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Site]:
    with running_site(kind, session_settings, tmp_path_factory.mktemp("site")) as site:
        yield site


@pytest.fixture(scope="module")
def workers(session_settings: Settings) -> Iterator[None]:
    with crew(session_settings, step_seconds=STEP_SECONDS, hurried=True) as workers:
        workers.start_one()
        yield


@pytest.fixture
def body() -> dict[str, object]:
    """What the fake engine repeats, a character a step."""
    letters = itertools.islice(itertools.cycle("abcdefghij"), LENGTH)
    return {"prompt": "".join(letters), "max_tokens": LENGTH + 1, "temperature": 0}


@pytest.mark.usefixtures("workers")
@pytest.mark.parametrize("accept", ["text/event-stream", "text/plain"])
def test_tokens_come_one_by_one_and_at_once(
    site: Site, body: dict[str, object], accept: str
) -> None:
    firsts, arrivals = {}, []
    for url in (site.api, site.proxy.url):
        arrivals = []
        began = time.monotonic()
        headers = {**HEADERS, "Accept": accept, "Accept-Encoding": "gzip"}
        with httpx.stream("POST", url + STREAM, json=body, headers=headers) as response:
            assert response.headers["content-type"].startswith(accept)
            assert "content-encoding" not in response.headers
            arrivals = [time.monotonic() - began for _ in response.iter_raw()]
        firsts[url] = arrivals[0]
    assert firsts[site.proxy.url] < firsts[site.api] + 0.3
    assert len(arrivals) >= LENGTH * 0.8
    gaps = [later - earlier for earlier, later in itertools.pairwise(arrivals)]
    assert arrivals[-1] - arrivals[0] > LENGTH * STEP_SECONDS * 0.8
    assert max(gaps) < 0.5


@pytest.mark.usefixtures("workers")
def test_what_broke_off_goes_on_behind_the_last_event(site: Site, body: dict[str, object]) -> None:
    with site.client() as client:
        with client.stream("POST", STREAM, json=body) as response:
            first = list(itertools.islice(read_sse(response), 10))
        rest = follow(client, first)
    check_whole([*first, *rest], body)


@pytest.mark.usefixtures("workers")
def test_a_restart_of_the_proxy_is_a_pause(site: Site, body: dict[str, object]) -> None:
    with site.client() as client, client.stream("POST", STREAM, json=body) as response:
        events = read_sse(response)
        first = list(itertools.islice(events, 10))
        site.proxy.kill()
        with pytest.raises(httpx.TransportError):
            first += [event for event in events]  # noqa: C416 (what came before counts)
    site.proxy.start()
    with site.client() as client:
        rest = follow(client, first)
    check_whole([*first, *rest], body)


@pytest.mark.usefixtures("workers")
def test_that_a_client_has_left_is_heard_behind_the_proxy(site: Site) -> None:
    with site.client() as client:
        body = {"prompt": "x" * 900, "max_tokens": 1000, "temperature": 0}
        with client.stream("POST", STREAM, json=body) as response:
            job = f"/jobs/{next(read_sse(response)).data['id']}"
        began = time.monotonic()

        def state() -> str:
            found: str = client.get(job).json()["status"]
            return found

        until(lambda: state() == "cancelled", seconds=15, what="the job's end")
    assert time.monotonic() - began > GRACE


def test_silence_is_broken_before_the_proxy_takes_offence(site: Site) -> None:
    """No worker is there, so the stream has nothing to say."""
    with site.client() as client:
        began = time.monotonic()
        comments = 0
        with client.stream("POST", STREAM, json={"prompt": "x", "ttl": 1000}) as response:
            for text in response.iter_lines():
                comments += text.startswith(":")
                if time.monotonic() - began > SILENCE_SECONDS * 2.5:
                    break
        assert time.monotonic() - began > SILENCE_SECONDS * 2.5
        assert comments >= 6


def test_a_body_that_is_too_large_is_refused_in_our_shape(site: Site) -> None:
    def parts() -> Iterator[bytes]:
        yield b'{"prompt": "'
        for _ in range(40):
            yield b"x" * 50_000

    headers = {"Content-Type": "application/json"}
    with site.client() as client:
        for content in (b"x" * 2_000_000, parts()):
            response = client.post("/jobs", content=content, headers=headers)
            assert (response.status_code, response.json()["code"]) == (413, "body_too_large")
        assert client.get("/models").status_code == 200


@pytest.mark.parametrize("path", ["/metrics", "/docs", "/openapi.json", "/static-offline-docs/x"])
def test_some_things_are_not_for_everybody(site: Site, path: str) -> None:
    with site.client() as client:
        assert client.get(path).status_code == 404
    if not path.startswith("/static"):
        assert httpx.get(site.api + path, headers=HEADERS).status_code == 200


@pytest.mark.parametrize(
    "path", ["//metrics", "/./metrics", "/%6detrics", "/x/../metrics", "/metrics?x"]
)
def test_nor_under_another_spelling(site: Site, path: str) -> None:
    with line(site.proxy.url) as raw:
        raw.send(f"GET {path} HTTP/1.1\r\nHost: {NAME}\r\n\r\n".encode())
        assert raw.answer().status in {301, 308, 400, 404}


def test_another_name_is_somebody_elses(site: Site) -> None:
    try:
        response = httpx.get(f"{site.proxy.url}/models", headers={"Host": "evil.example"})
    except httpx.RemoteProtocolError:
        return  # hung up
    assert "smollm2" not in response.text


def test_one_client_can_not_have_all_the_room(site: Site) -> None:
    if not site.proxy.limits_requests:
        # The example has no such limit, and its page says so.
        assert "no limit on one client" in Path("docs/proxies.md").read_text().lower()
        return
    with ExitStack() as stack:
        one, other = (stack.enter_context(site.client(f"127.0.0.{n}")) for n in (8, 9))
        for _ in range(AT_ONCE):
            stream = one.stream("POST", STREAM, json={"prompt": "x"})
            assert stack.enter_context(stream).status_code == 200
        assert one.get("/models").status_code == 429
        assert other.get("/models").status_code == 200


def test_nobody_has_another_clients_limit_or_escapes_their_own(
    kind: type[Proxy], session_settings: Settings, tmp_path: Path
) -> None:
    with (
        running_site(kind, session_settings, tmp_path, RATE_LIMIT="3/minute") as site,
        site.client("127.0.0.2") as one,
        site.client("127.0.0.3") as other,
    ):
        for key in site.redis.scan_iter(names.rate_limit("*")):
            site.redis.delete(key)
        forged = ({"X-Forwarded-For": f"203.0.113.{number}"} for number in itertools.count())
        answers = [one.post("/jobs", json={"prompt": "x"}, headers=next(forged)) for _ in range(5)]
        assert [answer.status_code for answer in answers] == [202, 202, 202, 429, 429]
        victim = {"X-Forwarded-For": "127.0.0.2"}
        assert other.post("/jobs", json={"prompt": "x"}, headers=victim).status_code == 202
        limits = {key.decode() for key in site.redis.scan_iter(names.rate_limit("*"))}
        assert limits == {names.rate_limit("127.0.0.2"), names.rate_limit("127.0.0.3")}


def follow(client: httpx.Client, seen: list[Sse]) -> list[Sse]:
    """The rest of a stream, from behind the last event."""
    job_id, last = seen[0].data["id"], seen[-1].id
    headers = {"Last-Event-ID": str(last)}
    with client.stream("GET", f"/jobs/{job_id}/events", headers=headers) as response:
        assert response.status_code == 200
        return list(read_sse(response))


def check_whole(events: list[Sse], body: dict[str, object]) -> None:
    assert [event.id for event in events] == list(range(1, len(events) + 1))
    assert events[-1].event == "done"
    assert "".join(event.data.get("text", "") for event in events) == body["prompt"]
