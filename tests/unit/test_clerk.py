from collections.abc import Sequence

import pytest
from fakeredis import FakeRedis

from shared import names, tokenizing
from shared.errors import ModelUnavailableError
from shared.tokenizing import Refusal, Tokenize, Tokens
from tests.support.clerk import Lenient
from worker import clerk
from worker.clerk import Clerk
from worker.prompts import Tokenizer


class Loader:
    def __init__(self) -> None:
        self.loaded: list[str] = []
        self.broken: set[str] = set()

    def __call__(self, name: str) -> Tokenizer:
        self.loaded.append(name)
        if name in self.broken:
            raise ModelUnavailableError("torn")
        return Lenient()


def answered(by: Clerk, model: str) -> Tokens | Refusal:
    answer = by._answer(Tokenize(model=model, prompt="a", add_special=False))
    assert isinstance(answer, Tokens | Refusal)
    return answer


def idle_clerk(loader: Loader, models: Sequence[str]) -> Clerk:
    return Clerk(FakeRedis(), models=lambda: models, loader=loader, on_crash=pytest.fail)


def test_tokenizers_are_kept_in_bounded_number_the_least_recently_used_goes() -> None:
    loader, models = Loader(), "abcde"
    made = idle_clerk(loader, models)
    for model in "abcdaae":
        assert answered(made, model) == Tokens((97,))
    assert loader.loaded == list(models)
    assert len(made._loaded) == clerk._MOST_LOADED
    answered(made, "a")
    answered(made, "b")
    assert loader.loaded == [*models, "b"]


def test_one_that_could_not_be_loaded_is_tried_again() -> None:
    loader = Loader()
    made = idle_clerk(loader, "a")
    loader.broken.add("a")
    assert answered(made, "a") == Refusal("model_unavailable", "torn")
    loader.broken.clear()
    assert answered(made, "a") == Tokens((97,))


def test_models_are_served_in_turn() -> None:
    """However many questions one of them has."""
    redis = FakeRedis()
    for number, model in enumerate("a" * 50 + "b"):
        question = tokenizing.encode(Tokenize(model=model, prompt="x"))
        redis.set(names.question(str(number)), question)
        redis.rpush(names.questions(model), number)
    made = Clerk(redis, models=lambda: "ab", loader=Loader(), on_crash=pytest.fail)
    for _ in range(2):
        made._serve_next()
    assert redis.exists(names.answer("0"), names.answer("50")) == 2
    assert (redis.llen(names.questions("a")), redis.llen(names.questions("b"))) == (49, 0)
