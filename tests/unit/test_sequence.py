"""When a request ends, and what a resumed one says."""

import pytest

from shared.events import FinishReason
from shared.job import SamplingParams
from worker.engine.base import EngineRequest, Output
from worker.engine.fake import EOS, CodePoints
from worker.engine.sequence import Sequence


def sequence(*, max_tokens: int = 100, context: int = 1000, **request: object) -> Sequence:
    params = SamplingParams(
        max_tokens=max_tokens, temperature=0, seed=0, stop=request.pop("stop", ())
    )
    return Sequence(
        EngineRequest(id="x", prompt_ids=(65, 66), params=params, **request),
        decoder=CodePoints(),
        eos_ids={EOS},
        context=context,
    )


def feed(target: Sequence, text: str) -> list[Output]:
    return [target.accept(ord(character)) for character in text]


def test_the_end_token_is_no_part_of_the_answer() -> None:
    target = sequence()
    feed(target, "ok")
    assert target.accept(EOS) == Output("x", (), "", FinishReason.STOP)
    assert target.generated == 2


@pytest.mark.parametrize(("max_tokens", "context"), [(3, 1000), (100, 5)])
def test_the_limit_counts_tokens_of_the_answer(max_tokens: int, context: int) -> None:
    outputs = feed(sequence(max_tokens=max_tokens, context=context), "abc")
    assert [output.finish_reason for output in outputs] == [None, None, FinishReason.LENGTH]


def test_a_stop_string_ends_it_and_is_not_shown() -> None:
    outputs = feed(sequence(stop=("END",)), "goENnoEND")
    assert "".join(output.text for output in outputs) == "goENno"
    assert outputs[-1].finish_reason == FinishReason.STOP


def test_what_a_stop_string_held_back_is_shown_at_the_end() -> None:
    target = sequence(stop=("END",))
    assert feed(target, "goEN")[-1].text == ""
    assert target.accept(EOS) == Output("x", (), "EN", FinishReason.STOP)


def test_a_resumed_request_continues_mid_word() -> None:
    target = sequence(generated_ids=(ord("h"), ord("e")), generated_text="he")
    assert target.generated == 2
    assert target.accept(ord("y")) == Output("x", (ord("y"),), "y")


def test_text_that_was_already_flushed_is_not_shown_twice() -> None:
    """The first attempt published the held-back tail and died before it said `done`."""
    ids = tuple(map(ord, "goEN"))
    target = sequence(stop=("END",), generated_ids=ids, generated_text="goEN")
    assert target.accept(EOS) == Output("x", (), "", FinishReason.STOP)


def test_a_request_that_had_ended_knows_it() -> None:
    by_length = sequence(max_tokens=2, generated_ids=(97, 98), generated_text="ab")
    assert by_length.finish_reason == FinishReason.LENGTH
    by_stop = sequence(stop=("b",), generated_ids=(97, 98), generated_text="a")
    assert by_stop.finish_reason == FinishReason.STOP
