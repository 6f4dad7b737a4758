"""`python -m bench.grammars`: do all responses fit their schemas, and what do grammars cost?"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from statistics import median

from jsonschema import Draft202012Validator, FormatChecker

from bench import engine
from bench.schemas import SCHEMAS
from shared.catalog import load_catalog
from shared.configuration import load_settings
from shared.job import GenerationRequest, Grammar, GrammarKind, SamplingParams
from worker.engine.base import EngineRequest
from worker.model_files import ensure_model
from worker.models import LoadedModel

_LONG = {
    "type": "object",
    "properties": {f"line{i}": {"type": "string", "minLength": 200} for i in range(9)},
    "required": [f"line{i}" for i in range(9)],
}
"""Nothing that fits it ends within the tokens that are measured."""


def main() -> None:
    arguments = _arguments()
    settings = load_settings()
    settings.prepare_data_dir()
    for name in settings.models:
        ensure_model(load_catalog(settings)[name], settings, lambda *_: None)
    model = engine.load(settings)
    if arguments.seeds:
        _report_fit(model, range(arguments.seeds), arguments.tokens)
    if arguments.rounds:
        _report_cost(model, arguments.rounds, arguments.steps)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.grammars", description=__doc__)
    parser.add_argument("--seeds", type=int, default=10, help="responses for each schema")
    parser.add_argument("--tokens", type=int, default=1024, help="max_tokens of each")
    parser.add_argument("--rounds", type=int, default=5, help="of the measurement at batch 8")
    parser.add_argument("--steps", type=int, default=64, help="tokens of each stream in it")
    return parser.parse_args()


def requests(model: LoadedModel, seeds: Sequence[int], max_tokens: int) -> list[EngineRequest]:
    """A request for each schema and seed, named `schema seed`; seed 0 is greedy."""
    made = []
    for name, (prompt, schema) in SCHEMAS.items():
        for seed in seeds:
            params = SamplingParams(
                max_tokens=max_tokens,
                temperature=0.8 if seed else 0,
                seed=seed,
                frequency_penalty=2,  # else a small model nests without end where it may
                grammar=Grammar(GrammarKind.JSON_SCHEMA, json.dumps(schema)),
            )
            ids = _encode(model, f"{prompt} Answer in JSON.", params)
            made.append(EngineRequest(f"{name} {seed}", ids, params))
    return made


def complaints(texts: dict[str, str]) -> list[str]:
    """What is wrong with responses, by the names that `requests` gave them."""
    found = []
    for name, text in texts.items():
        schema = SCHEMAS[name.split()[0]][1]
        Draft202012Validator.check_schema(schema)
        validator = Draft202012Validator(schema, format_checker=FormatChecker())
        try:
            errors = [error.message for error in validator.iter_errors(json.loads(text))]
        except ValueError as error:
            errors = [str(error)]
        found += [f"{name}: {error} in {text}" for error in errors]
    return found


def generate(model: LoadedModel, wanted: Sequence[EngineRequest]) -> dict[str, str]:
    """Run requests to their ends, as many at once as fit; the texts by name."""
    waiting, texts = list(wanted), {request.id: "" for request in wanted}
    while waiting or model.engine.has_work:
        while waiting and model.engine.free_slots:
            model.engine.add(waiting.pop(0))
        for output in model.engine.step():
            texts[output.id] += output.text
    return texts


def _report_fit(model: LoadedModel, seeds: Sequence[int], max_tokens: int) -> None:
    wanted = requests(model, seeds, max_tokens)
    began = time.perf_counter()
    texts = generate(model, wanted)
    seconds = time.perf_counter() - began
    found = complaints(texts)
    for complaint in found:
        print(complaint)
    wrong = {complaint.partition(":")[0] for complaint in found}
    print(f"{len(texts) - len(wrong)} of {len(texts)} responses fit, made in {seconds:.0f} s.")


def _report_cost(model: LoadedModel, rounds: int, tokens: int, batch: int = 8) -> None:
    """A batch without, with and half with a grammar, in turn.

    Seconds of CPU tell more than the clock where others use the machine; with one thread of torch,
    since several wait for each other in a loop.
    """
    kinds = {"free": 0, "half constrained": batch // 2, "constrained": batch}
    rates: dict[str, list[tuple[float, float]]] = {kind: [] for kind in kinds}
    for _ in range(rounds + 1):
        for kind, constrained in kinds.items():
            rates[kind].append(_rate(model, batch, constrained, tokens))
    print(f"\nTokens at batch {batch}, medians of {rounds} rounds:")
    for kind, measured in rates.items():
        pairs = list(zip(measured[1:], rates["free"][1:], strict=True))
        wall, cpu = (median(each[i] for each in measured[1:]) for i in (0, 1))
        of_wall, of_cpu = (median(each[i] / free[i] for each, free in pairs) for i in (0, 1))
        print(
            f"{kind}: {wall:.1f} a second ({of_wall:.1%} of free), "
            f"{cpu:.1f} a second of CPU ({of_cpu:.1%})"
        )


def _rate(model: LoadedModel, batch: int, constrained: int, tokens: int) -> tuple[float, float]:
    """Of decoding, from the first step after all have begun: by the clock, and by CPU."""
    for number in range(batch):
        schema = Grammar(GrammarKind.JSON_SCHEMA, json.dumps(_LONG))
        params = SamplingParams(
            max_tokens=tokens,
            temperature=0,
            seed=0,
            grammar=schema if number < constrained else None,
            logit_bias={} if number < constrained else {2: -100},  # so that none ends early
        )
        prompt_ids = _encode(model, "Tell a long story.", params)
        model.engine.add(EngineRequest(str(number), prompt_ids, params))
    begun: set[str] = set()
    while len(begun) < batch:
        begun |= {output.id for output in model.engine.step()}
    began, used, made = time.perf_counter(), time.process_time(), 0
    while model.engine.has_work:
        made += sum(len(output.ids) for output in model.engine.step())
    return made / (time.perf_counter() - began), made / (time.process_time() - used)


def _encode(model: LoadedModel, prompt: str, params: SamplingParams) -> tuple[int, ...]:
    request = GenerationRequest(
        id="", model=model.name, prompt=prompt, params=params, created_at=time.time()
    )
    return model.prompts.encode(request)


if __name__ == "__main__":
    main()
