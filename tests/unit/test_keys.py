"""Tokens, records, and what a prompt can cost."""

import msgspec
import pytest

from api.bounds import prompt_tokens_at_most
from api.caller import Caller
from api.draft import Draft
from shared import keys
from shared.allotment import day_of, seconds_to_next_day
from shared.job import Message, SamplingParams
from shared.keys import Allowance, Key, Token, digest, new_token, opens, read_token

AT = "2026-01-01T12:00:00.000+00:00"
BEFORE, BEHIND = "2026-01-01T11:59:59.999+00:00", "2026-01-01T12:00:00.001+00:00"
TOKEN = Token("4edff9aef5e3", "d7" * 32)  # the same in every process that collects these


def key(**changes: object) -> Key:
    plain = Key(id=TOKEN.id, name="n", digest=digest(TOKEN.secret), created_at=BEFORE)
    return msgspec.structs.replace(plain, **changes)


def test_a_token_is_read_as_it_was_written() -> None:
    assert read_token(TOKEN.text) == TOKEN
    assert len({new_token().text for _ in range(100)}) == 100
    assert len(bytes.fromhex(TOKEN.secret)) == 32


@pytest.mark.parametrize("text", ["", "mv--", TOKEN.text + "\n", " " + TOKEN.text, "mv-x-y"])
def test_nothing_else_is_a_token(text: str) -> None:
    assert read_token(text) is None


@pytest.mark.parametrize(
    ("changes", "is_open"),
    [
        ({}, True),
        ({"expires_at": BEHIND}, True),
        ({"expires_at": AT}, False),
        ({"revoked_at": BEFORE}, False),
        ({"revoked_at": BEFORE, "expires_at": BEHIND}, False),
        ({"digest": "0" * 64}, False),
        ({"digest": "0" * 64, "former_digest": digest(TOKEN.secret)}, False),
        (
            {
                "digest": "0" * 64,
                "former_digest": digest(TOKEN.secret),
                "former_until": BEHIND,
            },
            True,
        ),
        (
            {"digest": "0" * 64, "former_digest": digest(TOKEN.secret), "former_until": AT},
            False,
        ),
    ],
)
def test_a_token_opens_while_its_key_is_in_force(changes: dict[str, str], *, is_open: bool) -> None:
    assert opens(TOKEN, key(**changes), AT) is is_open


def test_a_secret_that_hashes_to_nothing_known_opens_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Not even one whose digest is what unknown ids are compared with."""
    monkeypatch.setattr(keys, "digest", lambda _: "0" * 64)
    assert not opens(TOKEN, None, AT)


def test_times_compare_as_texts() -> None:
    texts = [keys.in_seconds(number / 7) for number in range(-50, 50)]
    assert texts == sorted(texts)
    assert {len(text) for text in texts} == {len(AT)}


def test_a_record_does_not_show_a_token() -> None:
    assert TOKEN.secret not in repr(key())
    assert Token("a", "b").text == "mv-a-b"


def test_callers_see_what_is_theirs() -> None:
    mine = Caller("key:a", "a", admin=False)
    assert [mine.may_see(owner) for owner in ("a", "b", "")] == [True, False, False]
    admin, anybody = Caller("key:b", "b", admin=True), Caller("127.0.0.1")
    assert all(who.may_see(owner) for who in (admin, anybody) for owner in ("a", "b", ""))
    nobody = Caller("", "", admin=False)
    assert not nobody.may_see("")


def test_callers_use_the_models_of_their_keys() -> None:
    def models(*names: str) -> tuple[str, ...]:
        return Caller("", allowance=Allowance(models=names)).models(("a", "b", "c"))

    assert Caller("").models(("a", "b")) == ("a", "b")
    assert models("c", "b", "elsewhere") == ("b", "c")
    assert models("elsewhere") == ()


# Tokens


def cost(longest: int = 1000, **fields: object) -> int:
    params = SamplingParams(max_tokens=1, temperature=0, seed=1)
    return prompt_tokens_at_most(Draft(params=params, fingerprint="", **fields), longest)


def test_a_prompt_has_a_token_a_byte_at_most() -> None:
    assert cost(prompt="x" * 10) == 10 + 256 + 16
    assert cost(prompt="é" * 10) == 20 + 256 + 16
    assert cost(prompt="\ufdfa") == 33 + 256 + 16  # a whole phrase, once it is normalized
    assert cost(prompt="x" * 5000) == cost(prompt="é" * 700) == 1000
    assert cost(prompt_ids=(1, 2, 3)) == 3
    turns = (Message("user", "x" * 10), Message("assistant", "y" * 5))
    assert cost(messages=turns) == 15 + 256 + 2 * 16


def test_days_are_those_of_utc() -> None:
    noon = 1_767_268_800.0
    assert day_of(noon) == "2026-01-01"
    assert seconds_to_next_day(noon) == 12 * 3600
    assert (day_of(noon + 43_199.9), seconds_to_next_day(noon + 43_199.9)) == ("2026-01-01", 1)
    assert seconds_to_next_day(noon + 43_200) == 86_400
