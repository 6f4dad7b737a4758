"""What the load generator reads from bytes as they come, and when it sends."""

import asyncio
import contextlib
import json
import threading
import time

from bench.drivers import minivault, openai, wire
from bench.drivers.openai import OpenAI
from bench.workload import Ask, at_once

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
PLAIN = HEAD + b"Connection: close\r\n\r\n"


def chunk(text):
    return f"{len(text.encode()):x}\r\n{text}\r\n".encode()


def openai_chunk(**fields):
    return f"data: {json.dumps({'choices': [], **fields})}\n\n"


def content(text, **fields):
    return openai_chunk(choices=[{"index": 0, "delta": {"content": text}, **fields}])


def test_events_are_found_wherever_the_bytes_are_cut():
    body = 'event: token\r\nid: 1\r\ndata: {"text":"ü"}\r\n\r\n: ping\r\n\r\ndata: bare\n\n'
    half = body.encode().index(b"\xbc")  # amid a character
    raw = CHUNKED
    for part in (body.encode()[:half], body.encode()[half:]):
        raw += f"{len(part):x};why\r\n".encode() + part + b"\r\n"
    raw += b"0\r\n\r\n"
    expected = [("token", '{"text":"ü"}'), ("", "bare")]
    for size in (1, 2, 3, 7, len(raw)):
        received = [(float(i), raw[i : i + size]) for i in range(0, len(raw), size)]
        assert [event[1:] for event in wire.sse(received)] == expected


def test_an_event_arrives_with_its_last_byte():
    received = [(1.0, PLAIN), (2.0, b"data: a\n\nda"), (3.0, b"ta: b\n"), (4.0, b"\n")]
    assert list(wire.sse(received)) == [(2.0, "", "a"), (3.0, "", "b")]


def test_minivaults_stream():
    queued = 'event: queued\r\ndata: {"id":"abc"}\r\n\r\n'
    token = 'event: token\r\ndata: {"text":"x"}\r\n\r\n'
    usage = '{"completion_tokens":5,"prompt_tokens":9,"cached_tokens":3}'
    done = f'event: done\r\ndata: {{"usage":{usage}}}\r\n\r\n'
    received = [
        (1.0, CHUNKED + chunk(queued)),
        (2.0, chunk(token)),
        (3.0, chunk(token) + chunk(token)),
        (4.0, chunk(done)),
    ]
    found = minivault.read(0.5, received)
    assert (found.job_id, found.arrivals, found.failed) == ("abc", [2.0, 3.0, 3.0], False)
    assert (found.tokens, found.prompt_tokens, found.cached_tokens) == (5, 9, 3)
    assert found.ttft == 1.5
    assert minivault.read(0.5, received[:-1]).failed


def test_openais_stream_with_usage():
    usage = {"completion_tokens": 7, "prompt_tokens": 4, "prompt_tokens_details": {}}
    received = [
        (1.0, CHUNKED + chunk(openai_chunk(choices=[{"delta": {"role": "assistant"}}]))),
        (2.0, chunk(content("One"))),
        (3.0, chunk(content(" two"))),
        (4.0, chunk(content("", finish_reason="length") + openai_chunk(usage=usage))),
        (5.0, chunk("data: [DONE]\n\n")),
    ]
    found = openai.read(0.0, received)
    assert (found.arrivals, found.tokens, found.prompt_tokens) == ([2.0, 3.0], 7, 4)
    assert not found.failed


def test_openais_completions_without_usage_count_events():
    texts = [(2.0, "One"), (3.0, " two"), (4.0, " three")]
    received = [(1.0, PLAIN)]
    received += [(at, openai_chunk(choices=[{"text": text}]).encode()) for at, text in texts]
    assert openai.read(0.0, received).failed  # cut off
    received.append((5.0, openai_chunk(choices=[{"text": "", "finish_reason": "stop"}]).encode()))
    found = openai.read(0.0, received)
    assert (found.tokens, found.failed) == (3, False)


