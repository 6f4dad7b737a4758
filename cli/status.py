"""What runs, from three witnesses: the supervisor's notes, Redis, and the API itself."""

from __future__ import annotations

from typing import Any

import msgspec
from redis import Redis
from redis.exceptions import RedisError

from cli import console, state
from cli.client import is_ready, service_url
from cli.state import ProcessState
from shared import queue
from shared.catalog import load_catalog
from shared.redis import connect
from shared.settings import Settings
from worker import model_files


class ModelStatus(msgspec.Struct, frozen=True):
    name: str
    default: bool
    ready: bool
    """On this machine, converted."""
    loaded: int
    """Workers that hold it in memory."""
    queued: int
    """Jobs that wait for a worker."""


class Status(msgspec.Struct, frozen=True):
    ready: bool
    url: str
    processes: tuple[ProcessState, ...]
    models: tuple[ModelStatus, ...]


def collect(settings: Settings) -> Status:
    """Ask everyone; who does not answer is not running."""
    noted = state.read(settings)
    url = noted.url if noted else service_url(settings)
    processes = [process.checked() for process in noted.processes] if noted else []
    with connect(settings, "status") as redis:
        try:
            workers = queue.workers(redis)
            redis_pid = _redis_pid(redis)
            depths = {name: queue.rq_queue(redis, name).count for name in settings.models}
        except RedisError:
            workers, redis_pid, depths = {}, None, {}
    known = {process.pid for process in processes}
    if redis_pid is not None and redis_pid not in known:
        processes.insert(0, ProcessState("redis", "redis", redis_pid, "running"))
    processes += [
        ProcessState("worker", name, info.pid, "running")
        for name, info in workers.items()
        if info.pid not in known
    ]
    ready = is_ready(url)
    if ready and not any(process.role == "api" for process in processes):
        processes.append(ProcessState("api", "api", None, "running"))
    catalog = load_catalog(settings)
    models = tuple(
        ModelStatus(
            name=name,
            default=name == settings.default_model,
            ready=model_files.is_ready(catalog[name], settings),
            loaded=sum(name in info.loaded for info in workers.values()),
            queued=depths.get(name, 0),
        )
        for name in settings.models
    )
    return Status(ready, url, tuple(processes), models)


def as_json(status: Status) -> dict[str, Any]:
    built: dict[str, Any] = msgspec.to_builtins(status)
    return built


def show(status: Status) -> None:
    """For eyes; two tables of tab-separated lines when piped."""
    console.say(f"{'Ready' if status.ready else 'Not ready'}: {status.url}")
    console.table(
        ("process", "role", "pid", "state", "restarts"),
        [
            (
                process.name,
                process.role,
                str(process.pid or "-"),
                process.state,
                str(process.restarts),
            )
            for process in status.processes
        ],
    )
    console.table(
        ("model", "on this machine", "loaded by", "queued"),
        [
            (
                model.name + (" (default)" if model.default else ""),
                "ready" if model.ready else "not fetched",
                f"{model.loaded} worker" + ("" if model.loaded == 1 else "s"),
                str(model.queued),
            )
            for model in status.models
        ],
    )


def _redis_pid(redis: Redis) -> int:
    info = redis.info("server")
    assert isinstance(info, dict)
    return int(info["process_id"])
