"""Plain-text tables, laid out by rich."""

from __future__ import annotations

import io
from collections.abc import Collection, Iterable, Sequence

from rich.box import Box
from rich.console import Console
from rich.table import Table
from rich.text import Text

#: Columns without lines between them, and dashes below the header; ASCII, for any terminal and log file.
_DASHES = Box("    \n    \n -- \n    \n    \n    \n    \n    \n", ascii=True)
#: So wide that no cell is wrapped: a table in a log file is as wide as its content.
_WIDTH = 10_000


def text_table(
    header: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    right: Collection[int] = (),
    empty: str | None = None,
) -> str:
    """Format a table as plain text.

    Args:
        header: Titles of the C columns.
        rows: C cells each; markup in them is not interpreted.
        right: Indices of the right-aligned columns; the others are left-aligned.
        empty: Columns whose cells are all equal to this text are left out; None keeps every column.

    Returns:
        Lines without trailing spaces or line end: the header, dashes, the rows.

    Example:
        >>> print(text_table(["part", "ms"], [("teacher", "12.5"), ("backward", "7.1")], right={1}))
        part        ms
        --------------
        teacher   12.5
        backward   7.1
    """
    rows = [list(row) for row in rows]
    kept = [column for column in range(len(header)) if not rows or any(row[column] != empty for row in rows)]
    table = Table(box=_DASHES, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    for column in kept:
        table.add_column(Text(header[column]), justify="right" if column in right else "left", no_wrap=True)
    for row in rows:
        table.add_row(*(Text(row[column]) for column in kept))
    written = io.StringIO()
    console = Console(file=written, width=_WIDTH, color_system=None, legacy_windows=False)
    console.print(table)
    return "\n".join(line.rstrip() for line in written.getvalue().splitlines())
