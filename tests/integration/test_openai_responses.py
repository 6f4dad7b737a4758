"""`/v1/responses` as the official SDK uses it."""

import json
from collections.abc import Iterator
from typing import Any

import httpx
import msgspec
import pytest
from openai import (
    APIStatusError,
    BadRequestError,
    ConflictError,
    NotFoundError,
    OpenAI,
)
from openai.types.responses import Response
from pydantic import BaseModel
from redis import Redis

from shared import names
from shared.events import (
    AnyEvent,
    Cancelled,
    Done,
    FinishReason,
    Logprob,
    Queued,
    Started,
    Token,
    TokenLogprobs,
    Usage,
)
from shared.failed import put_back
from shared.job import Grammar, GrammarKind, Message
from shared.settings import Settings
from tests.support.api import running_api
from tests.support.jobs import MODEL, ended
from tests.support.openai_sdk import async_sdk, sdk
from tests.support.poll import until
from tests.support.scripted_worker import TIMINGS, Author, failing, scripted_worker, words
from tests.support.workers import crew, fake_worker

SAID = "user: Tell me more."
ASK: dict[str, Any] = {"model": MODEL, "input": "Tell me more.", "temperature": 0}


@pytest.fixture
def url(settings: Settings, redis: Redis) -> Iterator[str]:
    with running_api(settings) as url:
        yield url


@pytest.fixture
def client(url: str) -> Iterator[OpenAI]:
    with sdk(url) as client:
        yield client


@pytest.fixture
def working(settings: Settings, redis: Redis) -> Iterator[None]:
    """A worker process whose engine answers with the prompt."""
    with fake_worker(settings, step_seconds=0.003):
        yield


def job_of(response_id: str) -> str:
    return response_id.replace("resp_", "job-")


def author_of(redis: Redis, response: Response) -> Author:
    """In place of a worker."""
    return Author(redis, job_of(response.id))


def write(author: Author, *events: Any, start: int = 2) -> None:
    for seq, event in enumerate(events, start=start):
        assert author.append(msgspec.structs.replace(event, seq=seq))


STARTED = Started(seq=0, prompt_tokens=1)


def token(text: str) -> Token:
    return Token(seq=0, ids=(1,), text=text)


def done(reason: FinishReason = FinishReason.STOP) -> Done:
    usage = Usage(prompt_tokens=1, completion_tokens=1)
    return Done(seq=0, finish_reason=reason, usage=usage, timings=TIMINGS)


@pytest.mark.usefixtures("working")
def test_whole(client: OpenAI) -> None:
    response = client.responses.create(
        **ASK, instructions="Be brief.", metadata={"a": "b"}, user="me"
    )
    said = f"system: Be brief.\n\n{SAID}"
    assert response.output_text == said
    assert response.id.startswith("resp_")
    assert (response.object, response.status, response.model) == ("response", "completed", MODEL)
    assert (response.instructions, response.metadata) == ("Be brief.", {"a": "b"})
    assert (response.user, response.temperature, response.background) == ("me", 0, False)
    assert response.usage is not None
    assert response.usage.input_tokens == response.usage.output_tokens == len(said)
    assert client.responses.retrieve(response.id) == response


@pytest.mark.usefixtures("working")
def test_streamed(client: OpenAI) -> None:
    with client.responses.stream(**dict(ASK)) as stream:
        events = list(stream)
        final = stream.get_final_response()
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert [event.type for event in events[:3]] == [
        "response.created",
        "response.queued",
        "response.in_progress",
    ]
    deltas = [event.delta for event in events if event.type == "response.output_text.delta"]
    assert "".join(deltas) == final.output_text == SAID
    assert len(deltas) > len(SAID) / 2


@pytest.mark.usefixtures("working")
async def test_the_asynchronous_client(url: str) -> None:
    async with async_sdk(url) as client:
        stream = await client.responses.create(**ASK, stream=True)
        deltas = [
            event.delta async for event in stream if event.type == "response.output_text.delta"
        ]
    assert "".join(deltas) == SAID


