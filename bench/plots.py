"""Bars and lines as SVG, readable in light and in dark mode, without a library for it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from xml.sax.saxutils import escape

_WIDTH: Final = 760
_HEIGHT: Final = 420
_LEFT: Final = 80
_RIGHT: Final = _WIDTH - 24
_TOP: Final = 84
_BOTTOM: Final = _HEIGHT - 56
_COLOURS: Final = (  # light mode, dark mode; told apart with any colour vision
    ("#0072b2", "#56a8e8"),
    ("#d55e00", "#ff9440"),
    ("#009e73", "#3cc9a0"),
    ("#a8508a", "#dd96c2"),
    ("#8a6d00", "#e0c040"),
    ("#555555", "#bbbbbb"),
)
_DASHES: Final = ("none", "7 4", "2 3")
"""Taken in turn once all colours are used."""
_MOST_TICKS: Final = 6
_MOST_LABELLED: Final = 12
"""Values on a logarithmic axis that get a tick each, instead of round numbers."""
_CHARACTER: Final = 6.9  # pixels, at 12 px a generous mean

Series = Mapping[str, Sequence[tuple[float, float]]]
Groups = Mapping[str, Mapping[str, float]]


def bars(path: Path, title: str, groups: Groups, ylabel: str) -> None:
    """Write bars side by side in groups, each with its value on top.

    Args:
        path: The file; its folder is made.
        title: Of the plot.
        groups: Values by the bar's name (one colour each), by the group's name. None is negative.
        ylabel: What the values are, with the unit.
    """
    names = list(dict.fromkeys(name for group in groups.values() for name in group))
    scale = _Scale.over([0, *_values(groups)], _BOTTOM, _TOP)
    space = (_RIGHT - _LEFT) / max(1, len(groups))
    width = min(64, space * 0.84 / max(1, len(names)))
    parts = [*_legend(names), *_y_axis(scale, ylabel)]
    for number, (group, values) in enumerate(groups.items()):
        middle = _LEFT + space * (number + 0.5)
        parts.append(_text(middle, _BOTTOM + 20, group, "middle"))
        for name, value in values.items():
            index = names.index(name)
            x, y = middle + (index - len(names) / 2) * width, scale.place(value)
            parts.append(
                f'<rect class="f{index % len(_COLOURS)}" x="{x + 1:.1f}" y="{y:.1f}" '
                f'width="{width - 2:.1f}" height="{_BOTTOM - y:.1f}">'
                f"<title>{escape(f'{group}, {name}: {number_text(value)}')}</title></rect>"
            )
            parts.append(_text(x + width / 2, y - 5, number_text(value), "middle", "small"))
    _write(path, title, parts)


def lines(
    path: Path,
    title: str,
    series: Series,
    xlabel: str,
    ylabel: str,
    *,
    logx: bool = False,
    logy: bool = False,
) -> None:
    """Write a line with a dot at each point, one for each series.

    Args:
        path: The file; its folder is made.
        title: Of the plot.
        series: Points (x, y) by the line's name.
        xlabel: What x is, with the unit.
        ylabel: What y is, with the unit.
        logx: Whether x is logarithmic. A zero stands at the left end, under its own label.
        logy: The same of y.
    """
    points = [point for line in series.values() for point in line]
    across = _Scale.over([x for x, _ in points], _LEFT + 12, _RIGHT - 12, log=logx)
    heights = [y for _, y in points]
    up = _Scale.over(heights if logy else [0, *heights], _BOTTOM, _TOP, log=logy)
    parts = [*_legend(list(series)), *_y_axis(up, ylabel), *_x_axis(across, xlabel)]
    for index, (name, line) in enumerate(series.items()):
        placed = [(across.place(x), up.place(y)) for x, y in line]
        path_data = " ".join(f"{x:.1f},{y:.1f}" for x, y in placed)
        dash = _DASHES[index // len(_COLOURS) % len(_DASHES)]
        colour = index % len(_COLOURS)
        parts.append(
            f'<polyline class="l{colour}" stroke-dasharray="{dash}" points="{path_data}"/>'
        )
        for (x, y), (cx, cy) in zip(line, placed, strict=True):
            told = escape(f"{name}: {number_text(y)} at {number_text(x)}")
            parts.append(
                f'<circle class="f{colour}" cx="{cx:.1f}" cy="{cy:.1f}" r="3.5">'
                f"<title>{told}</title></circle>"
            )
    _write(path, title, parts)


def number_text(value: float) -> str:
    """Three digits that count, thousands apart."""
    if value == 0:
        return "0"
    decimals = max(0, 2 - math.floor(math.log10(abs(value))))
    text = f"{value:,.{decimals}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


@dataclass(frozen=True)
class _Scale:
    """From values to pixels."""

    low: float
    high: float
    start: float
    end: float
    log: bool
    ticks: tuple[float, ...]

    @classmethod
    def over(
        cls, values: Sequence[float], start: float, end: float, *, log: bool = False
    ) -> _Scale:
        if log:
            return cls._logarithmic(values, start, end)
        low, high = min(values, default=0), max(values, default=0)
        high = high if high > low else low + 1
        step = _round_step((high - low) / _MOST_TICKS)
        low, high = math.floor(low / step) * step, math.ceil(high / step) * step
        count = round((high - low) / step)
        return cls(low, high, start, end, log, tuple(low + step * n for n in range(count + 1)))

    @classmethod
    def _logarithmic(cls, values: Sequence[float], start: float, end: float) -> _Scale:
        """With a tick at each value where these are few, else at round numbers."""
        positive = sorted({value for value in values if value > 0}) or [1]
        zero = () if len(positive) == len(set(values)) else (0.0,)
        low, high = positive[0], max(positive[-1], positive[0] * 1.01)
        ticks = tuple(positive)
        if len(ticks) > _MOST_LABELLED:
            ticks = _round_numbers(low, high)
            low, high = ticks[0], ticks[-1]
            if len(ticks) > _MOST_LABELLED:
                ticks = tuple(tick for tick in ticks if math.log10(tick).is_integer())
        return cls(low / 4 if zero else low, high, start, end, True, zero + ticks)

    def place(self, value: float) -> float:
        if self.log:
            low, high = math.log(self.low), math.log(self.high)
            share = (math.log(max(value, self.low)) - low) / (high - low)
        else:
            share = (value - self.low) / (self.high - self.low)
        return self.start + share * (self.end - self.start)


def _round_step(least: float) -> float:
    """The next of 1, 2, 5, 10, ..."""
    power = 10.0 ** math.floor(math.log10(least))
    return next(power * n for n in (1, 2, 5, 10) if power * n >= least * 0.999)


def _round_numbers(low: float, high: float) -> tuple[float, ...]:
    """1, 2, 5, 10, ... from the last that is at most `low` to the first that is at least `high`."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    numbers = [float(f"{n}e{power}") for power in powers for n in (1, 2, 5)]
    first = max(i for i, number in enumerate(numbers) if number <= low)
    last = min(i for i, number in enumerate(numbers) if number >= high)
    return tuple(numbers[first : last + 1])


