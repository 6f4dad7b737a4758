"""The real model held to grammars: what comes out fits, and nobody beside it notices."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from bench.grammars import complaints, generate, requests
from shared.errors import InvalidGrammarError, InvalidLogitBiasError
from shared.events import FinishReason
from shared.job import GenerationRequest, Grammar, GrammarKind, now
from tests.support.engines import greedy, request, run, sampled, slot_engine
from worker.engine.decoder import PlainDecoder
from worker.engine.vocabulary import vocabulary_of
from worker.models import ChatPrompts, LoadedModel


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Other tests run beside these: OpenMP's threads would wait for each other's cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def tokenizer(real_model_folder: str) -> Any:
    return AutoTokenizer.from_pretrained(real_model_folder)


@pytest.fixture(scope="module")
def model(real_model_folder: str, tokenizer: Any) -> LoadedModel:
    decoder = PlainDecoder(tokenizer)
    engine = slot_engine(
        AutoModelForCausalLM.from_pretrained(real_model_folder),
        decoder,
        vocabulary=vocabulary_of(tokenizer, decoder, [2], 49152),
        slots=16,
        context=1200,
        prefill_chunk=256,
    )
    prompts = ChatPrompts(tokenizer, max_tokens=200, vocabulary=49152)
    return LoadedModel("real", engine, prompts)


def ids(model: LoadedModel, prompt: str) -> tuple[int, ...]:
    made = GenerationRequest(id="", model="real", prompt=prompt, params=greedy(1), created_at=now())
    return model.prompts.encode(made)


def test_responses_fit_their_schemas(model: LoadedModel) -> None:
    """Two of each schema; `python -m bench.grammars` makes ten."""
    wanted = requests(model, range(2), 512)
    assert len(wanted) == 40
    assert complaints(generate(model, wanted)) == []


SCHEMA = Grammar(
    GrammarKind.JSON_SCHEMA,
    json.dumps(
        {
            "type": "object",
            "properties": {
                "city": {"type": "string", "maxLength": 20},
                "size": {"type": "integer"},
            },
            "required": ["city", "size"],
            "additionalProperties": False,
        }
    ),
)
DATE = Grammar(GrammarKind.REGEX, "[0-9]{4}-[0-9]{2}-[0-9]{2}")
CHOICE = Grammar(GrammarKind.CHOICE, json.dumps(["Paris", "Lyon", "日本", "🙂"]))


def test_neighbours_of_a_constrained_request_say_what_they_would_have_said(
    model: LoadedModel,
) -> None:
    free = [
        request("greedy", ids(model, "Why is the sky blue?"), greedy(12)),
        request("drawn", ids(model, "Tell me a story."), sampled(12, seed=3, top_p=0.9)),
        request("told", ids(model, "Hi"), sampled(12, seed=4, logprobs=2)),
    ]
    alone = {each.id: run(model.engine, [each])[each.id] for each in free}
    held = [
        request("schema", ids(model, "Describe a city."), greedy(60, grammar=SCHEMA)),
        request("date", ids(model, "When?"), sampled(20, seed=1, grammar=DATE)),
        request("choice", ids(model, "Where?"), greedy(9, grammar=CHOICE)),
        request("bias", ids(model, "Hi"), greedy(9, logit_bias={504: 100})),
    ]
    for join_every in (0, 1):
        mixed = [held[0], free[0], held[1], free[1], held[2], free[2], held[3]]
        together = run(model.engine, mixed, join_every=join_every)
        for name, before in alone.items():
            assert together[name].ids == before.ids
            assert together[name].logprobs == before.logprobs
        assert json.loads(together["schema"].text).keys() == {"city", "size"}
        assert together["choice"].text in {"Paris", "Lyon", "日本", "🙂"}
        assert together["bias"].ids == [504] * 9
        assert {together[each.id].finish_reason for each in held[:3]} == {FinishReason.STOP}


@pytest.mark.parametrize("grammar", [SCHEMA, DATE, CHOICE])
def test_a_resumed_response_goes_on_as_it_would_have(model: LoadedModel, grammar: Grammar) -> None:
    prompt = ids(model, "Describe a city.")
    params = sampled(60, seed=5, grammar=grammar, logprobs=1)
    whole = run(model.engine, [request("whole", prompt, params)])["whole"]
    assert whole.finish_reason == FinishReason.STOP
    assert len(whole.logprobs) == len(whole.ids)
    for cut in {1, len(whole.ids) // 2 + 1, len(whole.ids)}:
        said = "".join(whole.pieces)[: len(model_text(model, whole.ids[:cut]))]
        rest = run(
            model.engine,
            [
                request(
                    "rest",
                    prompt,
                    params,
                    generated_ids=tuple(whole.ids[:cut]),
                    generated_text=said,
                )
            ],
        )["rest"]
        assert whole.ids[:cut] + rest.ids == whole.ids
        assert said + rest.text == whole.text
        assert rest.finish_reason == FinishReason.STOP
        assert [each.drawn.id for each in rest.logprobs] == rest.ids


def model_text(model: LoadedModel, token_ids: list[int]) -> str:
    decoder: Any = model.engine
    text: str = decoder._decoder.decode(token_ids)
    return text.rstrip("\ufffd")


def test_the_bytes_of_all_log_probabilities_are_the_text(model: LoadedModel) -> None:
    prompt = ids(model, "Write 日本語 and 🙂.")
    held = Grammar(GrammarKind.REGEX, "(日本語|🙂🎉){4}")
    answer = run(model.engine, [request("x", prompt, greedy(60, grammar=held, logprobs=3))])["x"]
    assert len(answer.logprobs) == len(answer.ids)
    assert b"".join(each.drawn.raw for each in answer.logprobs).decode() == answer.text
    for each, token_id in zip(answer.logprobs, answer.ids, strict=True):
        assert each.drawn.id == token_id
        assert len(each.top) == 3
        assert each.top[0].logprob >= each.top[1].logprob >= each.top[2].logprob
        assert each.drawn.logprob <= each.top[0].logprob


def test_a_stop_string_and_a_limit_end_a_response_before_its_grammar(model: LoadedModel) -> None:
    prompt = ids(model, "Describe a city.")
    answers = run(
        model.engine,
        [
            request("stop", prompt, greedy(60, grammar=SCHEMA, stop=('"size',), logprobs=0)),
            request("limit", prompt, greedy(4, grammar=SCHEMA)),
            request("exact", prompt, greedy(10, grammar=DATE)),
        ],
    )
    assert answers["stop"].finish_reason == FinishReason.STOP
    assert answers["stop"].text.startswith('{"city": "')
    assert answers["stop"].text.endswith('", ')
    assert len(answers["stop"].logprobs) == len(answers["stop"].ids)
    assert answers["limit"].finish_reason == FinishReason.LENGTH
    assert answers["exact"].finish_reason == FinishReason.STOP


def test_what_can_not_be_done_fails_its_own_request_alone(model: LoadedModel) -> None:
    prompt = ids(model, "Hi")
    explosive = Grammar(GrammarKind.REGEX, "(.{1,1000}){1,1000}")
    answers = run(
        model.engine,
        [
            request("free", prompt, greedy(6)),
            request("bad", prompt, greedy(6, grammar=Grammar(GrammarKind.REGEX, "("))),
            request("late", prompt, greedy(60, grammar=explosive)),
        ],
    )
    assert answers["free"].finish_reason in {FinishReason.STOP, FinishReason.LENGTH}
    for name in ("bad", "late"):
        assert answers[name].finish_reason == FinishReason.ERROR
        assert isinstance(answers[name].error, InvalidGrammarError)
    with pytest.raises(InvalidLogitBiasError, match="49151"):
        model.engine.add(request("x", prompt, greedy(6, logit_bias={49152: 1})))
    assert not model.engine.has_work
