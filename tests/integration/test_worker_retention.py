"""Old interactions go, some at a time, and one worker does it for all."""

import threading
from datetime import UTC, datetime, timedelta

import pytest
import redis.exceptions
from redis import Redis

from shared import names
from shared.errors import StoreAwayError
from shared.history import Filter
from shared.settings import Settings
from shared.settling import MAX_ROWS
from shared.store import Store
from shared.usage import UsageFilter
from tests.support.poll import until
from tests.support.rows import row
from worker import retention
from worker.metrics import WorkerMetrics
from worker.retention import Retention

NOW = datetime(2026, 6, 30, 12, tzinfo=UTC)


def days_ago(days: float) -> str:
    return (NOW - timedelta(days=days)).isoformat(timespec="milliseconds")


def keeper(settings: Settings, redis: Redis, store: Store, metrics: WorkerMetrics) -> Retention:
    return Retention(settings, redis, store, metrics=metrics, on_crash=lambda: None)


def retired(metrics: WorkerMetrics) -> float | None:
    return metrics.registry.get_sample_value("minivault_interactions_retired_total")


def test_what_is_too_old_goes_and_its_usage_stays(
    either: Settings, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "_PAUSE", 0.0)
    store, metrics = Store.open(either), WorkerMetrics()
    old = [row(f"old-{n}", created_at=days_ago(31)) for n in range(MAX_ROWS + 10)]
    store.save([*old, row("young", created_at=days_ago(29))])
    settings = either.model_copy(update={"history_days": 30})
    keeper(settings, redis, store, metrics).round(NOW)
    assert [found.id for found in store.rows(Filter())] == ["young"]
    assert retired(metrics) == MAX_ROWS + 10
    assert sum(each.requests for each in store.all_usage(UsageFilter())) == MAX_ROWS + 11
    store.save(old[:3])  # a sweep that had not heard of it
    assert [found.id for found in store.rows(Filter())] == ["young"]


def test_by_default_nothing_goes(either: Settings, redis: Redis) -> None:
    store, metrics = Store.open(either), WorkerMetrics()
    store.save([row("a", created_at="1999-01-01T00:00:00.000+00:00")])
    keeper(either, redis, store, metrics).round(NOW)
    assert [found.id for found in store.rows(Filter())] == ["a"]


def test_ids_of_the_deleted_are_forgotten_once_no_log_can_bring_them_back(
    either: Settings, redis: Redis
) -> None:
    store = Store.open(either)
    store.save([row("a")])
    store.delete(Filter(), ids=["a"])
    chore = keeper(either, redis, store, WorkerMetrics())
    now = datetime.now(UTC)
    for days, found in ((7.5, []), (8.5, ["a"])):
        chore.round(now + timedelta(days=days))
        store.save([row("a")])
        assert [each.id for each in store.rows(Filter())] == found


def test_one_of_two_does_it_and_an_outage_ends_neither(
    folder: Settings, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "INTERVAL", 0.05)
    store, metrics = Store.open(folder), WorkerMetrics()
    settings = folder.model_copy(update={"history_days": 1})
    chores = [keeper(settings, redis, store, metrics) for _ in range(2)]
    real, rounds, failures = chores[0].round, [], iter([StoreAwayError(), redis_away()])
    lock = threading.Lock()

    def counted(now: datetime) -> None:
        with lock:
            rounds.append(now)
        for error in failures:
            raise error
        real(now)

    for chore in chores:
        monkeypatch.setattr(chore, "round", counted)
        chore.start()
    store.save([row("a")])
    until(lambda: not store.recent(1), what="the old row's end")
    for chore in chores:
        chore.stop()
        chore.join()
    assert redis.exists(names.RETENTION) in (0, 1)
    assert retired(metrics) == 1
    assert len(rounds) >= 3


def redis_away() -> Exception:
    return redis.exceptions.ConnectionError("away")


def test_rows_are_written_while_many_go(folder: Settings, redis: Redis) -> None:
    store, metrics = Store.open(folder), WorkerMetrics()
    for begin in range(0, 2000, 250):
        store.save(
            [
                row(f"{n}", created_at=days_ago(9), response="word " * 200)
                for n in range(begin, begin + 250)
            ]
        )
    chore = keeper(folder.model_copy(update={"history_days": 1}), redis, store, metrics)
    working = threading.Thread(target=chore.round, args=[NOW])
    working.start()
    written = 0
    while working.is_alive():
        Store.open(folder).save([row(f"new-{written}", created_at=days_ago(0))])
        written += 1
    assert retired(metrics) == 2000
    assert len(store.recent(10_000)) == written > 5
