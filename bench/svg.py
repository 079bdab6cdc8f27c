"""Line charts as SVG, plain enough to need no library.

A few series over a few points, one or more panels.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Final

_COLOURS: Final = ("#1b7837", "#b2182b", "#2166ac", "#e08214", "#762a83")
_WIDTH, _HEIGHT = 300, 260
_LEFT, _RIGHT, _TOP, _BOTTOM = 62, 12, 44, 44
_LEGEND: Final = 34


def chart(
    title: str,
    x_label: str,
    panels: Mapping[str, Mapping[str, Sequence[float]]],
    x_values: Sequence[str],
) -> str:
    """A row of panels with a logarithmic axis each, in milliseconds.

    Args:
        title: of the whole.
        x_label: what the points are.
        panels: by title, the series by name; one value in ms for each point.
        x_values: labels of the points.
    """
    everything = [
        value for series in panels.values() for values in series.values() for value in values
    ]
    low = math.floor(math.log10(max(min(everything), 0.01)))
    high = math.ceil(math.log10(max(everything)))
    width, height = _WIDTH * len(panels), _HEIGHT + _LEGEND
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}"'
        ' font-family="sans-serif" font-size="11">',
        f'<rect width="{width}" height="{height}" fill="white"/>',
        f'<text x="{width / 2}" y="16" text-anchor="middle" font-size="13">{escape(title)}</text>',
    ]
    for number, (name, series) in enumerate(panels.items()):
        parts += _panel(number * _WIDTH, name, x_label, series, x_values, low, high)
    names = list(next(iter(panels.values())))
    for number, name in enumerate(names):
        x, y = 40 + number * width / len(names), height - 14
        colour = _COLOURS[number]
        parts.append(f'<rect x="{x}" y="{y - 9}" width="18" height="4" fill="{colour}"/>')
        parts.append(f'<text x="{x + 24}" y="{y - 3}">{escape(name)}</text>')
    return "\n".join([*parts, "</svg>", ""])


def _panel(
    left: float,
    name: str,
    x_label: str,
    series: Mapping[str, Sequence[float]],
    x_values: Sequence[str],
    low: int,
    high: int,
) -> list[str]:
    inner_width, inner_height = _WIDTH - _LEFT - _RIGHT, _HEIGHT - _TOP - _BOTTOM
    step = inner_width / max(1, len(x_values) - 1)

    def x_of(point: int) -> float:
        return left + _LEFT + point * step

    def y_of(value: float) -> float:
        part = (math.log10(max(value, 10**low)) - low) / (high - low)
        return _TOP + inner_height * (1 - part)

    parts = [
        f'<text x="{left + _LEFT + inner_width / 2}" y="{_TOP - 8}" text-anchor="middle">'
        f"{escape(name)}</text>"
    ]
    for power in range(low, high + 1):
        y = y_of(10**power)
        right = left + _WIDTH - _RIGHT
        parts.append(f'<path d="M{left + _LEFT} {y:.1f}H{right}" stroke="#ddd"/>')
        label = f"{10**power:g} ms"
        parts.append(
            f'<text x="{left + _LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{label}</text>'
        )
    for point, label in enumerate(x_values):
        y = _HEIGHT - _BOTTOM + 16
        parts.append(f'<text x="{x_of(point):.1f}" y="{y}" text-anchor="middle">{label}</text>')
    parts.append(
        f'<text x="{left + _LEFT + inner_width / 2}" y="{_HEIGHT - 10}" text-anchor="middle">'
        f"{escape(x_label)}</text>"
    )
    for colour, values in zip(_COLOURS, series.values(), strict=False):
        points = " ".join(f"{x_of(n):.1f},{y_of(v):.1f}" for n, v in enumerate(values))
        parts.append(
            f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"/>'
        )
        parts += [
            f'<circle cx="{x_of(n):.1f}" cy="{y_of(v):.1f}" r="2.5" fill="{colour}"/>'
            for n, v in enumerate(values)
        ]
    return parts
