"""Attempts to get in, to another's jobs, and around limits. Nothing passes."""

import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from redis import Redis

from api.app import create_app
from api.authentication import is_open
from shared import keys, names
from shared.allotment import day_of
from shared.job import now
from shared.keybook import KeyBook
from shared.keys import Token
from shared.settings import Settings
from tests.support.api import api_process, running_api
from tests.support.keys import Asker, bearer, key_book, with_database
from tests.support.raw import HOST, ask
from tests.support.scripted_worker import ScriptedWorker, scripted_worker, words

REFUSED = {(400, "ambiguous_api_key"), (400, "invalid_http"), (401, "invalid_api_key")}
REFUSED |= {(401, "missing_api_key"), (431, "header_too_large")}
PATHS = create_app(Settings.model_construct()).openapi()["paths"]
OPERATIONS = [(method.upper(), path) for path, found in PATHS.items() for method in found]


@pytest.fixture(scope="module")
def own(session_settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    return with_database(session_settings, tmp_path_factory.mktemp("keys"))


@pytest.fixture(scope="module")
def book(own: Settings) -> Iterator[KeyBook]:
    with key_book(own) as book:
        yield book


@pytest.fixture(scope="module")
def token(book: KeyBook) -> Token:
    """A key that is in force."""
    return book.create("victim")


@pytest.fixture(scope="module")
def url(own: Settings, token: Token) -> Iterator[str]:
    with running_api(own) as url:
        yield url


@pytest.fixture(autouse=True)
def uncounted(settings: Settings) -> None:
    """An empty Valkey: failures are counted in there."""


@pytest.fixture
def worker(settings: Settings, redis: Redis) -> Iterator[ScriptedWorker]:
    with scripted_worker(redis, settings.default_model, words("ok")) as worker:
        yield worker


def knock(url: str, *lines: bytes, path: bytes = b"/models") -> tuple[int, str]:
    """Ask with these header lines; the answer's problem, or its status alone."""
    head = b"GET " + path + b" HTTP/1.1\r\n" + HOST
    answer = ask(url, head, *lines, b"Connection: close\r\n\r\n")
    return (answer.status, "") if answer.status == 200 else answer.problem


# Keys that are none


def wrong(token: Token, book: KeyBook) -> dict[str, str]:
    """Texts that are no valid key, by what is wrong with them."""
    text, last = token.text, "0" if token.secret[-1] != "0" else "1"
    revoked, rotated = book.create("revoked"), book.create("rotated")
    expired = book.create("expired", expires_at="2001-01-01T00:00:00.000+00:00")
    book.revoke(revoked.id)
    book.rotate(rotated.id)
    stored = book.find(token.id)
    assert stored is not None
    return {
        "another secret": Token(token.id, keys.new_token().secret).text,
        "one character off": text[:-1] + last,
        "another id": Token("0" * 12, token.secret).text,
        "another key's id": Token(revoked.id, token.secret).text,
        "revoked": revoked.text,
        "rotated": rotated.text,
        "expired": expired.text,
        "cut off": text[:-1],
        "longer": text + "0",
        "twice": text + text,
        "the secret alone": token.secret,
        "the id alone": f"mv-{token.id}-",
        "what is stored": f"mv-{token.id}-{stored.digest}",
        "upper case": text.upper(),
        "SQL": f"mv-' OR '1'='1-{token.secret}",
        "a pattern": f"mv-%%%%%%%%%%%%-{token.secret}",
        "percent": text.replace("-", "%2d"),
        "quoted": f'"{text}"',
        "a list": f"{text},{text}",
        "nothing": "",
        "no such thing": "sk-1234567890",
        "huge": "mv-" + "a" * 8_000,
    }


def test_no_other_text_is_a_key(url: str, token: Token, book: KeyBook, redis: Redis) -> None:
    assert knock(url, b"X-API-Key: " + token.text.encode() + b"\r\n") == (200, "")
    for what, text in wrong(token, book).items():
        redis.delete(names.failed_logins("127.0.0.1"))
        for header in (b"Authorization: Bearer ", b"X-API-Key: "):
            found = knock(url, header + text.encode() + b"\r\n")
            assert found == (401, "invalid_api_key"), what


def test_all_that_are_wrong_are_answered_alike(url: str, token: Token, book: KeyBook) -> None:
    """Or one could tell ids that exist, and keys that were revoked."""
    answers = set()
    for text in list(wrong(token, book).values())[:12]:
        response = httpx.get(f"{url}/models", headers={"X-API-Key": text})
        told = {k: v for k, v in response.headers.items() if k not in ("date", "x-request-id")}
        answers.add((response.status_code, response.text, tuple(told.items())))
    assert len(answers) == 1


# Headers that are odd


def odd(token: Token) -> dict[str, list[bytes]]:
    key, other = token.text.encode(), keys.new_token().text.encode()
    good = b"Authorization: Bearer " + key + b"\r\n"
    bad = b"Authorization: Bearer " + other + b"\r\n"
    return {
        "wrong first": [bad, good],
        "wrong second": [good, bad],
        "twice": [good, good],
        "both headers, one wrong": [good, b"X-API-Key: " + other + b"\r\n"],
        "both headers, the other wrong": [b"X-API-Key: " + key + b"\r\n", bad],
        "both headers, one empty": [good, b"X-API-Key:\r\n"],
        "x-api-key twice": [b"X-API-Key: " + key + b"\r\n"] * 2,
        "login of a proxy before": [b"Authorization: Basic YTpi\r\n", good],
        "basic": [b"Authorization: Basic " + key + b"\r\n"],
        "no scheme": [b"Authorization: " + key + b"\r\n"],
        "scheme alone": [b"Authorization: Bearer\r\n"],
        "a tab": [b"Authorization: Bearer\t" + key + b"\r\n"],
        "two words": [b"Authorization: Bearer " + key + b" " + key + b"\r\n"],
        "a parameter": [b"Authorization: Bearer " + key + b", realm=x\r\n"],
        "folded": [b"Authorization: Bearer\r\n " + key + b"\r\n"],
        "folded within": [b"Authorization: Bearer " + key[:20] + b"\r\n " + key[20:] + b"\r\n"],
        "folded in front": [b"X-Nothing: a\r\n Authorization: Bearer " + key + b"\r\n"],
        "a bare LF": [b"X-Nothing: a\nAuthorization: Bearer " + key + b"\r\n"],
        "NUL": [b"Authorization: Bearer " + key + b"\0\r\n"],
        "non-ASCII": [b"Authorization: Bearer " + key + "é".encode() + b"\r\n"],
        "wide digits": [b"X-API-Key: " + "mv-\uff10".encode() + key + b"\r\n"],
        "no-break space": [b"Authorization: Bearer\xa0" + key + b"\r\n"],
        "a blank in the name": [b"Authorization : Bearer " + key + b"\r\n"],
        "an underscore": [b"X_API_Key: " + key + b"\r\n"],
        "of a proxy": [b"Proxy-Authorization: Bearer " + key + b"\r\n"],
        "a cookie": [b"Cookie: x-api-key=" + key + b"\r\n"],
        "forwarded": [b"X-Forwarded-Authorization: Bearer " + key + b"\r\n"],
        "another path": [b"X-Original-URL: /healthz\r\nX-Rewrite-URL: /healthz\r\n"],
        "another method": [b"X-HTTP-Method-Override: OPTIONS\r\n"],
        "huge": [b"Authorization: Bearer " + key + b"a" * 60_000 + b"\r\n"],
        "huge, of blanks": [b"Authorization: Bearer " + b" " * 60_000 + key + b"\r\n"],
    }


def test_no_odd_header_is_a_key(url: str, token: Token, redis: Redis) -> None:
    for what, lines in odd(token).items():
        redis.delete(names.failed_logins("127.0.0.1"))
        assert knock(url, *lines) in REFUSED, what


def test_a_key_in_the_address_or_the_trailer_is_none(url: str, token: Token) -> None:
    query = f"/models?api_key={token.text}&key={token.text}&access_token={token.text}"
    assert knock(url, path=query.encode()) == (401, "missing_api_key")
    at = url.replace("://", f"://key:{token.text}@")
    assert httpx.get(f"{at}/models").status_code == 401  # as Basic
    trailer = b"0\r\nX-API-Key: " + token.text.encode() + b"\r\n\r\n"
    head = b"POST /jobs HTTP/1.1\r\n" + HOST + b"Content-Type: application/json\r\n"
    answer = ask(url, head, b"Transfer-Encoding: chunked\r\n\r\n", trailer)
    assert answer.problem == (401, "missing_api_key")


def test_usual_spellings_are_a_key(url: str, token: Token) -> None:
    key = token.text.encode()
    for line in (
        b"authorization: bearer " + key,
        b"AUTHORIZATION: BEARER   " + key,
        b"Authorization:Bearer " + key + b"  ",
        b"x-api-key:\t" + key + b"\t",
    ):
        assert knock(url, line + b"\r\n") == (200, ""), line


# Ways around


@pytest.mark.parametrize(
    "path",
    [
        b"/models/",
        b"//models",
        b"/healthz/../models",
        b"/healthz/",
        b"/healthz%2f..%2fmodels",
        b"/static-offline-docs/../models",
        b"/docs/../jobs",
        b"/Models",
        b"/%6dodels",
        b"/nowhere",
        b"http://localhost/models",
        b"/models?x=/healthz",
        b"/models;/healthz",
    ],
)
def test_no_path_leads_around(url: str, path: bytes) -> None:
    status, code = knock(url, path=path)
    assert (status, code) in {(401, "missing_api_key"), (404, "not_found")}
    # A path below the docs' files is looked up among them alone.
    assert status == 401 or path.startswith(b"/static-offline-docs/")


@pytest.mark.parametrize(("method", "path"), OPERATIONS)
def test_every_operation_needs_a_key(url: str, redis: Redis, method: str, path: str) -> None:
    response = httpx.request(method, url + re.sub(r"\{\w+\}", "x", path), json={"prompt": "x"})
    if is_open(path):
        assert response.status_code in (200, 503)
    else:
        assert (response.status_code, code_of(response)) == (401, "missing_api_key")
    for other in ("OPTIONS", "HEAD", "PUT", "PATCH", "TRACE"):
        other_answer = httpx.request(other, url + path)
        assert other_answer.status_code in ({401} if not is_open(path) else {200, 405, 503})
    assert redis.zcard(names.JOBS) == 0


def code_of(response: httpx.Response) -> str:
    """Under `/v1` errors have OpenAI's shape."""
    document = response.json()
    return str(document["error"]["code"] if "error" in document else document["code"])


def test_another_keys_job_is_by_no_route_to_be_had(
    url: str, token: Token, book: KeyBook, worker: ScriptedWorker
) -> None:
    worker.script = words("the victim's", " text", pause=0.05)
    victim, attacker = Asker(url, token), Asker(url, book.create("attacker"))
    job_id = victim.submit(prompt="the victim's prompt").json()["id"]
    asked = {"input": "the victim's prompt", "background": True}
    known = {"job_id": job_id, "response_id": victim("POST", "/v1/responses", asked).json()["id"]}
    """Whoever adds a route with another parameter says here what an attacker would put there."""
    unknown = {"job_id": "job-" + "f" * 32, "response_id": "resp_" + "f" * 32}
    of_models = {"name", "model"}
    """Nobody's jobs: their routes are everybody's, or an administrator's."""
    tried = 0
    for method, path in OPERATIONS:
        parameters = re.findall(r"\{(\w+)\}", path)
        assert set(parameters) <= known.keys() | of_models, path
        if not set(parameters) & known.keys():
            continue
        for more in ({}, {"Last-Event-ID": "1"}, {"Accept": "text/plain"}, {"X-Admin": "true"}):
            real = attacker(method, path.format(**known), {}, **more)
            none = attacker(method, path.format(**unknown), {}, **more)
            assert (real.status_code, real.text) == (404, none.text)
            assert "victim" not in real.text
            tried += 1
    assert tried >= 12
    whole = victim("GET", f"/jobs/{job_id}/events").text
    assert "the victim's" in whole
    assert "cancelled" not in whole


def test_an_id_is_found_out_by_no_work_that_is_saved(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hashing and comparing are done alike, whether there is such a key or not."""
    done: list[str] = []

    def compared(one: str, other: str) -> bool:
        done.append("compared")
        return one == other and len(one) == len(other) == 64

    def digested(secret: str, digest: Any = keys.digest) -> str:
        done.append("digested")
        return str(digest(secret))

    monkeypatch.setattr(keys.hmac, "compare_digest", compared)
    monkeypatch.setattr(keys, "digest", digested)
    token, at = keys.new_token(), keys.now()
    right = keys.Key(id=token.id, name="", digest=keys.digest(token.secret), created_at=at)
    over = keys.Key(id="", name="", digest="0" * 64, created_at=at, revoked_at=at, expires_at=at)
    work = []
    for key in (None, right, over):
        done.clear()
        assert keys.opens(token, key, at) is (key is right)
        work.append(list(done))
    assert work == [["digested", "compared", "compared"]] * 3


# Limits


def test_guesses_are_counted_by_address_and_keep_nobody_out(
    own: Settings, url: str, token: Token, redis: Redis
) -> None:
    with running_api(own) as other, ThreadPoolExecutor(16) as threads:
        ways = [url, other] * 50

        def guess(way: str) -> int:
            forged = {"X-Forwarded-For": f"10.0.0.{hash(way) % 200}", "X-Real-IP": "10.0.0.1"}
            return Asker(way, keys.new_token())("GET", "/models", **forged).status_code

        answers = list(threads.map(guess, ways))
        assert sorted(set(answers)) == [401, 429]
        assert answers.count(401) == 60
        assert 0 < redis.ttl(names.failed_logins("127.0.0.1")) <= 60
        assert httpx.get(f"{url}/models").status_code == 429
        for way in (url, other):
            assert Asker(way, token)("GET", "/models").status_code == 200
        transport = httpx.HTTPTransport(local_address="127.0.0.2")
        with httpx.Client(transport=transport) as neighbour:
            assert neighbour.get(f"{url}/models").status_code == 401


def test_a_keys_limits_hold_however_it_is_used(
    own: Settings, url: str, book: KeyBook, redis: Redis, tmp_path: Path
) -> None:
    """Many connections, addresses, forged headers, two processes: it is one client."""
    assert own.database_url is not None
    limits = {"rate": "20/hour", "max_in_flight": 8, "daily_tokens": 3000}
    rated, crowded, metered = (
        book.create(name, keys.Allowance(**{name: value})) for name, value in limits.items()
    )
    proxies = {"TRUSTED_PROXIES": "127.0.0.0/8"}
    with api_process(own, tmp_path / "log", DATABASE_URL=own.database_url, **proxies) as (_, other):

        def attack(number: int, token: Token) -> int:
            transport = httpx.HTTPTransport(local_address=f"127.0.0.{number % 50 + 1}")
            forged = {
                "X-Forwarded-For": f"192.0.2.{number}",
                "Forwarded": f"for=192.0.2.{number}",
                "Idempotency-Key": f"number-{number}",
            }
            headers = bearer(token) if number % 2 else {"X-API-Key": token.text}
            with httpx.Client(transport=transport, headers=headers | forged) as client:
                way = (url, other)[number // 2 % 2]
                body = {"prompt": "x", "max_tokens": 27}
                return client.post(f"{way}/jobs", json=body).status_code

        for token, most in ((rated, 20), (crowded, 8), (metered, 10)):
            with ThreadPoolExecutor(24) as threads:
                answers = list(threads.map(lambda n, t=token: attack(n, t), range(72)))
            assert set(answers) == {202, 429}
            assert answers.count(202) == most
    assert redis.scard(names.in_flight(names.of_key(crowded.id))) == 8
    account = redis.hgetall(names.tokens(metered.id, day_of(now())))
    assert account.pop(b"total") == b"3000"
    assert list(account.values()) == [b"300"] * 10
