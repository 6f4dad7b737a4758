"""OpenAI's own SDK for Python, as it is, against a live service."""

import itertools
from typing import Any, Literal

import openai
import pytest
from openai import OpenAI
from pydantic import BaseModel

from tests.sdks.conftest import Service
from tests.support.poll import until

MODEL = "smollm2-135m"
CAPITAL: list[Any] = [{"role": "user", "content": "What is the capital of England?"}]
STORY = "Tell me a long story about a fox."


class City(BaseModel):
    name: Literal["Paris", "London", "Rome"]
    size: Literal["small", "large"]
    is_capital: bool


@pytest.fixture(scope="module")
def client(service: Service) -> OpenAI:
    return OpenAI(base_url=service.url, api_key=service.key, max_retries=5)


def test_models(client: OpenAI) -> None:
    assert [model.id for model in client.models.list()] == [MODEL]
    assert client.models.retrieve(MODEL).object == "model"


def test_chat_whole_and_streamed(client: OpenAI) -> None:
    whole = client.chat.completions.create(model=MODEL, messages=CAPITAL, temperature=0)
    assert whole.choices[0].message.content == "The capital of England is London."
    assert whole.choices[0].finish_reason == "stop"
    chunks = list(
        client.chat.completions.create(
            model=MODEL,
            messages=CAPITAL,
            temperature=0,
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    streamed = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert streamed == whole.choices[0].message.content
    assert chunks[-1].usage is not None
    assert whole.usage is not None
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens


def test_completions_whole_and_streamed(client: OpenAI) -> None:
    asked: dict[str, Any] = {
        "model": MODEL,
        "prompt": "One, two, three,",
        "temperature": 0,
        "max_tokens": 8,
    }
    whole = client.completions.create(**asked)
    streamed = "".join(c.choices[0].text for c in client.completions.create(**asked, stream=True))
    assert streamed == whole.choices[0].text != ""
    two = client.completions.create(**asked | {"prompt": [asked["prompt"], "Four,"], "echo": True})
    assert two.choices[0].text == asked["prompt"] + whole.choices[0].text
    assert two.choices[1].text.startswith("Four,")


def test_logprobs(client: OpenAI) -> None:
    whole = client.chat.completions.create(
        model=MODEL, messages=CAPITAL, temperature=0, logprobs=True, top_logprobs=3
    )
    logprobs = whole.choices[0].logprobs
    assert logprobs is not None
    assert logprobs.content
    assert "".join(token.token for token in logprobs.content) == whole.choices[0].message.content
    for token in logprobs.content:
        assert len(token.top_logprobs) == 3
        assert token.top_logprobs[0].logprob == token.logprob  # greedy takes the likeliest


def test_n_stop_and_seed(client: OpenAI) -> None:
    def ask(**more: Any) -> list[str]:
        answer = client.chat.completions.create(
            model=MODEL, messages=CAPITAL, max_tokens=12, temperature=1, seed=7, **more
        )
        return [choice.message.content or "" for choice in answer.choices]

    three = ask(n=3)
    assert len(set(three)) > 1
    assert ask(n=3) == three
    stopped = client.chat.completions.create(
        model=MODEL, messages=CAPITAL, temperature=0, stop=[" is"]
    )
    assert stopped.choices[0].message.content == "The capital of England"


def test_json_schema_is_parsed(client: OpenAI) -> None:
    parsed = client.chat.completions.parse(
        model=MODEL, messages=CAPITAL, temperature=0, response_format=City
    )
    assert isinstance(parsed.choices[0].message.parsed, City)
    response = client.responses.parse(
        model=MODEL, input="Describe Paris.", temperature=0, text_format=City
    )
    assert isinstance(response.output_parsed, City)


def test_errors_are_the_sdks_own(service: Service, client: OpenAI) -> None:
    def with_key(key: str) -> OpenAI:
        return OpenAI(base_url=service.url, api_key=key, max_retries=0)

    with pytest.raises(openai.AuthenticationError):
        with_key("mv-wrong").chat.completions.create(model=MODEL, messages=CAPITAL)
    with pytest.raises(openai.NotFoundError) as unknown:
        client.chat.completions.create(model="gpt-5", messages=CAPITAL)
    assert unknown.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError) as refused:
        client.chat.completions.create(
            model=MODEL,
            messages=CAPITAL,
            tools=[{"type": "function", "function": {"name": "f", "parameters": {}}}],
        )
    assert refused.value.param == "tools"
    with pytest.raises(openai.BadRequestError):
        client.chat.completions.create(model=MODEL, messages=CAPITAL, temperature=3)
    slow = with_key(service.slow_key())
    for _ in range(2):
        slow.chat.completions.create(model=MODEL, messages=CAPITAL, max_tokens=1)
    with pytest.raises(openai.RateLimitError):
        slow.chat.completions.create(model=MODEL, messages=CAPITAL, max_tokens=1)


def test_a_response_is_cancelled(client: OpenAI) -> None:
    response = client.responses.create(
        model=MODEL, input=STORY, background=True, max_output_tokens=1000
    )
    assert client.responses.cancel(response.id).id == response.id
    ended = until(
        lambda: (found := client.responses.retrieve(response.id)).status == "cancelled" and found,
        seconds=20,
        what="the end",
    )
    assert ended
    assert client.responses.cancel(response.id).status == "cancelled"


def test_a_background_response_is_resumed_across_kills(service: Service, client: OpenAI) -> None:
    asked: dict[str, Any] = {
        "model": MODEL,
        "input": STORY,
        "temperature": 0,
        "max_output_tokens": 160,
    }
    undisturbed = client.responses.create(**asked).output_text
    stream = client.responses.create(**asked, background=True, stream=True)
    seen = list(itertools.islice(stream, 25))
    stream.close()
    created = seen[0]
    assert created.type == "response.created"
    service.kill_worker_and_api()
    until(service.stack.status, seconds=30, what="the service")
    last = seen[-1].sequence_number
    seen += client.responses.retrieve(created.response.id, stream=True, starting_after=last)
    assert [event.sequence_number for event in seen] == list(range(len(seen)))
    text = "".join(event.delta for event in seen if event.type == "response.output_text.delta")
    assert text == undisturbed
    assert seen[-1].type in ("response.completed", "response.incomplete")
