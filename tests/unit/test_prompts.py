"""Prompts as a model gets them, with a tokenizer whose tokens are code points."""

from typing import Any

import pytest
from jinja2 import TemplateError

from shared.errors import InvalidPromptError, NoChatTemplateError, PromptTooLongError
from shared.job import GenerationRequest, Message, SamplingParams
from shared.tokenizing import Tokenize
from worker.prompts import ChatPrompts

BEGIN, EOS, ASKED = 1, 2, 3


class Stub:
    """Puts `BEGIN` in front; its template writes it, too, and `ASKED` behind each turn."""

    eos_token_id = EOS

    def __init__(self, *, template: bool) -> None:
        self.chat_template = "a template" if template else None

    def __call__(self, text: str, *, add_special_tokens: bool) -> dict[str, list[int]]:
        return {"input_ids": [BEGIN] * add_special_tokens + [ord(each) for each in text]}

    def apply_chat_template(self, messages: list[dict[str, str]], **_: Any) -> str:
        if messages[0]["role"] == "assistant":
            raise TemplateError("begin with a question")
        return chr(BEGIN) + "".join(turn["content"] + chr(ASKED) for turn in messages)

    def decode(self, tokens: list[int], **_: Any) -> str:
        return "".join(map(chr, tokens))


def prompts(*, template: bool = True, max_tokens: int = 20) -> ChatPrompts:
    return ChatPrompts(Stub(template=template), max_tokens=max_tokens, vocabulary=1000)


def tokens_of(**fields: Any) -> list[int]:
    return list(prompts().tokens(Tokenize(model="m", **fields)))


def test_a_prompt_goes_through_the_template_unless_it_is_raw() -> None:
    assert tokens_of(prompt="hi") == [BEGIN, *map(ord, "hi"), ASKED]
    assert tokens_of(prompt="hi", raw=True) == [BEGIN, *map(ord, "hi")]
    plain = prompts(template=False).tokens(Tokenize(model="m", prompt="hi"))
    assert list(plain) == [BEGIN, *map(ord, "hi")]


def test_a_conversation_is_counted_as_a_generation_counts_it() -> None:
    turns = (Message("user", "hi"), Message("assistant", "yo"), Message("user", "so"))
    request = GenerationRequest(
        id="x",
        model="m",
        messages=turns,
        params=SamplingParams(max_tokens=1, temperature=0, seed=0),
        created_at=0,
    )
    assert tokens_of(messages=turns) == list(prompts().encode(request))
    assert tokens_of(messages=turns).count(BEGIN) == 1


def test_a_text_of_any_length_is_counted_but_not_generated_from() -> None:
    request = GenerationRequest(
        id="x",
        model="m",
        prompt="x" * 30,
        params=SamplingParams(max_tokens=1, temperature=0, seed=0),
        created_at=0,
    )
    assert len(tokens_of(prompt="x" * 30)) == 32
    with pytest.raises(PromptTooLongError, match="32 tokens"):
        prompts().encode(request)


def test_special_tokens_can_be_left_away() -> None:
    asked = Tokenize(model="m", prompt="hi", raw=True)
    assert list(prompts().tokens(asked, add_special=False)) == [*map(ord, "hi")]


def test_nothing_becomes_something_to_begin_with() -> None:
    asked = Tokenize(model="m", prompt="", raw=True)
    assert list(prompts().tokens(asked, add_special=False)) == [EOS]


def test_what_a_model_cannot_read() -> None:
    turns = (Message("assistant", "hi"),)
    with pytest.raises(InvalidPromptError, match="begin with a question"):
        tokens_of(messages=turns)
    with pytest.raises(NoChatTemplateError):
        prompts(template=False).tokens(Tokenize(model="m", messages=turns))
    assert prompts().text([*map(ord, "hi")]) == "hi"
    assert prompts().text([]) == ""
    with pytest.raises(InvalidPromptError, match="0 to 999"):
        prompts().text([5, 1000])
