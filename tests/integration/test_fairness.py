"""Who has queued a lot makes nobody else wait for it all; a real worker, a fake engine."""

from redis import Redis

from shared import names
from shared.job import GenerationRequest
from shared.settings import Settings
from tests.support.checks import wait_until_over
from tests.support.jobs import Submitter, generation, log_of, under_way
from tests.support.workers import crew


def turn(redis: Redis, request: GenerationRequest) -> int:
    """The number of the claim under which a job began: one worker counts them as it takes."""
    writers = [fields[b"writer"] for _, fields in redis.xrange(names.events(request.id))]
    return int(writers[1].rpartition(b"/")[2])


def test_a_second_client_comes_within_the_next_few_slots(settings: Settings, redis: Redis) -> None:
    served = settings.model_copy(update={"slots": 2})
    queue = Submitter(served)
    holding = [generation("x" * 300, client="A"), generation("x" * 300, client="A")]
    with crew(served, step_seconds=0.003) as workers:
        workers.start_one()
        queue.submit(*holding)
        under_way(redis, holding)
        many = [generation(f"{number}", client="A") for number in range(150)]
        single = generation("single", client="B")
        urgent = generation("urgent", client="A", priority=9)
        queue.submit(*many, single, urgent)
        everything = [*holding, *many, single, urgent]
        wait_until_over(redis, everything)
    queued = log_of(redis, single.id)[0]
    assert queued.name == "queued"
    assert queued.position <= 1  # so it was told
    order = sorted(everything, key=lambda request: turn(redis, request))
    assert order[:3] == [*holding, urgent]
    assert single in order[3:5]
    assert [request for request in order if request in many] == many
