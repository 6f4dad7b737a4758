"""The chaos client keeps to the protocol, and writes down whatever breaks it."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from tests.chaos.clients import Client
from tests.chaos.crowd import Crowd
from tests.chaos.prompts import Request
from tests.support.poll import until_async

LENGTH = 12
REQUEST = Request(0, {"prompt": "x", "temperature": 0})


def event(seq: int) -> bytes:
    if seq == 1:
        return b'id: 1\nevent: queued\ndata: {"id": "job-1"}\n\n'
    if seq == LENGTH:
        return b'id: %d\nevent: done\ndata: {"usage": {"completion_tokens": 10}}\n\n' % seq
    return b'id: %d\nevent: token\ndata: {"text": "%c"}\n\n' % (seq, 95 + seq)


class Service:
    """Serves one job; `tamper` makes what is sent of the events behind a number."""

    def __init__(self, tamper: Callable[[int], bytes]) -> None:
        self._tamper = tamper
        self.asked: list[tuple[str, str]] = []
        """Request line, and the Idempotency-Key or Last-Event-ID."""
        self.busy = 0
        """So many requests to come are answered with 503."""
        self.gone_after = 1000
        """Behind so many requests, the job is no more."""

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        line, *lines = (await reader.readuntil(b"\r\n\r\n")).decode().strip().split("\r\n")
        headers = dict(each.split(": ", 1) for each in lines)
        await reader.readexactly(int(headers["Content-Length"]))
        after = headers.get("Last-Event-ID", "0")
        self.asked.append((line, headers.get("Idempotency-Key", after)))
        if self.busy:
            self.busy -= 1
            head = "HTTP/1.1 503 Service Unavailable\r\nRetry-After: 0\r\nContent-Length: 0\r\n\r\n"
            writer.write(head.encode())
        elif len(self.asked) > self.gone_after:
            writer.write(b"HTTP/1.1 410 Gone\r\nContent-Length: 2\r\n\r\n{}")
        else:
            body = self._tamper(int(after))
            head = f"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{len(body):x}\r\n"
            writer.write(head.encode() + body + b"\r\n0\r\n\r\n")
        writer.close()


@asynccontextmanager
async def serving(tamper: Callable[[int], bytes]) -> AsyncIterator[tuple[Service, Client]]:
    service = Service(tamper)
    server = await asyncio.start_server(service.answer, "127.0.0.1", 0)
    async with server:
        yield service, Client(server.sockets[0].getsockname(), REQUEST)


def truly(after: int) -> bytes:
    return b"".join(event(seq) for seq in range(after + 1, LENGTH + 1))


def seqs(client: Client) -> list[int]:
    return [arrival.seq for arrival in client.record.arrivals]


async def test_a_stream_in_one_go() -> None:
    async with serving(truly) as (service, client):
        record = await client.run()
    assert seqs(client) == list(range(1, LENGTH + 1))
    assert (record.job_id, record.text, record.ending) == ("job-1", "abcdefghij", "done")
    assert (record.usage, record.trouble, record.connections) == ({"completion_tokens": 10}, [], 1)
    assert len(service.asked) == 1


async def test_after_losses_it_asks_for_what_follows_the_last_number() -> None:
    def three_at_a_time(after: int) -> bytes:
        return b"".join(event(seq) for seq in range(after + 1, min(after + 4, LENGTH + 1)))

    async with serving(three_at_a_time) as (service, client):
        record = await client.run()
    assert record.text == "abcdefghij"
    assert [what for _, what in service.asked[1:]] == ["3", "6", "9"]
    assert {line for line, _ in service.asked[1:]} == {"GET /jobs/job-1/events HTTP/1.1"}


async def test_a_lost_answer_is_asked_for_again_under_the_same_key() -> None:
    async with serving(truly) as (service, client):
        service.busy = 1
        client.drop_after(100)  # behind the refusal, in the head of the second answer
        record = await client.run()
    assert record.text == "abcdefghij"
    assert {line for line, _ in service.asked} == {"POST /generate/stream HTTP/1.1"}
    assert len(service.asked) == 3
    assert len({key for _, key in service.asked}) == 1


async def test_what_comes_twice_or_never_is_written_down() -> None:
    def wrongly(after: int) -> bytes:
        return truly(after).replace(event(4), b"").replace(event(6), event(6) * 2)

    async with serving(wrongly) as (_, client):
        await client.run()
    assert seqs(client) == [1, 2, 3, 5, 6, 6, 7, 8, 9, 10, 11, 12]


async def test_a_job_that_is_gone_is_trouble() -> None:
    async with serving(lambda after: b"".join(map(event, range(1, 5)))) as (service, client):
        service.gone_after = 1
        record = await client.run()
    assert record.ending == ""
    assert record.trouble == ["410 behind event 4: {}"]


async def test_a_crowd_begins_no_more_than_allowed_and_loses_what_it_is_told_to() -> None:
    service = Service(truly)
    server = await asyncio.start_server(service.answer, "127.0.0.1", 0)
    async with server:
        address = server.sockets[0].getsockname()
        asked = [Request(number, REQUEST.body) for number in range(9)]
        crowd = Crowd(address, asked, at_once=2, allowed=3)
        crowd.drop_next([100])
        running = asyncio.create_task(crowd.run())
        await until_async(lambda: asyncio.sleep(0, crowd.finished == 3))
        await asyncio.wait([running], timeout=0.2)
        assert len(crowd.records) == 3
        crowd.allow(9)
        await running
    assert [record.request.number for record in crowd.records] == list(range(9))
    assert {record.text for record in crowd.records} == {"abcdefghij"}
    assert [record.connections for record in crowd.records] == [2] + [1] * 8
