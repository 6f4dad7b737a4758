"""A grammar's place in a response: what may come next, and when it is over."""

import json

import pytest

from shared.errors import InvalidGrammarError
from shared.events import FinishReason
from shared.grammars import BYTES_EOS, byte_tokenizer
from shared.job import Grammar, GrammarKind, SamplingParams
from tests.support.engines import greedy, request, run
from worker.engine.constraint import Constraint, Constraints
from worker.engine.fake import CodePoints, FakeEngine
from worker.engine.vocabulary import Vocabulary

VOCABULARY = Vocabulary(byte_tokenizer, CodePoints())


def constraint(grammar: Grammar, said: bytes = b"") -> Constraint:
    params = SamplingParams(max_tokens=99, temperature=0, seed=0, grammar=grammar)
    preparing = Constraints(VOCABULARY).prepare(params, list(said))
    assert preparing is not None
    made = preparing.result()
    assert made is not None
    return made


def allowed(made: Constraint) -> bytes:
    made.compute()
    return bytes(made.allowed.nonzero()[0].tolist())


END = bytes([BYTES_EOS])


def test_the_end_is_allowed_exactly_where_the_grammar_may_end() -> None:
    made = constraint(Grammar(GrammarKind.REGEX, "ab?"))
    assert allowed(made) == b"a"
    made.accept(ord("a"))
    assert allowed(made) == END + b"b"
    assert not made.is_complete
    made.accept(ord("b"))
    assert made.is_complete


def test_a_constraint_is_taken_up_behind_what_was_said() -> None:
    grammar = Grammar(GrammarKind.CHOICE, json.dumps(["yes", "yesterday", "no"]))
    assert allowed(constraint(grammar)) == b"ny"
    assert allowed(constraint(grammar, b"yes")) == END + b"t"
    assert constraint(grammar, b"yesterday").is_complete
    other = constraint(grammar, b"maybe")
    assert isinstance(other.error, InvalidGrammarError)


def test_json_has_one_layout() -> None:
    schema = {"type": "object", "properties": {"a": {"enum": [[1, 2]]}}, "required": ["a"]}
    schema["additionalProperties"] = False
    made = constraint(Grammar(GrammarKind.JSON_SCHEMA, json.dumps(schema)))
    text = b'{"a": [1, 2]}'
    for byte in text:
        assert allowed(made) == bytes([byte])
        made.accept(byte)
    assert made.is_complete


def test_what_nobody_can_follow_is_told() -> None:
    for grammar in (
        Grammar(GrammarKind.REGEX, "("),
        Grammar(GrammarKind.JSON_SCHEMA, '{"not": {}}'),
        Grammar(GrammarKind.JSON_SCHEMA, "no JSON"),
    ):
        with pytest.raises(InvalidGrammarError):
            constraint(grammar)


def test_grammars_are_compiled_once_and_the_oldest_are_forgotten() -> None:
    constraints = Constraints(VOCABULARY)
    grammars = [Grammar(GrammarKind.REGEX, f"a{{{i + 1}}}") for i in range(80)]
    for grammar in (grammars[0], *grammars):
        params = SamplingParams(max_tokens=9, temperature=0, seed=0, grammar=grammar)
        preparing = constraints.prepare(params, ())
        assert preparing is not None
        preparing.result()
    assert list(constraints._compiled) == grammars[-64:]


def test_a_vocabulary_that_nobody_understands_has_its_texts() -> None:
    def make() -> None:
        raise ValueError

    unknown = Vocabulary(make, CodePoints())  # type: ignore[arg-type]
    assert unknown.raw(ord("é")) == "é".encode()
    with pytest.raises(InvalidGrammarError):
        _ = unknown.tokens


def test_the_fake_engine_follows_grammars_in_the_shortest_way() -> None:
    schema = json.dumps(
        {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
    )
    answers = run(
        FakeEngine(),
        [
            request("object", b"hi", greedy(50, grammar=Grammar(GrammarKind.JSON_OBJECT))),
            request("schema", b"hi", greedy(50, grammar=Grammar(GrammarKind.JSON_SCHEMA, schema))),
            request("free", b"hi", greedy(50, logprobs=1)),
            request("bad", b"hi", greedy(50, grammar=Grammar(GrammarKind.REGEX, "("))),
            request("cut", b"hi", greedy(3, grammar=Grammar(GrammarKind.REGEX, "a{5}"))),
        ],
    )
    assert {name: answer.text for name, answer in answers.items()} == {
        "object": '{"": ""}',
        "schema": '{"n": 0}',
        "free": "hi",
        "bad": "",
        "cut": "aaa",
    }
    assert answers["schema"].finish_reason == FinishReason.STOP
    assert answers["cut"].finish_reason == FinishReason.LENGTH
    assert answers["bad"].finish_reason == FinishReason.ERROR
    assert isinstance(answers["bad"].error, InvalidGrammarError)
    assert [each.drawn.raw for each in answers["free"].logprobs] == [b"h", b"i"]


@pytest.mark.parametrize("cut", range(1, 8))
def test_a_resumed_response_ends_as_the_whole_one(cut: int) -> None:
    params = greedy(50, grammar=Grammar(GrammarKind.REGEX, "[a-c]{3}-[0-9]{4}"))
    whole = run(FakeEngine(), [request("x", b"hi", params)])["x"]
    resumed = request(
        "x",
        b"hi",
        params,
        generated_ids=tuple(whole.ids[:cut]),
        generated_text=whole.text[:cut],
    )
    rest = run(FakeEngine(), [resumed])["x"]
    assert whole.text[:cut] + rest.text == whole.text
    assert rest.finish_reason == whole.finish_reason == FinishReason.STOP