@pytest.mark.usefixtures("working")
def test_a_background_stream_is_resumed_behind_any_number(client: OpenAI) -> None:
    with client.responses.create(**ASK, background=True, stream=True) as stream:
        first = [next(stream) for _ in range(8)]
    response_id = first[0].response.id  # type: ignore[union-attr]
    rest = list(client.responses.retrieve(response_id, stream=True, starting_after=7))
    whole = [*first, *rest]
    assert [event.sequence_number for event in whole] == list(range(len(whole)))
    final = rest[-1]
    assert final.type == "response.completed"
    assert final.response.output_text == SAID
    for after in range(len(whole)):
        again = list(client.responses.retrieve(response_id, stream=True, starting_after=after))
        assert again == whole[after + 1 :]
    assert list(client.responses.retrieve(response_id, stream=True)) == whole
    assert list(client.responses.retrieve(response_id, stream=True, starting_after=10**9)) == []
    with client.responses.stream(response_id=response_id, starting_after=3) as helper:
        assert [event.sequence_number for event in helper] == list(range(4, len(whole)))


@pytest.mark.usefixtures("working")
def test_polled(client: OpenAI) -> None:
    began = client.responses.create(**ASK, background=True)
    assert (began.status, began.background, began.output, began.usage) == ("queued", True, [], None)
    response = until(
        lambda: (
            polled
            if (polled := client.responses.retrieve(began.id)).status == "completed"
            else None
        ),
        what="the response's end",
    )
    assert response.output_text == SAID
    assert response.completed_at is not None
    assert response.completed_at >= response.created_at


def test_a_response_can_be_read_as_far_as_it_has_got(client: OpenAI, redis: Redis) -> None:
    began = client.responses.create(**ASK, background=True)
    write(author_of(redis, began), STARTED, token("On"))
    response = client.responses.retrieve(began.id)
    assert (response.status, response.output_text, response.usage) == ("in_progress", "On", None)


def test_numbers_that_never_were_do_not_swallow_the_rest(client: OpenAI, redis: Redis) -> None:
    began = client.responses.create(**ASK, background=True)
    author = author_of(redis, began)
    write(author, STARTED, token("On"))
    stream = client.responses.retrieve(began.id, stream=True, starting_after=100)
    until(lambda: redis.pubsub_numsub(names.channel(job_of(began.id)))[0][1], what="a reader")
    until(lambda: _is_caught_up(client), what="the log, read")
    write(author, token("ce"), done(), start=4)
    events = list(stream)
    assert events[0].type == "response.output_text.delta"
    assert events[0].delta == "ce"
    assert events[-1].type == "response.completed"


def _is_caught_up(client: OpenAI) -> bool:
    """A stream opened later has read the log, and so has every earlier one."""
    with client.responses.create(**ASK, background=True, stream=True) as other:
        return [next(other).type, next(other).type] == ["response.created", "response.queued"]


def test_cancelled(client: OpenAI, settings: Settings) -> None:
    with crew(settings, step_seconds=0.05, hurried=True) as workers:
        workers.start_one()
        stream = client.responses.create(**ASK, background=True, stream=True)
        for event in stream:
            if event.type == "response.output_text.delta":
                break
        response_id = event.item_id.replace("msg_", "resp_")  # type: ignore[union-attr]
        cancelled = client.responses.cancel(response_id)
        assert cancelled.status == "cancelled"
        assert 0 < len(cancelled.output_text) < len(SAID)
        last = list(stream)[-1]
        assert last.type == "response.incomplete"
        assert last.response == cancelled
        assert client.responses.cancel(response_id) == cancelled
        assert client.responses.retrieve(response_id) == cancelled


def test_one_that_waits_is_cancelled_by_whoever_comes(client: OpenAI, settings: Settings) -> None:
    began = client.responses.create(**ASK, background=True)
    assert client.responses.cancel(began.id).status == "queued"
    with fake_worker(settings):
        until(
            lambda: client.responses.retrieve(began.id).status == "cancelled", what="cancellation"
        )


@pytest.mark.usefixtures("working")
def test_what_has_ended_is_not_cancelled_and_only_what_is_in_the_background(
    client: OpenAI,
) -> None:
    response = client.responses.create(**ASK)
    with pytest.raises(BadRequestError, match="Only background responses") as caught:
        client.responses.cancel(response.id)
    assert caught.value.type == "invalid_request_error"
    with client.responses.create(**ASK, background=True, stream=True) as stream:
        *_, last = stream
    assert last.type == "response.completed"
    assert client.responses.cancel(last.response.id) == last.response


