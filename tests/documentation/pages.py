"""What the pages of the documentation tell readers to type."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from helpers import ROOT

#: Those of the site, first page first.
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
FENCE = re.compile(r"(?P<indent> *)```(?P<language>\w*)")
#: Programs that begin a command in running text, between backticks.
INLINE = re.compile(r"(?<!`)`((?:python|make|pytest|pip|git|sbatch|mkdocs|lad [\w-]+) [^`]+)`(?!`)")
SHELLS = ("bash", "console", "sh", "shell")


@dataclass(frozen=True)
class Block:
    """A fenced block: where it begins (its page, and its first line from 1), its language and its text."""

    page: str
    line: int
    language: str
    text: str


@dataclass(frozen=True)
class Command:
    """One command line as it stands on a page, without its comment."""

    page: str = field(compare=False)
    line: int = field(compare=False)
    text: str = ""

    @property
    def where(self) -> str:
        """``docs/lad.md:12``."""
        return f"{self.page}:{self.line}"


def blocks(page: Path) -> Iterator[Block]:
    """The fenced blocks of a page, with their indentation taken away."""
    name = os.path.relpath(page, ROOT)
    fence, start, lines = None, 0, []
    for number, line in enumerate(page.read_text().splitlines(), 1):
        found = FENCE.match(line)
        if fence is None and found:
            fence, start, lines = found, number + 1, []
        elif fence is not None and line.strip() == "```":
            yield Block(name, start, fence["language"], "\n".join(lines) + "\n")
            fence = None
        elif fence is not None:
            lines.append(line.removeprefix(fence["indent"]))
    assert fence is None, f"{name}:{start}: this block has no end"


def all_blocks() -> list[Block]:
    """The blocks of every page."""
    return [block for page in PAGES for block in blocks(page)]


def commands() -> list[Command]:
    """Every command of every page, those in running text included; of equal ones the first."""
    found = [command for block in all_blocks() for command in commands_of(block)]
    found += [command for page in PAGES for command in inline_commands(page)]
    return list(dict.fromkeys(found))


def commands_of(block: Block) -> Iterator[Command]:
    """The commands of a shell block; in a ``console`` those behind a ``$``, as the rest is output."""
    if block.language not in SHELLS:
        return
    continued, start = "", block.line
    for number, line in enumerate(block.text.splitlines(), block.line):
        if block.language == "console" and not continued and not line.startswith("$ "):
            continue
        start = start if continued else number
        continued += line.removeprefix("$ ") if block.language == "console" else line
        if continued.endswith("\\"):
            continued = continued[:-1]
            continue
        text = without_comment(continued)
        if text:
            yield Command(block.page, start, text)
        continued = ""


def inline_commands(page: Path) -> Iterator[Command]:
    """The commands that stand in the sentences of a page."""
    text = page.read_text()
    prose = re.sub(r"(?ms)^ *```.*?^ *```$", lambda block: "\n" * block[0].count("\n"), text)
    for found in INLINE.finditer(prose):
        line = prose.count("\n", 0, found.start()) + 1
        yield Command(os.path.relpath(page, ROOT), line, " ".join(found[1].split()))


def without_comment(line: str) -> str:
    """A shell's command without what it does not read."""
    words = shlex.split(line, comments=True)
    if words == shlex.split(line):
        return " ".join(line.split())
    # Quoted as it was: cut at the first # that leaves these words.
    for cut in (found.start() for found in re.finditer("#", line)):
        head = line[:cut].strip()
        if (not head or line[cut - 1].isspace()) and head.count("'") % 2 == head.count('"') % 2 == 0:
            return " ".join(head.split())
    raise AssertionError(line)
