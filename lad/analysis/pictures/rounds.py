"""Plot of a federation's rounds: mAP, AP of each class, and how much has been forgotten."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lad.analysis.pictures.curves import COLOURS, FORMATS
from lad.errors import DataError
from lad.federated.history import Round, mean_forgetting

_MARKERS = ("s", "^", "D", "v", "P")


def draw_rounds(rounds: Sequence[Round], path: Path) -> None:
    """Write a picture of a federation's rounds.

    Args:
        rounds: With the AP of each class.
        path: A .png, .pdf or .svg file.

    Raises:
        DataError: no round was evaluated, or the file's format is another.
    """
    if path.suffix not in FORMATS:
        raise DataError(f"a picture is one of {', '.join(FORMATS)}, got {path}.")
    evaluated = [each for each in rounds if each.by_class]
    if not evaluated:
        raise DataError("no round was evaluated class by class: there is nothing to draw.")
    # pyplot would choose a backend for windows.
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    numbers = [each.number for each in evaluated]
    mean = [each.mean_precision for each in evaluated]
    if all(value is not None for value in mean):
        axes.plot(numbers, [value or 0.0 for value in mean], "o-", color="black", linewidth=2, label="mAP")
    classes = list(dict.fromkeys(name for each in evaluated for name in each.by_class))
    # Many lines are one colour too many; the mAP and the forgetting are there in any case.
    for index, name in enumerate(classes if len(classes) <= 12 else []):
        axes.plot(
            numbers,
            [each.by_class.get(name, float("nan")) for each in evaluated],
            marker=_MARKERS[index % len(_MARKERS)],
            color=COLOURS[index % (len(COLOURS) - 1)],
            linewidth=1,
            label=f"AP {name}",
        )
    forgotten = [mean_forgetting(evaluated[: index + 1]) or 0.0 for index in range(len(evaluated))]
    axes.plot(numbers, forgotten, ":", color="grey", label="mean forgetting")
    axes.set(xlabel="round", ylabel="AP", ylim=(0, None))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120, metadata=FORMATS[path.suffix])
