"""Figures whose parts are placed by the pixel."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DARK = "#333333"  # color of text and lines that are not black
_DPI = 100


def fitting_size(text: str, size: float, width: float, weight: str = "normal") -> float:
    """Font size in pt, at most ``size``, at which a line of text is no wider than ``width`` px."""
    from matplotlib.backends.backend_agg import RendererAgg
    from matplotlib.font_manager import FontProperties

    font = FontProperties(size=size, weight=weight)
    needed = RendererAgg(1, 1, _DPI).get_text_width_height_descent(text, font, ismath=False)[0]
    return size * min(1.0, width / max(needed, 1.0))


class Sheet:
    """Figure that places axes and text by the pixel, from the top left.

    It does not use pyplot and so leaves matplotlib's backend alone.

    Args:
        width, height: Size in px.
    """

    def __init__(self, width: int, height: int) -> None:
        from matplotlib.figure import Figure  # importing it takes a second

        self.width, self.height = width, height
        self.figure: Figure = Figure(figsize=(width / _DPI, height / _DPI), dpi=_DPI, facecolor="white")

    def axes(self, x: float, y: float, width: float, height: float) -> Axes:
        """Add axes."""
        return self.figure.add_axes(
            (x / self.width, 1 - (y + height) / self.height, width / self.width, height / self.height)
        )

    def text(self, x: float, y: float, text: str, width: float | None = None, **style: Any) -> None:
        """Add a line of text; its font is shrunk where it would be wider than ``width``, px."""
        font: dict[str, Any] = {"ha": "left", "va": "center", "size": 10.5} | style
        if width is not None:
            font["size"] = fitting_size(text, font["size"], width, font.get("weight", "normal"))
        self.figure.text(x / self.width, 1 - y / self.height, text, **font)
