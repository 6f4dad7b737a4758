"""What the streams ask for: drawn from a seed, so that every run of it asks the same."""

import hashlib
import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

_OPENINGS: Final = (
    "Tell me a long story about {}.",
    "Explain step by step how somebody comes to understand {}.",
    "Write a letter to a friend about {}.",
    "List twenty things that have to do with {}.",
    "Write a short play in which two people talk about {}.",
)
_BEGINNINGS: Final = (
    "Everything began with {}, and",
    "Once there was a town that was known for {}.",
    "A note on {}:\n\n1.",
)
_SUBJECTS: Final = (
    "a lighthouse keeper",
    "the printing of books",
    "rain in an old city",
    "a bicycle that stays upright",
    "the smell of bread",
    "emoji like 🚀🎉 and what they mean",
    "the word for snow in Japanese (雪)",
    "a garden that feeds four",
    "a café in Zürich",
    "what a good teacher knows",
)
_PADDING: Final = "Take your time, be exact and give an example for each thing that you say."


@dataclass(frozen=True)
class Request:
    number: int
    body: dict[str, Any]

    @property
    def greedy(self) -> bool:
        return bool(self.body["temperature"] == 0)


def requests(count: int, seed: int) -> list[Request]:
    """Half greedy, half sampled from seeds; prompts and answers of many lengths."""
    draw = random.Random(f"requests {seed}")
    return [Request(number, _body(number, draw)) for number in range(count)]


def _body(number: int, draw: random.Random) -> dict[str, Any]:
    raw = draw.random() < 0.5
    subject = draw.choice(_SUBJECTS)
    prompt = draw.choice(_BEGINNINGS if raw else _OPENINGS).format(subject)
    if not raw:
        prompt += f" {_PADDING}" * draw.choice((0, 0, 1, 4))
    body: dict[str, Any] = {
        "prompt": f"{prompt} ({number})" if not raw else f"({number}) {prompt}",
        "raw": raw,
        "max_tokens": draw.randint(200, 800),
        "temperature": 0,
    }
    if number % 2:
        body |= {"temperature": draw.choice((0.7, 1.0)), "seed": draw.randrange(2**32)}
        body |= draw.choice(({}, {"top_p": 0.95}, {"top_k": 50}, {"repetition_penalty": 1.1}))
    if draw.random() < 0.2:  # text is held back where a stop string may be coming
        body["stop"] = [draw.choice((" because", "\n\n\n", " finally"))]
    if draw.random() < 0.1:
        body["echo"] = True
    return body


def digest(asked: Sequence[Request]) -> str:
    """A name for exactly these requests."""
    text = json.dumps([request.body for request in asked], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
