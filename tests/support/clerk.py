"""A clerk in the test's process, whose tokenizer finds nothing to object to."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from redis import Redis

from worker.clerk import Clerk
from worker.prompts import Asked


class Lenient:
    def tokens(self, asked: Asked, *, add_special: bool = True) -> tuple[int, ...]:
        said = asked.prompt or "".join(turn.content for turn in asked.messages)
        return tuple(said.encode()) + (0,) * add_special

    def text(self, tokens: Sequence[int]) -> str:
        return "".join(chr(token % 128) for token in tokens)


@contextmanager
def running_clerk(redis: Redis, *models: str) -> Iterator[None]:
    crashes: list[str] = []
    clerk = Clerk(
        redis,
        models=lambda: models,
        loader=lambda _: Lenient(),
        on_crash=lambda: crashes.append("died"),
    )
    clerk.start()
    try:
        yield
    finally:
        clerk.stop()
        clerk.join()
        assert crashes == []
