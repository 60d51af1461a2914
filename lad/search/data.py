"""A config whose training images are split: one part is trained on, the other evaluated on."""

from __future__ import annotations

import copy
import json
from pathlib import Path

from lad.datasets.coco_split import split_images
from lad.datasets.configured import annotation_file, datasets_of, is_plain_coco
from lad.engine.checkpoints import write_whole
from lad.errors import ConfigError

from mmengine.config import Config

#: Names of the two parts.
FIT, SELECT = "fit.json", "select.json"


def split_training_data(cfg: Config, folder: Path, share: float, seed: int) -> Config:
    """A copy of a training config that never reads its validation data.

    Args:
        cfg: The config, with one COCO data set for training and a ``CocoMetric`` for validation.
        folder: Where the two annotation files are written.
        share: Of the training images that are evaluated on.
        seed: Of the choice.

    Raises:
        ConfigError: it trains on several data sets or another format, or is not evaluated by COCO's metric.
    """
    cfg = copy.deepcopy(cfg)
    datasets = list(datasets_of((cfg.get("train_dataloader") or {}).get("dataset")))
    source = annotation_file(datasets[0], "train_dataloader") if len(datasets) == 1 else None
    if source is None or not is_plain_coco(datasets[0]):
        raise ConfigError(
            f"{cfg.filename}: a search splits the training images of one local COCO data set; train_dataloader has "
            f"{len(datasets)} data sets{'' if len(datasets) != 1 else ' of another kind'}."
        )
    evaluator = cfg.get("val_evaluator")
    if not isinstance(evaluator, dict) or "ann_file" not in evaluator:
        raise ConfigError(
            f"{cfg.filename}: a search needs val_evaluator=dict(type='CocoMetric', ann_file=...)."
        )
    try:
        parts = split_images(json.loads(source.read_text()), share, seed)
    except (OSError, ValueError, KeyError) as error:
        raise ConfigError(f"{source} cannot be split: {type(error).__name__}: {error}.") from error
    files = [(folder / name).resolve() for name in (FIT, SELECT)]
    for file, content in zip(files, parts, strict=True):
        file.parent.mkdir(parents=True, exist_ok=True)
        write_whole(file, json.dumps(content).encode())
    fit, select = map(str, files)
    evaluated = next(datasets_of(cfg.val_dataloader.dataset))
    for key in ("data_root", "data_prefix", "metainfo", "backend_args"):
        evaluated.pop(key, None)
        if key in datasets[0]:
            evaluated[key] = copy.deepcopy(datasets[0][key])
    # Absolute: not looked for below data_root.
    datasets[0]["ann_file"], evaluated["ann_file"], evaluator["ann_file"] = fit, select, select
    cfg.test_dataloader, cfg.test_evaluator = copy.deepcopy(cfg.val_dataloader), copy.deepcopy(evaluator)
    return cfg
