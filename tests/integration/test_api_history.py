"""`/interactions` and `/usage`, by HTTP, over a database with rows."""

import json
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from api.caller import Caller
from api.views import InteractionsView
from shared.history import Filter
from shared.settings import Settings
from shared.store import Store
from tests.support.api import running_api
from tests.support.postgres import Postgres
from tests.support.rows import row

Become = Callable[[str, bool], None]


def at(second: int) -> str:
    return f"2026-03-01T00:{second // 60:02}:{second % 60:02}.000+00:00"


@pytest.fixture
def url(settings: Settings, either: Settings) -> Iterator[str]:
    with Store.open(either)._writing():
        pass
    with running_api(settings, database_url=either.effective_database_url) as url:
        yield url


@pytest.fixture
def store(either: Settings) -> Store:
    return Store.open(either)


@pytest.fixture
def become(monkeypatch: pytest.MonkeyPatch) -> Become:
    """Makes every request that of a key."""
    who: dict[str, Any] = {}
    monkeypatch.setattr("api.authentication.Caller", lambda client: Caller(client, **who))

    def change(key: str, admin: bool) -> None:  # noqa: FBT001
        who.update(key=key, admin=admin)

    return change


def got(url: str, path: str, **params: Any) -> Any:
    answer = httpx.get(url + path, params=params)
    assert answer.status_code == 200, answer.text
    return answer.json()


def ids(url: str, **params: Any) -> list[str]:
    return [each["id"] for each in got(url, "/interactions", **params)["interactions"]]


def exported(url: str, **params: Any) -> list[Any]:
    answer = httpx.get(f"{url}/interactions.jsonl", params=params)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"].startswith("application/x-ndjson")
    return [json.loads(line) for line in answer.text.splitlines()]


def test_a_row_is_what_the_documentation_says(url: str, store: Store) -> None:
    store.save([row("a", key="k", parameters='{"seed":7,"stop":["x"]}', cached_tokens=3)])
    one = got(url, "/interactions/a")
    assert one["parameters"] == {"seed": 7, "stop": ["x"]}
    assert (one["key"], one["cached_tokens"], one["response"]) == ("k", 3, "Paris")
    page = got(url, "/interactions")
    assert page == {"interactions": [one], "next": None}
    assert exported(url) == [one]
    assert InteractionsView.model_json_schema()["$defs"]["InteractionView"]["required"] == list(one)


def test_pages_follow_each_other_to_the_last(url: str, store: Store) -> None:
    store.save([row(f"{n:02}", created_at=at(n)) for n in range(25)])
    seen, cursor = [], None
    for _ in range(9):
        page = got(url, "/interactions", limit=10, **({"cursor": cursor} if cursor else {}))
        seen += [each["id"] for each in page["interactions"]]
        cursor = page["next"]
        if cursor is None:
            break
        store.save([row(f"new-{cursor}", created_at=at(100))])
    assert seen == [f"{n:02}" for n in reversed(range(25))]


def test_filters(url: str, store: Store) -> None:
    store.save(
        [
            row("a", key="k1", created_at=at(1), response="an apple"),
            row("b", key="k2", created_at=at(2), response="a pear", status="failed"),
            row("c", key="k1", created_at=at(3), model="other", finish_reason="length"),
        ]
    )
    assert ids(url) == ["c", "b", "a"]
    assert ids(url, key="k1") == ["c", "a"]
    assert ids(url, model="other") == ids(url, finish_reason="length") == ["c"]
    assert ids(url, status="failed") == ids(url, search="PEAR") == ["b"]
    assert ids(url, search='"an apple" capital', key="k1") == ["a"]
    assert ids(url, since=at(2), until=at(3)) == ["b"]
    assert ids(url, since="2026-03-01T01:00:02+01:00", until="2026-03-01T00:00:03") == ["b"]
    assert ids(url, since="2026-03-02") == []
    assert [each["id"] for each in exported(url, key="k1")] == ["c", "a"]