def _values(groups: Groups) -> Iterator[float]:
    for group in groups.values():
        yield from group.values()


def _y_axis(scale: _Scale, label: str) -> Iterator[str]:
    for tick in scale.ticks:
        y = scale.place(tick)
        yield f'<line class="grid" x1="{_LEFT}" y1="{y:.1f}" x2="{_RIGHT}" y2="{y:.1f}"/>'
        yield _text(_LEFT - 8, y + 4, number_text(tick), "end")
    middle = (_TOP + _BOTTOM) / 2
    yield (
        f'<text transform="rotate(-90)" x="{-middle:.0f}" y="18" text-anchor="middle">'
        f"{escape(label)}</text>"
    )


def _x_axis(scale: _Scale, label: str) -> Iterator[str]:
    yield f'<line class="axis" x1="{_LEFT}" y1="{_BOTTOM}" x2="{_RIGHT}" y2="{_BOTTOM}"/>'
    for tick in scale.ticks:
        x = scale.place(tick)
        yield f'<line class="axis" x1="{x:.1f}" y1="{_BOTTOM}" x2="{x:.1f}" y2="{_BOTTOM + 5}"/>'
        yield _text(x, _BOTTOM + 20, number_text(tick), "middle")
    yield _text((_LEFT + _RIGHT) / 2, _HEIGHT - 12, label, "middle")


def _legend(names: Sequence[str]) -> Iterator[str]:
    x, y = float(_LEFT), 48.0
    for index, name in enumerate(names):
        width = 24 + len(name) * _CHARACTER + 16
        if x + width > _RIGHT and x > _LEFT:
            x, y = float(_LEFT), y + 18
        colour = index % len(_COLOURS)
        yield f'<rect class="f{colour}" x="{x:.1f}" y="{y:.0f}" width="12" height="12"/>'
        yield _text(x + 18, y + 10, name, "start")
        x += width


def _text(x: float, y: float, text: str, anchor: str, kind: str = "") -> str:
    styled = f' class="{kind}"' if kind else ""
    return f'<text{styled} x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _style() -> str:
    def rules(mode: int) -> str:
        return "".join(
            f".f{i}{{fill:{both[mode]}}}.l{i}{{stroke:{both[mode]}}}"
            for i, both in enumerate(_COLOURS)
        )

    return (
        "text{font:12px sans-serif;fill:#24292f}.small{font-size:11px}"
        ".title{font:600 15px sans-serif}.paper{fill:#ffffff}"
        ".grid{stroke:#d8dee4}.axis{stroke:#57606a}"
        f"polyline{{fill:none;stroke-width:2}}{rules(0)}"
        "@media (prefers-color-scheme:dark){"
        f"text{{fill:#e6edf3}}.paper{{fill:#0d1117}}.grid{{stroke:#30363d}}.axis{{stroke:#8b949e}}"
        f"{rules(1)}}}"
    )


def _write(path: Path, title: str, parts: Iterable[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    lines_of_text = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img">',
        f"<title>{escape(title)}</title>",
        f"<style>{_style()}</style>",
        f'<rect class="paper" width="{_WIDTH}" height="{_HEIGHT}"/>',
        f'<text class="title" x="{_LEFT}" y="28">{escape(title)}</text>',
        *parts,
        "</svg>",
    ]
    path.write_text("\n".join(lines_of_text) + "\n", encoding="utf-8")
