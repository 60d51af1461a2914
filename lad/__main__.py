"""Console command ``lad``, with a subcommand for each tool.

Nothing but the standard library is imported before a subcommand runs: ``lad --help`` and ``lad --version`` need neither
PyTorch nor MMDetection, and also answer where one of them cannot be imported.
"""

from __future__ import annotations

import argparse
import difflib
import importlib
import sys
from collections.abc import Sequence
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from importlib.util import find_spec
from pathlib import Path

#: What each subcommand does; ``lad dry-run`` is ``lad.commands.dry_run``.
COMMANDS = {
    "new": "write the config of a distillation for a student, a teacher and a folder of data",
    "train": "train a detector, or a student with its teacher",
    "test": "evaluate a checkpoint",
    "check": "list what is wrong with the data of a config or a COCO file",
    "info": "parameters, multiply-adds, time and memory of a config's networks",
    "dry-run": "print what a config distils, and train nothing",
    "visualize": "draw which priors are positive for an object",
    "benchmark": "train and compare the entries of a suite",
    "search": "search a config's numbers, such as a method's weight",
    "federate": "train on several clients' data without moving the data",
    "split-clients": "split a COCO file among the clients of a federation",
    "label": "label images with a trained detector",
    "synthesize": "make training images from a trained detector, for distillation without data",
    "online-distill": "serve a video or a camera with a student that learns on it from a teacher",
    "export": "write a trained detector as an ONNX file, float or int8",
    "demo": "train on handwritten digits, from making the data to a table of results",
}
#: The distributions that a module may come from.
DISTRIBUTIONS = {
    "lad": ("lad-detection",),
    "torch": ("torch",),
    "torchvision": ("torchvision",),
    "mmdet": ("mmdet", "onedl-mmdetection"),
    "mmengine": ("mmengine", "onedl-mmengine"),
    "mmcv": ("mmcv", "mmcv-lite", "onedl-mmcv"),
}


def stack() -> str:
    """Table of the distributions that the modules come from, with their versions."""
    rows = []
    for module in DISTRIBUTIONS:
        found = [f"{one.name} {one.version}" for one in _distributions_of(module)]
        text = " and ".join(found) or "not installed"
        if len(found) > 1:
            text += ": they share their files; uninstall both, then install one"
        elif module == "mmcv" and found:
            text += " (compiled kernels)" if _has_kernels() else " (kernels of torchvision)"
        rows.append(f"{module:<12} {text}")
    return "\n".join(rows)


def _distributions_of(module: str) -> list[Distribution]:
    """The installed distributions whose files the module's are; of an editable installation, which has none, itself."""
    found = []
    for name in DISTRIBUTIONS[module]:
        try:
            found.append(distribution(name))
        except PackageNotFoundError:
            continue
    folders = {folder.resolve() for folder in _folders(module)}
    return [one for one in found if Path(str(one.locate_file(module))).resolve() in folders] or found


def _folders(module: str) -> list[Path]:
    spec = find_spec(module)  # does not import it
    return [] if spec is None else [Path(folder) for folder in spec.submodule_search_locations or ()]


def _has_kernels() -> bool:
    return any(any(folder.glob("_ext.*")) for folder in _folders("mmcv"))


def run(command: str, arguments: Sequence[str]) -> None:
    """Run a subcommand as a program of its own: it reads ``sys.argv``."""
    sys.argv[:] = [f"lad {command}", *arguments]
    try:
        module = importlib.import_module(f"lad.commands.{command.replace('-', '_')}")
    except ImportError as error:
        # The class itself, whose module came before what is missing.
        errors = sys.modules.get("lad.errors")
        if errors is None or not isinstance(error, errors.LadError):
            raise
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    module.main()


def main() -> None:
    """Run the console command."""
    if sys.argv[1:] and sys.argv[1] in COMMANDS:
        return run(sys.argv[1], sys.argv[2:])
    width = max(map(len, COMMANDS))
    parser = argparse.ArgumentParser(
        prog="lad",
        usage="lad [-h] [--version] COMMAND ...",
        description="Distillation of object detectors, on MMDetection.",
        epilog="commands (`lad COMMAND --help` lists their options):\n"
        + "\n".join(f"  {name:<{width}}  {text}" for name, text in COMMANDS.items()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="store_true", help="versions of what is installed, and exit")
    parser.add_argument("command", nargs="?", help=argparse.SUPPRESS)
    args, _ = parser.parse_known_args()
    if args.version:
        print(stack())
    elif args.command is None:
        parser.print_help()
        sys.exit(2)
    else:
        close = difflib.get_close_matches(args.command, COMMANDS, n=1)
        parser.error(f"there is no command {args.command!r}" + (f"; nearest: {close[0]}" if close else ""))


if __name__ == "__main__":
    main()
