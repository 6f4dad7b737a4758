"""What runs, from three witnesses: the supervisor's notes, Redis, and the API itself."""

from __future__ import annotations

import socket
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

import msgspec
from redis import Redis
from redis.exceptions import RedisError

from cli import books, console, state
from cli.books import Books, JobNote
from cli.client import is_ready, service_url
from shared import names
from shared.catalog import load_catalog
from shared.queue import WorkerInfo
from shared.redis import connect
from shared.settings import Settings
from worker import model_files


class ProcessStatus(msgspec.Struct, frozen=True, kw_only=True):
    role: str
    """api, worker or redis."""
    name: str
    pid: int | None
    state: str
    """running, restarting, stopped, dead."""
    restarts: int = 0
    running: int | None = None
    """Jobs in a worker's slots. Like the next two only of workers that are ready."""
    slots: int | None = None
    kv_bytes: int | None = None


class ModelStatus(msgspec.Struct, frozen=True):
    name: str
    default: bool
    ready: bool
    """On this machine, converted."""
    loaded: int
    """Workers that hold it in memory."""
    waiting: int
    running: int
    """Jobs."""


class JobsStatus(msgspec.Struct, frozen=True):
    stuck: int = 0
    """Nobody works on them, or will: their worker is gone, or no worker serves their model."""
    retried: int = 0
    """Not over yet, and a worker has died with them."""
    failed: int = 0
    """Can be put back."""
    unsaved: int = 0
    """Ended; their rows are to be written."""


class Status(msgspec.Struct, frozen=True):
    ready: bool
    url: str
    processes: tuple[ProcessStatus, ...]
    models: tuple[ModelStatus, ...]
    jobs: JobsStatus


def collect(settings: Settings) -> Status:
    """Ask everyone; who does not answer is not running."""
    noted = state.read(settings)
    url = noted.url if noted else service_url(settings)
    workers: Mapping[str, WorkerInfo] = {}
    jobs: list[JobNote] = []
    failed, redis_pid = 0, None
    served = settings.models
    with connect(settings, "status") as redis:
        try:
            found = Books(redis)
            workers, jobs, failed = found.workers, found.unfinished(), found.failed_count
            added: set[bytes] = redis.smembers(names.SERVED)
            served = tuple(dict.fromkeys([*served, *sorted(each.decode() for each in added)]))
            redis_pid = _pid_of(redis)
        except RedisError:
            pass
    ready = is_ready(url)
    states = Counter(job.state for job in jobs)
    return Status(
        ready=ready,
        url=url,
        processes=tuple(_processes(noted, workers, redis_pid, ready=ready)),
        models=tuple(_models(settings, served, workers, jobs)),
        jobs=JobsStatus(
            stuck=states[books.STUCK],
            retried=sum(job.retried for job in jobs),
            failed=failed,
            unsaved=states[books.UNSAVED],
        ),
    )


def _processes(
    noted: state.StackState | None,
    workers: Mapping[str, WorkerInfo],
    redis_pid: int | None,
    *,
    ready: bool,
) -> Iterator[ProcessStatus]:
    """Those that the supervisor has noted, and those that are there without one."""
    here = socket.gethostname()
    ours = {
        pid: info
        for info in workers.values()
        if info.host == here
        for pid in (info.pid, info.parent)
    }
    processes = [process.checked() for process in noted.processes] if noted else []
    known = {process.pid for process in processes}
    roles = {process.role for process in processes}
    if redis_pid is not None and "redis" not in roles:
        yield ProcessStatus(role="redis", name="redis", pid=redis_pid, state="running")
    for process in processes:
        info = ours.get(process.pid or 0) if process.role == "worker" else None
        yield ProcessStatus(
            role=process.role,
            name=process.name,
            pid=process.pid,
            state=process.state,
            restarts=process.restarts,
            **_load_of(info),
        )
    for name, info in workers.items():
        if info.host != here or not {info.pid, info.parent} & known:
            yield ProcessStatus(
                role="worker", name=name, pid=info.pid, state="running", **_load_of(info)
            )
    if ready and "api" not in roles:
        yield ProcessStatus(role="api", name="api", pid=None, state="running")


def _load_of(info: WorkerInfo | None) -> dict[str, int]:
    if info is None:
        return {}
    return {"running": info.running, "slots": info.slots, "kv_bytes": info.kv_bytes}


def _models(
    settings: Settings,
    served: Sequence[str],
    workers: Mapping[str, WorkerInfo],
    jobs: list[JobNote],
) -> Iterator[ModelStatus]:
    catalog = load_catalog(settings)
    count = Counter((job.model, job.state) for job in jobs)
    for name in served:
        yield ModelStatus(
            name=name,
            default=name == settings.default_model,
            ready=name in catalog and model_files.is_ready(catalog[name], settings),
            loaded=sum(name in info.loaded for info in workers.values()),
            waiting=count[name, books.WAITING],
            running=count[name, books.RUNNING],
        )


def show(status: Status) -> None:
    """For eyes; lines, tab-separated where they are a table's, when piped."""
    console.say(f"{'Ready' if status.ready else 'Not ready'}: {status.url}")
    console.table(
        ("process", "role", "pid", "state", "restarts", "jobs", "KV memory"),
        [
            (
                process.name,
                process.role,
                str(process.pid or "-"),
                process.state,
                str(process.restarts),
                "-" if process.running is None else f"{process.running}/{process.slots}",
                "-" if process.kv_bytes is None else f"{process.kv_bytes / 2**20:.0f} MiB",
            )
            for process in status.processes
        ],
    )
    console.table(
        ("model", "on this machine", "loaded by", "waiting", "running"),
        [
            (
                model.name + (" (default)" if model.default else ""),
                "ready" if model.ready else "not fetched",
                f"{model.loaded} worker" + ("" if model.loaded == 1 else "s"),
                str(model.waiting),
                str(model.running),
            )
            for model in status.models
        ],
    )
    jobs = msgspec.to_builtins(status.jobs)
    console.say("Jobs: " + ", ".join(f"{count} {what}" for what, count in jobs.items()))


def _pid_of(redis: Redis) -> int:
    info = redis.info("server")
    assert isinstance(info, dict)
    return int(info["process_id"])