def test_a_schema_parsed(client: OpenAI, redis: Redis) -> None:
    class Person(BaseModel):
        name: str
        age: int

    text = '{"name": "Ada", "age": 36}'
    with scripted_worker(redis, MODEL, words(*text)) as worker:
        response = client.responses.parse(**ASK, text_format=Person)
        assert response.output_parsed == Person(name="Ada", age=36)
        with client.responses.stream(**ASK, text_format=Person) as stream:
            assert stream.get_final_response().output_parsed == Person(name="Ada", age=36)
        assert response.text is not None
        assert response.text.format is not None
        assert response.text.format.type == "json_schema"
        for request in worker.seen:
            grammar = request.params.grammar
            assert grammar is not None
            assert grammar.kind is GrammarKind.JSON_SCHEMA
            assert json.loads(grammar.value)["properties"].keys() == {"name", "age"}
        client.responses.create(**ASK, text={"format": {"type": "json_object"}})
        assert worker.seen[-1].params.grammar == Grammar(GrammarKind.JSON_OBJECT)
        client.responses.create(**ASK, text={"format": {"type": "text"}})
        assert worker.seen[-1].params.grammar is None


def test_parameters_reach_the_job(client: OpenAI, redis: Redis) -> None:
    with scripted_worker(redis, MODEL, words("x")) as worker:
        response = client.responses.create(
            model=MODEL,
            input=[
                {"role": "developer", "content": "One"},
                {"role": "user", "content": [{"type": "input_text", "text": "Two"}]},
                {"role": "assistant", "content": "Three"},
            ],
            max_output_tokens=7,
            temperature=0.5,
            top_p=0.25,
            top_logprobs=3,
            extra_body={
                "top_k": 5,
                "min_p": 0.125,
                "repetition_penalty": 1.5,
                "seed": 9,
                "stop": ["a", "b"],
                "ttl": 60,
            },
        )
    (request,) = worker.seen
    assert request.messages == (
        Message("system", "One"),
        Message("user", "Two"),
        Message("assistant", "Three"),
    )
    params = request.params
    assert (params.max_tokens, params.temperature, params.top_p) == (7, 0.5, 0.25)
    assert (params.top_k, params.min_p, params.repetition_penalty) == (5, 0.125, 1.5)
    assert (params.seed, params.stop, params.logprobs) == (9, ("a", "b"), 3)
    assert (response.max_output_tokens, response.top_p, response.top_logprobs) == (7, 0.25, 3)


def test_defaults(client: OpenAI, settings: Settings, redis: Redis) -> None:
    with scripted_worker(redis, MODEL, words("x")) as worker:
        client.responses.create(input="Hi")
        client.responses.create(input="Hi", include=["message.output_text.logprobs"])
    first, second = (request.params for request in worker.seen)
    assert (first.temperature, first.top_p, first.logprobs) == (1.0, 1.0, None)
    assert first.max_tokens == settings.max_tokens
    assert second.logprobs == 0


def test_log_probabilities(client: OpenAI, redis: Redis) -> None:
    def script(_: object) -> Iterator[AnyEvent]:
        drawn = Logprob(id=1, raw=b"On", logprob=-0.5)
        yield STARTED
        told = (TokenLogprobs(drawn, (drawn,)),)
        yield Token(seq=0, ids=(1,), text="On", logprobs=told)
        yield done()

    with scripted_worker(redis, MODEL, script):
        response = client.responses.create(**ASK, top_logprobs=1)
    (part,) = response.output[0].content  # type: ignore[union-attr]
    (told,) = part.logprobs  # type: ignore[union-attr,misc]
    assert (told.token, told.logprob, bytes(told.bytes)) == ("On", -0.5, b"On")
    assert [top.token for top in told.top_logprobs] == ["On"]


def test_too_few_tokens(client: OpenAI, redis: Redis) -> None:
    def script(_: object) -> Iterator[AnyEvent]:
        yield STARTED
        yield token("On")
        yield done(FinishReason.LENGTH)

    with scripted_worker(redis, MODEL, script):
        response = client.responses.create(**ASK, max_output_tokens=1)
    assert (response.status, response.output_text) == ("incomplete", "On")
    assert response.incomplete_details is not None
    assert response.incomplete_details.reason == "max_output_tokens"


@pytest.mark.parametrize(
    ("code", "known", "answered"),
    [
        ("worker_lost", "server_error", (502, "worker_lost")),
        ("prompt_too_long", "invalid_prompt", (400, "context_length_exceeded")),
    ],
)
def test_failures(
    client: OpenAI, redis: Redis, code: str, known: str, answered: tuple[int, str]
) -> None:
    with scripted_worker(redis, MODEL, failing(code, "On")):
        with pytest.raises(APIStatusError, match="It went wrong") as caught:
            client.responses.create(**ASK)
        assert (caught.value.status_code, caught.value.code) == answered
        with client.responses.create(**ASK, background=True, stream=True) as stream:
            *_, last = stream
        assert last.type == "response.failed"
        response = client.responses.retrieve(last.response.id)
    assert response == last.response
    assert (response.status, response.output_text) == ("failed", "On")
    assert response.error is not None
    assert (response.error.code, response.error.type) == (known, code)


