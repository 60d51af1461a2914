"""Whether a client has anything labelled to train on."""

from __future__ import annotations

from lad.cli.data_checks import inspect_data
from lad.cli.loaders import loaders_of
from lad.errors import DataError

from mmengine.config import Config


def is_without_labels(cfg: Config) -> bool:
    """Whether no image of a client's training data has a usable object, as far as local COCO files tell.

    The rule is that of the check before every training (:func:`lad.cli.data_checks.inspect_data`): what MMDetection
    leaves out counts for nothing (``ignore``, crowds, boxes below one pixel or outside their image, images that
    ``filter_cfg`` leaves out), so that no client is refused by that check for want of objects.

    Data sets without labels (``labelled=False``) are such by intention, and train.

    Raises:
        DataError: an annotation file cannot be read.
    """
    loader = next(iter(loaders_of(cfg, ("train_dataloader",))), None)
    if loader is None:
        return False
    files = [data.annotations for data in loader.data if data is not None and data.labelled]
    if len(files) < len(loader.data):
        return False
    report = inspect_data([loader])
    for path in files:
        if path.resolve() not in report.files:
            problem = next(one for one in report.problems if one.file == str(path))
            raise DataError(f"{problem.file}: {problem.message}.")
    if any(one.kind == "no_objects" and one.fatal for one in report.problems):
        return True
    return bool(report.coverage) and not any(coverage.objects for _, coverage in report.coverage)
