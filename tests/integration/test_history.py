"""Pages, searches, deletions and usage, on real SQLite files and a real PostgreSQL."""

import random
import sqlite3
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shared import history
from shared.history import Filter, terms_of
from shared.interaction import Interaction
from shared.migrations import m001_interactions
from shared.numbering import PLACES_A_MILLISECOND
from shared.settings import Settings
from shared.settling import batches
from shared.store import Store
from shared.usage import Usage, UsageFilter, UsageKey
from tests.support.postgres import Postgres
from tests.support.rows import row, with_url

START = datetime(2026, 3, 1, tzinfo=UTC)


def at(seconds: float) -> str:
    return (START + timedelta(seconds=seconds)).isoformat(timespec="milliseconds")


def ids(store: Store, **wanted: object) -> list[str]:
    return [found.id for found in store.rows(Filter(**wanted))]  # type: ignore[arg-type]


def used(store: Store) -> list[tuple[object, ...]]:
    """Day, key, model, requests, prompt, cached and completion tokens."""
    return sorted(
        tuple(getattr(each, name) for name in Usage.__struct_fields__)
        for each in store.usage(UsageFilter())
    )


# Pages


def test_pages_are_the_newest_first_whatever_order_rows_came_in(either: Settings) -> None:
    store = Store.open(either)
    order = list(range(30))
    random.Random(1).shuffle(order)
    for second in order:
        store.save([row(f"{second:02}", created_at=at(second))])
    expected = [f"{second:02}" for second in reversed(range(30))]
    assert ids(store) == expected
    first = store.page(Filter(), limit=10)
    second_page = store.page(Filter(), before=first.next, limit=20)
    assert [found.id for found in (*first.rows, *second_page.rows)] == expected
    assert second_page.next is None


def test_jobs_of_one_millisecond_are_told_apart_even_if_they_are_many(either: Settings) -> None:
    """A request for many choices makes them all at once; more than a millisecond has numbers."""
    many = 2 * PLACES_A_MILLISECOND + 5
    store = Store.open(either)
    store.save([row("later", created_at=at(0.001))])
    for begin in range(0, many, 100):
        store.save([row(f"{n:04}", created_at=at(0)) for n in range(begin, min(many, begin + 100))])
    store.save([row("earlier", created_at=at(-0.001))])
    found = ids(store)
    assert len(found) == len(set(found)) == many + 2
    assert found[-1] == "earlier"
    assert set(found) == {"later", "earlier", *(f"{n:04}" for n in range(many))}


def test_filters(either: Settings) -> None:
    store = Store.open(either)
    store.save(
        [
            row("a", key="k1", model="m1", created_at=at(0)),
            row("b", key="k2", model="m1", created_at=at(10), status="failed", error="expired"),
            row("c", key="k1", model="m2", created_at=at(20), finish_reason="length"),
        ]
    )
    assert ids(store, key="k1") == ["c", "a"]
    assert ids(store, key="") == []
    assert ids(store, model="m1") == ["b", "a"]
    assert ids(store, model="m1", key="k1") == ["a"]
    assert ids(store, status="failed") == ["b"]
    assert ids(store, finish_reason="length") == ["c"]
    assert ids(store, since=START + timedelta(seconds=10)) == ["c", "b"]
    assert ids(store, until=START + timedelta(seconds=10)) == ["a"]
    far = datetime.max.replace(tzinfo=UTC)
    assert ids(store, since=far) == ids(store, until=datetime.min.replace(tzinfo=UTC)) == []
    assert ids(store, key="k\0\ud800") == ids(store, model="m\0") == []
    assert store.find("a", key="k1") is not None
    assert store.find("a", key="k2") is None
    assert store.find("a\0\ud800") is None


