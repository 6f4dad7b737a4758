"""`python -m bench.sampling LIBRARY TOKENIZER`: what a step of 32 streams costs beside the model.

LIBRARY is a shared object with worker/engine/native/src/sampler.cpp in it, TOKENIZER the folder
of a converted model. On one thread; the best of some rounds, in microseconds a step.
"""

from __future__ import annotations

import ctypes
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Final

import torch
from transformers import AutoTokenizer

from shared.job import SamplingParams
from worker.engine.base import EngineRequest
from worker.engine.decoder import Decoder, LibraryDecoder, PlainDecoder, decoder_of
from worker.engine.native.library import load
from worker.engine.native.sampling import NativeSampler
from worker.engine.sampler import sample
from worker.engine.sequence import Sequence

_STREAMS: Final = 32
_ROUNDS: Final = 10
_VOCABULARY: Final = 49_152
_PROMPT: Final = 1000
_KINDS: Final[dict[str, dict[str, Any]]] = {
    "greedy": {"temperature": 0.0},
    "temperature": {},
    "top_k 50": {"top_k": 50},
    "top_k 500": {"top_k": 500},
    "top_p 0.9": {"top_p": 0.9},
    "top_k 50, top_p 0.95": {"top_k": 50, "top_p": 0.95},
    "min_p 0.05": {"min_p": 0.05},
    "repetition_penalty": {"repetition_penalty": 1.1},
}


def _sequences(decoder: Decoder, **params: Any) -> list[Sequence]:
    options = {"max_tokens": 10**6, "temperature": 0.8, **params}
    return [
        Sequence(
            EngineRequest(
                id=str(seed),
                prompt_ids=tuple(range(100, 100 + _PROMPT)),
                params=SamplingParams(seed=seed, **options),
            ),
            decoder=decoder,
            eos_ids={0},
            context=10**6,
        )
        for seed in range(_STREAMS)
    ]


def _best(work: Callable[[], object], prepare: Callable[[], object] = lambda: None) -> float:
    taken = []
    for _ in range(_ROUNDS):
        prepare()
        began = time.perf_counter()
        work()
        taken.append(time.perf_counter() - began)
    return min(taken) * 1e6


def _draws(library: ctypes.CDLL, decoder: Decoder) -> None:
    logits = torch.randn(_STREAMS, _VOCABULARY, generator=torch.Generator().manual_seed(0)) * 2.5
    logits[:, :300] += 2
    native = NativeSampler(library, rows=_STREAMS)
    changed = torch.empty_like(logits)
    for name, params in _KINDS.items():
        sequences = _sequences(decoder, **params)
        restore = partial(changed.copy_, logits)
        by_torch = _best(partial(sample, changed, sequences), restore)
        by_us = _best(partial(native.sample, changed, sequences), restore)
        print(f"{name:22} torch {by_torch:8.0f}   native {by_us:8.0f}")


def _accept(sequences: list[Sequence], ids: list[int]) -> None:
    for token_id in ids:
        for sequence in sequences:
            sequence.accept(token_id)


def _acceptance(decoders: dict[str, Decoder], ids: list[int]) -> None:
    kinds: dict[str, dict[str, Any]] = {
        "plain": {},
        "stop strings": {"stop": ("\nUser:", "END", "###")},
        "repetition_penalty": {"repetition_penalty": 1.1},
    }
    for name, params in kinds.items():
        for kind, decoder in decoders.items():
            sequences = _sequences(decoder, **params)
            taken = _best(partial(_accept, sequences, ids)) / len(ids)
            print(f"accept, {name:20} {kind:16} {taken:6.0f}")


def main(library: str, folder: str) -> None:
    torch.set_num_threads(1)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    ids = tokenizer(__doc__)["input_ids"]
    _draws(load(Path(library)), decoder_of(tokenizer))
    decoders: dict[str, Decoder] = {
        "transformers'": PlainDecoder(tokenizer),
        "the library's": LibraryDecoder(tokenizer.backend_tokenizer),
        "tokens of bytes": decoder_of(tokenizer),
    }
    _acceptance(decoders, ids)


if __name__ == "__main__":
    main(*sys.argv[1:])
