import asyncio

from api.inbox import Inbox
from shared.events import Token


def token(seq: int) -> Token:
    return Token(seq=seq, ids=(), text="")


async def test_messages_come_out_in_order() -> None:
    inbox = Inbox()
    inbox.put(token(1))
    inbox.put(token(2))
    assert await inbox.get(1) == [token(1), token(2)]
    inbox.put(token(3))
    assert await inbox.get(1) == [token(3)]


async def test_silence_is_none() -> None:
    assert await Inbox().get(0.001) is None


async def test_each_wait_has_a_time_of_its_own() -> None:
    inbox = Inbox()
    loop = asyncio.get_running_loop()
    loop.call_later(0.01, inbox.put, token(1))
    assert await inbox.get(60) == [token(1)]
    began = loop.time()
    assert await inbox.get(0.02) is None  # shorter than what is left of the one before
    assert await inbox.get(0.05) is None  # longer
    assert loop.time() - began >= 0.07
    assert await inbox.get(0) is None


async def test_an_inbox_that_is_closed_leaves_no_timer() -> None:
    inbox = Inbox()
    assert await inbox.get(0.001) is None
    waiting = asyncio.create_task(inbox.get(60))
    await asyncio.sleep(0)
    inbox.put(token(1))
    assert await waiting == [token(1)]
    inbox.close()
    assert inbox._timer is None


async def test_an_inbox_that_runs_over_forgets_and_says_so_once() -> None:
    inbox = Inbox()
    for seq in range(Inbox.CAPACITY + 1):
        inbox.put(token(seq))
    inbox.put(token(7))
    assert await inbox.get(60) is None
    assert await inbox.get(60) == [token(7)]


async def test_a_gap_wakes_who_waits() -> None:
    inbox = Inbox()
    inbox.mark_gap()
    assert await inbox.get(60) is None
    inbox.put(token(1))
    assert await inbox.get(60) == [token(1)]
