"""Workers on two hosts, one Redis and one PostgreSQL on a third. Run by `make test-hosts`.

The engine is fake; the networks, process numbers and names are the hosts' own, and their clocks
are minutes apart.
"""

import asyncio
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from shared import names
from shared.claim import worker_of
from shared.events import Resumed
from shared.job import GenerationRequest
from shared.log import EventLog
from shared.queue import workers
from tests.chaos.clients import Client
from tests.chaos.prompts import Request
from tests.hosts.deployment import Deployment, Member, deployment
from tests.support.checks import assert_all_whole, rows
from tests.support.jobs import ledger, log_of, undisturbed
from tests.support.poll import until, until_async

LENGTH = 600
"""Tokens of a stream: twelve seconds of them."""


@pytest.fixture(scope="module")
def deployed(short_tmp: Path) -> Iterator[Deployment]:
    with deployment(short_tmp) as made:
        yield made


class Streams:
    """Half greedy, half sampled, each followed by a client that keeps to the protocol."""

    over: list[GenerationRequest] = []  # noqa: RUF012  (of all tests: Redis remembers them)

    def __init__(self, deployed: Deployment, count: int = 16) -> None:
        self._deployed = deployed
        address = urlsplit(deployed.url)
        assert address.hostname
        assert address.port
        self._clients = [
            Client((address.hostname, address.port), Request(number, _body(number)))
            for number in range(count)
        ]
        self._following: asyncio.Task[None] | None = None

    @property
    def ids(self) -> list[str]:
        return [client.record.job_id for client in self._clients]

    async def start(self) -> None:
        """Returns when every stream has had some tokens."""
        self._following = asyncio.create_task(self._follow())
        await until_async(self._have_begun, seconds=20, what="tokens of each")

    async def end(self) -> None:
        """Returns when all are whole, for the client, in the log, in RQ and in the database."""
        assert self._following
        await self._following
        redis, log = self._deployed.redis, EventLog(self._deployed.redis)
        requests = [log.read_job(job_id)[0] for job_id in self.ids]
        self.over.extend(requests)
        for client, request in zip(self._clients, requests, strict=True):
            record = client.record
            assert (record.trouble, record.ending) == ([], "done")
            seqs = [arrival.seq for arrival in record.arrivals]
            assert seqs == list(range(1, len(seqs) + 1))
            assert record.text == undisturbed(request)
        await asyncio.to_thread(
            assert_all_whole, self._deployed.settings, redis, *self.over, seconds=30
        )
        assert len(rows(self._deployed.settings)) == len(self.over)

    def of(self, member: Member) -> set[str]:
        owners = ledger(self._deployed.redis).owners()
        return {job for job, owner in owners.items() if worker_of(owner) == member.name}

    def resumed(self) -> set[str]:
        redis = self._deployed.redis
        return {job for job in self.ids if any(isinstance(e, Resumed) for e in log_of(redis, job))}

    async def _have_begun(self) -> bool:
        return all(len(client.record.text) > 10 for client in self._clients)

    async def _follow(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            for client in self._clients:
                tasks.create_task(client.run())


def _body(number: int) -> dict[str, object]:
    if number % 2:
        return {"prompt": "say", "temperature": 1, "seed": number, "max_tokens": LENGTH}
    prompt = f"{number % 10} " * (LENGTH // 2)
    return {"prompt": prompt, "temperature": 0, "max_tokens": LENGTH + 1}


async def test_hosts_have_their_own_process_numbers(deployed: Deployment) -> None:
    """So that whoever took a number for that of a local process would be found out."""
    found = workers(deployed.redis)
    east, west = (found[member.name] for member in (deployed.east, deployed.west))
    assert (east.host, west.host) == ("east", "west")
    assert east.pid == west.pid


async def test_both_serve_and_nothing_is_disturbed(deployed: Deployment) -> None:
    """Whatever their clocks say: with leases on those, one would cancel what the other runs."""
    streams = Streams(deployed)
    await streams.start()
    assert all(streams.of(member) for member in (deployed.east, deployed.west))
    await streams.end()
    assert streams.resumed() == set()


async def test_a_worker_is_killed(deployed: Deployment) -> None:
    streams = Streams(deployed)
    await streams.start()
    victims = streams.of(deployed.east)
    assert victims
    deployed.east.kill()
    await streams.end()
    assert streams.resumed() == victims
    deployed.east.start()


async def test_a_death_that_is_told_on_one_host_is_of_no_other(deployed: Deployment) -> None:
    """As its supervisor tells it, by a number that a process of the other host has too."""
    pid = workers(deployed.redis)[deployed.west.name].pid
    code = (
        "from cli.deaths import _told; from shared.redis import connect;"
        "from shared.configuration import load_settings;"
        f"assert _told(connect(load_settings(), 'up'), {pid})"
    )
    west = deployed.west
    assert west.host.run([sys.executable, "-c", code], env=west.variables).wait() == 0
    assert deployed.redis.exists(names.death(west.name))
    assert not deployed.redis.exists(names.death(deployed.east.name))
    until(lambda: west.name in workers(deployed.redis), what="its next heartbeat")
    deployed.redis.delete(names.death(west.name))


async def test_a_host_is_cut_off_and_comes_back(deployed: Deployment) -> None:
    """For longer than a heartbeat lives: it is fenced off, and then works on."""
    streams = Streams(deployed)
    await streams.start()
    victims = streams.of(deployed.east)
    assert victims
    deployed.east.host.cut()
    began = time.monotonic()
    try:
        await until_async(
            lambda: asyncio.to_thread(lambda: streams.resumed() >= victims),
            seconds=40,
            what="another worker for its jobs",
        )
        assert 8 < time.monotonic() - began < 20
    finally:
        deployed.east.host.join()
    await streams.end()
    assert streams.resumed() == victims
    assert deployed.east.lives
    assert "job was taken over" in deployed.east.log.read_text()

    until(lambda: deployed.east.name in workers(deployed.redis), seconds=20, what="it, again")
    after = Streams(deployed)
    await after.start()
    assert after.of(deployed.east)
    await after.end()
    assert after.resumed() == set()


async def test_a_short_cut_is_a_pause_and_nothing_else(deployed: Deployment) -> None:
    streams = Streams(deployed)
    await streams.start()
    deployed.west.host.cut()
    await asyncio.sleep(3)
    deployed.west.host.join()
    await streams.end()
    assert streams.resumed() == set()
