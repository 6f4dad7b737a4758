"""OpenAI's endpoints: chat completions, completions, models."""

from __future__ import annotations

from typing import Annotated, Any, Final, NamedTuple

from fastapi import APIRouter, Depends, Path, Request, Response

from api.admission import IdempotencyKey, json_only
from api.caller import CallerDep
from api.context import held
from api.deps import StateDep
from api.openai.chat_body import ChatBody
from api.openai.completion_body import CompletionBody
from api.openai.exchange import JOBS_HEADER, answer, submit
from api.openai.feeds import Choices
from api.openai.views import ModelObject, ModelObjects
from api.openai.voices import ChatVoice, CompletionVoice
from api.openapi import ADMISSION_PROBLEMS, Responses, openai_errors, reference
from api.streams import EVENT_STREAM
from shared.errors import UnknownModelError

router = APIRouter(prefix="/v1", tags=["OpenAI"])

_FAILURES: Final = (
    "prompt_too_long",
    "invalid_prompt",
    "cancelled",
    "job_expired",
    "generation_failed",
    "worker_lost",
    "expired",
    "model_unavailable",
)
"""Codes of what can happen to a job before it has said anything."""


def _answers(path: str, whole: str, chunk: str, *codes: str) -> Responses:
    answered: dict[str, Any] = {
        "description": "The whole response, or, with `stream`, chunks until `[DONE]`. Those of "
        "a single job are numbered: a stream that broke off goes on at `GET /jobs/{id}/events` "
        "behind the last number.",
        "headers": {
            JOBS_HEADER: {
                "description": "The jobs of the request, in the order of its choices.",
                "schema": {"type": "string"},
            }
        },
        "content": {
            "application/json": {"schema": reference(whole)},
            EVENT_STREAM: {
                "itemSchema": {
                    "type": "object",
                    "required": ["data"],
                    "properties": {
                        "id": {"type": "string"},
                        "data": {"type": "string", "contentMediaType": "application/json"},
                    },
                },
                "example": f"id: 3\ndata: {chunk}\n\ndata: [DONE]\n\n",
            },
        },
    }
    return {200: answered} | openai_errors(path, *ADMISSION_PROBLEMS, *_FAILURES, *codes)


class _Chat(NamedTuple):
    body: ChatBody
    choices: Choices


async def _chat(
    request: Request,
    _: Annotated[None, Depends(json_only)],
    body: ChatBody,
    state: StateDep,
    caller: CallerDep,
    idempotency_key: IdempotencyKey = None,
) -> _Chat:
    drafts = body.drafts(state.settings)
    submitted = submit(drafts, request, state, caller, idempotency_key)
    return _Chat(body, await held(request).enter_async_context(submitted))


@router.post(
    "/chat/completions",
    summary="Answer a conversation",
    response_class=Response,
    responses=_answers(
        "/v1/chat/completions",
        "ChatCompletion",
        '{"id":"chatcmpl-0123456789abcdef0123456789abcdef","object":"chat.completion.chunk",'
        '"created":1767225600,"model":"smollm2-135m","choices":[{"index":0,"delta":'
        '{"content":"The"},"finish_reason":null,"logprobs":null}]}',
        "no_chat_template",
    ),
)
async def chat_completions(
    request: Request, asked: Annotated[_Chat, Depends(_chat)], state: StateDep
) -> Response:
    """As OpenAI's of the same name. Fields that are not served are refused by name."""
    voice = ChatVoice(logprobs=bool(asked.body.logprobs))
    return await answer(request, state, asked.body, asked.choices, voice)


class _Completion(NamedTuple):
    body: CompletionBody
    choices: Choices


async def _completion(
    request: Request,
    _: Annotated[None, Depends(json_only)],
    body: CompletionBody,
    state: StateDep,
    caller: CallerDep,
    idempotency_key: IdempotencyKey = None,
) -> _Completion:
    drafts = body.drafts(state.settings)
    submitted = submit(drafts, request, state, caller, idempotency_key)
    return _Completion(body, await held(request).enter_async_context(submitted))


@router.post(
    "/completions",
    summary="Continue a text",
    response_class=Response,
    responses=_answers(
        "/v1/completions",
        "Completion",
        '{"id":"cmpl-0123456789abcdef0123456789abcdef","object":"text_completion",'
        '"created":1767225600,"model":"smollm2-135m","choices":[{"index":0,"text":" there",'
        '"finish_reason":null,"logprobs":null}]}',
    ),
)
async def completions(
    request: Request, asked: Annotated[_Completion, Depends(_completion)], state: StateDep
) -> Response:
    """As OpenAI's of the same name; the prompt goes to the model without its chat template."""
    body, choices = asked
    voice = CompletionVoice(logprobs=body.logprobs, choices=len(choices.job_ids))
    return await answer(request, state, body, choices, voice)


@router.get("/models", summary="Models served")
async def list_models(state: StateDep, caller: CallerDep) -> ModelObjects:
    names = caller.models(await state.served.names())
    return ModelObjects(data=[ModelObject(id=name) for name in names])


@router.get("/models/{model}", summary="One model", responses=openai_errors("", "unknown_model"))
async def retrieve_model(
    model: Annotated[str, Path(description="Its id.")], state: StateDep, caller: CallerDep
) -> ModelObject:
    known = caller.models(await state.served.names())
    if model not in known:
        raise UnknownModelError(f"There is no such model here. Known: {', '.join(known)}.")
    return ModelObject(id=model)
