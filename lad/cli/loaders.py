"""The data loaders of a config with their evaluators."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from lad.datasets.configured import (
    CocoData,
    classes_of,
    coco_data,
    datasets_of,
    filter_rules,
    setting,
)
from lad.evaluation.configured import (
    EvaluatedFile,
    evaluated_files,
    evaluates_parts,
    needs_annotations,
    needs_instances,
)

from mmengine.config import Config

#: Data loaders and the evaluators of their detections.
LOADERS = {
    "train_dataloader": None,
    "val_dataloader": "val_evaluator",
    "test_dataloader": "test_evaluator",
}


@dataclass(frozen=True)
class Loader:
    """Data loader of a config with its evaluator.

    Attributes:
        name: ``'train_dataloader'``, ...
        evaluator: The setting that holds its evaluator; None for training.
        datasets: The innermost data set configs.
        classes: Their class names; None where a data set has none, or decides when it is built.
        data: Their files; None where they are not local or not COCO's.
        evaluated: The files of its evaluator.
        compares: Whether its evaluator compares detections with annotations.
        in_parts: Whether its evaluator has a metric for each of its data sets.
        needs_instances: Whether a metric takes the annotations from the batches, for want of a file.
    """

    name: str
    evaluator: str | None
    datasets: list[dict]
    classes: list[tuple[str, ...] | None]
    data: list[CocoData | None]
    evaluated: list[EvaluatedFile]
    compares: bool
    in_parts: bool
    needs_instances: bool

    @property
    def is_trained(self) -> bool:
        """Whether its data are trained on."""
        return self.evaluator is None

    @property
    def is_present(self) -> bool:
        """Whether its local files are there."""
        files = [one.annotations for one in self.data if one is not None]
        return all(path.is_file() for path in [*files, *(file.path for file in self.evaluated)])

    def has_classes_of_training(self, number: int) -> bool:
        """Whether one of its data sets must have the classes that are trained on.

        Not if its classes are given to the detector as text or each data set is evaluated by itself, as for
        open-vocabulary detectors.
        """
        return not self.in_parts and not self.datasets[number].get("return_classes")


def loaders_of(cfg: Config, names: Collection[str] = tuple(LOADERS)) -> list[Loader]:
    """The data loaders of a config.

    Args:
        cfg: The config.
        names: Those that are wanted.

    Raises:
        ConfigError: a setting has a wrong type, or class names are none.
    """
    found = []
    for name, evaluator in LOADERS.items():
        config = setting(cfg, name, dict, "the config") or {}
        datasets = list(datasets_of(setting(config, "dataset", dict, name)))
        if name not in names or not datasets:
            continue
        for dataset in datasets:
            filter_rules(dataset, name)
        metrics = None if evaluator is None else cfg.get(evaluator)
        found.append(
            Loader(
                name=name,
                evaluator=evaluator,
                datasets=datasets,
                classes=[classes_of(dataset, name) for dataset in datasets],
                data=[coco_data(dataset, name) for dataset in datasets],
                evaluated=list(evaluated_files(metrics, evaluator or "")),
                compares=evaluator is not None and needs_annotations(metrics),
                in_parts=evaluates_parts(metrics),
                needs_instances=evaluator is not None and needs_instances(metrics),
            )
        )
    return found
