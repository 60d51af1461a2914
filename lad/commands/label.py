"""Label images with a trained detector: a COCO file of its detections with their scores.

lad label CONFIG CHECKPOINT --images FOLDER --out labels.json

Any trainer can use the file; each annotation keeps its ``score``. An interrupted run goes on where it was when the same
command is given again. A distillation config labels with its student.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from lad.analysis.profiling.step import device_of
from lad.cli.messages import one_line_errors
from lad.cli.options import add_config_options
from lad.cli.progress_bar import progress_bar
from lad.cli.trained import load_weights, read_plain_config
from lad.datasets.image_folder import image_files, unlabelled_coco
from lad.engine.checkpoints import write_whole
from lad.engine.labelling import (
    build_unlabelled,
    check_out,
    coco_of,
    fingerprint,
    images_fingerprint,
    label_images,
)
from lad.engine.unfinished_labels import UNFINISHED, LabellingParameters
from lad.errors import ConfigError

from mmdet.registry import MODELS
from mmengine.device import get_device


def parse_args() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("config", help="config file, or PACKAGE::PATH of an installed package")
    parser.add_argument("checkpoint", help="checkpoint file")
    parser.add_argument("--images", required=True, metavar="FOLDER", help="images, in subfolders too")
    parser.add_argument("--out", required=True, metavar="FILE.json", help="the COCO file to write")
    parser.add_argument("--min-score", type=float, default=0.3, help="detections below are left out")
    parser.add_argument("--max-per-image", type=int, default=100, help="the best so many are kept")
    parser.add_argument("--classes", nargs="+", help="class names, where the checkpoint has none")
    parser.add_argument("--batch-size", type=int, default=1)
    parser.add_argument("--workers", type=int, default=2, help="processes that load images")
    parser.add_argument("--device", default=None, help="by default an accelerator if there is one")
    parser.add_argument("--force", action="store_true", help="replace an existing file")
    add_config_options(parser)
    return parser.parse_args()


def label(args: argparse.Namespace) -> None:
    """Label as the arguments say."""
    out, folder, checkpoint = Path(args.out), Path(args.images), Path(args.checkpoint)
    # Whatever could stop the run later, when files are there that a further run finds.
    check_out(out, args.force)
    if args.workers < 0:
        raise ConfigError(f"--workers must be at least 0, got {args.workers}.")
    device = device_of(args.device or get_device())
    cfg = read_plain_config(args.config, args.checkpoint, args.cfg_options)
    settings = fingerprint(cfg.pretty_text)
    model = MODELS.build(cfg.model)
    classes = load_weights(model, args.checkpoint, args.classes, "lad label")
    content = unlabelled_coco(folder, image_files(folder), classes)
    parameters = LabellingParameters(
        config=args.config,
        settings=settings,
        checkpoint=fingerprint(checkpoint),
        folder=str(folder.resolve()),
        images=images_fingerprint(content, folder),
        min_score=args.min_score,
        max_per_image=args.max_per_image,
        batch_size=args.batch_size,
    )
    # The data set reads its images from a file when it is built.
    listing = out.with_name(f"{out.name}.images")
    try:
        dataset = build_unlabelled(cfg, content, folder, listing)
    finally:
        listing.unlink(missing_ok=True)
    model.to(device).eval()
    with progress_bar(len(dataset)) as progress:
        labels = label_images(model, dataset, out, parameters, workers=args.workers, progress=progress)
    info = dict(
        description="Detections of a trained detector, with their scores",
        config=args.config,
        checkpoint=checkpoint.name,
        min_score=args.min_score,
        max_per_image=args.max_per_image,
    )
    labelled = coco_of(content, labels, info)
    unfinished = out.with_name(out.name + UNFINISHED)
    advice = f"the detections are kept in {unfinished}: make room, and the same command goes on"
    write_whole(out, json.dumps(labelled).encode(), advice)
    unfinished.unlink(missing_ok=True)
    empty = sum(not found for found in labels.values())
    print(
        f"{out}: {len(labelled['annotations'])} detections in {len(labels)} images, {empty} without any; train on it "
        f"with ann_file={str(out)!r} and data_prefix=dict(img={str(folder)!r})"
    )


def main() -> None:
    """Run ``lad label``."""
    args = parse_args()
    with one_line_errors():
        label(args)
