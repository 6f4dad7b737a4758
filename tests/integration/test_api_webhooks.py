"""The ends of background jobs, told to whoever asked for it until they hear, and to nobody else."""

import base64
import hashlib
import hmac
import json
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any, Self

import httpx
import pytest
from redis import Redis

from api import webhooks
from api.courier import Courier, UndeliverableError
from api.destinations import Destinations
from api.errors import WebhookNotAllowedError
from shared import names
from shared.deliveries import KEPT_SECONDS
from shared.failed import put_back
from shared.settings import Settings
from tests.support.api import api_process, running_api
from tests.support.poll import until
from tests.support.scripted_worker import failing, scripted_worker, words
from tests.support.stand_in import Reply, Seen, serving

KEY = bytes(range(32))
LOOPBACK = ("127.0.0.1",)


class Receiver:
    """Answers with these statuses in turn, the last one for ever; None: hangs up instead."""

    def __init__(self, *statuses: int | None) -> None:
        self._statuses = list(statuses)
        self.seen: list[Seen] = []

    def __call__(self, seen: Seen) -> Reply:
        self.seen.append(seen)
        status = self._statuses.pop(0) if len(self._statuses) > 1 else self._statuses[0]
        headers = {"Location": "http://127.0.0.1:9/", "Content-Length": "0"}
        return Reply(status or 200, headers, lost=status is None)

    def wait_for(self, count: int, seconds: float = 20) -> None:
        until(lambda: len(self.seen) >= count, seconds=seconds, what=f"{count} deliveries")


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    path = tmp_path / "secret"
    path.write_text("whsec_" + base64.b64encode(KEY).decode())
    return path


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webhooks, "FIRST_PAUSE", 0.01)


@pytest.fixture
def url(settings: Settings, secret: Path, quick: None) -> Iterator[str]:
    with running_api(settings, webhook_hosts=LOOPBACK, webhook_secret_file=secret) as url:
        yield url


def submit(url: str, hook: str, **more: Any) -> str:
    answer = httpx.post(f"{url}/jobs", json={"prompt": "x", "webhook_url": hook, **more})
    assert answer.status_code == 202, answer.text
    found: str = answer.json()["id"]
    return found


def verify(seen: Seen) -> Any:
    """As the specification says, by other means than the sender's; the body."""
    signed = f"{seen.headers['webhook-id']}.{seen.headers['webhook-timestamp']}.".encode()
    digest = subprocess.run(
        ["openssl", "dgst", "-sha256", "-mac", "HMAC", "-macopt", f"hexkey:{KEY.hex()}", "-binary"],
        input=signed + seen.body,
        capture_output=True,
        check=True,
    ).stdout
    assert digest == hmac.digest(KEY, signed + seen.body, hashlib.sha256)
    assert seen.headers["webhook-signature"] == "v1," + base64.b64encode(digest).decode()
    assert abs(int(seen.headers["webhook-timestamp"]) - time.time()) < 30
    assert seen.headers["content-type"] == "application/json"
    return json.loads(seen.body)


def settled(redis: Redis) -> None:
    until(lambda: not redis.exists(names.WEBHOOKS, names.WEBHOOK_TRIES), what="an empty list")


def test_the_end_of_a_job_is_told_signed(url: str, redis: Redis, settings: Settings) -> None:
    receiver = Receiver(204)
    with (
        serving(receiver) as hook,
        scripted_worker(redis, settings.default_model, words("at", " once")),
    ):
        job_id = submit(url, f"{hook}/told?job=1")
        receiver.wait_for(1)
        settled(redis)
    (seen,) = receiver.seen
    assert (seen.method, seen.path) == ("POST", "/told?job=1")
    assert seen.headers["host"] == hook.removeprefix("http://")
    assert seen.headers["webhook-id"] == f"{job_id}.5"
    assert verify(seen) == httpx.get(f"{url}/jobs/{job_id}").json()
    # The log was kept for the webhook, and is let go as any other.
    assert 0 < redis.ttl(names.events(job_id)) <= settings.result_ttl
    assert 'minivault_webhooks_total{outcome="delivered"} 1.0' in httpx.get(f"{url}/metrics").text


