import fakeredis
import pytest

from api.attendance import Attendance
from api.feed import Feed
from api.inbox import Inbox
from shared import names
from shared.events import AnyEvent
from shared.job import now


async def no_log(_: int) -> list[AnyEvent]:
    return []


@pytest.mark.parametrize(("grace", "interval"), [(0, 0.5), (3, 1), (6, 2), (30, 5), (600, 5)])
def test_leases_are_renewed_well_before_a_grace_is_over(grace: float, interval: float) -> None:
    attendance = Attendance(fakeredis.FakeAsyncRedis(), set(), grace)
    assert attendance.interval == interval
    assert attendance.lease == pytest.approx(grace + interval)


async def test_any_number_of_jobs_is_renewed_together() -> None:
    redis = fakeredis.FakeAsyncRedis()
    feeds = {Feed(f"job-{number}", no_log, Inbox(), after=0) for number in range(1201)}
    await redis.zadd(names.ATTENDED, {f"job-{number}": 1 for number in range(1, 1301)})
    await Attendance(redis, feeds, 30).renew_all()
    leases = dict(await redis.zrange(names.ATTENDED, 0, -1, withscores=True))
    assert len(leases) == 1300  # job-0 had none and has none
    renewed = {job_id for job_id, lease in leases.items() if lease > now() + 30}
    assert renewed == {f"job-{number}".encode() for number in range(1, 1201)}


async def test_without_a_feed_nothing_is_sent() -> None:
    await Attendance(fakeredis.FakeAsyncRedis(connected=False), set(), 30).renew_all()
