"""`python -m bench.grammar_libraries`: what xgrammar, llguidance and outlines-core make of schemas.

For decision 26. In an environment of its own that has all three beside the worker's libraries;
a schema that keeps a library busy for long is given up by the shell's `timeout`.
"""

from __future__ import annotations

import argparse
import importlib
import json
import random
import time
from collections.abc import Callable, Iterator
from statistics import median
from typing import Any, Final

import numpy as np

from shared.configuration import load_settings
from shared.grammars import matcher
from shared.job import Grammar, GrammarKind
from worker.engine.decoder import PlainDecoder

HARD: Final[dict[str, dict[str, Any]]] = {
    "person": {
        "type": "object",
        "properties": {
            "name": {"type": "string", "maxLength": 40},
            "age": {"type": "integer", "minimum": 0, "maximum": 120},
            "tags": {"type": "array", "items": {"enum": ["a", "b", "c"]}, "maxItems": 3},
            "zip": {"type": "string", "pattern": "^[0-9]{5}$"},
        },
        "required": ["name", "age", "tags", "zip"],
        "additionalProperties": False,
    },
    "recursion": {
        "$defs": {
            "n": {
                "type": "object",
                "properties": {"next": {"anyOf": [{"type": "null"}, {"$ref": "#/$defs/n"}]}},
                "required": ["next"],
                "additionalProperties": False,
            }
        },
        "$ref": "#/$defs/n",
    },
    "enum of 5,000": {"enum": [f"value{i}" for i in range(5000)]},
    "maxLength 100,000": {"type": "string", "maxLength": 100_000},
    "minimum above maximum": {"type": "integer", "minimum": 5, "maximum": 3},
    "not": {"not": {"type": "string"}},
    "uniqueItems": {"type": "array", "items": {"type": "integer"}, "uniqueItems": True},
    "remote reference": {"$ref": "http://127.0.0.1:9/x.json"},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("library", choices=["llguidance", "xgrammar", "outlines_core"])
    parser.add_argument("schemas", nargs="*", default=list(HARD))
    arguments = parser.parse_args()
    transformers = importlib.import_module("transformers")
    settings = load_settings()
    tokenizer = transformers.AutoTokenizer.from_pretrained(
        settings.models_dir / settings.default_model
    )
    compile_ = globals()[f"_{arguments.library}"](tokenizer)
    for name in arguments.schemas:
        began = time.perf_counter()
        try:
            masks = compile_(json.dumps(HARD[name]))
        except Exception as error:  # noqa: BLE001  (each library has its own)
            print(f"{name}: refused: {str(error).strip()[:90]}")
            continue
        seconds = time.perf_counter() - began
        taken = list(masks)
        middle = f"{median(taken) * 1e6:.0f} us" if taken else "none"
        print(f"{name}: compiled in {seconds * 1e3:.1f} ms, mask p50 {middle}, {len(taken)} masks")


def _llguidance(tokenizer: Any) -> Callable[[str], Iterator[float]]:
    from worker.engine.vocabulary import vocabulary_of  # noqa: PLC0415

    vocabulary = vocabulary_of(tokenizer, PlainDecoder(tokenizer), [2], len(tokenizer))
    tokens = vocabulary.tokens

    def compile_(schema: str) -> Iterator[float]:
        start = matcher(Grammar(GrammarKind.JSON_SCHEMA, schema), tokens)
        bits = np.zeros((len(tokenizer) + 31) // 32, dtype=np.int32)
        return _walk(
            bits,
            lambda: start.unsafe_compute_mask_ptr(bits.ctypes.data, bits.nbytes),
            lambda token_id: start.consume_token(token_id) and not start.is_stopped(),
        )

    return compile_


def _xgrammar(tokenizer: Any) -> Callable[[str], Iterator[float]]:
    xgrammar = importlib.import_module("xgrammar")
    info = xgrammar.TokenizerInfo.from_huggingface(tokenizer, vocab_size=len(tokenizer))
    compiler = xgrammar.GrammarCompiler(info, max_threads=2, cache_enabled=False)

    def compile_(schema: str) -> Iterator[float]:
        start = xgrammar.GrammarMatcher(compiler.compile_json_schema(schema, any_whitespace=False))
        bits = xgrammar.allocate_token_bitmask(1, len(tokenizer))
        return _walk(
            bits[0].numpy(),
            lambda: start.fill_next_token_bitmask(bits),
            lambda token_id: start.accept_token(token_id) and not start.is_terminated(),
        )

    return compile_


def _outlines_core(tokenizer: Any) -> Callable[[str], Iterator[float]]:
    core = importlib.import_module("outlines_core")
    by_bytes: dict[bytes, list[int]] = {}
    from worker.engine.vocabulary import vocabulary_of  # noqa: PLC0415

    known = vocabulary_of(tokenizer, PlainDecoder(tokenizer), [2], len(tokenizer))
    for token_id in range(len(tokenizer)):
        if not known.tokens.is_special_token(token_id):
            by_bytes.setdefault(known.raw(token_id), []).append(token_id)
    vocabulary = core.Vocabulary(2, by_bytes)

    def compile_(schema: str) -> Iterator[float]:
        core.Index(core.json_schema.build_regex_from_schema(schema), vocabulary)
        return iter(())  # its masks are a table by then

    return compile_


def _walk(bits: Any, compute: Callable[[], Any], accept: Callable[[int], bool]) -> Iterator[float]:
    """A draw among what is allowed, until the end; the seconds of each mask."""
    dice = random.Random(1)
    for _ in range(150):
        began = time.perf_counter()
        compute()
        yield time.perf_counter() - began
        allowed = np.flatnonzero(np.unpackbits(bits.view(np.uint8), bitorder="little"))
        if not len(allowed):
            return
        token_id = int(dice.choice(allowed))
        if token_id == 2 or not accept(token_id):
            return


if __name__ == "__main__":
    main()
