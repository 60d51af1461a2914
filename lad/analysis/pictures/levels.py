"""Names, colours and markers of feature levels."""

from __future__ import annotations

import math

# Okabe and Ito's colours are distinct for every kind of colour vision; markers tell levels apart without colours.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#F0E442", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")


def level_name(stride: int) -> str:
    """Name of a level by its stride: P3 for 8 px."""
    power = math.log2(stride)
    return f"P{int(power)}" if power.is_integer() else f"/{stride}"
