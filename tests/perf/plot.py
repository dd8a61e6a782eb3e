# SPDX-License-Identifier: Apache-2.0
"""Line and bar charts as SVG text: axes with round ticks, units in the labels, a legend."""

import math
from xml.sax.saxutils import escape

WIDTH, HEIGHT = 760, 430
LEFT, RIGHT, TOP, BOTTOM = 80, 200, 46, 60
# Told apart also by people who do not see all colours (Okabe and Ito).
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#999999", "#8c510a")


def ticks(low, high, log=False):
    """Round numbers from at most `low` to at least `high`."""
    if log:
        return [10.0 ** at for at in range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)]
    span = (high - low) or abs(high) or 1
    power = 10 ** math.floor(math.log10(span / 5))
    step = next(power * factor for factor in (1, 2, 5, 10) if span / (power * factor) <= 6)
    first, last = math.floor(low / step), math.ceil(high / step)
    return [number * step for number in range(first, last + 1)]


def number_text(value):
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:g}"


class _Axis:
    """Values to places between two ends of the drawing."""

    def __init__(self, values, begin, end, log=False):
        self.ticks = ticks(min(values), max(values), log)
        self.log, self.begin, self.end = log, begin, end

    def at(self, value):
        low, high = self.ticks[0], self.ticks[-1]
        if self.log:
            low, high, value = math.log10(low), math.log10(high), math.log10(value)
        return self.begin + (value - low) / ((high - low) or 1) * (self.end - self.begin)


def _text(x, y, text, anchor="middle", size=12, **more):
    attributes = "".join(f' {name}="{value}"' for name, value in more.items())
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}"{attributes}>{escape(text)}</text>'


def _frame(title, x_label, y_label, body):
    middle = (LEFT + WIDTH - RIGHT) / 2
    upright = (TOP + HEIGHT - BOTTOM) / 2
    return "\n".join([
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{HEIGHT}" viewBox="0 0 {WIDTH} {HEIGHT}" '
        'font-family="sans-serif">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        _text(LEFT, 24, title, "start", 15, **{"font-weight": "bold"}),
        _text(middle, HEIGHT - 14, x_label),
        _text(20, upright, y_label, transform=f"rotate(-90 20 {upright:.1f})"),
        *body, "</svg>", ""])


def _grid(x_axis, y_axis):
    bottom, right = HEIGHT - BOTTOM, WIDTH - RIGHT
    for tick in y_axis.ticks:
        y = y_axis.at(tick)
        yield f'<line x1="{LEFT}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}" stroke="#dddddd"/>'
        yield _text(LEFT - 6, y + 4, number_text(tick), "end", 11)
    for tick in x_axis.ticks if x_axis else ():
        x = x_axis.at(tick)
        yield f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{bottom}" stroke="#dddddd"/>'
        yield _text(x, bottom + 16, number_text(tick), size=11)
    yield f'<path d="M{LEFT} {TOP}V{bottom}H{right}" fill="none" stroke="black"/>'


def line_chart(title, x_label, y_label, series, log_x=False):
    """`series`: name -> points (x, y), in order of x; with `log_x` every x is above 0."""
    points = [point for each in series.values() for point in each]
    x_axis = _Axis([x for x, _ in points], LEFT, WIDTH - RIGHT, log_x)
    y_axis = _Axis([0, *(y for _, y in points)], HEIGHT - BOTTOM, TOP)
    body = list(_grid(x_axis, y_axis))
    for index, (name, each) in enumerate(series.items()):
        colour = COLOURS[index % len(COLOURS)]
        path = " ".join(f"{x_axis.at(x):.1f},{y_axis.at(y):.1f}" for x, y in each)
        body.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        y = TOP + 10 + 20 * index
        body.append(f'<line x1="{WIDTH - RIGHT + 14}" x2="{WIDTH - RIGHT + 34}" y1="{y}" y2="{y}" stroke="{colour}" '
                    'stroke-width="3"/>')
        body.append(_text(WIDTH - RIGHT + 40, y + 4, name, "start"))
    return _frame(title, x_label, y_label, body)


def cdf(title, x_label, samples):
    """`samples`: name -> values above 0. The x axis is logarithmic."""
    series = {}
    for name, values in samples.items():
        ordered = sorted(values)
        series[name] = [(ordered[0], 0), *((value, (at + 1) / len(ordered)) for at, value in enumerate(ordered))]
    return line_chart(title, x_label, "part of the runs at or below", series, log_x=True)


def bar_chart(title, y_label, bars):
    """`bars`: name -> value, from 0. The names stand in the legend."""
    y_axis = _Axis([0, *bars.values()], HEIGHT - BOTTOM, TOP)
    body = list(_grid(None, y_axis))
    slot = (WIDTH - RIGHT - LEFT) / len(bars)
    for index, (name, value) in enumerate(bars.items()):
        colour, x, top = COLOURS[index % len(COLOURS)], LEFT + slot * (index + 0.2), y_axis.at(value)
        body.append(f'<rect x="{x:.1f}" y="{top:.1f}" width="{slot * 0.6:.1f}" height="{HEIGHT - BOTTOM - top:.1f}" '
                    f'fill="{colour}"/>')
        body.append(_text(x + slot * 0.3, top - 5, f"{value:.3g}"))
        y = TOP + 10 + 20 * index
        body.append(f'<rect x="{WIDTH - RIGHT + 14}" y="{y - 6}" width="20" height="12" fill="{colour}"/>')
        body.append(_text(WIDTH - RIGHT + 40, y + 4, name, "start"))
    return _frame(title, "", y_label, body)
