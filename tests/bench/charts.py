"""The charts, as SVG."""
import math
from xml.sax.saxutils import escape

MB = 1_000_000
GIB = 1 << 30

STYLE = """<style>
  text { font: 13px system-ui, 'Segoe UI', Helvetica, Arial, sans-serif; fill: #24292f; }
  .title { font-size: 16px; font-weight: 600; } .small { font-size: 12px; fill: #57606a; }
  .end { text-anchor: end; } .middle { text-anchor: middle; }
  .grid { stroke: #d8dee4; } .line { fill: none; stroke-width: 2; }
</style>"""

# Distinct also to those who see fewer colours.
KINDS = {"the ceiling": "#8c959f", "Millrace": "#0072b2", "Millrace from Python": "#56b4e9", "others": "#d55e00"}
LINES = {"ceiling-tcp": "#8c959f", "grpc-stream": "#0072b2", "http-raw": "#009e73", "grpc-unary": "#d55e00",
         "ceiling-unix": "#57606a", "grpc-stream-unix": "#cc79a7"}


def svg(width, height, parts):
    return (f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
            f'viewBox="0 0 {width} {height}" role="img">\n{STYLE}\n<rect width="100%" height="100%" fill="#fff"/>\n'
            + "\n".join(parts) + "\n</svg>\n")


def text(x, y, content, kind=""):
    return f'<text x="{x:.1f}" y="{y:.1f}" class="{kind}">{escape(content)}</text>'


def segment(x1, y1, x2, y2):
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" class="grid"/>'


def box(x, y, width, height, colour):
    return f'<rect x="{x:.1f}" y="{y:.1f}" width="{max(width, 1):.1f}" height="{height}" rx="2" fill="{colour}"/>'


def steps(largest):
    """Round numbers from 0 to at least the largest."""
    step = 10 ** math.floor(math.log10(largest or 1))
    for factor in (0.2, 0.5, 1, 2):
        if largest / (step * factor) <= 6:
            step *= factor
            break
    return [i * step for i in range(math.ceil(largest / step - 1e-9) + 1)]


# ---- every way in


def kind_of(name):
    if name.startswith("ceiling"):
        return "the ceiling"
    if name.startswith("python-"):
        return "Millrace from Python"
    return "Millrace" if name.startswith(("grpc-", "http-")) else "others"


def legend(x, y):
    parts = []
    for kind, colour in KINDS.items():
        parts += [box(x, y - 10, 12, 12, colour), text(x + 18, y, kind, "small")]
        x += 34 + 7 * len(kind)
    return parts


def speed(results):
    """A bar for each row of 30 MB and one client."""
    rows = sorted((row for row in results["rows"] if row["bytes"] == 30 * MB and row["clients"] == 1),
                  key=lambda row: -row["gb_per_s"])
    left, top, bar, width = 190, 76, 26, 860
    ticks = steps(max((row["gb_per_s"] for row in rows), default=1))
    scale = (width - left - 170) / ticks[-1]
    bottom = top + bar * len(rows)
    parts = [text(20, 30, "A 30 MB tensor, one client: GB/s (longer is faster)", "title"), *legend(20, 54)]
    for tick in ticks:
        x = left + tick * scale
        parts += [segment(x, top, x, bottom), text(x, bottom + 18, f"{tick:g}", "small middle")]
    for i, row in enumerate(rows):
        y = top + i * bar
        end = left + row["gb_per_s"] * scale
        parts += [text(left - 10, y + 17, row["name"], "end"),
                  box(left, y + 4, row["gb_per_s"] * scale, bar - 8, KINDS[kind_of(row["name"])]),
                  text(end + 8, y + 17, f"{row['gb_per_s']:.2f} GB/s, {row['median_ms']:.1f} ms", "small")]
    return svg(width, bottom + 34, parts)


# ---- scaling


class Panel:
    """Axes: x has places for the given values, evenly apart; y goes from 0 to the largest."""

    def __init__(self, x, y, width, height, places, largest):
        self.x, self.y, self.width, self.height = x, y, width, height
        self.places = places
        self.ticks = steps(largest)

    def at(self, place, value):
        share = (self.places.index(place) + 0.5) / len(self.places)
        return self.x + share * self.width, self.y + self.height * (1 - value / self.ticks[-1])

    def axes(self, title, labels):
        parts = [text(self.x, self.y - 16, title, "title")]
        for tick in self.ticks:
            _, y = self.at(self.places[0], tick)
            parts += [segment(self.x, y, self.x + self.width, y), text(self.x - 8, y + 4, f"{tick:g}", "small end")]
        for place, label in zip(self.places, labels):
            x, y = self.at(place, 0)
            parts.append(text(x, y + 20, label, "small middle"))
        return parts

    def line(self, points, colour):
        places = [self.at(*point) for point in points]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        dots = [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" fill="{colour}"/>' for x, y in places]
        return [f'<polyline points="{path}" class="line" stroke="{colour}"/>', *dots]


def panel(x, rows, key, title, label):
    places = sorted({row[key] for row in rows})
    parts = []
    if not places:
        return parts
    axes = Panel(x, 60, 370, 250, places, max(row["gb_per_s"] for row in rows))
    parts += axes.axes(title, [label(place) for place in places])
    for name, colour in LINES.items():
        points = sorted((row[key], row["gb_per_s"]) for row in rows if row["name"] == name)
        if len(points) > 1:
            parts += axes.line(points, colour)
    return parts


def size_label(count):
    return f"{count // GIB} GiB" if count >= GIB else f"{count // MB} MB"


def scaling(results):
    """GB/s by the number of clients, and by size."""
    rows = [row for row in results["rows"] if row["name"] in LINES]
    parts = panel(50, [row for row in rows if row["bytes"] == 30 * MB], "clients",
                  "30 MB, by clients at a time: GB/s of all", lambda count: f"{count}")
    parts += panel(490, [row for row in rows if row["clients"] == 1 and row["bytes"] >= MB], "bytes",
                   "One client, by size: GB/s", size_label)
    for i, (name, colour) in enumerate(LINES.items()):
        x = 50 + 140 * i
        parts += [box(x, 350, 12, 12, colour), text(x + 18, 360, name, "small")]
    return svg(900, 380, parts)
