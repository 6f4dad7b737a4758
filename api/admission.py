"""From a body to a job that may be submitted: everything that is checked before Redis decides."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Annotated, Final

from fastapi import Depends, Header
from starlette.requests import Request

from api.context import request_id, trace
from api.deadline import in_time
from api.deps import StateDep
from api.errors import (
    FieldProblem,
    InvalidRequestError,
    PriorityNotAllowedError,
    StoppingError,
    UnsupportedMediaTypeError,
)
from api.feed import Feed
from api.proxies import limit_key
from api.relay import Admission
from api.schemas import GenerateBody
from shared.errors import UnknownModelError
from shared.job import GenerationRequest, new_job_id, now
from shared.queue import IDEMPOTENCY_TTL, Idempotency
from shared.settings import Settings

_KEY: Final = Header(
    pattern=r"^[!-~]{1,255}$",
    description="Your name for this request, of visible ASCII characters. Sent again with the same "
    f"name within {IDEMPOTENCY_TTL // 3600} hours, the request returns the same job.",
)


def _json_only(request: Request) -> None:
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type != "application/json":
        raise UnsupportedMediaTypeError


def _admission(*, background: bool = False) -> Callable[..., Awaitable[Admission]]:
    """`background`: whatever the body says, the job does not need to be followed."""

    async def admit(
        request: Request,
        _: Annotated[None, Depends(_json_only)],
        body: GenerateBody,
        state: StateDep,
        idempotency_key: Annotated[str | None, _KEY] = None,
    ) -> Admission:
        """Validate first and count after: a request that can't be served costs no permit."""
        if state.relay.draining:
            raise StoppingError("This process is stopping and takes no new requests.")
        settings = state.settings
        _check(body, settings)
        if state.limiter is not None:
            async with in_time():
                await state.limiter(request)
        if background:
            body = body.model_copy(update={"background": True})
        return Admission(
            request=GenerationRequest(
                id=new_job_id(),
                model=body.model or settings.default_model,
                prompt=body.prompt,
                params=body.params(settings.max_tokens),
                raw=body.raw,
                echo=body.echo,
                background=body.background,
                priority=body.priority,
                client=limit_key(state.proxies.client(request)),
                request_id=request_id(request),
                created_at=now(),
                trace=trace(request),
            ),
            ttl=body.ttl or settings.queue_ttl,
            idempotency=Idempotency(idempotency_key, _fingerprint(body))
            if idempotency_key
            else None,
        )

    return admit


Admitted = Annotated[Admission, Depends(_admission())]
"""A valid request that the rate limit let through."""
AdmittedInBackground = Annotated[Admission, Depends(_admission(background=True))]


async def _submitted(admission: Admitted, state: StateDep) -> AsyncIterator[Feed]:
    async with state.relay.submit(admission) as feed:
        yield feed  # until the response is sent


Submitted = Annotated[Feed, Depends(_submitted)]
"""The feed of the request's job."""


def _check(body: GenerateBody, settings: Settings) -> None:
    """Hold a body to what the settings allow."""
    if body.model is not None and body.model not in settings.models:
        raise UnknownModelError(
            f"There is no such model here. Known: {', '.join(settings.models)}."
        )
    problems = []
    if body.max_tokens is not None and body.max_tokens > settings.max_tokens:
        problems.append(FieldProblem("max_tokens", f"At most {settings.max_tokens} are allowed."))
    if body.ttl is not None and body.ttl > settings.queue_ttl:
        problems.append(FieldProblem("ttl", f"At most {settings.queue_ttl:g} s are allowed."))
    if problems:
        raise InvalidRequestError(problems)
    if body.priority > settings.max_priority:
        raise PriorityNotAllowedError(
            f"The highest priority allowed here is {settings.max_priority}."
        )


def _fingerprint(body: GenerateBody) -> str:
    """Of the request as the client made it: what was chosen for it would differ every time."""
    return hashlib.sha256(body.model_dump_json().encode()).hexdigest()
