"""A real Valkey for a test session, as `minivault up` would run it."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import redis

from cli.embedded import valkey_command
from shared.settings import Settings
from tests.support.poll import until


@contextmanager
def running_valkey(settings: Settings) -> Iterator[subprocess.Popen[bytes]]:
    settings.prepare_data_dir()
    log = settings.logs_dir / "redis.log"
    with log.open("wb") as output:
        # Written at once, so that a kill loses nothing, but not synced: no test cuts the power.
        command = [*valkey_command(settings), "--appendfsync", "no"]
        process = subprocess.Popen(command, stdout=output, stderr=output)
        try:
            with redis.Redis.from_url(settings.effective_redis_url) as client:
                until(lambda: _answers(client), what=f"Valkey's answer (log: {log})")
            yield process
        finally:
            process.kill()
            process.wait(timeout=10)


def _answers(client: redis.Redis) -> bool:
    try:
        return bool(client.ping())
    except redis.exceptions.ConnectionError:
        return False
