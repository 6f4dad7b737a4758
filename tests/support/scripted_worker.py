"""A stand-in for the worker: takes jobs from RQ and writes scripted events to their logs."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeAlias

import msgspec
from redis import Redis
from rq.worker import BaseWorker

from shared import names
from shared.events import (
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
from shared.log import EventLog
from shared.queue import WorkerInfo, rq_queue

Script: TypeAlias = Callable[[GenerationRequest], Iterator[AnyEvent | float]]
"""Events, which are numbered as they are appended, and pauses in seconds."""

TIMINGS = Timings(queue=0.001, prefill=0.002, decode=0.003, total=0.006)


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
        yield Failed(seq=0, code=code, message="It went wrong in the script.")

    return script


def cancelled(*texts: str) -> Script:
    def script(_: GenerationRequest) -> Iterator[AnyEvent | float]:
        for text in texts:
            yield Token(seq=0, ids=(1,), text=text)
        yield Cancelled(seq=0, usage=Usage(prompt_tokens=1, completion_tokens=len(texts)))

    return script


class ScriptedWorker:
    """Plays `script` for each job, one job at a time."""

    NAME = "scripted"

    def __init__(self, redis: Redis, model: str, script: Script) -> None:
        self.script = script
        self.seen: list[GenerationRequest] = []
        self._redis = redis
        self._model = model
        self._stopped = threading.Event()

    def announce(self, *, loaded: bool = True) -> None:
        """Be a live worker in the eyes of `shared.queue.workers`."""
        info = WorkerInfo(
            pid=1,
            models=(self._model,),
            loaded=(self._model,) if loaded else (),
            slots=1,
            running=0,
            kv_bytes=0,
        )
        key = BaseWorker.redis_worker_namespace_prefix + self.NAME
        self._redis.sadd(BaseWorker.redis_workers_keys, key)
        self._redis.set(names.worker_info(self.NAME), msgspec.json.encode(info))

    def run(self) -> None:
        queue = rq_queue(self._redis, self._model)
        log = EventLog(self._redis, writer=self.NAME)
        while not self._stopped.is_set():
            job_id = self._redis.lpop(queue.key)
            if job_id is None:
                time.sleep(0.002)
                continue
            assert queue.fetch_job(job_id.decode()) is not None
            request, _ = log.read_job(job_id.decode())
            self.seen.append(request)
            self._play(log, request)

    def _play(self, log: EventLog, request: GenerationRequest) -> None:
        seq = 2  # 1 is `queued`
        for item in self.script(request):
            if isinstance(item, float | int):
                self._stopped.wait(item)
                continue
            assert log.append(request.id, msgspec.structs.replace(item, seq=seq))
            seq += 1

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
