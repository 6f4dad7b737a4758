"""What the comparisons print and write."""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Iterable, Sequence
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

import torch

from bench.systems import CACHE


def spread(values: Sequence[float], form: str = ".0f", scale: float = 1) -> str:
    """Median, and in brackets the least and the most."""
    shown = [format(value * scale, form) for value in (median(values), min(values), max(values))]
    return f"{shown[0]} ({shown[1]} to {shown[2]})"


def middle(values: Iterable[float], form: str = ".0f", scale: float = 1) -> str:
    return format(median(values) * scale, form)


def machine() -> str:
    """In one line: what was measured on, and with what."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        model = next(line.partition(":")[2].strip() for line in lines if line[:10] == "model name")
    except (OSError, StopIteration):
        model = platform.processor() or platform.machine()
    gpu = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    return (
        f"{os.cpu_count()} cores of {model}{gpu}; torch {version('torch')}, "
        f"transformers {version('transformers')}; {time.strftime('%Y-%m-%d')}"
    )


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print Markdown."""
    print()
    for cells in (head, ["---"] * len(head), *rows):
        print(f"| {' | '.join(cells)} |")


def save(name: str, results: Any) -> None:
    """Everything that was measured, as JSON in the cache folder."""
    CACHE.mkdir(parents=True, exist_ok=True)
    path = CACHE / f"{name}-{time.strftime('%Y%m%d-%H%M%S')}.json"
    whole = {"machine": machine(), "results": results}
    path.write_text(json.dumps(whole, indent=1), encoding="utf-8")
    print(f"\nAll figures: {path}")
