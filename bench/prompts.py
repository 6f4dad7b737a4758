"""Prompts of mixed length that call for long answers. Nothing is tuned to them."""

from __future__ import annotations

from itertools import cycle, islice
from typing import Final

_TOPICS: Final = (
    "Tell me a long story about a lighthouse keeper.",
    "Explain in detail how bread is made, from the field to the table.",
    "Describe a walk through an old city in the rain.",
    "Write an essay about why people travel.",
    "How does a bicycle stay upright? Explain it step by step and give an example for each step.",
    (
        "Write the opening of a novel that is set on a ship, in which the captain has just found "
        "a letter that somebody hid in her cabin many years ago."
    ),
    "List the planets of the solar system and say something interesting about each of them.",
    (
        "Give me a detailed plan for a vegetable garden that feeds a family of four for a year, "
        "with what to sow in which month and how to keep the soil healthy."
    ),
    "Tell me about the history of printing.",
    "What should a good teacher know, and why? Answer at length.",
)


def prompts(count: int, first: int = 1) -> list[str]:
    """So many prompts, numbered from `first`. The numbers come first, so no two begin alike."""
    return [f"({i}) {topic}" for i, topic in enumerate(islice(cycle(_TOPICS), count), start=first)]
