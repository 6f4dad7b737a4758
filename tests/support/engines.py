"""Driving an engine by hand."""

import copy
from collections.abc import Iterable, Sequence
from typing import Any

from shared.errors import MiniVaultError
from shared.events import FinishReason, TokenLogprobs
from shared.grammars import byte_tokenizer
from shared.job import SamplingParams
from tests.support.kernels import native_forward
from worker.engine import attention
from worker.engine.base import Engine, EngineRequest
from worker.engine.eager import EagerForward
from worker.engine.transformers import TransformersEngine
from worker.engine.vocabulary import Vocabulary


def greedy(max_tokens: int, **changes: Any) -> SamplingParams:
    return SamplingParams(**{"max_tokens": max_tokens, "temperature": 0, "seed": 0, **changes})


def sampled(max_tokens: int, seed: int, **changes: Any) -> SamplingParams:
    return SamplingParams(**{"max_tokens": max_tokens, "temperature": 1.0, "seed": seed, **changes})


def request(name: str, ids: Iterable[int], params: SamplingParams, **more: Any) -> EngineRequest:
    return EngineRequest(id=name, prompt_ids=tuple(ids), params=params, **more)


def slot_engine(model: Any, decoder: Any, **changes: Any) -> TransformersEngine:
    """An engine around a copy of `model` that uses our attention."""
    options = options_of(model, decoder, **changes)
    forward = eager_forward(model, slots=options["slots"], context=options["context"])
    return TransformersEngine(forward, **options)


def native_engine(
    model: Any, decoder: Any, *, threads: int = 1, **changes: Any
) -> TransformersEngine:
    """An engine on our kernels, which must take `model`."""
    options = options_of(model, decoder, **changes)
    forward = native_forward(
        model, slots=options["slots"], context=options["context"], threads=threads
    )
    return TransformersEngine(forward, **options)


def options_of(model: Any, decoder: Any, **changes: Any) -> dict[str, Any]:
    """What an engine is given beside its forward pass."""
    return {
        "decoder": decoder,
        "vocabulary": Vocabulary(byte_tokenizer, decoder),
        "eos_ids": [model.generation_config.eos_token_id],
        "slots": 8,
        "context": 256,
        "prefill_chunk": 32,
        "prefix_bytes": 0,
        **changes,
    }


def eager_forward(model: Any, *, slots: int, context: int) -> EagerForward:
    """A copy of `model` on our attention."""
    attention.register()
    model = copy.deepcopy(model)
    model.set_attn_implementation(attention.NAME)
    return EagerForward(model, slots=slots, context=context)


class Collected:
    """What an engine has put out for one request."""

    def __init__(self) -> None:
        self.ids: list[int] = []
        self.text = ""
        self.pieces: list[str] = []
        self.finish_reason: FinishReason | None = None
        self.error: MiniVaultError | None = None
        self.logprobs: list[TokenLogprobs] = []


def run(
    engine: Engine, requests: Sequence[EngineRequest], *, join_every: int = 0
) -> dict[str, Collected]:
    """Run requests to their ends; one joins every `join_every` steps, or all at once."""
    results = {request.id: Collected() for request in requests}
    waiting = list(requests)
    steps = 0
    while waiting or engine.has_work:
        due = not join_every or steps % join_every == 0
        while waiting and due and engine.free_slots:
            engine.add(waiting.pop(0))
            due = not join_every
        for output in engine.step() if engine.has_work else ():
            result = results[output.id]
            assert result.finish_reason is None, "an output after the end"
            result.ids.extend(output.ids)
            result.text += output.text
            if output.text:
                result.pieces.append(output.text)
            result.finish_reason = output.finish_reason
            result.error = output.error
            result.logprobs.extend(output.logprobs)
        steps += 1
    return results


def reference(model: Any, prompt_ids: Sequence[int], max_tokens: int) -> list[int]:
    """transformers' own greedy answer, without its end-of-sequence token."""
    import torch

    inputs = torch.tensor([list(prompt_ids)])
    output = model.generate(
        inputs,
        attention_mask=torch.ones_like(inputs),
        do_sample=False,
        max_new_tokens=max_tokens,
        pad_token_id=0,
    )
    ids = output[0, inputs.shape[1] :].tolist()
    eos = model.generation_config.eos_token_id
    return ids[: ids.index(eos)] if eos in ids else ids
