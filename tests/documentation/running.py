"""Running a documented command."""

from __future__ import annotations

import multiprocessing
import os
import runpy
import shlex
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from lad import __main__ as console

# Imported once, by the server that every python program is forked from: seconds for each of them otherwise.
PRELOADED = [
    "documentation.running",
    "lad",
    "mmdet.apis",
    "mmdet.evaluation",
    "mmdet.datasets",
    "matplotlib.pyplot",
]


@dataclass(frozen=True)
class Done:
    """How a command ended, and what it said on both its outputs."""

    code: int
    output: str


def run(text: str, folder: Path, environment: dict[str, str], timeout: float, fresh: bool = False) -> Done:
    """Run one command line in a folder.

    ``python FILE ...`` and ``lad ...`` become a process in which the interpreter has already imported what every tool
    imports, unless it is to be ``fresh``; everything else is for the shell. The program and its arguments are the same
    in both.

    Raises:
        subprocess.TimeoutExpired: it does not end within ``timeout`` seconds; it and what it started are killed.
    """
    words = shlex.split(text)
    if words[0] == "python" and words[1].endswith(".py") and not fresh:
        return _run_file(words[1:], folder, environment, timeout)
    if words[0] == "lad" and not fresh:
        return _run_file(words, folder, environment, timeout)
    process = subprocess.Popen(
        ["bash", "-c", text],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        output, _ = process.communicate(timeout=timeout)
    finally:
        if process.returncode is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    return Done(process.returncode, output)


def _run_file(arguments: list[str], folder: Path, environment: dict[str, str], timeout: float) -> Done:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    output = folder / "output.txt"
    process = context.Process(target=_program, args=(arguments, str(folder), environment, str(output)))
    process.start()
    try:
        process.join(timeout)
        if process.is_alive():
            raise subprocess.TimeoutExpired(arguments, timeout, output.read_text())
    finally:
        if process.is_alive():
            process.kill()
            process.join()
    return Done(process.exitcode, output.read_text(errors="replace"))


def _program(arguments: list[str], folder: str, environment: dict[str, str], output: str) -> None:
    """The whole life of a process that runs ``python arguments``, or the command ``lad``."""
    file = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(file, 1)
    os.dup2(file, 2)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = arguments
    if arguments[0] == "lad":
        return console.main()
    sys.path.insert(0, str(Path(arguments[0]).resolve().parent))
    runpy.run_path(arguments[0], run_name="__main__")
