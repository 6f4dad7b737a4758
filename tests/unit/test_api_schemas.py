import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from api.fields import MAX_SEED
from api.schemas import GenerateBody


def test_a_conversation_is_drafted_as_it_came() -> None:
    turns = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": ""},
        {"role": "user", "content": "é\n"},
    ]
    draft = GenerateBody.model_validate({"messages": turns}).draft(9)
    assert draft.prompt == ""
    assert [(turn.role, turn.content) for turn in draft.messages] == [
        (turn["role"], turn["content"]) for turn in turns
    ]
    turns[1]["content"] = "Goodbye"
    assert (
        GenerateBody.model_validate({"messages": turns}).draft(9).fingerprint != draft.fingerprint
    )


def test_only_the_prompt_is_required() -> None:
    params = GenerateBody(prompt="x").params(1024)
    assert (params.max_tokens, params.temperature, params.top_p, params.top_k) == (256, 0.7, 1, 0)
    assert (params.repetition_penalty, params.stop) == (1, ())


def test_the_default_length_stays_within_what_the_service_allows() -> None:
    assert GenerateBody(prompt="x").params(100).max_tokens == 100


def test_a_seed_is_chosen_where_none_is_given_and_zero_is_one() -> None:
    assert GenerateBody(prompt="x", seed=0).params(9).seed == 0
    assert len({GenerateBody(prompt="x").params(9).seed for _ in range(5)}) > 1


def test_a_single_stop_string_is_a_list_of_one() -> None:
    assert GenerateBody.model_validate({"prompt": "x", "stop": "\n"}).params(9).stop == ("\n",)


def test_integers_may_be_written_like_json_schema_allows() -> None:
    body = GenerateBody.model_validate({"prompt": "x", "max_tokens": 8.0, "temperature": 1})
    assert (body.max_tokens, body.temperature) == (8, 1.0)
    assert isinstance(body.max_tokens, int)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


@given(st.dictionaries(st.sampled_from(sorted(GenerateBody.model_fields)), JSON))
def test_what_passes_is_what_the_worker_can_use(fields: dict[str, object]) -> None:
    try:
        body = GenerateBody.model_validate({"prompt": "x"} | fields)
    except ValidationError:
        return
    params = body.params(1024)
    assert body.prompt
    assert not body.messages
    assert "\0" not in body.prompt
    body.prompt.encode()
    assert 0 <= params.seed <= MAX_SEED
    assert 0 <= params.temperature <= 2
    assert 0 < params.top_p <= 1
    assert 0 <= params.min_p <= 1
    assert 0 < params.repetition_penalty <= 2
    assert -2 <= params.presence_penalty <= 2
    assert -2 <= params.frequency_penalty <= 2
    assert len(params.stop) <= 8
    assert all(0 < len(stop) <= 200 for stop in params.stop)


def test_lone_surrogates_are_no_text() -> None:
    with pytest.raises(ValidationError):
        GenerateBody.model_validate({"prompt": "\ud800"})
    with pytest.raises(ValidationError):
        GenerateBody.model_validate({"prompt": "x", "stop": ["\udfff"]})
