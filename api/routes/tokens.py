"""Prompts counted and taken apart as their model does it, without a place in its batch."""

from __future__ import annotations

from typing import Annotated, Final

from fastapi import APIRouter, Depends, Request

from api.admission import json_only, known_model
from api.caller import CallerDep
from api.deps import StateDep
from api.disconnect import while_connected
from api.openapi import Responses, problems
from api.token_bodies import DetokenizeBody, TextView, TokenizeBody, TokensView

router = APIRouter(tags=["tokens"])

_REFUSALS: Final[Responses] = problems(
    "invalid_json",
    "invalid_prompt",
    "unknown_model",
    "request_timeout",
    "body_too_large",
    "unsupported_media_type",
    "invalid_request",
    "too_many_in_flight",
    "generation_failed",
    "model_unavailable",
    "no_worker",
    "queue_full",
    "redis_unavailable",
)


@router.post(
    "/tokenize",
    summary="The tokens of a prompt or a conversation",
    responses=_REFUSALS | problems("invalid_json", "invalid_prompt", "no_chat_template"),
)
async def tokenize(
    request: Request,
    _: Annotated[None, Depends(json_only)],
    body: TokenizeBody,
    state: StateDep,
    caller: CallerDep,
) -> TokensView:
    """As a generation of the same fields would give them to the model, and as it counts them."""
    models = await state.served.to(caller, [body.model])
    question = body.question(known_model(body.model, models))
    tokens = await while_connected(request, state.tokenizers.tokens(question, caller.client))
    return TokensView.of(tokens)


@router.post("/detokenize", summary="The text of tokens", responses=_REFUSALS)
async def detokenize(
    request: Request,
    _: Annotated[None, Depends(json_only)],
    body: DetokenizeBody,
    state: StateDep,
    caller: CallerDep,
) -> TextView:
    models = await state.served.to(caller, [body.model])
    question = body.question(known_model(body.model, models))
    text = await while_connected(request, state.tokenizers.text(question, caller.client))
    return TextView(text=text)