def test_pages_of_long_texts_are_short(either: Settings) -> None:
    store = Store.open(either)
    for number in range(6):
        store.save([row(f"{number}", created_at=at(number), prompt="x" * 600_000)])
    page = store.page(Filter(), limit=100)
    assert [found.id for found in page.rows] == ["5", "4"]
    assert ids(store) == ["5", "4", "3", "2", "1", "0"]


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_no_row_is_missed_or_doubled_while_others_come_and_go(
    folder: Settings, data: st.DataObject
) -> None:
    """Between any two pages rows are written, written again and deleted."""
    (folder.data_dir / "db" / "minivault.db").unlink(missing_ok=True)
    store = Store.open(folder)
    numbers = iter(range(10_000))
    moments = st.integers(0, 12)

    def write() -> Interaction:
        made = row(f"{next(numbers):04}", created_at=at(data.draw(moments) / 1000))
        store.save([made])
        return made

    there = {each.id: each for each in (write() for _ in range(data.draw(st.integers(0, 25))))}
    stayed, seen, before = set(there), [], None
    while True:
        page = store.page(Filter(), before=before, limit=data.draw(st.integers(1, 6)))
        seen += [found.id for found in page.rows]
        before = page.next
        if before is None:
            break
        for action in data.draw(st.lists(st.sampled_from(["write", "rewrite", "delete"]))):
            if action == "write":
                made = write()
                there[made.id] = made
            elif there:
                job_id = data.draw(st.sampled_from(sorted(there)))
                if action == "rewrite":
                    store.save([row(job_id, created_at=there[job_id].created_at, attempts=2)])
                else:
                    store.delete(Filter(), ids=[job_id])
                    del there[job_id]
                    stayed.discard(job_id)
    store.close()
    assert len(seen) == len(set(seen))
    assert stayed <= set(seen)


def test_rows_are_written_in_bounded_batches() -> None:
    sizes = [10, 600_000, 600_000, 3_000_000, 5, *[1] * 600]
    rows = [row(f"{n}", prompt="x" * size, response="") for n, size in enumerate(sizes)]
    assert [len(batch) for batch in batches(rows)] == [2, 1, 1, 250, 250, 101]
    assert [each for batch in batches(rows) for each in batch] == rows
    assert list(batches([])) == []


# Searches


def test_a_search_finds_parts_of_words_in_any_script(either: Settings) -> None:
    store = Store.open(either)
    texts = {
        "a": ("What is the capital of France?", "Paris"),
        "b": ("日本の首都は東京ですか", "はい、東京です 🗼🗼🗼"),
        "c": ("100% sure_", 'He said "no" AND left* NEAR(it)'),
        "d": ("Ünïcode straße", "tab\tand\nline"),
    }
    store.save([row(key, prompt=p, response=r) for key, (p, r) in texts.items()])

    def found(search: str) -> str:
        return "".join(sorted(ids(store, search=search)))

    assert found("PARIS") == found("ari") == found("capit franc") == found("paris capital") == "a"
    assert found("paris tokyo") == ""
    assert found('"capital of"') == found('"f France?"') == "a"
    assert found('"of capital"') == ""
    for search in ("東京です", "首都は東京", "東京", "🗼🗼🗼", "🗼"):
        assert found(search) == "b"
    for search in ("100%", "sure_", '"', "left*", "AND left"):
        assert found(search) == "c"
    assert found("1_0%") == found("NEAR(x)") == ""
    assert found("straße") == found('"nïc"') == found('"tab\tand"') == "d"
    assert found("is") == "a"
    assert found("zz") == ""
    assert found("") == found("   ") == found('""') == "abcd"


@pytest.mark.parametrize("few", [2, 1000])
def test_a_search_and_filters_hold_together(
    either: Settings, monkeypatch: pytest.MonkeyPatch, few: int
) -> None:
    """Whether the index is asked or the key's rows are read."""
    monkeypatch.setattr(history, "_FEW", few)
    store = Store.open(either)
    for n in range(40):
        key = f"key-{n % 4}"
        store.save([row(f"{n:02}", key=key, created_at=at(n), prompt=f"needle {n % 3}")])
    wanted = {"search": '"needle 1"', "key": "key-2", "since": START + timedelta(seconds=5)}
    expected = [f"{n:02}" for n in reversed(range(40)) if n % 3 == 1 and n % 4 == 2 and n >= 5]
    assert ids(store, **wanted) == expected
    first = store.page(Filter(**wanted), limit=2)  # type: ignore[arg-type]
    assert [found.id for found in first.rows] == expected[:2]


