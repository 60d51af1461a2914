"""Files of JSON lines to which several processes append, of which one may be killed while it writes."""

from __future__ import annotations

import json
import os
from typing import BinaryIO


def end_last_line(file: BinaryIO) -> None:
    """Give the last line of a file its end where it is whole, and remove it where it is half-written.

    Some editors leave a whole last line without an end; a killed process, or a full disk, a part of one. Nothing is
    changed where the file is empty or ends with a line end.

    Args:
        file: Open for reading and appending (``'ab+'``), and locked.
    """
    # Where the end is now: another process may have added to it since it was opened.
    if file.seek(0, os.SEEK_END) == 0:
        return
    file.seek(-1, os.SEEK_END)
    if file.read(1) == b"\n":
        return
    file.seek(0)
    content = file.read()
    start = content.rfind(b"\n") + 1
    try:
        json.loads(content[start:])
    except ValueError:
        file.truncate(start)
    else:
        file.write(b"\n")  # at the end: the file is open for appending
