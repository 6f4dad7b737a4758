"""With the prefix cache every logit is the same bits as without, and less is computed."""

import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.support.bits import Noted
from tests.support.engines import greedy, native_engine, request, run, sampled, slot_engine
from tests.support.logits import tokens
from tests.support.models import (
    NATIVE,
    NoText,
    native_llama,
    tiny_gemma2,
    tiny_gemma3,
    tiny_gpt2,
    tiny_llama,
)
from worker.engine import speculation
from worker.engine.base import EngineRequest
from worker.engine.blocks import BLOCK
from worker.engine.cache import Step
from worker.engine.decoder import PlainDecoder
from worker.engine.transformers import TransformersEngine

Kind = tuple[Callable[..., TransformersEngine], Callable[[], Any]]
"""How an engine is made, and its model."""
EAGER: Kind = (slot_engine, tiny_llama)
OURS: Kind = (native_engine, native_llama)
TINY: dict[str, Kind] = {
    "llama": EAGER,
    "gpt2": (slot_engine, tiny_gpt2),
    "gemma3": (slot_engine, tiny_gemma3),
    "gemma2": (slot_engine, tiny_gemma2),
    **{f"our {name}": (native_engine, build) for name, build in NATIVE.items()},
}
either = pytest.mark.parametrize("kind", [EAGER, OURS], ids=["eager", "ours"])
PLENTY = 64 * 2**20


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def no_drafts(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is computed is counted."""
    monkeypatch.setattr(speculation, "room", lambda streams: 0)


class Watched:
    """An engine of which every drawn-from row of logits and every computed token is noted."""

    def __init__(self, kind: Kind, prefix_bytes: int, **options: Any) -> None:
        make, build = kind
        decoder = options.pop("decoder", NoText())
        self.engine = make(build(), decoder, eos_ids=[], prefix_bytes=prefix_bytes, **options)
        self.logits: dict[tuple[str, int], int] = {}
        self.computed = 0
        self.cached: dict[str, int] = {}
        """What was told for each request, once."""
        self.engine._forward = Noted(self.engine._forward, self._note)
        self._step = self.engine.step
        self.engine.step = self._noted_step

    def run(self, *requests: EngineRequest, join_every: int = 0) -> dict[str, list[int]]:
        found = run(self.engine, requests, join_every=join_every)
        return {name: result.ids for name, result in found.items()}

    def _note(self, steps: list[Step], logits: Any) -> None:
        running = {sequence.row: sequence for sequence in self.engine._running}
        self.computed += sum(len(step.tokens) for step in steps)
        drawn = [running[step.row] for step in steps if step.wanted]
        for sequence, row in zip(drawn, logits, strict=True):
            key = (sequence.id, sequence.generated)
            assert key not in self.logits, "a name twice"
            self.logits[key] = hash(row.numpy().tobytes())

    def _noted_step(self) -> Any:
        outputs = self._step()
        for output in outputs:
            assert output.id not in self.cached or not output.cached_tokens, "told twice"
            self.cached.setdefault(output.id, output.cached_tokens)
        return outputs


def conversations(engine: Watched, turns: int, join_every: int) -> None:
    """Several at once, each prompt being all that was said before and something new."""
    system = tokens(37, 0)
    said = {str(n): [*system, *tokens(5 * n, n)] for n in range(1, 7)}
    for turn in range(turns):
        requests = [
            request(
                f"{name} {turn}",
                ids,
                greedy(9 + int(name)) if int(name) % 2 else sampled(9 + int(name), seed=turn),
            )
            for name, ids in said.items()
        ]
        answers = engine.run(*requests, join_every=join_every)
        said = {
            name: [*ids, *answers[f"{name} {turn}"], *tokens(3, 99)] for name, ids in said.items()
        }


@pytest.mark.parametrize("kind", TINY)
@pytest.mark.parametrize("join_every", [0, 1, 3])
def test_conversations_are_the_same_to_the_bit(kind: str, join_every: int) -> None:
    without = Watched(TINY[kind], 0, slots=5)
    conversations(without, 4, join_every)
    block = Watched(TINY[kind], PLENTY, slots=5).engine._prefixes._block_bytes
    # With room for all, and with so little that what is used now drives out what was.
    for prefix_bytes in (PLENTY, 20 * block):
        engine = Watched(TINY[kind], prefix_bytes, slots=5)
        conversations(engine, 4, join_every)
        assert engine.logits == without.logits
        assert engine.engine.prefix_bytes <= prefix_bytes
        # What was told is what was not computed, but for what was computed to no avail.
        assert engine.computed + sum(engine.cached.values()) == without.computed
        if prefix_bytes == PLENTY:
            assert all(
                count >= 32 for name, count in engine.cached.items() if not name.endswith(" 0")
            )
            assert engine.computed < 0.6 * without.computed


@either
def test_random_load_stays_in_its_bound_and_is_never_wrong(kind: Kind) -> None:
    dice = random.Random(8)
    beginnings = [tokens(dice.randrange(1, 120), seed) for seed in range(6)]
    requests = [
        request(
            str(number),
            [*dice.choice(beginnings), *tokens(dice.randrange(1, 60), number)],
            greedy(dice.randrange(1, 60)),
            salt=dice.choice(["", "a"]),
        )
        for number in range(120)
    ]
    without = Watched(kind, 0)
    expected = without.run(*requests, join_every=2)
    for blocks in (1, 7, 40):
        engine = Watched(kind, 0)
        bound = blocks * engine.engine._prefixes._block_bytes
        engine = Watched(kind, bound)
        assert engine.engine.kv_bytes == without.engine.kv_bytes + bound
        assert engine.run(*requests, join_every=2) == expected
        assert engine.logits == without.logits
        assert 0 < engine.engine.prefix_bytes <= bound
        assert len(engine.engine._prefixes._index) <= blocks


@either
def test_of_a_repeated_prompt_the_last_token_is_computed(kind: Kind) -> None:
    engine = Watched(kind, PLENTY)
    prompt = tokens(5 * BLOCK, 1)
    engine.run(request("first", prompt, greedy(1)))
    assert engine.cached["first"] == 0
    engine.run(request("second", prompt, greedy(1)))
    assert engine.cached["second"] == 5 * BLOCK - 1
    engine.run(request("longer", [*prompt, 7], greedy(1)))
    assert engine.cached["longer"] == 5 * BLOCK
    engine.run(request("part", [*prompt[: 3 * BLOCK + 5], 8, 8], greedy(1)))
    assert engine.cached["part"] == 3 * BLOCK + 5
    engine.run(request("other", [8, *prompt[1:]], greedy(1)))
    assert engine.cached["other"] == 0


@either
def test_keys_share_nothing(kind: Kind) -> None:
    engine = Watched(kind, PLENTY)
    prompt = tokens(100, 1)
    for number, salt in enumerate(("", "key-1", "key-2")):
        engine.run(request(f"{number} first", prompt, greedy(40), salt=salt))
        assert engine.cached[f"{number} first"] == 0
        engine.run(request(f"{number} second", prompt, greedy(40), salt=salt))
        assert engine.cached[f"{number} second"] == 99


@either
@pytest.mark.parametrize("prefill_chunk", [32, 1000])
@pytest.mark.parametrize("others", [0, 1])
def test_prompts_that_come_together_share_what_the_first_one_computes(
    kind: Kind, prefill_chunk: int, others: int
) -> None:
    engine = Watched(kind, PLENTY, prefill_chunk=prefill_chunk)
    without = Watched(kind, 0, prefill_chunk=prefill_chunk)
    prompt = tokens(200, 1)
    requests = [request(f"alike {n}", [*prompt, n], greedy(3)) for n in range(5)]
    # With a stream that runs, prompts are computed in chunks.
    running = [request(f"other {n}", tokens(30, 7), greedy(60)) for n in range(others)]
    for each in (engine, without):
        each.run(*running, *requests, join_every=others)
    assert engine.logits == without.logits
    assert [engine.cached[f"alike {n}"] for n in range(5)] == [0, 192, 192, 192, 192]


@either
def test_a_cache_too_small_for_what_is_shared_holds_nobody_up(kind: Kind) -> None:
    small = 2 * Watched(kind, 0).engine._prefixes._block_bytes
    engine, without = Watched(kind, small), Watched(kind, 0)
    requests = [request(str(n), [*tokens(200, 1), n], greedy(3)) for n in range(5)]
    assert engine.run(*requests) == without.run(*requests)
    assert engine.logits == without.logits
    assert engine.cached["4"] == 2 * BLOCK


@either
def test_what_a_cancelled_request_has_computed_is_kept(kind: Kind) -> None:
    """Also where its row was moved into another one's place before."""
    engine = Watched(kind, PLENTY, slots=3)
    prompts = {name: tokens(50, seed) for seed, name in enumerate("abc")}
    for name, ids in prompts.items():
        engine.engine.add(request(name, ids, greedy(100)))
    said: dict[str, list[int]] = {name: [] for name in prompts}
    for _ in range(40):
        for output in engine.engine.step():
            said[output.id] += output.ids
    for name in "abc":
        engine.engine.cancel(name)
    without = Watched(kind, 0)
    for name, ids in prompts.items():
        whole = [*ids, *said[name], 5]
        again = request(f"{name} again", whole, greedy(4))
        assert engine.run(again) == without.run(again)
        assert engine.cached[f"{name} again"] == (len(whole) - 2) // BLOCK * BLOCK
    assert all(engine.logits[key] == bits for key, bits in without.logits.items())


@either
def test_a_resumed_request_finds_prompt_and_output_and_tells_of_the_prompt_alone(
    kind: Kind,
) -> None:
    engine = Watched(kind, PLENTY)
    prompt = tokens(40, 1)
    whole = engine.run(request("whole", prompt, sampled(60, seed=3)))["whole"]
    computed = engine.computed
    rest = engine.run(
        request("rest", prompt, sampled(60, seed=3), generated_ids=tuple(whole[:50]))
    )["rest"]
    assert whole[:50] + rest == whole
    assert engine.computed - computed == 90 - 89 + 9
    assert engine.cached["rest"] == 40


@pytest.mark.parametrize("make", [slot_engine, native_engine])
def test_the_real_model_goes_on_with_what_it_has_said(
    real_model_folder: str, make: Callable[..., TransformersEngine]
) -> None:
    """A chat of three turns: text and bits as without, most of each prompt from the cache."""
    tokenizer = AutoTokenizer.from_pretrained(real_model_folder)
    model = AutoModelForCausalLM.from_pretrained(real_model_folder)
    questions = ("Name three colours.", "And three animals?", "Which of these is red?")

    def chat(engine: Watched) -> tuple[list[list[int]], list[int]]:
        messages: list[dict[str, str]] = []
        said, known = [], []
        for number, question in enumerate(questions):
            messages.append({"role": "user", "content": question})
            ids: Sequence[int] = tokenizer.apply_chat_template(
                messages, add_generation_prompt=True, return_dict=False
            )
            name = str(number)
            answer = engine.run(request(name, ids, greedy(24)))[name]
            messages.append({"role": "assistant", "content": tokenizer.decode(answer)})
            said.append(answer)
            known.append(engine.cached[name] * 100 // len(ids))
        return said, known

    kind: Kind = (make, lambda: model)
    options = {"decoder": PlainDecoder(tokenizer), "context": 512, "slots": 2}
    without, engine = Watched(kind, 0, **options), Watched(kind, PLENTY, **options)
    expected, _ = chat(without)
    said, known = chat(engine)
    assert said == expected
    assert engine.logits == without.logits
    assert known[0] == 0
    assert min(known[1:]) > 40
