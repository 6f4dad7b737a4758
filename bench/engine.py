"""The same engine with nothing around it: no HTTP, no queue, no Redis."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence

import torch

from bench.measure import Stream
from shared.catalog import load_catalog
from shared.job import GenerationRequest, SamplingParams
from shared.settings import Settings
from worker.engine.base import EngineRequest
from worker.models import LoadedModel, transformers_loader


def load(settings: Settings) -> LoadedModel:
    torch.set_num_threads(settings.threads or os.cpu_count() or 1)
    alone = settings.model_copy(update={"prefix_cache_mb": 0})  # rounds repeat their prompts
    return transformers_loader(load_catalog(alone), alone)(alone.default_model)


def stream_all(
    model: LoadedModel, prompts: Sequence[str], max_tokens: int, *, raw: bool = False
) -> list[Stream]:
    """Generate for each prompt, all at once, prompts as text like the service gets them."""
    params = SamplingParams(max_tokens=max_tokens, temperature=0, seed=0)
    streams: dict[str, Stream] = {}
    for i, prompt in enumerate(prompts):
        request = GenerationRequest(
            id=str(i),
            model=model.name,
            prompt=prompt,
            params=params,
            raw=raw,
            created_at=time.time(),
        )
        streams[request.id] = Stream(started=time.perf_counter())
        prompt_ids = model.prompts.encode(request)
        model.engine.add(EngineRequest(request.id, prompt_ids, params))
    while model.engine.has_work:
        for output in model.engine.step():
            stream = streams[output.id]
            stream.tokens += len(output.ids)
            if output.text:
                stream.arrivals.append(time.perf_counter())
    return list(streams.values())
