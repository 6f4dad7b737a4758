"""From a body to a job that may be submitted: everything that is checked before Redis decides."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Final

from fastapi import Depends, Header
from starlette.requests import Request

from api.bounds import prompt_tokens_at_most
from api.caller import Caller
from api.context import held, request_id, trace
from api.deadline import in_time
from api.draft import Draft
from api.errors import (
    FieldProblem,
    InvalidRequestError,
    PriorityNotAllowedError,
    StoppingError,
    UnsupportedMediaTypeError,
    WebhookNotAllowedError,
)
from api.feed import Feed
from api.relay import Admission
from api.schemas import GenerateBody
from api.state import State, state_of
from api.webhooks import Webhooks
from shared.allotment import Allotment
from shared.errors import UnknownModelError
from shared.job import GenerationRequest, new_job_id, now
from shared.queue import IDEMPOTENCY_TTL, Idempotency
from shared.settings import Settings

_KEY: Final = Header(
    pattern=r"^[!-~]{1,255}$",
    description="Your name for this request, of visible ASCII characters. Sent again with the same "
    f"name within {IDEMPOTENCY_TTL // 3600} hours, the request returns the same job.",
)


async def json_only(request: Request) -> None:
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type != "application/json":
        raise UnsupportedMediaTypeError


JSON_ONLY: Final = [Depends(json_only)]
"""For routes: says so before the body is looked at."""


def known_model(name: str | None, models: Sequence[str]) -> str:
    """The model that a request names; without a name, the first of those that it may use.

    Raises:
        UnknownModelError: there is none. What a key may not use is as if it were not.
    """
    if not models or name not in (None, *models):
        known = ", ".join(models) or "none"
        raise UnknownModelError(f"There is no such model here. Known: {known}.")
    return name or models[0]


IdempotencyKey = Annotated[str | None, _KEY]


async def admit_all(
    drafts: Sequence[Draft],
    request: Request,
    state: State,
    caller: Caller,
    idempotency_key: str | None,
) -> list[Admission]:
    """Validate first and count after: a request that can't be served costs no permit.

    Grammars are the exception: to examine one takes milliseconds, or two seconds if it means to.

    Raises:
        StoppingError: this process takes nothing new.
        UnknownModelError: and the others that `api.openapi.ADMISSION_PROBLEMS` names.
    """
    if state.relay.draining:
        raise StoppingError("This process is stopping and takes no new requests.")
    models = await state.served.to(caller, [draft.model for draft in drafts])
    for draft in drafts:
        _check(draft, state.settings, caller, models)
        if draft.webhook_url:
            _check_webhook(draft, state.webhooks)
    async with in_time():
        await state.limits.take(request, caller)
    for draft in drafts:  # what takes more than a look, only of those who may
        if draft.params.grammar is not None:
            await state.grammars.check(draft.params.grammar)
    return [
        Admission(
            request=_job(draft, request, caller, models),
            ttl=draft.ttl or state.settings.queue_ttl,
            idempotency=_idempotency(idempotency_key, number, draft),
            max_in_flight=caller.allowance.max_in_flight,
            allotment=_allotment(draft, state.settings, caller),
        )
        for number, draft in enumerate(drafts)
    ]


async def admit(
    request: Request,
    body: GenerateBody,
    idempotency_key: str | None,
    *,
    background: bool = False,
) -> Admission:
    """A valid request that the rate limit let through.

    Called by endpoints, which do not depend on it: FastAPI takes a third of a millisecond to find
    out what a tree of dependencies wants.

    `background`: whatever the body says, the job does not need to be followed.

    Raises as `admit_all`.
    """
    state = state_of(request)
    if background:
        body = body.model_copy(update={"background": True})
    draft = body.draft(state.settings.max_tokens)
    [admission] = await admit_all([draft], request, state, request.state.caller, idempotency_key)
    return admission


async def submitted(request: Request, body: GenerateBody, idempotency_key: str | None) -> Feed:
    """The feed of the request's job. Raises as `admit` and `Relay.submit`."""
    admission = await admit(request, body, idempotency_key)
    relay = state_of(request).relay
    return await held(request).enter_async_context(relay.submit(admission))


def _job(
    draft: Draft, request: Request, caller: Caller, models: Sequence[str]
) -> GenerationRequest:
    return GenerationRequest(
        id=new_job_id(),
        model=known_model(draft.model, models),
        prompt=draft.prompt,
        messages=draft.messages,
        prompt_ids=draft.prompt_ids,
        params=draft.params,
        raw=draft.raw,
        echo=draft.echo,
        background=draft.background,
        priority=draft.priority,
        client=caller.client,
        key=caller.key,
        note=draft.note,
        webhook_url=draft.webhook_url,
        request_id=request_id(request),
        created_at=now(),
        trace=trace(request),
    )


def _idempotency(key: str | None, number: int, draft: Draft) -> Idempotency | None:
    """A request that becomes several jobs has a name for each."""
    if key is None:
        return None
    # Clients' keys have no blanks, so none can be another's second job.
    return Idempotency(f"{key} {number}" if number else key, draft.fingerprint)


def _allotment(draft: Draft, settings: Settings, caller: Caller) -> Allotment | None:
    daily = caller.allowance.daily_tokens
    if daily is None:
        return None
    prompt = prompt_tokens_at_most(draft, settings.max_prompt_tokens)
    return Allotment(daily, reserved=prompt + draft.params.max_tokens)


def _check_webhook(draft: Draft, webhooks: Webhooks | None) -> None:
    if webhooks is None:
        raise WebhookNotAllowedError("This service delivers no webhooks.")
    if not draft.background:
        raise InvalidRequestError([FieldProblem("webhook_url", "Only for background jobs.")])
    webhooks.destinations.check(draft.webhook_url)


def _check(draft: Draft, settings: Settings, caller: Caller, models: Sequence[str]) -> None:
    """Hold a draft to what the settings allow, and the caller's key, which may use `models`."""
    known_model(draft.model, models)
    problems = []
    if draft.params.max_tokens > settings.max_tokens:
        problems.append(FieldProblem("max_tokens", f"At most {settings.max_tokens} are allowed."))
    if draft.ttl is not None and draft.ttl > settings.queue_ttl:
        problems.append(FieldProblem("ttl", f"At most {settings.queue_ttl:g} s are allowed."))
    if problems:
        raise InvalidRequestError(problems)
    highest = caller.allowance.max_priority
    highest = settings.max_priority if highest is None else highest
    if draft.priority > highest:
        raise PriorityNotAllowedError(f"The highest priority allowed here is {highest}.")
