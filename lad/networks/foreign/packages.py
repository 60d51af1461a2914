"""Import packages of the extra ``foundation``."""

from __future__ import annotations

import importlib
from typing import Any

from lad.errors import MissingPackageError


def require(name: str) -> Any:
    """Import a module of the packages timm, transformers and safetensors.

    Raises:
        MissingPackageError: it is not installed; names the extra.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        package = name.partition(".")[0]
        raise MissingPackageError(
            f"{package} is needed for this teacher: pip install 'lad-detection[foundation]' ({error})."
        ) from error
