"""The plot of `replicator simulate spread`: which share of the followers has a record after which time."""

from __future__ import annotations

from collections.abc import Sequence
from xml.sax.saxutils import escape

from replicator.testing.spread import HOP_MS, Spread, SpreadPlan, levels, reached

WIDTH, HEIGHT, MARGIN = 720, 360, 48
POINTS = 200
COLORS = {"auto": "#1f6feb", "gossip": "#2d8a43", "closed form": "#8b949e"}  # legible on light and on dark
STYLE = """\
<style>
  .panel { fill: #ffffff; stroke: #d0d7de; }
  .axes { fill: none; stroke: #48525c; }
  text { font-family: system-ui, sans-serif; font-size: 12px; fill: #1f2328; }
  @media (prefers-color-scheme: dark) {
    .panel { fill: #161b22; stroke: #3d444d; }
    .axes { stroke: #b1bac4; }
    text { fill: #e6edf3; }
  }
</style>"""


def draw_spread(plan: SpreadPlan, spreads: Sequence[Spread]) -> str:
    """An SVG."""
    depth = levels(plan.nodes, plan.fanout)
    longest_ms = max(depth * HOP_MS, *(it.times_ms[-1] for it in spreads))
    steps = [(0.0, 0.0)]
    for level in range(1, depth + 1):
        steps += [(level * HOP_MS, steps[-1][1]), (level * HOP_MS, reached(level, plan.nodes, plan.fanout))]
    lines = {"closed form": [*steps, (longest_ms, 1.0)]} | {it.upstream: _curve(it) for it in spreads}
    title = f"{plan.nodes} followers, fanout {plan.fanout}, {plan.failed:.0%} of them failed"
    drawn = [_polyline(name, points, longest_ms) for name, points in lines.items()]
    legend = [
        f'<text x="{WIDTH - MARGIN}" y="{HEIGHT - MARGIN - 16 * at - 12}" text-anchor="end" '
        f'style="fill: {COLORS[name]}">'
        f"{escape(name)}</text>"
        for at, name in enumerate(lines)
    ]
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img">',
            f"<title>{escape(title)}</title>",
            STYLE,
            f'<rect class="panel" x="1" y="1" width="{WIDTH - 2}" height="{HEIGHT - 2}" rx="6"/>',
            f'<text x="{MARGIN}" y="28">{escape(title)}</text>',
            *_axes(longest_ms),
            *drawn,
            *legend,
            "</svg>\n",
        ]
    )


def _curve(spread: Spread) -> list[tuple[float, float]]:
    times = spread.times_ms
    places = [round(at * (len(times) - 1) / POINTS) for at in range(POINTS + 1)]
    return [(0.0, 0.0), *((times[place], (place + 1) / len(times)) for place in places)]


def _axes(longest_ms: float) -> list[str]:
    left, bottom, right = MARGIN, HEIGHT - MARGIN, WIDTH - MARGIN
    return [
        f'<path class="axes" d="M{left} {MARGIN}V{bottom}H{right}"/>',
        f'<text x="{right}" y="{bottom + 20}" text-anchor="end">{longest_ms:.1f} ms</text>',
        f'<text x="{left}" y="{bottom + 20}">0, the record is appended</text>',
        f'<text x="{left - 6}" y="{MARGIN + 4}" text-anchor="end">100%</text>',
    ]


def _polyline(name: str, points: Sequence[tuple[float, float]], longest_ms: float) -> str:
    width, height = WIDTH - 2 * MARGIN, HEIGHT - 2 * MARGIN
    placed = (f"{MARGIN + width * ms / longest_ms:.1f},{HEIGHT - MARGIN - height * share:.1f}" for ms, share in points)
    return f'<polyline points="{" ".join(placed)}" fill="none" stroke="{COLORS[name]}" stroke-width="2"/>'
