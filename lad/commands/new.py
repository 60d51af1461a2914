"""Write the config of a distillation for a student, a teacher and a folder of data.

lad new --student mmdet::rtmdet/rtmdet_tiny_8xb32-300e_coco.py --teacher mmdet::rtmdet/rtmdet_m_8xb32-300e_coco.py
        --checkpoint m.pth --data data/mine --out mine.py

It looks at the data (COCO's, YOLO's or Pascal VOC's layout) and at the detectors, chooses a method by the table of
docs/getting_started.md, writes the config and the plain student's beside it, checks them by a dry run, and prints the
next commands. Without --checkpoint the teacher's config is written too, to be trained on the data first.
"""

from __future__ import annotations

import argparse
import logging
import os
import shlex
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lad.analysis.dry_run import describe_config
from lad.analysis.profiling.building import with_random_weights
from lad.base.config import load_config
from lad.cli.messages import config_errors, one_line_errors
from lad.compat.safe_loading import load_safely
from lad.datasets.layouts import Layout, Split, coco_split, find_data, in_class_order
from lad.detectors.configs import describes_detectors
from lad.errors import CheckpointError, ConfigError, UnsupportedError
from lad.networks.verified_checkpoint import class_names
from lad.recipes.choice import RECIPES, Recipe, family, recipes_for
from lad.recipes.classes import with_classes
from lad.recipes.configs import Schedule, distillation_text, epochs_of, plain_text
from lad.recipes.data import DataSummary, summarise_data
from lad.recipes.output import Output

from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.registry import init_default_scope


def parse_args() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--student", required=True, metavar="CONFIG", help="config of the small detector")
    parser.add_argument("--teacher", required=True, metavar="CONFIG", help="config of the strong detector")
    parser.add_argument("--checkpoint", help="the teacher's weights; without it the teacher is trained first")
    parser.add_argument("--data", required=True, type=Path, metavar="FOLDER", help="images and annotations")
    parser.add_argument("--out", required=True, type=Path, metavar="FILE.py", help="the config to write")
    parser.add_argument("--method", choices=RECIPES, help="by default chosen by the detectors' heads")
    parser.add_argument("--epochs", type=int, help="by default those of the student's config")
    parser.add_argument("--batch-size", type=int, help="by default that of the student's config")
    for split in ("train", "val"):
        parser.add_argument(f"--{split}-annotations", type=Path, metavar="FILE.json", help="a COCO file")
        parser.add_argument(f"--{split}-images", type=Path, metavar="FOLDER")
    parser.add_argument("--force", action="store_true", help="replace existing files")
    return parser.parse_args()


@dataclass(frozen=True)
class Files:
    """Config files that are written; ``teacher`` where it is to be trained."""

    distillation: Path
    student: Path
    teacher: Path | None

    def __iter__(self) -> Iterator[Path]:
        return iter([file for file in (self.distillation, self.student, self.teacher) if file is not None])


def base_path(path: str, out: Path) -> str:
    """How a config names its base: a file relative to its own folder, a package's as it is."""
    return path if "::" in path else os.path.relpath(path, out.parent)


def converted_folder(out: Path) -> Path:
    """Folder of the annotations that are converted for a config, or put into its order of classes."""
    return out.with_name(f"{out.stem}_annotations")


def data_of(args: argparse.Namespace, output: Output) -> Layout:
    """Find the data that the arguments name."""
    given = {split: getattr(args, f"{split}_annotations") for split in ("train", "val")}
    if all(given.values()):
        layout = Layout(
            "COCO",
            *(
                coco_split(file, args.data) if images is None else Split(file, images)
                for file, images in zip(given.values(), (args.train_images, args.val_images), strict=True)
            ),
        )
        return layout
    if any(given.values()):
        raise ConfigError("name both --train-annotations and --val-annotations, or none of them.")
    layout = find_data(args.data, converted_folder(args.out), output.write)
    return Layout(
        layout.kind,
        Split(layout.train.annotations, args.train_images or layout.train.images),
        Split(layout.val.annotations, args.val_images or layout.val.images),
    )


def read_detector(path: str, role: str) -> Config:
    """Read the config of a plain detector.

    Raises:
        ConfigError: it is a distillation's, or describes no detector.
    """
    cfg = load_config(path)
    if not isinstance(cfg.get("model"), dict) or describes_detectors(cfg.model):
        raise ConfigError(f"--{role}: {path} is not the config of a plain detector.")
    return cfg


def teachers_classes(checkpoint: str | None) -> tuple[str, ...] | None:
    """Class names in the teacher's checkpoint; None without one, or where it names none."""
    if checkpoint is None:
        return None
    if not Path(checkpoint).is_file():
        raise CheckpointError(f"there is no checkpoint {checkpoint!r}.")
    content = load_safely(checkpoint, map_location="cpu")
    return class_names(content.get("meta") if isinstance(content, dict) else None)