def test_a_failure_that_was_put_back_is_left_out_of_what_is_told_later(
    client: OpenAI, redis: Redis
) -> None:
    with scripted_worker(redis, MODEL, failing("worker_lost", "On")):
        stream = client.responses.create(**ASK, background=True, stream=True)
        before = list(stream)
    last = before[-1]
    assert last.type == "response.failed"
    job_id = job_of(last.response.id)
    until(lambda: put_back(redis, job_id), what="the failed job, put back")
    with scripted_worker(redis, MODEL, words("ce")):
        ended(redis, job_id)
    response_id, number = last.response.id, last.sequence_number
    after = list(client.responses.retrieve(response_id, stream=True, starting_after=number))
    assert after[0].sequence_number == number + 1
    assert after[0].type == "response.queued"
    final = after[-1]
    assert final.type == "response.completed"
    assert final.response.output_text == "Once"
    assert list(client.responses.retrieve(response_id, stream=True)) == [*before[:-1], *after]


@pytest.mark.usefixtures("working")
def test_a_conversation_goes_on(client: OpenAI, redis: Redis) -> None:
    first = client.responses.create(**ASK, instructions="Be brief.")
    second = client.responses.create(
        model=MODEL,
        temperature=0,
        previous_response_id=first.id,
        instructions="Be long.",
        input="And then?",
    )
    assert second.previous_response_id == first.id
    said = f"{SAID}\n\nassistant: {first.output_text}\n\nuser: And then?"
    assert second.output_text == f"system: Be long.\n\n{said}"
    third = client.responses.create(
        model=MODEL, temperature=0, previous_response_id=second.id, input="Go on."
    )
    assert third.output_text == (f"{said}\n\nassistant: {second.output_text}\n\nuser: Go on.")
    redis.delete(names.events(job_of(third.id)))  # as when it has expired
    for unknown in (third.id, "resp_" + "0" * 32, "gone"):
        with pytest.raises(BadRequestError) as caught:
            client.responses.create(**ASK, previous_response_id=unknown)
        assert (caught.value.code, caught.value.param) == (
            "previous_response_not_found",
            "previous_response_id",
        )


def test_a_conversation_waits_for_its_last_answer(client: OpenAI, redis: Redis) -> None:
    began = client.responses.create(**ASK, background=True)
    with pytest.raises(BadRequestError, match="has not ended yet") as caught:
        client.responses.create(**ASK, previous_response_id=began.id)
    assert caught.value.param == "previous_response_id"
    with scripted_worker(redis, MODEL, failing("worker_lost")):
        ended(redis, job_of(began.id))
    with pytest.raises(BadRequestError, match="failed"):
        client.responses.create(**ASK, previous_response_id=began.id)


@pytest.mark.usefixtures("working")
def test_the_input_read_back_page_by_page(client: OpenAI) -> None:
    first = client.responses.create(**ASK, instructions="Be brief.")
    second = client.responses.create(
        input=[{"role": "developer", "content": "Rhyme."}, {"role": "user", "content": "More."}],
        previous_response_id=first.id,
    )
    items = list(client.responses.input_items.list(second.id, limit=1, order="asc"))
    told = [(item.role, item.content[0].type, item.content[0].text) for item in items]  # type: ignore[union-attr]
    assert told == [
        ("user", "input_text", "Tell me more."),
        ("assistant", "output_text", first.output_text),
        ("system", "input_text", "Rhyme."),
        ("user", "input_text", "More."),
    ]
    assert len({item.id for item in items}) == 4
    newest_first = list(client.responses.input_items.list(second.id))
    assert newest_first == items[::-1]
    with pytest.raises(BadRequestError):
        client.responses.input_items.list(second.id, after="msg_none")


@pytest.mark.usefixtures("working")
def test_an_output_may_be_sent_back_as_it_came(client: OpenAI) -> None:
    first = client.responses.create(**ASK)
    context: list[Any] = [{"role": "user", "content": "Hi"}, *first.output]
    assert client.responses.create(input=context, temperature=0).output_text == (
        f"user: Hi\n\nassistant: {first.output_text}"
    )


