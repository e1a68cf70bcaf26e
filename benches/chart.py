"""Line charts as SVG, written by hand: they need nothing but a browser, and follow its light or dark colours."""

import html
import math

WIDTH, HEIGHT = 760, 400
LEFT, TOP, RIGHT, BOTTOM = 76, 48, 216, 56
COLORS = [("#1f6feb", "#58a6ff"), ("#cf222e", "#ff7b72"), ("#1a7f37", "#3fb950"), ("#8250df", "#bc8cff"), ("#9a6700", "#d29922")]
# What an engine is compared with is drawn in grey.
GREY = [("#6e7781", "#8b949e"), ("#424a53", "#c9d1d9")]


def style():
    """Colours of the page and of each line, for light and for dark screens."""
    rules = [(".page", "fill", "#ffffff", "#0d1117"), (".grid", "stroke", "#d8dee4", "#30363d"), ("text", "fill", "#1f2328", "#e6edf3")]
    for name, colors in [("c", COLORS), ("g", GREY)]:
        for i, (light, dark) in enumerate(colors):
            rules.append((f"polyline.{name}{i}", "stroke", light, dark))
            rules.append((f"text.{name}{i},circle.{name}{i}", "fill", light, dark))
    light = "".join(f"{who}{{{what}:{color}}}" for who, what, color, _ in rules)
    dark = "".join(f"{who}{{{what}:{color}}}" for who, what, _, color in rules)
    return f"<style>{light}@media(prefers-color-scheme:dark){{{dark}}}</style>"


class Axis:
    """Maps values between the ends of `values` to `begin`..`end`; from zero, or in a logarithmic scale."""

    def __init__(self, values, log, begin, end):
        self.log, self.begin, self.end = log, begin, end
        low, high = min(values), max(values)
        if log:
            # What was too short to be printed stands on the axis.
            self.low, self.high = max(low, 1e-3) * 0.9, max(high, 1e-3) * 1.1
        else:
            self.low, self.high = 0, high * 1.08 or 1

    def at(self, value):
        f = math.log if self.log else float
        share = (f(max(value, self.low)) - f(self.low)) / (f(self.high) - f(self.low)) if self.high > self.low else 0.5
        return self.begin + (self.end - self.begin) * share

    def ticks(self):
        if self.log:
            powers = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
            for steps in [(1,), (1, 3), (1, 2, 5), (1, 1.5, 2, 3, 4, 5, 6, 8)]:
                found = [s * 10.0**p for p in powers for s in steps if self.low <= s * 10.0**p <= self.high]
                if len(found) >= 4:
                    break
            return found
        step = 10 ** math.floor(math.log10(self.high))
        step = next(s for s in (step / 10, step / 5, step / 2, step, step * 2) if self.high / s <= 8)
        return [step * i for i in range(int(self.high / step) + 1)]


def number(value):
    return f"{value:,.0f}" if value >= 10 or value == int(value) else f"{value:g}"


def spread(places, gap=15):
    """The places, moved apart so that labels there do not cover each other."""
    order = sorted(range(len(places)), key=lambda i: places[i])
    out = list(places)
    for before, i in zip(order, order[1:]):
        out[i] = max(out[i], out[before] + gap)
    excess = max(max(out) - (HEIGHT - BOTTOM + 4), 0) if out else 0
    return [place - excess for place in out]


def chart(path, title, x, y, lines, log_x=False, log_y=False):
    """Draws `lines`, by name a list of points, with `x` and `y` as the axes' names. An x is a number, or a word where the axis has steps; a
    name that begins with "raw" is drawn dashed and in grey."""
    words = [p[0] for p in next(iter(lines.values()))] if isinstance(next(iter(lines.values()))[0][0], str) else None
    place = (lambda v: words.index(v)) if words else (lambda v: v)
    xs = sorted({place(p[0]) for points in lines.values() for p in points})
    across = Axis(xs, log_x, LEFT, WIDTH - RIGHT)
    down = Axis([p[1] for points in lines.values() for p in points], log_y, HEIGHT - BOTTOM, TOP)
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" '
        f'font-family="sans-serif" font-size="12" role="img" aria-label="{html.escape(title)}">',
        style(),
        f'<rect class="page" width="100%" height="100%"/><text x="{LEFT}" y="26" font-size="15">{html.escape(title)}</text>',
    ]
    for v in down.ticks():
        out.append(f'<path class="grid" d="M{LEFT} {down.at(v):.1f}H{WIDTH - RIGHT}"/>')
        out.append(f'<text x="{LEFT - 8}" y="{down.at(v) + 4:.1f}" text-anchor="end">{number(v)}</text>')
    for v in xs:
        label = words[v] if words else number(v)
        out.append(f'<text x="{across.at(v):.1f}" y="{HEIGHT - BOTTOM + 20}" text-anchor="middle">{html.escape(label)}</text>')
    middle = (TOP + HEIGHT - BOTTOM) / 2
    out.append(f'<text x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 12}" text-anchor="middle">{html.escape(x)}</text>')
    out.append(f'<text transform="translate(18 {middle}) rotate(-90)" text-anchor="middle">{html.escape(y)}</text>')
    kinds = {"c": 0, "g": 0}
    ends = spread([down.at(points[-1][1]) for points in lines.values()])
    for (name, points), end in zip(lines.items(), ends):
        kind = "g" if name.startswith("raw") else "c"
        mark, kinds[kind] = f"{kind}{kinds[kind]}", kinds[kind] + 1
        dash = ' stroke-dasharray="6 4"' if kind == "g" else ""
        spots = [(across.at(place(v)), down.at(w)) for v, w in points]
        line = " ".join(f"{a:.1f},{b:.1f}" for a, b in spots)
        out.append(f'<polyline class="{mark}" points="{line}" fill="none" stroke-width="2"{dash}/>')
        out += [f'<circle class="{mark}" cx="{a:.1f}" cy="{b:.1f}" r="3"/>' for a, b in spots]
        out.append(f'<text class="{mark}" x="{spots[-1][0] + 10:.1f}" y="{end + 4:.1f}">{html.escape(name)}</text>')
    path.write_text("\n".join(out + ["</svg>", ""]))
