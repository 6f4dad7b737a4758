"""What is asked, and when: texts of a given length, lengths of a published trace, arrivals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Final

_PROMPT_TOKENS: Final = (2, 207, 387, 403, 703, 1020, 1071, 1130, 1315, 2734, 14050)
_OUTPUT_TOKENS: Final = (7, 54, 77, 91, 103, 129, 177, 384, 400, 424, 1000)
"""Deciles, the least and the most first and last; see `trace`."""

_WORDS: Final = (
    *("river", "stone", "light", "paper", "winter", "garden", "signal", "copper", "morning"),
    *("letter", "window", "bridge", "silver", "forest", "market", "summer", "engine", "harbor"),
)


@dataclass(frozen=True)
class Ask:
    """One request."""

    prompt: str
    max_tokens: int
    at: float = 0.0
    """Seconds after the beginning, before which it is not sent."""
    raw: bool = False
    """Continue the text as it is, instead of answering it as a chat's message."""


def at_once(prompts: Sequence[str], max_tokens: int, *, raw: bool = False) -> list[Ask]:
    return [Ask(prompt, max_tokens, raw=raw) for prompt in prompts]


def words(count: int, dice: Random) -> str:
    """A text of about so many tokens that begins like no other.

    Each word is one token for SmolLM2 and most others; what a prompt came to is in the usage.
    """
    return " ".join(dice.choices(_WORDS, k=max(1, count)))


def poisson(rate: float, seconds: float, dice: Random) -> list[float]:
    """Times at which requests come that know nothing of each other: `rate` of them a second."""
    times: list[float] = []
    now = dice.expovariate(rate)
    while now < seconds:
        times.append(now)
        now += dice.expovariate(rate)
    return times


def trace(
    times: Sequence[float], dice: Random, *, scale: float, most_prompt: int, most_output: int
) -> list[Ask]:
    """Requests as long as the conversations of the Azure LLM inference trace 2023.

    The trace (19,366 requests of one hour; github.com/Azure/AzurePublicDataset, file
    AzureLLMInferenceTrace_conv.csv, CC-BY; Patel et al., "Splitwise", ISCA 2024) has prompts of
    1,155 tokens on average, 1,020 at the median, and outputs of 211 and 129. Lengths are drawn
    from its deciles, in straight lines between them, prompt and output each for itself: the rank
    correlation of the two is 0.07.

    Args:
        times: At which they come, in seconds after the beginning.
        dice: What is drawn with.
        scale: What all lengths are multiplied with.
        most_prompt: Tokens; longer prompts are cut.
        most_output: The same of outputs, which are `max_tokens`: a model may end before.
    """
    return [
        Ask(
            words(_drawn(_PROMPT_TOKENS, scale, most_prompt, dice), dice),
            _drawn(_OUTPUT_TOKENS, scale, most_output, dice),
            at,
        )
        for at in times
    ]


def _drawn(deciles: Sequence[int], scale: float, most: int, dice: Random) -> int:
    place = dice.random() * (len(deciles) - 1)
    low = int(place)
    length = deciles[low] + (place - low) * (deciles[low + 1] - deciles[low])
    return max(1, min(most, round(length * scale)))
