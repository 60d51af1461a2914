"""What has become of each round, and how much of each class has been forgotten."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from lad.base.status import clock
from lad.engine.checkpoints import write_whole
from lad.errors import DataError

HISTORY = "federation.json"
#: Ending of the names of a class's AP in COCO's evaluation.
CLASS_SUFFIX = "_precision"
#: Ending of the names of the accuracies of a pretraining.
KNN = "knn_accuracy"


@dataclass(frozen=True)
class ClientReport:
    """A client's part in a round.

    Attributes:
        images: Number of its training images, by which its weights count; 0 where it has none with labels.
        loss: Mean of its training loss; None where it did not train.
        seconds: Of its training.
    """

    images: int
    loss: float | None = None
    seconds: float = 0.0


@dataclass(frozen=True)
class Round:
    """A finished round.

    Attributes:
        number: From 1; 0 is the model before the first.
        metrics: Of the server's model on the server's validation data, by name; empty without such data.
        clients: Those that took part, by name.
        failures: Why others did not, a line each.
        seconds: Of the whole round.
        updated: Whether any client's weights counted.
    """

    number: int
    metrics: Mapping[str, float] = field(default_factory=dict)
    clients: Mapping[str, ClientReport] = field(default_factory=dict)
    failures: Sequence[str] = ()
    seconds: float = 0.0
    updated: bool = True

    @property
    def mean_precision(self) -> float | None:
        """The mAP of COCO's evaluation; None without one."""
        return next((value for name, value in self.metrics.items() if name.endswith("bbox_mAP")), None)

    @property
    def by_class(self) -> dict[str, float]:
        """AP of each class that the validation data have."""
        return {
            name.rpartition("/")[2].removesuffix(CLASS_SUFFIX): value
            for name, value in self.metrics.items()
            if name.endswith(CLASS_SUFFIX) and not math.isnan(value) and value >= 0
        }


def forgetting(rounds: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """How far each class has fallen from its best round: max over rounds of AP_c - AP_c of the last round.

    The measure of Lee et al., NeurIPS 2022, arXiv 2106.03097, Sec. 2.2, with AP for accuracy; theirs is the mean over
    classes.

    Args:
        rounds: The AP of each class, by name, round by round.

    Returns:
        By class, 0 or more; classes of the last round alone. Nothing without rounds.

    Example:
        >>> from lad.federated.history import forgetting
        >>> forgetting([dict(a=0.5, b=0.25), dict(a=0.75, b=0.0), dict(a=0.25, b=0.5)])
        {'a': 0.5, 'b': 0.0}
    """
    if not rounds:
        return {}
    return {
        name: max(each[name] for each in rounds if name in each) - last for name, last in rounds[-1].items()
    }


def mean_forgetting(rounds: Sequence[Round]) -> float | None:
    """The mean of :func:`forgetting` over the classes; None where no class was evaluated."""
    values = forgetting([each.by_class for each in rounds]).values()
    return sum(values) / len(values) if values else None


@dataclass
class History:
    """The rounds of a federation, in a file.

    Attributes:
        federation: A random text that tells one federation from another.
        seed: Of the federation.
        config: Of its config, a hash.
        rounds: The finished ones.
    """

    federation: str
    seed: int
    config: str = ""
    rounds: list[Round] = field(default_factory=list)

    @property
    def last(self) -> int | None:
        """Number of the last finished round; None before the first evaluation."""
        return self.rounds[-1].number if self.rounds else None

    @property
    def was_updated(self) -> bool:
        """Whether the weights of any client have counted in any round."""
        return any(each.updated for each in self.rounds if each.number > 0)

    @property
    def forgetting(self) -> float | None:
        """The mean over classes of how far each has fallen from its best round; None without evaluation."""
        return mean_forgetting(self.rounds)

    def describe_last(self, total: int) -> str:
        """One line about the last round: ``round 3/8: mAP 0.231, forgetting 0.012, a 68 images loss 1.2, 41 s``."""
        last = self.rounds[-1]
        parts = []
        if last.mean_precision is not None:
            parts += [f"mAP {last.mean_precision:.3f}", f"forgetting {self.forgetting or 0:.3f}"]
        parts += [f"{name} {value:.3f}" for name, value in last.metrics.items() if name.endswith(KNN)]
        for name, report in last.clients.items():
            loss = "" if report.loss is None else f" loss {report.loss:.3f}"
            parts.append(f"{name} {report.images} images{loss}")
        trained = [one.seconds for one in self.rounds if one.number > 0]
        if trained:
            left = statistics.median(trained) * (total - last.number)
            parts.append(
                f"{last.seconds:.0f} s, about {clock(left)} left" if left else f"{last.seconds:.0f} s"
            )
        return f"round {last.number}/{total}: {', '.join(parts) or 'no evaluation'}"

    def write(self, folder: Path) -> None:
        """Write it to a folder, atomically."""
        write_whole(folder / HISTORY, json.dumps(asdict(self), indent=1).encode())


def read_history(folder: Path) -> History | None:
    """The history in a folder; None if there is none.

    Raises:
        DataError: its file cannot be read.
    """
    path = folder / HISTORY
    try:
        content: dict[str, Any] = json.loads(path.read_text())
        rounds = [
            Round(**{**own, "clients": {name: ClientReport(**one) for name, one in own["clients"].items()}})
            for own in content["rounds"]
        ]
        return History(content["federation"], content["seed"], content["config"], rounds)
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} is no history of a federation: {error}.") from error