WRONG: dict[str, tuple[str, str, int, str]] = {
    "limit-0": ("GET", "/interactions?limit=0", 422, "limit"),
    "limit-many": ("GET", "/interactions?limit=201", 422, "limit"),
    "limit-text": ("GET", "/interactions?limit=x", 422, "limit"),
    "cursor-text": ("GET", "/interactions?cursor=abc", 422, "cursor"),
    "cursor-negative": ("GET", "/interactions?cursor=-1", 422, "cursor"),
    "cursor-huge": ("GET", f"/interactions?cursor={'9' * 40}", 422, "cursor"),
    "cursor-script": ("GET", "/interactions?cursor=1%3BDROP", 422, "cursor"),
    "cursor-digits": ("GET", "/interactions?cursor=%D9%A1", 422, "cursor"),
    "cursor-newline": ("GET", "/interactions?cursor=1%0A", 422, "cursor"),
    "status": ("GET", "/interactions?status=over", 422, "status"),
    "reason": ("GET", "/interactions?finish_reason=x", 422, "finish_reason"),
    "since": ("GET", "/interactions?since=yesterday", 422, "since"),
    "since-number": ("GET", "/interactions?since=1700000000", 422, "since"),
    "usage-number": ("GET", "/usage?until=0", 422, "until"),
    "until": ("GET", "/interactions?until=2026-13-01", 422, "until"),
    "unknown": ("GET", "/interactions?modle=x", 422, "modle"),
    "search-long": ("GET", f"/interactions?search={'x' * 257}", 422, "search"),
    "export-limit": ("GET", "/interactions.jsonl?limit=5", 422, "limit"),
    "export-status": ("GET", "/interactions.jsonl?status=over", 422, "status"),
    "delete-typo": ("DELETE", "/interactions?keys=a", 422, "keys"),
    "delete-search": ("DELETE", "/interactions?key=a&search=x", 422, "search"),
    "delete-until": ("DELETE", "/interactions?until=x", 422, "until"),
    "usage-since": ("GET", "/usage?since=2026-02-30", 422, "since"),
    "usage-cursor": ("GET", "/usage?cursor=2026-01-01", 422, "cursor"),
    "usage-cursor-json": ("GET", "/usage?cursor=2026-01-01.0.00", 422, "cursor"),
    "usage-cursor-bytes": ("GET", "/usage?cursor=2026-01-01.zz.", 422, "cursor"),
    "usage-limit": ("GET", "/usage?limit=1001", 422, "limit"),
    "usage-unknown": ("GET", "/usage?search=x", 422, "search"),
}