def test_an_answer_of_nothing_has_come_when_it_ends():
    usage = '{"completion_tokens":0,"prompt_tokens":9,"cached_tokens":0}'
    done = f'event: done\r\ndata: {{"usage":{usage}}}\r\n\r\n'
    found = minivault.read(0.5, [(1.0, CHUNKED), (2.0, chunk(done))])
    assert (found.arrivals, found.tokens, found.failed) == ([2.0], 0, False)
    ended = openai_chunk(choices=[{"delta": {}, "finish_reason": "stop"}])
    found = openai.read(0.5, [(1.0, CHUNKED), (2.0, chunk(ended))])
    assert (found.arrivals, found.tokens, found.failed) == ([2.0], 0, False)


def test_a_refusal_has_failed():
    received = [(1.0, b'HTTP/1.1 503 Service Unavailable\r\n\r\n{"error":{"message":"full"}}')]
    assert openai.read(0.0, received).failed
    assert minivault.read(0.0, received).failed
    assert openai.read(0.0, []).failed


class Peer:
    """A server that answers each request with one token, when it is let."""

    def __init__(self):
        self.bodies, self.running, self.most = [], 0, 0
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()))

    def __enter__(self):
        self._thread.start()
        assert self._ready.wait(10)
        return self

    def __exit__(self, *_):
        self._loop.call_soon_threadsafe(self._over.set)
        self._thread.join(10)

    async def _serve(self):
        self._loop, self._over = asyncio.get_running_loop(), asyncio.Event()
        server = await asyncio.start_server(self._answer, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        self._ready.set()
        async with server:
            await self._over.wait()

    async def _answer(self, reader, writer):
        head = await reader.readuntil(b"\r\n\r\n")
        size = int(head.lower().split(b"content-length:")[1].split()[0])
        self.bodies.append((head.split()[1], json.loads(await reader.readexactly(size))))
        self.running += 1
        self.most = max(self.most, self.running)
        await asyncio.sleep(0.02)
        self.running -= 1
        writer.write(CHUNKED + chunk(content("x", finish_reason="stop")) + b"0\r\n\r\n")
        await writer.drain()
        with contextlib.suppress(ConnectionError):
            await reader.read()  # leaves the connection open, as some do; the client ends it
        writer.close()


def test_requests_keep_to_the_concurrency_and_come_back_in_order():
    with Peer() as peer:
        streams = OpenAI(peer.url, "m").run(at_once([str(n) for n in range(9)], 4), concurrency=3)
    assert peer.most == 3
    assert len(streams) == 9
    assert not any(stream.failed for stream in streams)
    assert streams[0].started < streams[3].started < streams[6].started
    path, body = peer.bodies[0]
    assert path == b"/v1/chat/completions"
    assert body["messages"] == [{"role": "user", "content": "0"}]
    assert (body["temperature"], body["max_tokens"], body["stream"]) == (0, 4, True)


def test_what_is_due_later_counts_from_then_on():
    asks = [Ask("now", 1, raw=True), Ask("then", 1, at=0.3, raw=True)]
    with Peer() as peer:
        began = time.perf_counter()
        now, then = OpenAI(peer.url, "m").run(asks)
    assert then.started - began >= 0.3 >= then.started - now.started
    assert then.arrivals[0] >= then.started
    assert [path for path, _ in peer.bodies] == [b"/v1/completions"] * 2


def test_nothing_is_sent_after_the_time():
    with Peer() as peer:
        streams = OpenAI(peer.url, "m").run(at_once(["x"] * 1000, 1), concurrency=2, seconds=0.5)
    assert 2 <= len(streams) < 1000
    assert max(stream.started for stream in streams) - streams[0].started < 0.5


def test_nobody_there_is_a_failed_stream():
    (found,) = OpenAI("http://127.0.0.1:1", "m").run(at_once(["x"], 1))
    assert found.failed