def test_who_does_not_hear_is_told_again(url: str, redis: Redis, settings: Settings) -> None:
    """A redirect is no answer, and is not followed."""
    receiver = Receiver(500, None, 302, 404, 200)
    with serving(receiver) as hook, scripted_worker(redis, settings.default_model, words("x")):
        submit(url, hook)
        receiver.wait_for(5)
        settled(redis)
    assert len(receiver.seen) == 5
    assert len({seen.headers["webhook-id"] for seen in receiver.seen}) == 1
    assert len({seen.body for seen in receiver.seen}) == 1
    for seen in receiver.seen:
        verify(seen)


def test_failed_and_cancelled_jobs_are_told_too(url: str, redis: Redis, settings: Settings) -> None:
    receiver = Receiver(200)
    with serving(receiver) as hook:
        with scripted_worker(redis, settings.default_model, failing("worker_lost", "so far")):
            job_id = submit(url, hook)
            receiver.wait_for(1)
            settled(redis)
        assert verify(receiver.seen[0])["status"] == "failed"
        assert verify(receiver.seen[0])["error"]["code"] == "worker_lost"
        assert redis.ttl(names.events(job_id)) > settings.result_ttl, "it can be put back"
        assert put_back(redis, job_id)
        with scripted_worker(redis, settings.default_model, words(" after all")):
            receiver.wait_for(2)
            settled(redis)
    assert verify(receiver.seen[1])["status"] == "done"
    ids = [seen.headers["webhook-id"] for seen in receiver.seen]
    assert ids[0] != ids[1]


