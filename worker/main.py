"""The worker process."""

from __future__ import annotations

import os
import sys

from shared.catalog import load_catalog
from shared.logging import configure
from shared.redis import connect, require
from shared.settings import Settings
from shared.store import Store


def run(settings: Settings) -> None:
    """Serve jobs until SIGTERM or SIGINT.

    Raises:
        MiniVaultError: the worker can't start; the message says what to do.
    """
    configure(settings, "worker")
    catalog = load_catalog(settings)
    for name in settings.models:
        catalog[name]  # an unknown one is told before anything slow
    settings.prepare_data_dir()
    redis = connect(settings, "worker")
    require(redis, settings)
    store = Store.open(settings)

    import torch  # noqa: PLC0415  (takes seconds; every cheap check comes first)

    from worker.models import transformers_loader  # noqa: PLC0415
    from worker.service import WorkerService  # noqa: PLC0415

    torch.set_num_threads(settings.threads or max(1, (os.cpu_count() or 1) // settings.workers))
    service = WorkerService(settings, redis, transformers_loader(catalog, settings), store)
    ended_as_asked = service.run()
    store.close()
    redis.close()
    if not ended_as_asked:
        sys.exit(1)
