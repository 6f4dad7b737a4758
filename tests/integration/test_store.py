"""The interactions table, on real SQLite files and a real PostgreSQL."""

import sqlite3
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
import sqlalchemy as sa

from shared import postgres as shared_postgres
from shared.configuration import load_settings
from shared.errors import StoreAwayError, StoreError
from shared.history import Filter
from shared.settings import Settings
from shared.store import Store
from tests.support.poll import until
from tests.support.postgres import Postgres
from tests.support.rows import row, with_url

# Both


def test_a_row_comes_back_as_it_was(either: Settings) -> None:
    store = Store.open(either)
    odd = row("a", response="emoji 🙂 and 日本語", total_seconds=1 / 3, error="worker_lost")
    store.save([odd])
    assert store.recent(10) == [odd]


def test_the_second_row_of_a_job_replaces_the_first(either: Settings) -> None:
    store = Store.open(either)
    store.save([row("a"), row("b")])
    store.save([row("a", attempts=2, response="again")])
    store.save([row("a", attempts=2, response="and again")])
    found = sorted((r.id, r.attempts, r.response) for r in store.recent(10))
    assert found == [("a", 2, "and again"), ("b", 1, "Paris")]


def test_a_later_attempt_is_never_replaced_by_an_earlier_one(either: Settings) -> None:
    store = Store.open(either)
    store.save([row("a", attempts=2)])
    store.save([row("a", attempts=1, response="stale"), row("b")])
    assert sorted((r.id, r.attempts) for r in store.recent(10)) == [("a", 2), ("b", 1)]


def test_two_that_save_the_same_jobs_at_once(either: Settings) -> None:
    """The stale worker has woken, its successor is done: whoever comes last, nobody fails."""
    jobs = [f"{number}" for number in range(20)]
    stores = [Store.open(either) for _ in range(4)]
    together = threading.Barrier(4, timeout=20)

    def write(number: int) -> None:
        for round_number in range(10):
            together.wait()
            order = jobs if number % 2 else reversed(jobs)
            attempts = round_number * 4 + number + 1
            stores[number].save([row(job_id, attempts=attempts) for job_id in order])

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(write, range(4)))
    assert {(r.id, r.attempts) for r in stores[0].recent(100)} == {(job_id, 40) for job_id in jobs}


def test_what_a_database_can_not_hold_is_replaced_and_nothing_is_lost(either: Settings) -> None:
    store = Store.open(either)
    store.save([row("a", prompt="half \ud83d of a pair", response="nul \0."), row("b")])
    stored = {found.id: found for found in store.recent(10)}
    assert stored["a"].prompt == "half \ufffd of a pair"
    assert stored["a"].response == "nul \ufffd."
    assert stored["b"] == row("b")
    for sought in ("half \ud83d", "nul \0"):
        assert searched(store, f'"{sought}"') == ["a"]


def searched(store: Store, search: str) -> list[str]:
    return [found.id for found in store.rows(Filter(search=search))]


def test_newest_first_and_limited(either: Settings) -> None:
    store = Store.open(either)
    store.save([row(f"{i}", created_at=f"2026-01-0{i}") for i in range(1, 5)])
    assert [r.id for r in store.recent(2)] == ["4", "3"]


def test_several_writers_lose_nothing(either: Settings) -> None:
    stores = [Store.open(either) for _ in range(4)]

    def write(number: int) -> None:
        for i in range(25):
            stores[number].save([row(f"{number}-{i}")])

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(write, range(4)))
    assert len(stores[0].recent(1000)) == 100


def test_a_newer_database_is_refused(either: Settings) -> None:
    Store.open(either).close()
    engine = sa.create_engine(either.effective_database_url)
    with engine.begin() as connection:
        connection.execute(sa.text("INSERT INTO schema_version VALUES (999)"))
    engine.dispose()
    for patient in (False, True):
        with pytest.raises(StoreError, match="Update MiniVault"):
            Store.open(either, patient=patient)


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_many_may_open_a_new_store_at_once(tmp_path: Path, postgres: Postgres, kind: str) -> None:
    """As workers do that are started together."""
    for number in range(20 if kind == "sqlite" else 5):
        settings = load_settings(data_dir=tmp_path / str(number))
        settings.prepare_data_dir()
        if kind == "postgresql":
            settings = with_url(settings, postgres.url(postgres.new_database()))
        with ThreadPoolExecutor(8) as threads:
            stores = list(threads.map(lambda _: Store.open(settings), range(8)))  # noqa: B023
        stores[0].save([row("a")])
        assert stores[-1].recent(10) == [row("a")]
        for store in stores:
            store.close()


# SQLite


def test_a_file_that_is_no_database_is_a_clear_error(folder: Settings) -> None:
    (folder.data_dir / "db" / "minivault.db").write_bytes(b"not a database" * 100)
    with pytest.raises(StoreError, match="interactions database"):
        Store.open(folder)


def test_a_folder_that_comes_back_has_its_rows_again(folder: Settings) -> None:
    store = Store.open(folder)
    store.save([row("before")])
    db, away = folder.data_dir / "db", folder.data_dir / "away"
    db.rename(away)
    with pytest.raises(StoreError, match="unable to open"):
        store.save([row("meanwhile")])
    away.rename(db)
    store.save([row("after")])
    assert {found.id for found in Store.open(folder).recent(10)} == {"before", "after"}


