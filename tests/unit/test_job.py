"""Jobs in the queue outlive the program that put them there."""

import json

from shared import job
from tests.support.jobs import generation


def test_a_job_of_before_there_were_traces_can_be_read() -> None:
    request = generation()
    fields = json.loads(job.encode(request))
    del fields["trace"]
    assert job.decode(json.dumps(fields).encode()) == request


def test_a_trace_is_known_by_its_id() -> None:
    trace_id, span_id = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
    assert generation(trace={"traceparent": f"00-{trace_id}-{span_id}-01"}).trace_id == trace_id
    assert generation().trace_id == ""
