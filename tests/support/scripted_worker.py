"""A stand-in for the worker: claims jobs and writes scripted events to their logs."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeAlias

import msgspec
from redis import Redis
from rq.worker import BaseWorker

from shared import names
from shared.claim import Claim
from shared.events import (
    TERMINAL,
    AnyEvent,
    Cancelled,
    Done,
    Failed,
    FinishReason,
    Started,
    Timings,
    Token,
    Usage,
)
from shared.job import GenerationRequest
from shared.ledger import Ledger
from shared.log import Append, EventLog
from shared.queue import WorkerInfo, rq_queue
from tests.support.jobs import let_go

Script: TypeAlias = Callable[[GenerationRequest], Iterator[AnyEvent | float]]
"""Events, which are numbered as they are appended, and pauses in seconds."""

USAGE = Usage(prompt_tokens=1, completion_tokens=1)
TIMINGS = Timings(queue=0.001, prefill=0.002, decode=0.003, total=0.006)
LOG_TTL = 60


def words(*texts: str, pause: float = 0) -> Script:
    """Say each text in a token of its own, then be done."""

    def script(request: GenerationRequest) -> Iterator[AnyEvent | float]:
        yield Started(seq=0, prompt_tokens=len(request.prompt))
        if request.echo:
            yield Token(seq=0, ids=(), text=request.prompt)
        for number, text in enumerate(texts):
            yield Token(seq=0, ids=(number,), text=text)
            yield pause
        yield Done(
            seq=0,
            finish_reason=FinishReason.STOP,
            usage=Usage(prompt_tokens=len(request.prompt), completion_tokens=len(texts)),
            timings=TIMINGS,
        )

    return script


def failing(code: str, *texts: str) -> Script:
    def script(_: GenerationRequest) -> Iterator[AnyEvent | float]:
        yield Started(seq=0, prompt_tokens=1)
        for text in texts:
            yield Token(seq=0, ids=(1,), text=text)
        yield Failed(
            seq=0, code=code, message="It went wrong in the script.", usage=USAGE, timings=TIMINGS
        )

    return script


def cancelled(*texts: str) -> Script:
    def script(_: GenerationRequest) -> Iterator[AnyEvent | float]:
        for text in texts:
            yield Token(seq=0, ids=(1,), text=text)
        usage = Usage(prompt_tokens=1, completion_tokens=len(texts))
        yield Cancelled(seq=0, usage=usage, timings=TIMINGS)

    return script


class Author:
    """Holds the claim on a job, and so may append to its log."""

    def __init__(self, redis: Redis, job_id: str, owner: str = "author/1") -> None:
        self._log = EventLog(redis)
        self._job_id = job_id
        self._owner = owner
        redis.hset(names.CLAIMS, job_id, owner)

    def append(self, event: AnyEvent) -> bool:
        (accepted,) = self._log.append_all([Append(self._job_id, self._owner, event)])
        return accepted


class ScriptedWorker:
    """Plays `script` for each job, one job at a time. Wishes to cancel are the script's own."""

    NAME = "scripted"

    def __init__(self, redis: Redis, model: str, script: Script) -> None:
        self.script = script
        self.seen: list[GenerationRequest] = []
        self._redis = redis
        self._model = model
        self._stopped = threading.Event()

    def announce(self, *, loaded: bool = True, slots: int = 1) -> None:
        """Be a live worker in the eyes of `shared.queue.workers`."""
        info = WorkerInfo(
            pid=1,
            models=(self._model,),
            loaded=(self._model,) if loaded else (),
            slots=slots,
            running=0,
            kv_bytes=0,
        )
        key = BaseWorker.redis_worker_namespace_prefix + self.NAME
        self._redis.sadd(BaseWorker.redis_workers_keys, key)
        self._redis.set(names.worker_info(self.NAME), msgspec.json.encode(info))

    def run(self) -> None:
        ledger = Ledger(self._redis, self.NAME, [self._model])
        while not self._stopped.is_set():
            self._redis.delete(names.DEADLINES)  # it does not sweep: who waits too long would hang
            claim = ledger.take()
            if claim is None:
                time.sleep(0.002)
                continue
            assert rq_queue(self._redis, self._model).fetch_job(claim.job_id) is not None
            request, events = EventLog(self._redis).read_job(claim.job_id)
            self.seen.append(request)
            used = self._play(claim, request, len(events))
            assert let_go(ledger, claim, request, saved=True, log_ttl=LOG_TTL, used=used)

    def _play(self, claim: Claim, request: GenerationRequest, last: int) -> int:
        """Tokens that were used."""
        log = EventLog(self._redis)
        used = 0
        for seq, event in enumerate(self._events(request), start=last + 1):
            numbered = msgspec.structs.replace(event, seq=seq)
            assert log.append_all([Append(request.id, claim.owner, numbered)]) == [True]
            if isinstance(numbered, TERMINAL):
                used = numbered.usage.total_tokens
        return used

    def _events(self, request: GenerationRequest) -> Iterator[AnyEvent]:
        for item in self.script(request):
            if isinstance(item, float | int):
                self._stopped.wait(item)
            else:
                yield item

    def stop(self) -> None:
        self._stopped.set()


@contextmanager
def scripted_worker(redis: Redis, model: str, script: Script) -> Iterator[ScriptedWorker]:
    worker = ScriptedWorker(redis, model, script)
    worker.announce()
    thread = threading.Thread(target=worker.run)
    thread.start()
    try:
        yield worker
    finally:
        worker.stop()
        thread.join(timeout=10)
        assert not thread.is_alive()
