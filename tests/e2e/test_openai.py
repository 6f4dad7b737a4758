"""The official SDK against a whole stack with the real model: where the text matters."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from openai import OpenAI

from tests.support.models import real_model_folder
from tests.support.openai_sdk import sdk
from tests.support.stack import Stack, running_stack

MODEL = "smollm2-135m"
STORY = "Tell me a story about a fox."
ASK: list[Any] = [{"role": "user", "content": STORY}]
TURNS: list[Any] = [
    {"role": "developer", "content": "You answer in one word."},
    {"role": "user", "content": "What is the capital of England?"},
    {"role": "assistant", "content": "London"},
    {"role": "user", "content": [{"type": "text", "text": "And of Italy?"}]},
]


@pytest.fixture(scope="module")
def stack(short_tmp: Path) -> Iterator[Stack]:
    with running_stack(short_tmp / "openai") as stack:
        yield stack


@pytest.fixture
def client(stack: Stack) -> Iterator[OpenAI]:
    with sdk(stack.url, timeout=120) as client:
        yield client


def chat(client: OpenAI, messages: list[Any], **more: Any) -> list[str | None]:
    given = {"temperature": 0, "max_tokens": 24, **more}
    answer = client.chat.completions.create(model=MODEL, messages=messages, **given)
    return [choice.message.content for choice in answer.choices]


def streamed(client: OpenAI, messages: list[Any], **more: Any) -> str:
    given = {"temperature": 0, "max_tokens": 24, **more}
    chunks = client.chat.completions.create(model=MODEL, messages=messages, stream=True, **given)
    return "".join(chunk.choices[0].delta.content or "" for chunk in chunks)


def test_one_turn_is_what_generate_says(stack: Stack, client: OpenAI) -> None:
    body = {"prompt": STORY, "temperature": 0, "max_tokens": 24}
    whole = httpx.post(f"{stack.url}/generate", json=body, timeout=120).json()["response"]
    assert chat(client, ASK) == [whole] == [streamed(client, ASK)]


def test_a_conversation_goes_through_the_models_own_template(client: OpenAI) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(real_model_folder())
    turns = [
        {"role": "system", "content": "You answer in one word."},
        *TURNS[1:3],
        {"role": "user", "content": "And of Italy?"},
    ]
    text = tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    given: dict[str, Any] = {"model": MODEL, "temperature": 0, "max_tokens": 24}
    answer = client.completions.create(prompt=[text, text], **given)
    of_ids = client.completions.create(prompt=[ids], **given)
    said = [choice.text for choice in [*answer.choices, *of_ids.choices]]
    assert said == chat(client, TURNS) * 3
    assert of_ids.usage is not None
    assert of_ids.usage.prompt_tokens == len(ids)


def test_seeds_and_choices(client: OpenAI) -> None:
    three = chat(client, ASK, temperature=1, seed=3, n=3)
    assert chat(client, ASK, temperature=1, seed=3, n=3) == three
    assert chat(client, ASK, temperature=1, seed=3) == three[:1]
    assert len(set(three)) == 3
    assert streamed(client, ASK, temperature=1, seed=3) == three[0]


def test_a_stop_string(client: OpenAI) -> None:
    (free,) = chat(client, ASK)
    assert free is not None
    stop = free.split()[5]
    before = free.partition(stop)[0]
    assert chat(client, ASK, stop=stop) == [before] == [streamed(client, ASK, stop=[stop])]


def test_a_prompt_of_too_many_tokens(client: OpenAI) -> None:
    long: list[Any] = [{"role": "user", "content": "word " * 3000}]
    for ask in (chat, streamed):
        with pytest.raises(openai.BadRequestError) as caught:
            ask(client, long)
        assert (caught.value.code, caught.value.param) == ("context_length_exceeded", "messages")
    with pytest.raises(openai.BadRequestError) as caught:
        client.completions.create(model=MODEL, prompt=[10**6])
    assert (caught.value.code, caught.value.param) == ("invalid_prompt", "prompt")


def test_a_stream_outlives_its_worker(stack: Stack, client: OpenAI) -> None:
    (undisturbed,) = chat(client, ASK, max_tokens=120)
    said, killed = "", False
    chunks = client.chat.completions.create(
        model=MODEL, messages=ASK, temperature=0, max_tokens=120, stream=True
    )
    for chunk in chunks:
        said += chunk.choices[0].delta.content or ""
        if len(said) > 50 and not killed:
            stack.strike("worker")
            killed = True
    assert killed
    assert said == undisturbed
