"""`python -m bench.history`: searches, pages and an export of 100,000 interactions, by HTTP.

Writes the rows as workers do, a batch to a transaction, into SQLite or the PostgreSQL that
`--database-url` names (an empty one). Then a real API process is asked, one question after the
other, and its memory is looked at while it exports everything. A second client writes during the
export: how long it waits is how much readers are in its way.
"""

from __future__ import annotations

import argparse
import itertools
import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import httpx
import psutil

from bench.measure import quantile
from bench.queue_depth import running_valkey
from shared import job
from shared.interaction import Interaction
from shared.settings import Settings
from shared.store import Store

_KEYS: Final = 50
_MODELS: Final = ("smollm2-135m", "qwen3-0.6b", "tiny")
_BATCH: Final = 32
_SECONDS_APART: Final = 25
"""100,000 rows are a month of a busy team."""
_PORT: Final = 8797
_API: Final = (
    "from api.main import run; from shared.configuration import load_settings; run(load_settings())"
)


class Writer:
    """Makes rows whose words are as unevenly used as those of languages (Zipf's law)."""

    def __init__(self, seed: int) -> None:
        self._chance = random.Random(seed)
        # Every word differs from the others, but they share their trigrams, as words do.
        letters, weights = zip(*_LETTERS.items(), strict=True)
        self.words = list(
            dict.fromkeys(
                "".join(self._chance.choices(letters, weights, k=self._chance.randint(2, 11)))
                for _ in range(20_000)
            )
        )
        self._weights = list(itertools.accumulate(1 / (n + 1) for n in range(len(self.words))))

    def text(self, words: int) -> str:
        return " ".join(self._chance.choices(self.words, cum_weights=self._weights, k=words))

    def row(self, number: int, first: datetime) -> Interaction:
        made = first + timedelta(seconds=number * _SECONDS_APART)
        end = self._chance.choices(("stop", "length", "error"), (90, 9.9, 0.1))[0]
        return Interaction(
            id=job.new_job_id(),
            request_id=f"{number:016x}",
            client="127.0.0.1",
            key=f"key-{number % _KEYS:04}",
            model=_MODELS[number % 100 // 60],
            prompt=self.text(self._chance.randint(5, 60)),
            response=self.text(self._chance.randint(20, 220)),
            parameters='{"max_tokens":256,"temperature":0.7,"seed":7}',
            status="failed" if end == "error" else "done",
            finish_reason=end,
            error="generation_failed" if end == "error" else None,
            attempts=1,
            prompt_tokens=40,
            completion_tokens=160,
            queue_seconds=0.1,
            prefill_seconds=0.1,
            decode_seconds=2.0,
            total_seconds=2.2,
            created_at=made.isoformat(timespec="milliseconds"),
            finished_at=(made + timedelta(seconds=2.2)).isoformat(timespec="milliseconds"),
        )


_LETTERS: Final = dict(
    zip("etaoinshrdlucmfwypvbgk", (120, 91, 81, 77, 73, 70, 63, 61, 60, 43, 40, 29, 27, 26, 23,
    21, 21, 18, 10, 15, 20, 7), strict=True)
)  # fmt: skip


def main() -> None:
    arguments = _arguments()
    with running_valkey() as embedded:
        settings = embedded.model_copy(update={"database_url": arguments.database_url})
        writer = Writer(seed=1)
        store = Store.open(settings)
        first = datetime.now(UTC) - timedelta(seconds=arguments.rows * _SECONDS_APART)
        if not arguments.database_url:
            _compare_writes(settings.data_dir, writer, first)
        _fill(store, writer, arguments.rows, first)
        if not arguments.database_url:
            size = sum(path.stat().st_size for path in (settings.data_dir / "db").iterdir())
            print(f"The database has {size / 1e6:,.0f} MB.")
        with _api(settings) as process:
            _questions(writer, arguments.probes, first)
            _export(process, store, writer, arguments.rows)
        store.close()


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.history", description=__doc__)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--probes", type=int, default=200)
    parser.add_argument("--database-url", help="an empty PostgreSQL database")
    return parser.parse_args()


def _compare_writes(folder: Path, writer: Writer, first: datetime) -> None:
    """What the full-text index costs whoever writes."""
    for indexed in (False, True):
        settings = Settings(data_dir=folder / f"indexed-{indexed}")
        settings.prepare_data_dir()
        store = Store.open(settings)
        if not indexed:
            with store._writing() as connection:  # noqa: SLF001
                for name in ("added", "removed", "changed"):
                    connection.exec_driver_sql(f"DROP TRIGGER interactions_{name}")
        rows = [writer.row(number, first) for number in range(5_000)]
        seconds = _save(store, rows)
        rate = f"{len(rows) / sum(seconds):,.0f} rows/s, a batch {_p50_p95(seconds)}"
        print(f"5,000 rows {'with' if indexed else 'without'} the full-text index: {rate}")
        store.close()


