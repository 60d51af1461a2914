"""One-line messages for what the operating system refuses of files and folders."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from lad.base.paths import file_in_path

#: What is wrong with a file, a folder or a disk, and not with the program.
FILE_ERRORS = frozenset(
    {
        errno.EACCES,
        errno.EDQUOT,
        errno.EEXIST,
        errno.EISDIR,
        errno.ENAMETOOLONG,
        errno.ENOENT,
        errno.ENOSPC,
        errno.ENOTDIR,
        errno.EPERM,
        errno.EROFS,
    }
)


def explain_file_error(error: OSError) -> str | None:
    """Message for an error of a file, a folder or a disk that the user can correct; None for any other error.

    A failed write does not tell its file.
    """
    if error.errno not in FILE_ERRORS:
        return None
    hint = "(LAD_TRACEBACK=1 shows where)"
    if error.filename is None:
        return f"{error.strerror} {hint}."
    path = os.fsdecode(error.filename) if isinstance(error.filename, (str, bytes)) else str(error.filename)
    if error.errno in (errno.EEXIST, errno.ENOTDIR) and (file := file_in_path(Path(path))):
        return f"{file} is a file, and a folder is needed there: name another place {hint}."
    return f"{path}: {error.strerror} {hint}."
