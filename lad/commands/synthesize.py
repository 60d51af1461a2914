"""Synthesise training images from a trained detector alone: a COCO data set for distillation without data.

lad synthesize CONFIG CHECKPOINT --images 200 --out data/synthesised

Noise is changed until the detector finds randomly placed objects in it and the statistics of its batch norm layers are
those that it was trained with. An interrupted run goes on where it was when the same command is given again. A
distillation config synthesises from its student.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from dataclasses import asdict
from pathlib import Path

from lad.analysis.pictures.contact_sheet import draw_contact_sheet
from lad.base.progress import last_epoch
from lad.cli.messages import one_line_errors
from lad.cli.options import add_config_options
from lad.cli.trained import load_weights, read_plain_config
from lad.engine.labelling import fingerprint
from lad.engine.schedule import plain
from lad.errors import ConfigError
from lad.networks.building import without_pretraining
from lad.networks.channels import image_channels
from lad.synthesis.dataset import ANNOTATIONS, IMAGES, Layouts, SynthesisedFolder, SynthesisSettings
from lad.synthesis.from_config import DIVISOR, flip_prob, image_size
from lad.synthesis.layouts import RandomLayouts, RecordedLayouts
from lad.synthesis.optimisation import ImageSynthesiser, Objective, Schedule
from lad.synthesis.pixels import PixelScale
from lad.synthesis.refusal import check_synthesisable

from mmdet.registry import MODELS
from mmengine.device import get_device
from mmengine.utils import ProgressBar

#: Picture of the images with their boxes, in the folder.
SHEET = "contact_sheet.png"


def parse_args() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("config", help="config file, or PACKAGE::PATH of an installed package")
    parser.add_argument("checkpoint", help="checkpoint file")
    parser.add_argument("--images", type=int, default=200, help="how many (default: %(default)s)")
    parser.add_argument("--out", required=True, metavar="FOLDER", help="the folder to make")
    parser.add_argument(
        "--size",
        type=int,
        nargs=2,
        metavar=("HEIGHT", "WIDTH"),
        help="of the images (default: what the test pipeline resizes to)",
    )
    parser.add_argument("--batch-size", type=int, default=32, help="images at once (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--classes", nargs="+", help="class names, where the checkpoint has none")
    parser.add_argument("--device", default=None, help="by default an accelerator if there is one")
    _add_layout_options(parser)
    _add_optimisation_options(parser)
    add_config_options(parser)
    return parser.parse_args()


def _add_layout_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("objects")
    group.add_argument(
        "--boxes",
        metavar="FILE.json",
        help="take boxes and classes from a COCO file, whose images are not read",
    )
    group.add_argument(
        "--objects",
        type=int,
        nargs=2,
        default=RandomLayouts.objects,
        metavar=("MIN", "MAX"),
        help="objects of an image (default: %(default)s)",
    )
    group.add_argument(
        "--object-size",
        type=float,
        nargs=2,
        default=RandomLayouts.sides,
        metavar=("MIN", "MAX"),
        help="root of a box's area, as a part of the image's shorter side (default: %(default)s)",
    )
    group.add_argument(
        "--aspect",
        type=float,
        default=RandomLayouts.aspect,
        help="greatest ratio of sides (default: %(default)s)",
    )
    group.add_argument(
        "--overlap",
        type=float,
        default=RandomLayouts.overlap,
        help="greatest part of a box in another (default: %(default)s)",
    )


def _add_optimisation_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("optimisation")
    group.add_argument(
        "--steps",
        type=int,
        default=Schedule.steps,
        help="of each batch; 0 leaves noise (default: %(default)s)",
    )
    group.add_argument("--lr", type=float, default=Schedule.lr, help="of Adam (default: %(default)s)")
    group.add_argument(
        "--levels",
        type=int,
        default=Schedule.levels,
        help="resolutions that an image is the sum of; 1: pixels alone (default: %(default)s)",
    )
    group.add_argument(
        "--jitter",
        type=int,
        default=Schedule.jitter,
        help="greatest shift in a step, pixels (default: %(default)s)",
    )
    group.add_argument(
        "--flip-prob",
        type=float,
        help="probability of mirroring in a step (default: as the training pipeline mirrors)",
    )
    for name, meaning in (
        ("detector", "the detector's loss"),
        ("statistics", "the distances of all batch norm statistics"),
        ("first", "the distance of the first batch norm, once more"),
        ("variation", "the total variation"),
    ):
        group.add_argument(
            f"--{name}-weight",
            type=float,
            default=getattr(Objective, name),
            help=f"of {meaning} (default: %(default)s)",
        )


def synthesize(args: argparse.Namespace) -> None:
    """Synthesise as the arguments say."""
    cfg = read_plain_config(args.config, args.checkpoint, args.cfg_options)
    model = MODELS.build(without_pretraining(cfg.model))
    check_synthesisable(model)  # before its weights are read
    classes = load_weights(model, args.checkpoint, args.classes, "lad synthesize")
    size = (args.size[0], args.size[1]) if args.size else image_size(cfg)
    if any(side % DIVISOR for side in size):
        raise ConfigError(f"--size must be multiples of {DIVISOR}, got {size[0]} {size[1]}.")
    layouts, drawn_from = _layouts(args, classes, size)
    settings = SynthesisSettings(
        config=args.config,
        model=fingerprint(plain(cfg.model)),
        epoch=last_epoch(cfg.get("train_cfg")),
        checkpoint=fingerprint(Path(args.checkpoint)),
        classes=classes,
        layouts=drawn_from,
        images=args.images,
        size=size,
        batch_size=args.batch_size,
        seed=args.seed,
        objective=Objective(
            args.detector_weight, args.statistics_weight, args.first_weight, args.variation_weight
        ),
        schedule=Schedule(
            args.steps,
            args.lr,
            args.levels,
            args.jitter,
            flip_prob(cfg) if args.flip_prob is None else args.flip_prob,
        ),
    )
    folder = SynthesisedFolder(Path(args.out), settings)
    model = model.to(args.device or get_device())
    synthesiser = ImageSynthesiser(
        model,
        PixelScale.of(model, image_channels(model)),
        settings.objective,
        settings.schedule,
        settings.epoch,
    )
    left = len(settings.batches()) - len(folder.batches)
    bar = ProgressBar(left * args.steps, file=sys.stderr) if left * args.steps else None
    folder.fill(synthesiser, layouts, None if bar is None else bar.update)
    print(file=sys.stderr)
    draw_contact_sheet(folder.path / IMAGES, folder.coco(), folder.path / SHEET)
    print(summary(folder))


def _layouts(
    args: argparse.Namespace, classes: tuple[str, ...], size: tuple[int, int]
) -> tuple[Layouts, dict]:
    """What draws the objects, and what it depends on."""
    if args.boxes:
        recorded = RecordedLayouts.read(args.boxes, classes, size)
        return recorded, dict(boxes=fingerprint(Path(args.boxes)))
    objects, sides = (args.objects[0], args.objects[1]), (args.object_size[0], args.object_size[1])
    drawn = RandomLayouts(size, len(classes), objects, sides, args.aspect, args.overlap)
    return drawn, asdict(drawn)


def summary(folder: SynthesisedFolder) -> str:
    """What was made, and what to do with it."""
    count = folder.images_done
    before, after = (
        sum(batch[when]["total"] * len(batch["images"]) for batch in folder.batches) / count
        for when in ("before", "after")
    )
    objects = sum(len(image["objects"]) for batch in folder.batches for image in batch["images"])
    path = shlex.quote(str(folder.path))
    return (
        f"{path}: {count} images of {objects} objects; the loss fell from {before:.2f} to {after:.2f} "
        f"(1/{before / max(after, 1e-12):.1f}); {folder.path / SHEET} shows them\n"
        "distil on it: python tools/train.py DISTILLATION_CONFIG --cfg-options "
        f"train_dataloader.dataset.data_root={path} train_dataloader.dataset.ann_file={ANNOTATIONS} "
        f"train_dataloader.dataset.data_prefix.img={IMAGES}/"
    )


def main() -> None:
    """Run ``lad synthesize``."""
    args = parse_args()
    with one_line_errors():
        synthesize(args)


if __name__ == "__main__":
    main()