def _fill(store: Store, writer: Writer, rows: int, first: datetime) -> None:
    seconds: list[float] = []
    for begin in range(0, rows, 5_000):
        numbers = range(begin, min(rows, begin + 5_000))
        seconds += _save(store, [writer.row(number, first) for number in numbers])
    last = seconds[-len(seconds) // 20 :]
    print(
        f"{rows:,} rows in batches of {_BATCH}: {rows / sum(seconds):,.0f} rows/s; of the last "
        f"twentieth a batch {_p50_p95(last)}, at most {max(last) * 1e3:.0f} ms"
    )


def _save(store: Store, rows: list[Interaction]) -> list[float]:
    seconds = []
    for begin in range(0, len(rows), _BATCH):
        began = time.perf_counter()
        store.save(rows[begin : begin + _BATCH])
        seconds.append(time.perf_counter() - began)
    return seconds


def _questions(writer: Writer, probes: int, first: datetime) -> None:
    chance, words = random.Random(2), writer.words
    with httpx.Client(base_url=f"http://127.0.0.1:{_PORT}", timeout=30) as client:
        newest = client.get("/interactions", params={"limit": 1}).json()["interactions"][0]
        cursors = _cursors(client, newest)

        def key() -> str:
            return f"key-{chance.randrange(_KEYS):04}"

        def since() -> str:
            return (first + timedelta(days=chance.randrange(10))).isoformat()

        def word(lowest: int, highest: int) -> str:
            return next(
                w for w in iter(lambda: words[chance.randrange(lowest, highest)], "") if len(w) > 2
            )

        def phrase() -> str:
            text = chance.choice(samples)["response"].split()
            return '"' + " ".join(text[3:6]) + '"'

        samples = client.get("/interactions", params={"limit": 200}).json()["interactions"]
        questions: dict[str, Any] = {
            "newest page": dict,
            "a page anywhere": lambda: {"cursor": chance.choice(cursors)},
            "of a key": lambda: {"key": key()},
            "of a key and model, failed": lambda: {
                "key": key(), "model": _MODELS[0], "status": "failed",
            },
            "failed, since a day": lambda: {"status": "failed", "since": since()},
            "search: a common word": lambda: {"search": word(0, 100)},
            "search: any word": lambda: {"search": word(100, len(words))},
            "search: two words": lambda: {"search": f"{word(0, 3000)} {word(0, 3000)}"},
            "search: a phrase": lambda: {"search": phrase()},
            "search: a word, of a key": lambda: {"search": word(0, 3000), "key": key()},
            "search: a word, of a model, in ten days": lambda: {
                "search": word(0, 3000), "model": _MODELS[1], "since": since(),
            },
            "search: what is nowhere": lambda: {"search": f"{word(0, 50)}qqzx"},
            "search: common, of a key without rows": lambda: {"search": word(0, 5), "key": "none"},
            "search: two letters": lambda: {"search": "q" + chance.choice("etao")},
        }  # fmt: skip
        print("\n| 20 rows a page | p50, ms | p95, ms | most, ms | rows |\n|---|---|---|---|---|")
        for name, params in questions.items():
            seconds, rows = [], 0
            for _ in range(probes):
                asked = params()
                began = time.perf_counter()
                answer = client.get("/interactions", params=asked)
                seconds.append(time.perf_counter() - began)
                rows += len(answer.raise_for_status().json()["interactions"])
            p50, p95 = (quantile(seconds, q) * 1e3 for q in (0.5, 0.95))
            most = max(seconds) * 1e3
            print(f"| {name} | {p50:.1f} | {p95:.1f} | {most:.1f} | {rows / probes:.1f} |")


def _cursors(client: httpx.Client, newest: dict[str, Any]) -> list[str]:
    """Places all over the history."""
    cursors, cursor = [], None
    moment = datetime.fromisoformat(newest["created_at"])
    for _ in range(40):
        moment -= timedelta(seconds=_SECONDS_APART * 2_000)
        page = client.get("/interactions", params={"until": moment.isoformat(), "limit": 1}).json()
        cursor = page["next"]
        if cursor is None:
            break
        cursors.append(cursor)
    return cursors


def _export(process: subprocess.Popen[bytes], store: Store, writer: Writer, rows: int) -> None:
    memory = psutil.Process(process.pid).memory_info
    before, most, lines, size = memory().rss, 0, 0, 0
    waits: list[float] = []
    over = threading.Event()

    def write() -> None:
        first = datetime.now(UTC)
        while not over.wait(0.02):
            waits.extend(_save(store, [writer.row(0, first)]))

    beside = threading.Thread(target=write)
    beside.start()
    began = time.perf_counter()
    url = f"http://127.0.0.1:{_PORT}/interactions.jsonl"
    with httpx.stream("GET", url, timeout=60) as answer:
        for chunk in answer.iter_raw():
            lines += chunk.count(b"\n")
            size += len(chunk)
            most = max(most, memory().rss)
    seconds = time.perf_counter() - began
    over.set()
    beside.join()
    assert lines >= rows, lines
    print(
        f"\nExport: {lines:,} rows, {size / 1e6:,.0f} MB in {seconds:.1f} s. The API has "
        f"{before / 2**20:.0f} MiB before and at most {most / 2**20:.0f} MiB meanwhile. A row "
        f"that is written meanwhile takes {_p50_p95(waits)}, at most {max(waits) * 1e3:.0f} ms."
    )


def _p50_p95(seconds: list[float]) -> str:
    p50, p95 = (quantile(seconds, q) * 1e3 for q in (0.5, 0.95))
    return f"{p50:.1f} ms (p95 {p95:.1f})"


@contextmanager
def _api(settings: Settings) -> Iterator[subprocess.Popen[bytes]]:
    environment = os.environ | {
        "MINIVAULT_REDIS_URL": settings.effective_redis_url,
        "MINIVAULT_DATA_DIR": str(settings.data_dir),
        "MINIVAULT_DATABASE_URL": settings.effective_database_url,
        "MINIVAULT_PORT": str(_PORT),
        "MINIVAULT_LOG_LEVEL": "warning",
    }
    process = subprocess.Popen([sys.executable, "-c", _API], env=environment)
    try:
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            try:
                httpx.get(f"http://127.0.0.1:{_PORT}/healthz").raise_for_status()
                break
            except httpx.TransportError:
                time.sleep(0.1)
        yield process
    finally:
        process.terminate()
        process.wait(timeout=20)


if __name__ == "__main__":
    main()
