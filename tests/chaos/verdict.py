"""What a run has cost: each stream beside its log, its row and the undisturbed run. Pure."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from itertools import pairwise
from typing import NamedTuple

from shared.events import AnyEvent, Token, is_terminal
from tests.chaos.record import Record


class Answer(NamedTuple):
    """What an undisturbed stream has said."""

    text: str
    tokens: int


class Row(NamedTuple):
    """What the store has of a job."""

    id: str
    status: str
    response: str
    completion_tokens: int


@dataclass
class Counts:
    """Each should be 0."""

    lost: int = 0
    """Tokens in the log that the client never got, and events without tokens."""
    repeated: int = 0
    """Tokens that the client got more than once, and events without tokens."""
    out_of_order: int = 0
    """Events that came behind a later one."""
    unfinished: int = 0
    """Streams without `done`."""
    different: int = 0
    """Streams whose text or number of tokens is not the undisturbed run's."""
    torn_logs: int = 0
    """Logs with a gap, without one end, or that say something else than the client got."""
    rows_missing: int = 0
    rows_double: int = 0
    """Rows too many: two of a job, or of a job that no client knows."""
    rows_wrong: int = 0
    """Rows whose response or tokens are not what the client got."""
    dirty: int = 0
    """What is left in Redis of jobs that are over and workers that are dead."""
    not_recovered: int = 0
    """Faults after which something did not come back in time, and stacks that gave up."""
    memory: int = 0
    """Processes that grew beyond their limit."""
    problems: list[str] = field(default_factory=list)
    """A line for each of the above, where one can be said."""

    @property
    def clean(self) -> bool:
        return not any(self.numbers().values())

    def numbers(self) -> dict[str, int]:
        return {
            each.name: getattr(self, each.name) for each in fields(self) if each.name != "problems"
        }

    def add(self, other: "Counts") -> None:
        for name, value in other.numbers().items():
            setattr(self, name, getattr(self, name) + value)
        self.problems += other.problems


def judge(
    records: Sequence[Record],
    *,
    logs: Mapping[str, Sequence[AnyEvent]],
    rows: Iterable[Row],
    undisturbed: Mapping[int, Answer],
) -> Counts:
    """`logs` by job, `undisturbed` by the number of the request."""
    counts = Counts()
    by_job: dict[str, list[Row]] = {}
    for row in rows:
        by_job.setdefault(row.id, []).append(row)
    for record in records:
        judge_stream(record, logs.get(record.job_id, ()), counts)
        judge_text(record, undisturbed.get(record.request.number), counts)
        judge_rows(record, by_job.pop(record.job_id, []), counts)
    counts.rows_double += len(by_job)
    counts.problems += [f"{job_id}: a row, but no client knows the job" for job_id in by_job]
    return counts


def judge_stream(record: Record, log: Sequence[AnyEvent], counts: Counts) -> None:
    """Every event of the log once, in order, and the log whole."""
    received = Counter(arrival.seq for arrival in record.arrivals)
    name = record.name
    for event in log:
        times = received.pop(event.seq, 0)
        if times == 0:
            counts.lost += _weight(event)
            counts.problems.append(f"{name}: event {event.seq} never came")
        elif times > 1:
            counts.repeated += (times - 1) * _weight(event)
            counts.problems.append(f"{name}: event {event.seq} came {times} times")
    highest = 0
    seen: set[int] = set()
    for arrival in record.arrivals:
        if arrival.seq < highest and arrival.seq not in seen:
            counts.out_of_order += 1
            counts.problems.append(f"{name}: event {arrival.seq} came behind {highest}")
        highest = max(highest, arrival.seq)
        seen.add(arrival.seq)
    if record.ending != "done":
        counts.unfinished += 1
        counts.problems.append(f"{name}: {'; '.join(record.trouble) or record.ending or 'no end'}")
    elif (torn := _torn(record, log, unknown=sorted(received))) is not None:
        counts.torn_logs += 1
        counts.problems.append(f"{name}: {torn}")


def judge_text(record: Record, answer: Answer | None, counts: Counts) -> None:
    """As in the undisturbed run, character by character; streams without an end are counted so."""
    if record.ending != "done":
        return
    if answer is None:
        counts.different += 1
        counts.problems.append(f"{record.name}: there is no undisturbed run to compare with")
    elif (record.text, record.usage.get("completion_tokens")) != answer:
        counts.different += 1
        at = next(
            (i for i, (a, b) in enumerate(zip(record.text, answer.text, strict=False)) if a != b),
            min(len(record.text), len(answer.text)),
        )
        counts.problems.append(
            f"{record.name}: differs at character {at}: ...{record.text[at : at + 30]!r} "
            f"instead of ...{answer.text[at : at + 30]!r}"
        )


def judge_rows(record: Record, rows: Sequence[Row], counts: Counts) -> None:
    name = record.name
    counts.rows_double += max(0, len(rows) - 1)
    if len(rows) > 1:
        counts.problems.append(f"{name}: {len(rows)} rows")
    if not rows:
        counts.rows_missing += 1
        counts.problems.append(f"{name}: no row")
    elif record.ending == "done":
        row = rows[0]
        tokens = record.usage.get("completion_tokens")
        if (row.status, row.response, row.completion_tokens) != ("done", record.text, tokens):
            counts.rows_wrong += 1
            counts.problems.append(
                f"{name}: the row says {row.status}, {row.completion_tokens} tokens, "
                f"{len(row.response)} characters; the client got {tokens}, {len(record.text)}"
            )


def _torn(record: Record, log: Sequence[AnyEvent], unknown: Sequence[int]) -> str | None:
    """What is wrong with the log of a stream that ended."""
    if unknown:
        return f"events {unknown} are not in the log"
    if any(later.seq != earlier.seq + 1 for earlier, later in pairwise(log)):
        return "the log has a gap"
    if [is_terminal(event) for event in log].count(True) != 1 or not is_terminal(log[-1]):
        return "the log has not exactly one end"
    tokens = sum(len(event.ids) for event in log if isinstance(event, Token))
    if tokens != record.usage.get("completion_tokens"):
        return f"{tokens} tokens in the log, {record.usage} told"
    return None


def _weight(event: AnyEvent) -> int:
    return max(1, len(event.ids)) if isinstance(event, Token) else 1
