from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from bench import plots

SVG = "{http://www.w3.org/2000/svg}"


def drawn(path: Path) -> ET.Element:
    return ET.fromstring(path.read_text(encoding="utf-8"))


def texts(root: ET.Element) -> list[str]:
    return [element.text or "" for element in root.iter(f"{SVG}text")]


def test_bars_show_every_group_every_name_and_every_value(tmp_path: Path) -> None:
    path = tmp_path / "images" / "bars.svg"
    groups = {"1 stream": {"ours": 130.4, "<theirs> & co": 27}, "32": {"ours": 1234.5}}

    plots.bars(path, "Tokens & <time>", groups, "tokens/s")

    root = drawn(path)
    shown = texts(root)
    for wanted in ("1 stream", "32", "ours", "<theirs> & co", "130", "27", "1,234", "tokens/s"):
        assert wanted in shown
    heights = [
        float(rect.attrib["height"])
        for rect in root.iter(f"{SVG}rect")
        if rect.find(f"{SVG}title") is not None
    ]
    assert heights[0] / heights[2] == pytest.approx(130.4 / 1234.5, rel=0.01)


def test_lines_show_every_series_at_its_place(tmp_path: Path) -> None:
    path = tmp_path / "lines.svg"
    series = {f"series {n}": [(1.0, n + 1.0), (2.0, 2.0), (4.0, 8.0)] for n in range(8)}

    plots.lines(path, "Growth", series, "streams", "ms", logx=True, logy=True)

    root = drawn(path)
    shown = texts(root)
    assert {*series, "Growth", "streams", "ms"} <= set(shown)
    polylines = list(root.iter(f"{SVG}polyline"))
    assert len(polylines) == len(series)
    looks = {(line.attrib["class"], line.attrib["stroke-dasharray"]) for line in polylines}
    assert len(looks) == len(series)
    xs = [float(point.split(",")[0]) for point in polylines[0].attrib["points"].split()]
    assert xs[1] - xs[0] == pytest.approx(xs[2] - xs[1], abs=0.2)
    assert len(list(root.iter(f"{SVG}circle"))) == 24


def test_a_zero_on_a_logarithmic_axis_stands_left_of_all_others(tmp_path: Path) -> None:
    path = tmp_path / "zero.svg"

    plots.lines(path, "Queue", {"ms": [(0, 1), (100, 2), (10_000, 3)]}, "jobs", "ms", logx=True)

    root = drawn(path)
    circles = [float(circle.attrib["cx"]) for circle in root.iter(f"{SVG}circle")]
    assert circles == sorted(set(circles))
    assert {"0", "100", "10,000"} <= set(texts(root))


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (0.012345, "0.0123"),
        (1.5, "1.5"),
        (99.96, "100"),
        (1234.5, "1,234"),
        (2e6, "2,000,000"),
    ],
)
def test_numbers_have_three_digits_that_count(value: float, text: str) -> None:
    assert plots.number_text(value) == text


def test_equal_values_and_none_at_all_can_be_drawn(tmp_path: Path) -> None:
    plots.lines(tmp_path / "flat.svg", "Flat", {"a": [(3, 0), (3, 0)]}, "x", "y")
    plots.lines(tmp_path / "empty.svg", "Empty", {"a": []}, "x", "y", logx=True, logy=True)
    plots.bars(tmp_path / "none.svg", "None", {}, "y")

    for name in ("flat", "empty", "none"):
        drawn(tmp_path / f"{name}.svg")