HOSTILE = [
    *('"', '""', '"""', "'", "*", "(", ")", "-", "^", ":", "\\", "%", "_", "/", "?", "\0"),
    *("a:b", "prompt:x", "NOT", "OR", "AND OR", "NEAR/2", "{prompt}:", "a\0b\0c", "\ud800abc"),
    *("x" * 10_000, "a " * 5_000, "'; DROP TABLE interactions; --", '"; SELECT 1; --', "🙂🙂🙂"),
    *("\u202e\u0301", "$1", ":id", "%s %(x)s", '"abc', 'ab"c', 'abc"def"ghi', "\\%\\_", "abc/%"),
]


@pytest.mark.parametrize("search", HOSTILE)
def test_whatever_is_searched_for_is_only_text(folder: Settings, search: str) -> None:
    store = Store.open(folder)
    plain = search.replace("\0", "\ufffd")
    store.save([row("a", response="nothing here"), row("b", response=f"it has {plain} in it")])
    assert ids(store, search=search) in (["b"], ["b", "a"], [])
    assert len(ids(store)) == 2


def test_the_same_in_postgresql(server: Settings) -> None:
    store = Store.open(server)
    store.save([row("a", response="nothing here")])
    for search in HOSTILE:
        assert ids(store, search=search) in ([], ["a"])
    assert ids(store) == ["a"]


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.data())
def test_the_index_finds_what_reading_every_row_would(
    folder: Settings, data: st.DataObject
) -> None:
    (folder.data_dir / "db" / "minivault.db").unlink(missing_ok=True)
    store = Store.open(folder)
    letters = st.text(alphabet='abAB"%_ é日🙂', max_size=12)
    pairs = data.draw(st.lists(st.tuples(letters, letters), min_size=1, max_size=8))
    store.save([row(f"{n}", prompt=p, response=r) for n, (p, r) in enumerate(pairs)])
    search = data.draw(letters)

    def folded(text: str) -> str:
        return "".join(c.lower() if c.isascii() else c for c in text)

    expected = {
        f"{n}"
        for n, texts in enumerate(pairs)
        if all(any(folded(t) in folded(text) for text in texts) for t in terms_of(search))
    }
    assert set(ids(store, search=search)) == expected
    store.close()


def test_the_index_is_what_the_table_says(folder: Settings) -> None:
    """After rows were replaced and deleted, and the file was compacted."""
    store = Store.open(folder)
    store.save([row(f"{n}", response=f"first {n}") for n in range(50)])
    store.save([row(f"{n}", response=f"second {n}", attempts=2) for n in range(0, 50, 2)])
    store.delete(Filter(), ids=[f"{n}" for n in range(0, 50, 5)])
    store.close()
    with sqlite3.connect(folder.data_dir / "db" / "minivault.db") as database:
        database.execute(
            "INSERT INTO interactions_fts (interactions_fts) VALUES ('integrity-check')"
        )
        database.execute("COMMIT")
        database.execute("VACUUM")
        database.execute(
            "INSERT INTO interactions_fts (interactions_fts) VALUES ('integrity-check')"
        )
    assert set(ids(Store.open(folder), search="second")) == {
        f"{n}" for n in range(0, 50, 2) if n % 5
    }


# Usage


def test_each_job_counts_once_however_often_it_is_written(either: Settings) -> None:
    store = Store.open(either)
    store.save([row("a", key="k", prompt_tokens=7, completion_tokens=1)])
    store.save([row("a", key="k", prompt_tokens=7, completion_tokens=1)])
    store.save([row("a", key="k", attempts=2, prompt_tokens=7, completion_tokens=5)])
    store.save([row("a", key="k", attempts=1, prompt_tokens=7, completion_tokens=99)])
    store.save([row("b", key="k", cached_tokens=4, created_at="2026-01-02T00:00:00.000+00:00")])
    store.save([row("c", key="other")])
    assert used(store) == [
        ("2026-01-01", "k", "m", 1, 7, 0, 5),
        ("2026-01-01", "other", "m", 1, 7, 0, 1),
        ("2026-01-02", "k", "m", 1, 7, 4, 1),
    ]


