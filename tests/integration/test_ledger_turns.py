"""Whose job is taken next, by the real scripts on a real server."""

import pytest
from redis import Redis

from shared import names
from shared.ledger import Ledger
from shared.settings import Settings
from tests.support.books import failure, left, prompts, take_all
from tests.support.jobs import MODEL, Submitter, append, generation, ledger, let_go


@pytest.fixture
def queue(settings: Settings) -> Submitter:
    return Submitter(settings)


def test_a_newcomer_is_next_whoever_has_a_backlog(queue: Submitter, redis: Redis) -> None:
    book = ledger(redis)
    queue.submit(*(generation(client="A") for _ in range(100)))
    served = [book.take() for _ in range(10)]
    assert None not in served
    newcomer = generation(client="B")
    queue.submit(newcomer)
    following = [claim.job_id for claim in (book.take(), book.take(), book.take()) if claim]
    assert newcomer.id in following
    assert len(take_all(book)) == 101 - 10 - 3


def test_two_backlogs_alternate(queue: Submitter, redis: Redis) -> None:
    requests = [generation(client="A") for _ in range(6)]
    requests += [generation(client="B") for _ in range(6)]
    queue.submit(*requests)
    client_of = {request.id: request.client for request in requests}
    order = [client_of[claim.job_id] for claim in take_all(ledger(redis))]
    assert all(set(pair) == {"A", "B"} for pair in zip(order[::2], order[1::2], strict=True))


def test_who_was_idle_has_saved_up_nothing(queue: Submitter, redis: Redis) -> None:
    """Nor does one who was served last wait for more than his turn."""
    book = ledger(redis)
    queue.submit(*(generation(client="A") for _ in range(20)))
    take_all(book)
    requests = [generation(client="B") for _ in range(4)] + [
        generation(client="A") for _ in range(4)
    ]
    queue.submit(*requests)
    client_of = {request.id: request.client for request in requests}
    order = [client_of[claim.job_id] for claim in take_all(book)]
    assert all(set(pair) == {"A", "B"} for pair in zip(order[::2], order[1::2], strict=True))


def test_higher_priorities_come_first_and_are_fair_among_themselves(
    queue: Submitter, redis: Redis
) -> None:
    requests = [
        generation(client=client, priority=priority) for priority in (0, 9, 5) for client in "AAB"
    ]
    queue.submit(*requests)
    by_id = {request.id: request for request in requests}
    order = [by_id[claim.job_id] for claim in take_all(ledger(redis))]
    assert [request.priority for request in order] == [9] * 3 + [5] * 3 + [0] * 3
    assert all(order[i].client != order[i + 1].client for i in (0, 3, 6))


def test_models_take_turns(settings: Settings, redis: Redis) -> None:
    both = settings.model_copy(update={"models": (MODEL, "distilgpt2")})
    Submitter(both).submit(
        *(generation(model=MODEL) for _ in range(3)),
        *(generation(model="distilgpt2") for _ in range(3)),
    )
    claims = take_all(Ledger(redis, "test", both.models))
    assert [claim.model for claim in claims] == [MODEL, "distilgpt2"] * 3


def test_clients_that_have_gone_leave_no_trace(queue: Submitter, redis: Redis) -> None:
    """Not even where each of a thousand comes once."""
    book = ledger(redis)
    for number in range(20):
        (request,) = prompts("a", client=f"client-{number}")
        queue.submit(request)
        claim = book.take()
        assert claim is not None
        append(redis, claim, failure(2))
        assert let_go(book, claim, request, saved=True, log_ttl=60)
    assert left(redis) <= {names.clock(MODEL), names.wake(MODEL), names.PACE}
    assert redis.hlen(names.clock(MODEL)) == 1
    assert redis.llen(names.wake(MODEL)) <= 64