@pytest.fixture(scope="module")
def common_url(
    session_settings: Settings, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    path = tmp_path_factory.mktemp("common") / "minivault.db"
    settings = session_settings.model_copy(update={"database_url": f"sqlite:///{path}"})
    Store.open(settings).save([row("a")])
    with running_api(settings) as url:
        yield url


@pytest.mark.parametrize("name", WRONG)
def test_what_can_not_be_asked_is_told_by_its_field(common_url: str, name: str) -> None:
    method, path, status, field = WRONG[name]
    answer = httpx.request(method, common_url + path)
    assert (answer.status_code, answer.json()["code"]) == (status, "invalid_request")
    assert field in [each["field"] for each in answer.json()["errors"]]
    assert ids(common_url) == ["a"]


@pytest.mark.parametrize(
    "path",
    [
        *("/interactions?search=%00", "/interactions?search=%FF%FE", "/interactions?key=%00a"),
        *(
            "/interactions?model=%ED%A0%80",
            "/interactions?search=%22",
            "/interactions?search=%22%22",
        ),
        *("/interactions?search=%27%20OR%201%3D1", "/interactions?cursor=9999999999999999"),
        *("/interactions?since=0001-01-01T00:00:00%2B14:00", "/interactions?cursor=0"),
        *("/interactions?until=9999-12-31T23:59:59-14:00", "/interactions?since=-99999999999"),
        *("/usage?key=%00", "/usage?since=0001-01-01", "/usage?until=9999-12-31"),
        *("/usage?cursor=9999-99-99..", "/usage?cursor=2026-01-01.00.ff"),
        "/interactions.jsonl?search=*",
    ],
)
def test_odd_questions_have_answers(common_url: str, path: str) -> None:
    answer = httpx.get(common_url + path)
    assert answer.status_code in (200, 422), answer.text


@pytest.mark.parametrize("job_id", ["nobody", "%00", "%FF", "a%00", "..%2Fa", "'", "x" * 5000])
def test_an_unknown_id_is_not_found(common_url: str, job_id: str) -> None:
    for method in ("GET", "DELETE"):
        answer = httpx.request(method, f"{common_url}/interactions/{job_id}")
        assert answer.status_code == 404
        assert answer.json()["code"] in ("interaction_not_found", "not_found")


def test_everything_is_not_deleted_by_saying_nothing(common_url: str) -> None:
    answer = httpx.delete(f"{common_url}/interactions")
    assert (answer.status_code, answer.json()["code"]) == (403, "deletion_too_wide")
    assert ids(common_url) == ["a"]


def test_one_is_deleted(url: str, store: Store) -> None:
    store.save([row("a"), row("b")])
    assert httpx.delete(f"{url}/interactions/a").json() == {"deleted": 1}
    assert httpx.delete(f"{url}/interactions/a").status_code == 404
    assert httpx.get(f"{url}/interactions/a").status_code == 404
    assert ids(url) == ["b"]
    assert got(url, "/usage")["usage"][0]["requests"] == 2


def test_a_keys_are_deleted_and_the_oldest(url: str, store: Store) -> None:
    store.save([row(f"{n:03}", key=f"k{n % 2}", created_at=at(n)) for n in range(600)])
    deletion = httpx.delete(f"{url}/interactions", params={"key": "k1"}, timeout=60)
    assert deletion.json() == {"deleted": 300}
    assert {each["key"] for each in exported(url)} == {"k0"}
    assert httpx.delete(f"{url}/interactions", params={"until": at(10)}).json() == {"deleted": 5}
    assert min(each["id"] for each in exported(url)) == "010"


def test_a_key_sees_and_deletes_only_its_own(url: str, store: Store, become: Become) -> None:
    store.save([row("mine", key="k1"), row("yours", key="k2", created_at=at(5)), row("nobody's")])
    become("k1", False)
    assert ids(url) == ids(url, key="k1") == ids(url, search="capital") == ["mine"]
    assert ids(url, key="k2") == ids(url, key="") == []
    assert [each["id"] for each in exported(url)] == ["mine"]
    assert exported(url, key="k2") == []
    for method in ("GET", "DELETE"):
        for job_id in ("yours", "nobody's", "none"):
            answer = httpx.request(method, f"{url}/interactions/{job_id}")
            assert answer.json()["code"] == "interaction_not_found"
    assert {each["key"] for each in got(url, "/usage")["usage"]} == {"k1"}
    assert got(url, "/usage", key="k2") == {"usage": [], "next": None}
    assert httpx.delete(f"{url}/interactions?key=k2").json() == {"deleted": 0}
    assert httpx.delete(f"{url}/interactions").json() == {"deleted": 1}
    become("root", True)
    assert ids(url) == ["yours", "nobody's"]
    assert len(got(url, "/usage")["usage"]) == 3


def test_usage_in_pages(url: str, store: Store) -> None:
    days = [f"2026-01-{day:02}" for day in range(1, 8)]
    store.save(
        [
            row(f"{day}-{key}", key=key, created_at=f"{day}T00:00:00+00:00", cached_tokens=2)
            for day in days
            for key in ("k1", "ключ")
        ]
    )
    seen, cursor = [], None
    while True:
        page = got(url, "/usage", limit=4, **({"cursor": cursor} if cursor else {}))
        seen += page["usage"]
        cursor = page["next"]
        if cursor is None:
            break
    assert seen == got(url, "/usage")["usage"]
    assert [each["day"] for each in seen] == [day for day in reversed(days) for _ in range(2)]
    assert {each["cached_tokens"] for each in seen} == {2}
    assert len(got(url, "/usage", since="2026-01-03", until="2026-01-05", key="k1")["usage"]) == 2


# When the database does not answer


def test_without_a_database_the_rest_goes_on(settings: Settings, tmp_path: Path) -> None:
    """And it is there once the database is, without a restart."""
    folder, away = tmp_path / "db", tmp_path / "away"
    folder.mkdir()
    with running_api(settings, database_url=f"sqlite:///{folder}/minivault.db") as url:
        assert httpx.get(f"{url}/models").status_code == 200  # no key is needed: that is known now
        folder.rename(away)
        for path in ("/interactions", "/interactions/a", "/interactions.jsonl", "/usage"):
            answer = httpx.get(url + path)
            assert (answer.status_code, answer.json()["code"]) == (503, "store_unavailable")
            assert str(folder) not in answer.text
            assert answer.headers["retry-after"]
        assert httpx.delete(f"{url}/interactions/a").status_code == 503
        assert httpx.get(f"{url}/models").status_code == 200
        assert "minivault_history_failures_total 5.0" in httpx.get(f"{url}/metrics").text
        away.rename(folder)
        assert ids(url) == []


def test_a_server_that_is_silent_holds_nobody_else_up(
    settings: Settings, server: Settings, postgres: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    Store.open(server).save([row("a")])
    with running_api(settings, database_url=server.effective_database_url) as url:
        assert ids(url) == ["a"]
        with postgres.frozen():
            answer = httpx.get(f"{url}/interactions", timeout=20)
            assert answer.json()["code"] == "store_unavailable"
            assert httpx.get(f"{url}/healthz", timeout=1).status_code == 200
        with postgres.away():
            assert httpx.get(f"{url}/interactions").json()["code"] == "store_unavailable"
        assert ids(url) == ["a"]


def test_readers_and_a_writer_do_not_see_each_other(settings: Settings, folder: Settings) -> None:
    store = Store.open(folder)
    store.save([row("a")])
    database = sqlite3.connect(folder.data_dir / "db" / "minivault.db")
    with running_api(settings, database_url=folder.effective_database_url) as url:
        database.execute("BEGIN IMMEDIATE")
        database.execute("UPDATE interactions SET model = 'x'")
        assert ids(url) == ids(url, search="capital") == ["a"]
        assert len(exported(url)) == 1
        refused = httpx.delete(f"{url}/interactions/a", timeout=20)
        assert refused.json()["code"] == "store_unavailable"
        database.rollback()
        assert httpx.delete(f"{url}/interactions/a").status_code == 200
    database.close()


# Exports


def test_an_export_that_nobody_reads_holds_no_writer_up(
    settings: Settings, either: Settings
) -> None:
    store = Store.open(either)
    for begin in range(0, 2000, 200):
        store.save(
            [
                row(f"{n:04}", created_at=at(n), response="x" * 10_000)
                for n in range(begin, begin + 200)
            ]
        )
    with (
        running_api(settings, database_url=either.effective_database_url) as url,
        httpx.stream("GET", f"{url}/interactions.jsonl", timeout=30) as answer,
    ):
        lines = answer.iter_lines()
        first = json.loads(next(lines))
        store.save([row("new", created_at=at(3000))])
        store.delete(Filter(), ids=["0000"])
        rest = [json.loads(line)["id"] for line in lines]
        assert first["id"] == "1999"
        assert rest == [f"{n:04}" for n in reversed(range(1, 1999))]


# A cursor of a connection that broke can't be closed, and psycopg complains that it was not.
@pytest.mark.filterwarnings("ignore:Exception ignored in. <function ServerCursorMixin.__del__")
def test_an_export_whose_database_goes_away_is_not_taken_for_complete(
    settings: Settings, server: Settings, postgres: Postgres
) -> None:
    store = Store.open(server)
    for begin in range(0, 3000, 200):
        store.save(
            [
                row(f"{n:04}", created_at=at(n), response="x" * 10_000)
                for n in range(begin, begin + 200)
            ]
        )
    with (
        running_api(settings, database_url=server.effective_database_url) as url,
        httpx.stream("GET", f"{url}/interactions.jsonl", timeout=30) as answer,
    ):
        lines = answer.iter_lines()
        next(lines)
        with postgres.away(), pytest.raises(httpx.RemoteProtocolError):
            for _ in lines:
                pass