@pytest.mark.usefixtures("working")
def test_deleted(client: OpenAI, url: str, redis: Redis) -> None:
    response = client.responses.create(**ASK)
    client.responses.delete(response.id)
    for action in (
        client.responses.retrieve,
        client.responses.cancel,
        client.responses.delete,
        client.responses.input_items.list,
    ):
        with pytest.raises(NotFoundError):
            action(response.id)
    assert httpx.get(f"{url}/jobs/{job_of(response.id)}").status_code == 404


def test_deleting_ends_what_runs(client: OpenAI, settings: Settings, redis: Redis) -> None:
    began = client.responses.create(**ASK, background=True)
    with pytest.raises(ConflictError):  # nobody is there who could end it
        client.responses.delete(began.id)
    with crew(settings, step_seconds=0.05, hurried=True) as workers:
        workers.start_one()
        until(lambda: not redis.zcard(names.JOBS), what="the end of what was cancelled")
        with client.responses.create(**ASK, background=True, stream=True) as stream:
            for event in stream:
                if event.type == "response.output_text.delta":
                    break
        response_id = event.item_id.replace("msg_", "resp_")  # type: ignore[union-attr]
        client.responses.delete(response_id)
    with pytest.raises(NotFoundError):
        client.responses.retrieve(response_id)
    client.responses.delete(began.id)


@pytest.mark.usefixtures("working")
def test_not_stored(client: OpenAI) -> None:
    response = client.responses.create(**ASK, store=False)
    assert (response.output_text, response.store) == (SAID, False)
    with pytest.raises(NotFoundError):
        client.responses.retrieve(response.id)
    with pytest.raises(BadRequestError):
        client.responses.create(**ASK, previous_response_id=response.id)
    with pytest.raises(BadRequestError) as caught:
        client.responses.create(**ASK, store=False, background=True)
    assert caught.value.param == "store"


@pytest.mark.usefixtures("working")
def test_other_jobs_are_no_responses(client: OpenAI, url: str) -> None:
    answer = httpx.post(f"{url}/generate", json={"prompt": "x", "temperature": 0}).json()
    for name in (answer["id"], answer["id"].replace("job-", "resp_"), "x"):
        with pytest.raises(NotFoundError):
            client.responses.retrieve(name)


@pytest.mark.usefixtures("working")
def test_the_same_request_again(client: OpenAI) -> None:
    named = {"extra_headers": {"Idempotency-Key": "once"}}
    first = client.responses.create(**ASK, **named)  # type: ignore[call-overload]
    assert client.responses.create(**ASK, **named) == first  # type: ignore[call-overload]
    with pytest.raises(ConflictError):
        client.responses.create(input="Something else.", **named)  # type: ignore[call-overload]
    background = {"extra_headers": {"Idempotency-Key": "twice"}, "background": True}
    began = client.responses.create(**ASK, **background)  # type: ignore[call-overload]
    assert client.responses.create(**ASK, **background).id == began.id  # type: ignore[call-overload]


def test_a_foreground_stream_that_nobody_follows_is_cancelled_and_none_in_the_background(
    settings: Settings, redis: Redis
) -> None:
    with (
        running_api(settings, disconnect_grace=0.2) as url,
        sdk(url) as client,
    ):
        ids = []
        for background in (False, True):
            with client.responses.create(**ASK, background=background, stream=True) as stream:
                ids.append(next(stream).response.id)  # type: ignore[union-attr]
        attended = [redis.zscore(names.ATTENDED, job_of(each)) for each in ids]
    assert attended[0] is not None
    assert attended[1] is None


