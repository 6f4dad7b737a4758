"""Any order of events leaves each job in one state, and ends it once."""

from hypothesis import HealthCheck
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)
from redis import Redis

from shared import names
from shared.claim import Claim
from shared.events import Started
from shared.job import GenerationRequest
from shared.settings import Settings
from tests.support.books import failure, left, listed
from tests.support.jobs import MODEL, Submitter, append, generation, ledger, let_go, log_of


class Life(RuleBasedStateMachine):
    """Jobs in any order of events; `model` says in which state each ought to be."""

    server: Redis
    queue: Submitter

    jobs = Bundle("jobs")
    claims = Bundle("claims")
    """Held, lost, or of jobs that are over: whoever holds one may try it at any time."""

    @initialize()
    def empty(self) -> None:
        self.server.flushall()
        self.ledgers = [ledger(self.server, name) for name in ("w0", "w1")]
        self.requests: dict[str, GenerationRequest] = {}
        self.owners: dict[str, str] = {}
        self.waiting: set[str] = set()
        self.unsaved: set[str] = set()
        self.ended: set[str] = set()
        """By their logs."""
        self.finished: dict[str, int] = {}

    @rule(target=jobs, client=st.sampled_from("AB"), priority=st.sampled_from([0, 9]))
    def submit(self, client: str, priority: int) -> str:
        request = generation(client=client, priority=priority)
        self.queue.submit(request)
        self.requests[request.id] = request
        self.waiting.add(request.id)
        return request.id

    @rule(target=claims, worker=st.sampled_from([0, 1]))
    def take(self, worker: int) -> Claim:
        claim = self.ledgers[worker].take()
        assert (claim is not None) == bool(self.waiting)
        if claim is None:
            return Claim("job-none", MODEL, "nobody/1")
        self.waiting.remove(claim.job_id)
        self.owners[claim.job_id] = claim.owner
        return claim

    @rule(target=claims, job_id=jobs, worker=st.sampled_from([0, 1]), owner_is_known=st.booleans())
    def seize(self, job_id: str, worker: int, *, owner_is_known: bool) -> Claim:
        expected = self.owners.get(job_id, "") if owner_is_known else ""
        claim = self.ledgers[worker].seize(job_id, MODEL, expected=expected)
        is_there = self._unfinished(job_id) and expected == self.owners.get(job_id, "")
        assert (claim is not None) == is_there
        if claim is None:
            return Claim(job_id, MODEL, "nobody/1")
        self.waiting.discard(job_id)
        self.owners[job_id] = claim.owner
        return claim

    @rule(claim=claims, end=st.booleans())
    def append(self, claim: Claim, *, end: bool) -> None:
        seq = len(log_of(self.server, claim.job_id)) + 1
        event = failure(seq) if end else Started(seq=seq, prompt_tokens=1)
        may = self._holds(claim) and claim.job_id not in self.ended
        assert append(self.server, claim, event) == [may]
        if may and end:
            self.ended.add(claim.job_id)

    @rule(claim=claims)
    def put_back(self, claim: Claim) -> None:
        holds = self._holds(claim)
        if holds and claim.job_id in self.ended:
            return  # nobody puts back what has ended
        assert self.ledgers[0].put_back(claim, 1) == holds
        if holds:
            del self.owners[claim.job_id]
            self.waiting.add(claim.job_id)

    @rule(claim=claims, saved=st.booleans())
    def finish(self, claim: Claim, *, saved: bool) -> None:
        holds = self._holds(claim)
        if claim.job_id not in self.requests:
            return
        done = let_go(self.ledgers[0], claim, self.requests[claim.job_id], saved=saved, log_ttl=60)
        may = holds and claim.job_id in self.ended
        assert done == (may or not self._unfinished(claim.job_id))
        if may:
            del self.owners[claim.job_id]
            self.unsaved.discard(claim.job_id)
            if saved:
                self.finished[claim.job_id] = self.finished.get(claim.job_id, 0) + 1
            else:
                self.unsaved.add(claim.job_id)

    @rule(job_id=jobs)
    def cancel(self, job_id: str) -> None:
        can_end = self._unfinished(job_id) and job_id not in self.unsaved
        assert self.queue.cancel(job_id) == can_end

    @invariant()
    def each_job_is_in_one_state(self) -> None:
        if not hasattr(self, "requests"):
            return
        book = self.ledgers[0]
        unfinished = {job_id for job_id in self.requests if self._unfinished(job_id)}
        assert members(self.server.zrange(names.JOBS, 0, -1)) == unfinished
        assert members(self.server.zrange(names.order(MODEL), 0, -1)) == self.waiting
        assert sorted(listed(self.server)) == sorted(self.waiting)
        assert book.owners() == self.owners
        assert members(self.server.smembers(names.UNSAVED)) == self.unsaved
        assert self.waiting.isdisjoint(self.owners)
        assert unfinished == self.waiting | set(self.owners) | self.unsaved
        assert book.stray() == []

    @invariant()
    def each_is_finished_once(self) -> None:
        assert set(getattr(self, "finished", {}).values()) <= {1}

    def teardown(self) -> None:
        """Everything can be brought to its end, and then nothing is left."""
        book = self.ledgers[0]
        for job_id in [*self.waiting, *self.owners, *self.unsaved]:
            claim = book.seize(job_id, MODEL, expected=self.owners.get(job_id, ""))
            if claim is not None:
                append(self.server, claim, failure(len(log_of(self.server, job_id)) + 1))
                assert let_go(book, claim, self.requests[job_id], saved=True, log_ttl=60)
        bounded = {names.clock(MODEL), names.turns(MODEL), names.wake(MODEL), names.PACE}
        assert left(self.server) <= bounded

    def _unfinished(self, job_id: str) -> bool:
        return job_id in self.requests and job_id not in self.finished

    def _holds(self, claim: Claim) -> bool:
        return self.owners.get(claim.job_id) == claim.owner


def members(found: list[bytes]) -> set[str]:
    return {member.decode() for member in found}


def test_a_job_is_in_one_state_and_finished_once(settings: Settings, redis: Redis) -> None:
    class Here(Life):
        server = redis

    Here.queue = Submitter(settings)
    run_state_machine_as_test(
        Here,
        settings=hypothesis_settings(
            max_examples=25,
            stateful_step_count=30,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