def write(args: argparse.Namespace, files: Files, output: Output) -> tuple[Recipe, str]:
    """Write the configs; returns the recipe and the dry run's report.

    Raises:
        ConfigError, CheckpointError, DataError, UnsupportedError: something does not fit; nothing is left behind.
    """
    student, teacher = read_detector(args.student, "student"), read_detector(args.teacher, "teacher")
    init_default_scope("mmdet")
    # MMEngine lists every weight's initialisation where there is no log file.
    MMLogger.get_current_instance().setLevel(logging.WARNING)
    order = teachers_classes(args.checkpoint)
    layout = data_of(args, output)
    data = summarise_data(layout, order)
    if not data.in_order:
        layout = in_class_order(layout, data.classes, converted_folder(args.out), output.write)
    report_data(layout, data)
    schedule = Schedule(args.epochs, args.batch_size)
    heading = f"Written by: lad {shlex.join(['new', *sys.argv[1:]])}"
    output.write(
        files.student,
        plain_text(
            f"The student alone. {heading}",
            base_path(args.student, args.out),
            student,
            layout,
            data,
            schedule,
        ),
    )
    if files.teacher is not None:
        output.write(
            files.teacher,
            plain_text(
                f"The teacher. {heading}",
                base_path(args.teacher, args.out),
                teacher,
                layout,
                data,
                Schedule(),
            ),
        )
    refused: list[str] = []
    for recipe in recipes_for(student.model, teacher.model, args.method):
        spec: dict[str, Any] = dict(config=args.teacher, **with_classes(teacher.model, len(data.classes)))
        spec["checkpoint"] = args.checkpoint or trained_checkpoint(files.teacher, teacher)
        output.write(files.distillation, distillation_text(heading, files.student, spec, recipe))
        cfg = load_config(str(files.distillation))
        try:
            with config_errors(), tempfile.TemporaryDirectory() as folder:
                if args.checkpoint is None:
                    cfg.model.teacher = with_random_weights(cfg.model.teacher, Path(folder, "teacher.pth"))
                return recipe, describe_config(cfg)
        except UnsupportedError as error:
            refused.append(str(error))
    raise UnsupportedError(" ".join(refused))


def trained_checkpoint(file: Path | None, cfg: Config) -> str:
    """Where the teacher's checkpoint will be when it has been trained."""
    assert file is not None
    epochs = epochs_of(cfg, Schedule())
    steps = f"epoch_{epochs}" if epochs else f"iter_{cfg.train_cfg.max_iters}"
    return str(Path("work_dirs") / file.stem / f"{steps}.pth")


def report_data(layout: Layout, data: DataSummary) -> None:
    """Print what was found."""
    print(f"data ({layout.kind}): {layout.train.annotations}, {layout.val.annotations}")
    print(
        f"  {data.images} images, {data.objects} objects, {len(data.classes)} classes; {data.val_images} images for "
        f"validation; {data.empty} training images without objects"
    )
    print(f"  {data.tail}")


def check_no_input(args: argparse.Namespace, files: Files) -> None:
    """Refuse to write over a config that is read.

    Raises:
        ConfigError: names it.
    """
    for role in ("student", "teacher"):
        path = getattr(args, role)
        if "::" not in path and Path(path).resolve() in {file.resolve() for file in files}:
            raise ConfigError(f"--{role} {path} is one of the files that are written: give another --out.")


def next_commands(args: argparse.Namespace, files: Files, student: Config, teacher: Config) -> Sequence[str]:
    """What to type next."""
    scaled = " --auto-scale-lr" if (student.get("auto_scale_lr") or {}).get("base_batch_size") else ""
    steps = epochs_of(student, Schedule(args.epochs, args.batch_size))
    name = f"epoch_{steps}" if steps else f"iter_{student.train_cfg.max_iters}"
    work_dir = Path("work_dirs") / files.distillation.stem
    commands = [
        f"lad train {shlex.quote(str(files.distillation))}{scaled}",
        f"lad test {shlex.quote(str(files.distillation))} {shlex.quote(f'{work_dir / name}.pth')}",
    ]
    if files.teacher is not None:
        own = " --auto-scale-lr" if (teacher.get("auto_scale_lr") or {}).get("base_batch_size") else ""
        commands.insert(0, f"lad train {shlex.quote(str(files.teacher))}{own}")
    return commands


def main() -> None:
    """Run ``lad new``."""
    args = parse_args()
    with one_line_errors():
        if args.out.suffix != ".py":
            raise ConfigError(f"--out must be a Python file, got {args.out}.")
        if any(number is not None and number < 1 for number in (args.epochs, args.batch_size)):
            raise ConfigError("--epochs and --batch-size must be 1 at least.")
        stem = args.out.stem
        files = Files(
            args.out,
            args.out.with_name(f"{stem}_student.py"),
            None if args.checkpoint else args.out.with_name(f"{stem}_teacher.py"),
        )
        check_no_input(args, files)
        output = Output(args.force)
        output.check_new(files)
        with output.unless_it_fails():
            recipe, report = write(args, files, output)
        student, teacher = load_config(args.student), load_config(args.teacher)
        print(
            f"student: {family(student.model)}, teacher: {family(teacher.model)}; method: {recipe.name}, "
            f"as {recipe.why}"
        )
        print(report)
        print(f"written: {', '.join(map(str, files))}")
        print("next:")
        for command in next_commands(args, files, student, teacher):
            print(f"  {command}")


if __name__ == "__main__":
    main()