def test_a_receiver_that_is_gone_is_left_alone(
    url: str, redis: Redis, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone, deaf = Receiver(410), Receiver(500)
    monkeypatch.setattr(webhooks, "TRIES", 3)
    with (
        serving(gone) as first,
        serving(deaf) as second,
        scripted_worker(redis, settings.default_model, words("x")),
    ):
        submit(url, first)
        submit(url, second)
        deaf.wait_for(3)
        settled(redis)
    assert (len(gone.seen), len(deaf.seen)) == (1, 3)
    assert 'minivault_webhooks_total{outcome="given_up"} 2.0' in httpx.get(f"{url}/metrics").text


def test_a_killed_api_leaves_it_to_the_next(
    settings: Settings, redis: Redis, secret: Path, tmp_path: Path
) -> None:
    changes = {"WEBHOOK_HOSTS": "127.0.0.1", "WEBHOOK_SECRET_FILE": str(secret)}
    receiver = Receiver(503, 200)
    with (
        serving(receiver) as hook,
        scripted_worker(redis, settings.default_model, words("x")),
    ):
        with api_process(settings, tmp_path / "one.log", **changes) as (process, url):
            job_id = submit(url, hook)
            receiver.wait_for(1)
            process.kill()
        assert redis.zscore(names.WEBHOOKS, job_id) is not None
        assert redis.ttl(names.events(job_id)) > KEPT_SECONDS - 60
        with api_process(settings, tmp_path / "two.log", **changes):
            redis.zadd(names.WEBHOOKS, {job_id: 1})  # the pause, or the lease of the dead, is over
            receiver.wait_for(2)
            settled(redis)
    assert [verify(seen)["id"] for seen in receiver.seen] == 2 * [job_id]
    assert len({seen.headers["webhook-id"] for seen in receiver.seen}) == 1


def test_two_processes_tell_it_once(settings: Settings, redis: Redis, secret: Path) -> None:
    options = {"webhook_hosts": LOOPBACK, "webhook_secret_file": secret}
    receiver = Receiver(200)
    with (
        running_api(settings, **options) as one,
        running_api(settings, **options) as two,
        serving(receiver) as hook,
        scripted_worker(redis, settings.default_model, words("x")),
    ):
        jobs = {submit(each, hook) for _ in range(10) for each in (one, two)}
        receiver.wait_for(20)
        settled(redis)
    assert len(receiver.seen) == 20
    assert {verify(seen)["id"] for seen in receiver.seen} == jobs


def test_a_name_that_leads_inside_is_found_out_and_nobody_is_asked(
    settings: Settings, redis: Redis, secret: Path
) -> None:
    receiver = Receiver(200)
    with (
        running_api(settings, webhook_hosts=("*",), webhook_secret_file=secret) as url,
        serving(receiver) as hook,
        scripted_worker(redis, settings.default_model, words("x")),
    ):
        port = hook.rpartition(":")[2]
        for host in ("localhost", "2130706433", "0x7f.1", "127.1"):
            submit(url, f"https://{host}:{port}/")
        given_up = 'minivault_webhooks_total{outcome="given_up"} 4.0'
        until(lambda: given_up in httpx.get(f"{url}/metrics").text, what="all given up")
        settled(redis)
    assert receiver.seen == []


@pytest.mark.parametrize(
    ("hook", "status", "code"),
    [
        ("http://127.0.0.2/", 403, "webhook_not_allowed"),
        ("https://example.org/", 403, "webhook_not_allowed"),
        ("http://[::ffff:10.0.0.1]/", 403, "webhook_not_allowed"),
        ("http://u:p@127.0.0.1/", 422, "invalid_request"),
        ("x", 422, "invalid_request"),
        ("", 422, "invalid_request"),
        (5, 422, "invalid_request"),
        ("http://127.0.0.1/\ud800", 422, "invalid_request"),
        ("http://127.0.0.1/" + "x" * 2000, 422, "invalid_request"),
    ],
)
def test_what_may_not_be_told(url: str, redis: Redis, hook: Any, status: int, code: str) -> None:
    body = json.dumps({"prompt": "x", "webhook_url": hook}).encode()
    headers = {"Content-Type": "application/json"}
    answer = httpx.post(f"{url}/jobs", content=body, headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert redis.zcard(names.JOBS) == 0


def test_only_background_jobs_are_told(url: str) -> None:
    body = {"prompt": "x", "webhook_url": "http://127.0.0.1/"}
    for path in ("/generate", "/generate/stream"):
        answer = httpx.post(url + path, json=body)
        assert (answer.status_code, answer.json()["errors"][0]["field"]) == (422, "webhook_url")


@pytest.mark.parametrize("hosts", [(), LOOPBACK])
def test_without_a_secret_or_hosts_there_are_none(
    settings: Settings, secret: Path, hosts: tuple[str, ...]
) -> None:
    given = None if hosts else secret
    with running_api(settings, webhook_hosts=hosts, webhook_secret_file=given) as url:
        body = {"prompt": "x", "webhook_url": "http://127.0.0.1/"}
        answer = httpx.post(f"{url}/jobs", json=body)
    assert (answer.status_code, answer.json()["code"]) == (403, "webhook_not_allowed")


class _Tls:
    """A server with a certificate for hooks.example, on loopback."""

    def __init__(self, folder: Path) -> None:
        self.certificate = folder / "certificate.pem"
        key = folder / "key.pem"
        subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2",
             "-subj", "/CN=hooks.example", "-addext", "subjectAltName=DNS:hooks.example",
             "-keyout", key, "-out", self.certificate],
            check=True, capture_output=True,
        )  # fmt: skip
        self.hosts: list[str] = []
        hosts = self.hosts

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["Content-Length"]))
                hosts.append(self.headers["Host"])
                self.send_response(204)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self._server = HTTPServer(("127.0.0.1", 0), Handler)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.certificate, key)
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self.port = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


async def test_the_name_is_looked_up_once_and_holds_for_the_certificate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in DNS rebinding, it leads elsewhere at another look."""
    looked_up: list[str] = []
    real = socket.getaddrinfo

    def lookup(host: Any, *arguments: Any, **options: Any) -> Any:
        if host in ("hooks.example", "other.example"):
            looked_up.append(host)
            host = "127.0.0.1" if len(looked_up) < 3 else "169.254.169.254"
        return real(host, *arguments, **options)

    monkeypatch.setattr(socket, "getaddrinfo", lookup)
    destinations = Destinations(("hooks.example", "other.example", "127.0.0.1"))
    with _Tls(tmp_path) as server:
        monkeypatch.setenv("SSL_CERT_FILE", str(server.certificate))
        courier = Courier(destinations)
        url = f"https://hooks.example:{server.port}/"
        assert await courier.post(url, b"{}", {}) == 204
        assert (looked_up, server.hosts) == (["hooks.example"], [f"hooks.example:{server.port}"])
        with pytest.raises(UndeliverableError):  # its certificate is another's
            await courier.post(url.replace("hooks", "other"), b"{}", {})
        with pytest.raises(WebhookNotAllowedError):
            await courier.post(url, b"{}", {})
        await courier.close()
    assert len(server.hosts) == 1
