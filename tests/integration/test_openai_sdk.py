"""The official SDK against the API and a worker whose engine is fake: it gives prompts back."""

import asyncio
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from openai import OpenAI

from shared import names
from shared.redis import connect
from shared.settings import Settings
from tests.support.api import running_api
from tests.support.openai_sdk import async_sdk, sdk
from tests.support.poll import until
from tests.support.workers import fake_worker

MODEL = "smollm2-135m"
HELLO: list[Any] = [{"role": "user", "content": "hello there"}]
SAID = "user: hello there"
"""What the fake engine says to it."""


@pytest.fixture(scope="module")
def url(session_settings: Settings) -> Iterator[str]:
    with connect(session_settings, "test") as redis:
        redis.flushall()
    with fake_worker(session_settings), running_api(session_settings) as url:
        yield url


@pytest.fixture
def client(url: str) -> Iterator[OpenAI]:
    with sdk(url) as client:
        yield client


def test_a_conversation_is_answered(client: OpenAI) -> None:
    answer = client.chat.completions.create(model=MODEL, messages=HELLO, temperature=0)
    (choice,) = answer.choices
    assert (choice.index, choice.finish_reason, choice.logprobs) == (0, "stop", None)
    assert (choice.message.role, choice.message.content) == ("assistant", SAID)
    assert (answer.object, answer.model) == ("chat.completion", MODEL)
    assert answer.id.startswith("chatcmpl-")
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == answer.usage.completion_tokens == len(SAID)
    assert answer.usage.total_tokens == 2 * len(SAID)
    assert answer.usage.prompt_tokens_details is not None
    assert answer.usage.prompt_tokens_details.cached_tokens == 0