@pytest.mark.parametrize(
    ("fields", "param", "code"),
    [
        ({"input": []}, "input", "invalid_value"),
        ({"input": 5}, "input", "invalid_type"),
        ({"input": [{"type": "item_reference", "id": "x"}]}, "input[0]", "unsupported_value"),
        ({"input": [{"type": 5}]}, "input[0]", "invalid_value"),
        ({"input": [{"role": "tool", "content": "x"}]}, "input[0].role", "invalid_value"),
        (
            {"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}]},
            "input[0].content",
            "unsupported_value",
        ),
        ({"max_output_tokens": 10**6}, "max_output_tokens", "invalid_value"),
        ({"colour": "red"}, "colour", "unknown_parameter"),
        ({"model": "gpt-5"}, "model", "model_not_found"),
        ({"text": {"format": {"type": "xml"}}}, "text.format", "invalid_value"),
        ({"metadata": {"a": 5}}, "metadata.a", "invalid_type"),
        ({"metadata": {str(n): "" for n in range(17)}}, "metadata", "invalid_value"),
        ({"previous_response_id": "x"}, "previous_response_id", "previous_response_not_found"),
        (
            {"text": {"format": {"type": "json_schema", "name": "x", "schema": {"a": "\ud800"}}}},
            "text.format.json_schema.schema",
            "invalid_value",
        ),
        ({"metadata": {"a": "\ud800"}}, "metadata.a", "invalid_value"),
        ({"input": "\ud800"}, "input[0].content", "invalid_value"),
        ({"instructions": "\ud800"}, "instructions", "invalid_value"),
        ({"instructions": "\0"}, "instructions", "invalid_value"),
    ],
)
def test_what_can_not_be_used(url: str, fields: dict[str, Any], param: str, code: str) -> None:
    body = json.dumps({**ASK, **fields}).encode()
    answer = httpx.post(
        f"{url}/v1/responses", content=body, headers={"Content-Type": "application/json"}
    )
    assert answer.status_code in {400, 404}, answer.text
    error = answer.json()["error"]
    assert (error["param"], error["code"]) == (param, code), error


@pytest.mark.parametrize(
    ("query", "param"),
    [
        ({"stream": "true", "starting_after": "-1"}, "starting_after"),
        ({"starting_after": "1"}, "starting_after"),
        ({"include[]": "reasoning.encrypted_content"}, "include[][0]"),
        ({"stream": "true", "include_obfuscation": "perhaps"}, "include_obfuscation"),
    ],
)
def test_what_can_not_be_asked_of_one(
    client: OpenAI, url: str, query: dict[str, str], param: str
) -> None:
    began = client.responses.create(**ASK, background=True)
    answer = httpx.get(f"{url}/v1/responses/{began.id}", params=query)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == param


def test_a_deep_schema_is_no_server_error(url: str) -> None:
    for depth in (50, 200, 900, 20_000):
        schema = '{"a":' * depth + "{}" + "}" * depth
        form = f'{{"type":"json_schema","name":"x","schema":{schema}}}'
        answer = httpx.post(
            f"{url}/v1/responses",
            content=f'{{"input":"x","background":true,"text":{{"format":{form}}}}}',
            headers={"Content-Type": "application/json"},
        )
        assert answer.status_code in {200, 400}, (depth, answer.text)


@pytest.mark.usefixtures("working")
def test_obfuscation_hides_the_sizes_of_deltas_and_changes_no_number(
    client: OpenAI, url: str
) -> None:
    options: Any = {"stream": True, "stream_options": {"include_obfuscation": True}}
    with client.responses.create(**ASK, background=True, **options) as stream:
        events = list(stream)
    response_id = events[-1].response.id  # type: ignore[union-attr]
    assert [event.sequence_number for event in events] == list(range(len(events)))
    for padded in (True, False):
        answer = httpx.get(
            f"{url}/v1/responses/{response_id}",
            params={"stream": "true", "include_obfuscation": str(padded).lower()},
        )
        frames = answer.text.split("\n\n")
        deltas = [frame.partition("data: ")[2] for frame in frames if "text.delta" in frame]
        assert len(deltas) > 1
        assert not padded or len({len(delta) % 64 for delta in deltas}) == 1
        assert all(("obfuscation" in delta) is padded for delta in deltas)


def test_cancelled_before_it_began(client: OpenAI, redis: Redis) -> None:
    began = client.responses.create(**ASK, background=True)
    write(author_of(redis, began), Cancelled(seq=0, usage=Usage(0, 0), timings=TIMINGS))
    response = client.responses.retrieve(began.id)
    assert (response.status, response.output) == ("cancelled", [])
    (last,) = client.responses.retrieve(began.id, stream=True, starting_after=1)
    assert last.type == "response.incomplete"


def test_news_of_its_place_is_no_part_of_a_stream(client: OpenAI, redis: Redis) -> None:
    began = client.responses.create(**ASK, background=True)
    author = author_of(redis, began)
    stream = client.responses.retrieve(began.id, stream=True)
    assert [next(stream).sequence_number for _ in range(2)] == [0, 1]
    news = Queued(seq=0, id=job_of(began.id), model=MODEL, position=7)
    redis.publish(names.channel(job_of(began.id)), msgspec.json.encode(news))
    write(author, STARTED, token("x"), done())
    assert [event.sequence_number for event in stream] == list(range(2, 10))
