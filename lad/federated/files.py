"""Files of tensors, written atomically."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lad.engine.checkpoints import write_whole

import torch


def write_torch(path: Path, content: Mapping[str, Any]) -> None:
    """Write what ``torch.save`` does, so that a crash at any moment leaves the old file or the new."""
    buffer = io.BytesIO()
    torch.save(dict(content), buffer)
    write_whole(path, buffer.getvalue())