def test_deleting_rows_leaves_their_usage(either: Settings) -> None:
    store = Store.open(either)
    store.save([row(f"{n}", key=f"k{n % 2}") for n in range(10)])
    before = used(store)
    assert store.delete(Filter(key="k1")) == 5
    assert store.delete(Filter(), ids=["0"]) == 1
    assert store.delete(Filter(), ids=["0"]) == 0
    assert ids(store, key="k1") == []
    assert len(ids(store)) == 4
    assert used(store) == before


def test_what_was_deleted_does_not_come_back_and_counts_once(either: Settings) -> None:
    """A sweep writes the row again, or the job is put back by hand and says more."""
    store = Store.open(either)
    store.save([row("a", completion_tokens=3)])
    store.delete(Filter(), ids=["a"])
    store.save([row("a", completion_tokens=3)])
    assert store.find("a") is None
    assert used(store) == [("2026-01-01", "", "m", 1, 7, 0, 3)]
    store.save([row("a", completion_tokens=9, attempts=2)])
    store.save([row("a", completion_tokens=9, attempts=2), row("a2")])
    assert ids(store) == ["a2"]
    assert used(store) == [("2026-01-01", "", "m", 2, 14, 0, 10)]


def test_a_tombstone_stands_for_as_long_as_it_is_needed(either: Settings) -> None:
    store = Store.open(either)
    store.save([row("a")])
    store.delete(Filter(), ids=["a"])
    store.forget_deleted(datetime.now(UTC) - timedelta(minutes=1))
    store.save([row("a")])
    assert ids(store) == []
    store.forget_deleted(datetime.now(UTC) + timedelta(minutes=1))
    store.save([row("a")])
    assert ids(store) == ["a"]


def test_usage_by_filter_and_page(either: Settings) -> None:
    store = Store.open(either)
    days = [f"2026-01-{day:02}" for day in range(1, 6)]
    store.save(
        [
            row(f"{day}{key}{model}", key=key, model=model, created_at=f"{day}T12:00:00+00:00")
            for day in days
            for key in ("", "k1", "k2")
            for model in ("m1", "m2")
        ]
    )
    day3 = datetime(2026, 1, 3, tzinfo=UTC).date()
    assert {each.day for each in store.usage(UsageFilter(since=day3))} == set(days[2:])
    assert {each.day for each in store.usage(UsageFilter(until=day3))} == set(days[:2])
    assert {each.key for each in store.usage(UsageFilter(key="k1"))} == {"k1"}
    assert len(store.usage(UsageFilter(key="k1", model="m2"))) == 5
    assert store.usage(UsageFilter(key="k\0\ud800")) == []
    everything, after = [], None
    while page := store.usage(UsageFilter(), after=after, limit=7):
        everything += page
        after = UsageKey(page[-1].day, page[-1].key, page[-1].model)
    assert everything == store.usage(UsageFilter())
    assert len(everything) == 30
    assert everything[0].day == "2026-01-05"


def test_usage_is_exact_under_writers_and_deleters_at_once(either: Settings) -> None:
    """The same jobs by four writers, in attempts that say more and more, and one who deletes."""
    jobs = [f"{number:02}" for number in range(24)]
    stores = [Store.open(either) for _ in range(5)]
    together = threading.Barrier(5, timeout=60)

    def write(number: int) -> None:
        chance = random.Random(number)
        together.wait()
        for attempt in range(1, 13):
            some = chance.sample(jobs, 10)
            rows = [
                row(job, key=f"k{int(job) % 3}", attempts=attempt, completion_tokens=attempt)
                for job in some
            ]
            stores[number].save(rows)
        stores[number].save(
            [row(job, key=f"k{int(job) % 3}", attempts=12, completion_tokens=12) for job in jobs]
        )

    def delete() -> None:
        chance = random.Random(99)
        together.wait()
        for _ in range(20):
            stores[4].delete(Filter(), ids=chance.sample(jobs, 2))

    with ThreadPoolExecutor(5) as threads:
        for ended in [*(threads.submit(write, n) for n in range(4)), threads.submit(delete)]:
            ended.result(timeout=100)
    assert used(stores[0]) == [("2026-01-01", f"k{k}", "m", 8, 56, 0, 96) for k in range(3)]


# Privacy


def files_of(settings: Settings) -> bytes:
    return b"".join(path.read_bytes() for path in (settings.data_dir / "db").iterdir())