def test_a_stream_is_the_whole_in_pieces(client: OpenAI) -> None:
    chunks = list(
        client.chat.completions.create(
            model=MODEL,
            messages=HELLO,
            temperature=0,
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    assert {(chunk.id, chunk.object, chunk.model) for chunk in chunks} == {
        (chunks[0].id, "chat.completion.chunk", MODEL)
    }
    *spoken, last = chunks
    assert spoken[0].choices[0].delta.role == "assistant"
    assert "".join(chunk.choices[0].delta.content or "" for chunk in spoken) == SAID
    assert 3 <= len(spoken) <= len(SAID) + 2  # tokens that wait together share a chunk
    reasons = [chunk.choices[0].finish_reason for chunk in spoken]
    assert reasons == [None] * (len(spoken) - 1) + ["stop"]
    assert [chunk.usage for chunk in spoken] == [None] * len(spoken)
    assert last.choices == []
    assert last.usage is not None
    assert last.usage.total_tokens == 2 * len(SAID)


def test_a_stream_without_options_tells_no_usage(client: OpenAI) -> None:
    chunks = list(client.chat.completions.create(model=MODEL, messages=HELLO, stream=True))
    assert all(len(chunk.choices) == 1 for chunk in chunks)
    assert all("usage" not in chunk.model_dump(exclude_unset=True) for chunk in chunks)


async def test_the_asynchronous_client(url: str) -> None:
    async with async_sdk(url) as client:
        whole, stream = await asyncio.gather(
            client.chat.completions.create(model=MODEL, messages=HELLO, seed=5, max_tokens=20),
            client.chat.completions.create(
                model=MODEL, messages=HELLO, seed=5, max_tokens=20, stream=True
            ),
        )
        text = "".join([chunk.choices[0].delta.content or "" async for chunk in stream])
    assert whole.choices[0].message.content == text
    assert len(text) == 20
    assert whole.choices[0].finish_reason == "length"


def test_choices_draw_from_seeds_of_their_own(client: OpenAI) -> None:
    def ask(**more: Any) -> list[str | None]:
        answer = client.chat.completions.create(
            model=MODEL, messages=HELLO, max_completion_tokens=12, **more
        )
        assert answer.usage is not None
        assert answer.usage.prompt_tokens == len(SAID)
        assert answer.usage.completion_tokens == 12 * len(answer.choices)
        assert [choice.index for choice in answer.choices] == list(range(len(answer.choices)))
        return [choice.message.content for choice in answer.choices]

    three = ask(n=3, seed=7)
    assert three == ask(n=3, seed=7)
    assert len(set(three)) == 3
    assert ask(n=1, seed=7) == three[:1]
    assert ask(seed=-(2**63)) == ask(seed=-(2**63)) != ask(seed=-(2**63) + 1)
    assert ask() != ask()


def test_streamed_choices_are_told_apart(client: OpenAI) -> None:
    asked: dict[str, Any] = {"model": MODEL, "messages": HELLO, "seed": 7, "max_tokens": 12, "n": 5}
    whole = client.chat.completions.create(**asked)
    texts, reasons = [""] * 5, []
    options = {"include_usage": True}
    for chunk in client.chat.completions.create(**asked, stream=True, stream_options=options):
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
            reasons += [choice.finish_reason] if choice.finish_reason else []
        usage = chunk.usage
    assert texts == [choice.message.content for choice in whole.choices]
    assert reasons == ["length"] * 5
    assert usage == whole.usage


def test_stop_strings(client: OpenAI) -> None:
    for stop in ("th", ["zzz", "th"]):
        answer = client.chat.completions.create(
            model=MODEL, messages=HELLO, temperature=0, stop=stop
        )
        assert answer.choices[0].message.content == "user: hello "
        assert answer.choices[0].finish_reason == "stop"


def test_roles_and_parts(client: OpenAI) -> None:
    messages: list[Any] = [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
        {"role": "assistant", "content": "c"},
        {"role": "user", "content": ""},
    ]
    answer = client.chat.completions.create(model=MODEL, messages=messages, temperature=0)
    said = "system: Be brief.\n\nuser: a\nb\n\nassistant: c\n\nuser: "
    assert answer.choices[0].message.content == said
    # What was answered can be sent back as it is.
    messages.append(answer.choices[0].message)
    again = client.chat.completions.create(model=MODEL, messages=messages, temperature=0)
    assert again.choices[0].message.content == f"{said}\n\nassistant: {said}"


def test_absent_max_tokens_are_the_services_own(url: str, client: OpenAI) -> None:
    answer = client.chat.completions.create(model=MODEL, messages=HELLO)
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 1024
    text = client.completions.create(model=MODEL, prompt="x")
    assert text.usage is not None
    assert text.usage.completion_tokens == 16


def test_completions(client: OpenAI) -> None:
    answer = client.completions.create(model=MODEL, prompt="abc", temperature=0)
    assert (answer.object, answer.choices[0].text) == ("text_completion", "abc")
    assert answer.id.startswith("cmpl-")
    echoed = client.completions.create(model=MODEL, prompt="abc", temperature=0, echo=True)
    assert echoed.choices[0].text == "abcabc"
    chunks = list(
        client.completions.create(
            model=MODEL, prompt="abc", temperature=0, stream=True, echo=True, suffix=""
        )
    )
    first, *rest = [chunk.choices[0].text for chunk in chunks]
    assert (first, "".join(rest)) == ("abc", "abc")
    assert chunks[-1].choices[0].finish_reason == "stop"
    ids = client.completions.create(model=MODEL, prompt=[104, 105], temperature=0)
    assert ids.choices[0].text == "hi"


@pytest.mark.parametrize("prompts", [["one", "three"], [[97, 98], [99]]])
def test_several_prompts(client: OpenAI, prompts: Any) -> None:
    said = [each if isinstance(each, str) else "".join(map(chr, each)) for each in prompts]
    answer = client.completions.create(model=MODEL, prompt=prompts, temperature=0, n=2)
    assert [choice.text for choice in answer.choices] == [said[0], said[0], said[1], said[1]]
    assert [choice.index for choice in answer.choices] == [0, 1, 2, 3]
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == len("".join(said))
    assert answer.usage.completion_tokens == 2 * len("".join(said))


def test_models(client: OpenAI) -> None:
    (model,) = client.models.list().data
    assert client.models.retrieve(MODEL) == model
    assert (model.id, model.object, model.owned_by) == (MODEL, "model", "minivault")
    with pytest.raises(openai.NotFoundError) as caught:
        client.models.retrieve("gpt-4o")
    assert (caught.value.code, caught.value.param) == ("model_not_found", "model")


def test_an_unknown_model(client: OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        client.chat.completions.create(model="gpt-4o", messages=HELLO)
    assert (caught.value.code, caught.value.param) == ("model_not_found", "model")
    assert caught.value.type == "invalid_request_error"


def test_an_unknown_path(client: OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        client.embeddings.create(model=MODEL, input="x")
    assert caught.value.code == "not_found"


def test_a_bad_request(client: OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model=MODEL, messages=HELLO, temperature=3)
    assert (caught.value.code, caught.value.param) == ("invalid_value", "temperature")
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model=MODEL, messages=HELLO, tools=[{"type": "function"}])  # type: ignore[list-item]
    assert (caught.value.code, caught.value.param) == ("unsupported_parameter", "tools")


def test_extensions_come_as_an_extra_body(client: OpenAI) -> None:
    answer = client.chat.completions.create(
        model=MODEL,
        messages=HELLO,
        temperature=0,
        extra_body={
            "top_k": 5,
            "min_p": 0.1,
            "repetition_penalty": 1.1,
            "background": True,
            "priority": 0,
            "ttl": 60,
        },
    )
    assert answer.choices[0].message.content == SAID
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model=MODEL, messages=HELLO, extra_body={"topk": 5})
    assert (caught.value.code, caught.value.param) == ("unknown_parameter", "topk")
    with pytest.raises(openai.PermissionDeniedError):
        client.chat.completions.create(model=MODEL, messages=HELLO, extra_body={"priority": 9})


def test_the_same_key_is_the_same_job(client: OpenAI) -> None:
    def ask(**more: Any) -> Any:
        return client.chat.completions.with_raw_response.create(
            model=MODEL,
            messages=HELLO,
            max_tokens=20,
            extra_headers={"Idempotency-Key": "mine"},
            **more,
        )

    first, again = ask(n=2), ask(n=2)
    assert len(first.headers["x-job-id"].split(", ")) == 2
    assert first.headers["x-job-id"] == again.headers["x-job-id"]
    texts = [choice.message.content for choice in first.parse().choices]
    assert [choice.message.content for choice in again.parse().choices] == texts
    with ask(n=2, stream=True).parse() as stream:  # how it is answered may change
        streamed = ["", ""]
        for chunk in stream:
            streamed[chunk.choices[0].index] += chunk.choices[0].delta.content or ""
    assert streamed == texts
    with pytest.raises(openai.ConflictError) as caught:
        ask(n=3)
    assert caught.value.code == "idempotency_conflict"


def test_jobs_are_as_durable_as_any(client: OpenAI, session_settings: Settings) -> None:
    """A request leaves nothing behind but what its jobs' logs hold."""
    client.chat.completions.create(model=MODEL, messages=HELLO, n=4, temperature=0)
    with connect(session_settings, "test") as redis:
        until(
            lambda: redis.zcard(names.JOBS) == redis.zcard(names.ATTENDED) == 0,
            what="nothing left",
        )