def test_a_deleted_database_is_made_anew(folder: Settings) -> None:
    store = Store.open(folder)
    store.save([row("before")])
    for file in (folder.data_dir / "db").iterdir():
        file.unlink()
    store.save([row("after")])
    assert [found.id for found in Store.open(folder).recent(10)] == ["after"]


def test_a_full_disk_refuses_and_recovers(folder: Settings) -> None:
    store = Store.open(folder)
    _limit_pages(store, 10)
    with pytest.raises(StoreError, match="full"):
        store.save([row(f"job-{i}", response="x" * 10_000) for i in range(50)])
    _limit_pages(store, 1_000_000)
    store.save([row("after")])
    assert [found.id for found in store.recent(100)] == ["after"]


def _limit_pages(store: Store, pages: int) -> None:
    """On the pool's one connection, which the next statement uses again."""
    with store._database.engine.connect() as connection:
        connection.exec_driver_sql(f"PRAGMA max_page_count = {pages}")


def test_a_locked_store_can_be_opened(folder: Settings) -> None:
    Store.open(folder).save([row("before")])
    with sqlite3.connect(folder.data_dir / "db" / "minivault.db") as other:
        other.execute("BEGIN EXCLUSIVE")
        store = Store.open(folder)
        with pytest.raises(StoreError, match="locked"):
            store.save([row("meanwhile")])
        other.rollback()
    store.save([row("after")])
    assert {found.id for found in store.recent(10)} == {"before", "after"}


# PostgreSQL


def test_a_server_that_was_restarted_is_found_again(server: Settings, postgres: Postgres) -> None:
    store = Store.open(server)
    store.save([row("before")])
    with postgres.away(), pytest.raises(StoreAwayError, match="Is the server running"):
        store.save([row("meanwhile")])
    store.save([row("after")])
    assert {found.id for found in store.recent(10)} == {"before", "after"}


def test_a_store_may_be_opened_before_its_server(server: Settings, postgres: Postgres) -> None:
    with postgres.away():
        with pytest.raises(StoreAwayError):
            Store.open(server)
        store = Store.open(server, patient=True)
        with pytest.raises(StoreAwayError):
            store.save([row("a")])
    store.save([row("a")])
    assert store.recent(10) == [row("a")]


def test_who_waits_for_a_row_gives_up_in_time(
    server: Settings, postgres: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared_postgres, "LOCK_TIMEOUT_MS", 300)
    store = Store.open(server)
    store.save([row("a")])
    name = server.effective_database_url.partition("?")[0].rpartition("/")[2]
    with postgres.connect(name) as other:
        other.execute("BEGIN; UPDATE interactions SET attempts = 1")
        with pytest.raises(StoreAwayError, match="lock timeout"):
            store.save([row("a", attempts=2)])
        other.execute("COMMIT")
    store.save([row("a", attempts=2)])
    assert store.recent(10) == [row("a", attempts=2)]


def test_a_server_that_falls_silent_holds_nobody_up(
    server: Settings, postgres: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the middle of a transaction, and before one."""
    monkeypatch.setattr(shared_postgres, "TIMEOUT", 1.5)
    store = Store.open(server)
    name = server.effective_database_url.partition("?")[0].rpartition("/")[2]
    with postgres.connect(name) as other, postgres.connect() as observer:
        other.execute("BEGIN; LOCK interactions")
        with ThreadPoolExecutor(1) as threads:
            began = time.monotonic()
            saving = threads.submit(store.save, [row("a")])
            waiting = "SELECT pid FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
            pid = until(lambda: observer.execute(waiting).fetchone(), what="a writer that waits")[0]
            backend = psutil.Process(pid)
            backend.suspend()
            try:
                with pytest.raises(StoreAwayError):
                    saving.result(timeout=5)
            finally:
                backend.resume()
        assert time.monotonic() - began < 1.5 + 1
    with postgres.frozen():
        began = time.monotonic()
        with pytest.raises(StoreAwayError, match="timeout"):
            store.save([row("a")])
        assert time.monotonic() - began < shared_postgres.CONNECT_TIMEOUT + 1
    store.save([row("a")])
    assert store.recent(10) == [row("a")]


def test_messages_hold_neither_passwords_nor_prompts(server: Settings, postgres: Postgres) -> None:
    store = Store.open(server)
    name = server.effective_database_url.partition("?")[0].rpartition("/")[2]
    with postgres.connect(name) as other:
        other.execute("ALTER TABLE interactions ADD CHECK (attempts < 5)")
    with pytest.raises(StoreError, match="violates check constraint") as refused:
        store.save([row("a", attempts=9)])
    assert "France" not in str(refused.value)
    away = server.effective_database_url.replace("minivault@", "nobody:hunter2@")
    with pytest.raises(StoreError, match='"nobody" does not exist') as refused:
        Store.open(with_url(server, away))
    assert "hunter2" not in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_missing_driver_is_told_in_one_line(
    server: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(StoreError, match=r"pip install 'minivault\[postgres\]'"):
        Store.open(server)
