"""Draw docs/images/self_distillation.png: a network with two exits, and who learns from what.

python docs/_site/self_distillation_figure.py
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

OUT = Path(__file__).parents[1] / "images" / "self_distillation.png"
SHARED, DEEP, EXIT, TERM = "#d9d9d9", "#9ecae1", "#fdd0a2", "#d94801"
#: Centres of the columns of the backbone's stages.
STAGES = {"stem, C2": 1.0, "C3": 3.0, "C4": 5.0, "C5": 7.0}
HEIGHT = 0.7
LEGEND = """grey: shared with exits
blue: trained by labels alone
orange: exits
dashed: terms, whose
gradient reaches the exit
and what it shares"""


def box(axes: Axes, x: float, y: float, text: str, colour: str, width: float = 1.5) -> None:
    """A box with its text, around a centre."""
    axes.add_patch(
        FancyBboxPatch(
            (x - width / 2, y - HEIGHT / 2), width, HEIGHT, boxstyle="round,pad=0.03", facecolor=colour,
            edgecolor="black", linewidth=0.8,
        )
    )  # fmt: skip
    axes.text(x, y, text, ha="center", va="center", fontsize=8)


def arrow(
    axes: Axes, start: tuple[float, float], end: tuple[float, float], colour: str = "black", **more: object
) -> None:
    """An arrow between two points."""
    axes.annotate(
        "", xy=end, xytext=start, arrowprops=dict(arrowstyle="-|>", color=colour, linewidth=1.1, **more)
    )


def draw() -> Figure:
    """The figure."""
    figure = Figure(figsize=(8.4, 4.6), dpi=110)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_xlim(0, 10.6)
    axes.set_ylim(0.1, 5.9)
    axes.axis("off")
    places = list(STAGES.values())
    for (name, x), colour in zip(STAGES.items(), (SHARED, SHARED, SHARED, DEEP), strict=True):
        box(axes, x, 5.2, name, colour)
    for left, right in pairwise(places):
        arrow(axes, (left + 0.8, 5.2), (right - 0.8, 5.2))
    columns = ((3.0, EXIT, "exit early", "one convolution"), (5.0, EXIT, "exit late", "one convolution"))
    for x, colour, name, head in columns:
        box(axes, x, 3.6, "ChannelMapper", colour)
        box(axes, x, 2.2, f"head of\n{head}", colour)
        axes.text(x, 0.55, f"{name}\n(1 - alpha) own loss", ha="center", fontsize=8)
    box(axes, 9.2, 3.6, "FPN of\nC3, C4, C5", DEEP)
    box(axes, 9.2, 2.2, "head", DEEP)
    axes.text(9.2, 0.55, "deployed network\nown loss", ha="center", fontsize=8)
    arrow(axes, (7.8, 5.2), (9.2, 4.0), connectionstyle="angle,angleA=0,angleB=90,rad=6")
    for x in (3.0, 5.0):
        arrow(axes, (x, 4.82), (x, 4.0))
    for x in (3.0, 5.0, 9.2):
        arrow(axes, (x, 3.22), (x, 2.6))
        arrow(axes, (x, 1.82), (x, 1.2))
    arrow(axes, (3.3, 4.82), (4.6, 4.0), linestyle="dotted")
    for y, bend, text in (
        (3.6, 0.2, "distance of maps, weight 0.03"),
        (2.2, 0.2, "KL of class logits, weight alpha"),
    ):
        for x in (5.8, 3.8):
            arrow(
                axes, (8.4, y - 0.1), (x, y - 0.2), TERM, connectionstyle=f"arc3,rad=-{bend if x > 5 else 0.3}",
                linestyle="dashed",
            )  # fmt: skip
        axes.text(7.1, y + 0.12, text, ha="center", fontsize=8, color=TERM)
    axes.text(
        0.2, 3.2, LEGEND,
        fontsize=8, va="center",
    )  # fmt: skip
    return figure


if __name__ == "__main__":
    figure = draw()
    FigureCanvasAgg(figure).print_png(OUT)
    print(OUT)
