"""The interactions table, on real SQLite files."""

import sqlite3
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import pytest

from shared.configuration import load_settings
from shared.errors import StoreError
from shared.settings import Settings
from shared.store import Interaction, Store


@pytest.fixture
def folder(tmp_path: Path) -> Settings:
    settings = load_settings(data_dir=tmp_path)
    settings.prepare_data_dir()
    return settings


def row(job_id: str, **changes: object) -> Interaction:
    plain = Interaction(
        id=job_id,
        request_id="req",
        client="127.0.0.1",
        model="m",
        prompt="What is the capital of France?",
        response="Paris",
        parameters="{}",
        status="done",
        finish_reason="stop",
        error=None,
        attempts=1,
        prompt_tokens=7,
        completion_tokens=1,
        queue_seconds=0.1,
        prefill_seconds=0.2,
        decode_seconds=0.3,
        total_seconds=0.6,
        created_at="2026-01-01T00:00:00+00:00",
        finished_at="2026-01-01T00:00:01+00:00",
    )
    return msgspec.structs.replace(plain, **changes)


def test_a_row_comes_back_as_it_was(folder: Settings) -> None:
    store = Store.open(folder)
    store.save([row("a", response="emoji 🙂 and 日本語")])
    assert store.recent(10) == [row("a", response="emoji 🙂 and 日本語")]


def test_the_second_row_of_a_job_replaces_the_first(folder: Settings) -> None:
    store = Store.open(folder)
    store.save([row("a"), row("b")])
    store.save([row("a", attempts=2)])
    assert sorted((r.id, r.attempts) for r in store.recent(10)) == [("a", 2), ("b", 1)]


def test_search_is_literal_and_ignores_case(folder: Settings) -> None:
    store = Store.open(folder)
    store.save([row("a"), row("b", prompt="100% sure", response="no")])
    assert [r.id for r in store.recent(10, search="PARIS")] == ["a"]
    assert [r.id for r in store.recent(10, search="100%")] == ["b"]
    assert store.recent(10, search="1_0%") == []


def test_newest_first_and_limited(folder: Settings) -> None:
    store = Store.open(folder)
    store.save([row(f"{i}", created_at=f"2026-01-0{i}") for i in range(1, 5)])
    assert [r.id for r in store.recent(2)] == ["4", "3"]


def test_several_writers_lose_nothing(folder: Settings) -> None:
    stores = [Store.open(folder) for _ in range(4)]

    def write(number: int) -> None:
        for i in range(25):
            stores[number].save([row(f"{number}-{i}")])

    threads = [threading.Thread(target=write, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(stores[0].recent(1000)) == 100


def test_a_newer_database_is_refused(folder: Settings) -> None:
    Store.open(folder).close()
    with sqlite3.connect(folder.data_dir / "db" / "minivault.db") as database:
        database.execute("INSERT INTO schema_version VALUES (999)")
    database.close()
    with pytest.raises(StoreError, match="Update MiniVault"):
        Store.open(folder)


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
    with store._engine.connect() as connection:
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


def test_many_may_open_a_new_store_at_once(tmp_path: Path) -> None:
    """As workers do that are started together."""
    for number in range(20):
        settings = load_settings(data_dir=tmp_path / str(number))
        settings.prepare_data_dir()
        with ThreadPoolExecutor(8) as threads:
            stores = list(threads.map(lambda _: Store.open(settings), range(8)))  # noqa: B023
        stores[0].save([row("a")])
        assert stores[-1].recent(10) == [row("a")]
        for store in stores:
            store.close()
