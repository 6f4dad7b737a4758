"""Names of responses and of their items: a job's own id in OpenAI's spelling."""

from __future__ import annotations

import re
from typing import Final

from shared.errors import JobNotFoundError

_JOB: Final = "job-"
_RESPONSE: Final = re.compile(r"resp_([0-9a-f]{32})")


def response_id(job_id: str) -> str:
    return "resp_" + job_id.removeprefix(_JOB)


def job_id(response_id: str) -> str:
    """The job that a response is.

    Raises:
        JobNotFoundError: no response is called that.
    """
    match = _RESPONSE.fullmatch(response_id)
    if match is None:
        raise JobNotFoundError("There is no such response.")
    return _JOB + match[1]


def output_id(job_id: str) -> str:
    """Of the one message that a response consists of."""
    return "msg_" + job_id.removeprefix(_JOB)


def input_id(job_id: str, number: int) -> str:
    """Of an item of a response's input, counted from 0."""
    return f"{output_id(job_id)}_{number}"
