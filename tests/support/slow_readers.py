"""Clients that ask for a lot and read nothing of it."""

import socket
from urllib.parse import urlsplit

from redis import Redis

from shared import names
from shared.events import Done, FinishReason, Queued, Token, encode
from tests.support.scripted_worker import TIMINGS, USAGE

JOB = "job-0123456789abcdef0123456789abcdef"


def write_log(redis: Redis, *, tokens: int, size: int, job_id: str = JOB) -> None:
    """The whole log of a job that has said a lot; more than kernels buffer for a socket."""
    end = tokens + 2
    pipe = redis.pipeline(transaction=False)
    for event in (
        Queued(seq=1, id=job_id, model="smollm2-135m", position=0),
        *(Token(seq=seq, ids=(seq,), text="x" * size) for seq in range(2, end)),
        Done(seq=end, finish_reason=FinishReason.STOP, usage=USAGE, timings=TIMINGS),
    ):
        ends = "1" if event.seq == end else "0"
        fields = {"event": encode(event), "writer": "w", "end": ends}
        pipe.xadd(names.events(job_id), fields, id=f"{event.seq}-0")
    pipe.execute()


def ask(url: str, *requests: str) -> socket.socket:
    """Send GET requests on one connection, and read nothing of what comes."""
    address = urlsplit(url)
    raw = socket.socket()
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    raw.settimeout(10)
    raw.connect((address.hostname, address.port))
    raw.sendall(
        "".join(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n" for path in requests).encode()
    )
    return raw


def followers(redis: Redis) -> int:
    return len(redis.pubsub_channels(names.channel("*")))
