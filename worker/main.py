"""The worker process."""

from __future__ import annotations

import os
import socket
import sys

from redis.exceptions import RedisError

from shared.catalog import load_catalog
from shared.ledger import report_death
from shared.listen import listen
from shared.logging import configure, get_logger
from shared.redis import connect, require
from shared.settings import Settings
from shared.store import Store
from worker.nursery import Nursery, new_worker_name


def run(settings: Settings, *, patience: float = 0.0) -> None:
    """Serve jobs until SIGTERM or SIGINT.

    `patience`: seconds to wait for Redis, where it is being started too.

    Raises:
        MiniVaultError: the worker can't start; the message says what to do.
    """
    configure(settings, "worker")
    catalog = load_catalog(settings)
    for name in settings.models:
        catalog[name]  # an unknown one is told before anything slow
    settings.prepare_data_dir()
    if not patience:
        _require_redis(settings)

    from worker.libraries import load_libraries  # noqa: PLC0415  (every cheap check comes first)

    # Kept for all forks: between two of them, whoever asks waits instead of being refused.
    listener = _metrics_listener(settings)
    load_libraries(catalog[settings.default_model], settings)
    if patience:
        _require_redis(settings, patience)
    if sys.platform == "linux":  # elsewhere system libraries do not survive a fork
        nursery = Nursery(
            lambda name: _serve(settings, name, listener),
            lambda name: _report(settings, name),
        )
        code = nursery.run()
    else:
        code = _serve(settings, new_worker_name(), listener)
    if code:
        sys.exit(code)


def _require_redis(settings: Settings, patience: float = 0.0) -> None:
    with connect(settings, "worker") as redis:
        require(redis, settings, patience)


def _metrics_listener(settings: Settings) -> socket.socket | None:
    if not settings.metrics_port:
        return None
    return listen(settings.metrics_host, settings.metrics_port, "METRICS_")


def _serve(settings: Settings, name: str, listener: socket.socket | None) -> int:
    import torch  # noqa: PLC0415

    from worker.models import LoadedModel, transformers_loader  # noqa: PLC0415
    from worker.monitor import Monitor  # noqa: PLC0415
    from worker.prompts import Tokenizer, tokenizer_loader  # noqa: PLC0415
    from worker.service import WorkerService  # noqa: PLC0415
    from worker.stock import Stock  # noqa: PLC0415

    redis = connect(settings, "worker")
    store = Store.open(settings, patient=True)
    torch.set_num_threads(settings.threads or max(1, (os.cpu_count() or 1) // settings.workers))
    stock = Stock(settings)

    # The catalog may have grown since the worker was started.
    def load(model: str) -> LoadedModel:
        return transformers_loader(stock.catalog(), settings)(model)

    def load_tokenizer(model: str) -> Tokenizer:
        return tokenizer_loader(stock.catalog(), settings)(model)

    service = WorkerService(settings, redis, load, load_tokenizer, store, name=name, stock=stock)
    if listener is not None:
        Monitor(listener, service).start()
    ended_as_asked = service.run()
    store.close()
    redis.close()
    return 0 if ended_as_asked else 1


def _report(settings: Settings, name: str) -> None:
    """Its jobs need not wait for its silence."""
    try:
        with connect(settings, "worker") as redis:
            report_death(redis, name)
    except RedisError as error:
        get_logger().warning("death not reported", worker=name, reason=str(error))