def test_without_texts_there_is_none_in_any_file(folder: Settings) -> None:
    secret = "qjxzvwkqzjvx"
    silent = folder.model_copy(update={"store_text": "off"})
    store = Store.open(silent)
    parameters = (
        '{"max_tokens":5,"temperature":0.5,"seed":7,"stop":["qjxzvwkqzjvx"],'
        '"grammar":{"kind":"regex","value":"qjxzvwkqzjvx"}}'
    )
    told = row("a", prompt=secret, response=secret, parameters=parameters)
    store.save([told])
    store.save([told, row("b", prompt=secret, parameters=parameters)])
    kept = store.find("a")
    assert kept is not None
    assert (kept.prompt, kept.response, kept.completion_tokens) == ("", "", 1)
    assert '"seed":7' in kept.parameters
    assert '"kind":"regex"' in kept.parameters
    content = files_of(folder)
    assert b"interactions_fts" in content
    for start in range(len(secret) - 2):
        assert secret[start : start + 3].encode() not in content.lower()
    assert ids(store, search="qjxz") == []


def test_without_texts_there_is_none_in_postgresql(server: Settings, postgres: Postgres) -> None:
    store = Store.open(server.model_copy(update={"store_text": "off"}))
    store.save([row("a", prompt="xylophone", response="quartz", parameters=PLAIN)])
    name = server.effective_database_url.partition("?")[0].rpartition("/")[2]
    with postgres.connect(name) as connection:
        (text,) = connection.execute("SELECT interactions::text FROM interactions").fetchone() or ()
    assert "xylo" not in text
    assert "quartz" not in text


PLAIN = '{"max_tokens":5,"temperature":0.5,"seed":7}'


def test_deleted_texts_are_overwritten(folder: Settings) -> None:
    store = Store.open(folder)
    store.save([row(f"{n}", response=f"canary-{n}-" * 100) for n in range(100)])
    assert b"canary-42-canary-42" in files_of(folder)
    store.delete(Filter())
    assert b"canary" not in files_of(folder)


def test_a_row_written_again_without_texts_loses_them(folder: Settings) -> None:
    Store.open(folder).save([row("a", response="canary", parameters=PLAIN)])
    silent = Store.open(folder.model_copy(update={"store_text": "off"}))
    silent.save([row("a", response="canary", parameters=PLAIN)])
    silent.scrub()
    assert ids(silent, search="canary") == []
    assert b"canary" not in files_of(folder)


# The schema of before


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_rows_of_before_are_taken_over(
    tmp_path: Path, folder: Settings, postgres: Postgres, kind: str
) -> None:
    configured = folder
    if kind == "postgresql":
        configured = with_url(folder, postgres.url(postgres.new_database()))
    url = configured.effective_database_url.replace("postgresql://", "postgresql+psycopg://")
    engine = sa.create_engine(url)
    moments = [at(2), at(0), *[at(1)] * 200, "2025-12-31T23:59:59.999+00:00"]
    old = [row(f"{n:03}", created_at=moment) for n, moment in enumerate(moments)]
    columns = [
        name for name in Interaction.__struct_fields__ if name not in ("key", "cached_tokens")
    ]
    table = sa.table("interactions", *(sa.column(name) for name in columns))
    with engine.begin() as connection:
        m001_interactions(connection)
        connection.exec_driver_sql("CREATE TABLE schema_version (version INTEGER)")
        connection.exec_driver_sql("INSERT INTO schema_version VALUES (1)")
        connection.execute(
            sa.insert(table), [{name: getattr(each, name) for name in columns} for each in old]
        )
    engine.dispose()
    store = Store.open(configured)
    found = list(store.rows(Filter()))
    assert sorted(found, key=lambda each: each.id) == old
    assert (found[0].id, found[-2].id, found[-1].id) == ("000", "001", "202")
    assert ids(store, search="capital")[0] == "000"
    assert used(store) == [
        ("2025-12-31", "", "m", 1, 7, 0, 1),
        ("2026-03-01", "", "m", 202, 7 * 202, 0, 202),
    ]
    store.save([row("000", created_at=at(2), attempts=2, response="new")])
    assert ids(store, search="new") == ["000"]
    assert len(ids(store, until=START + timedelta(seconds=2))) == 202
