"""What differs between OpenMMLab's packages and their maintained forks, where tests depend on it."""

from importlib.util import find_spec

import lad  # noqa: F401  -- before MMDetection

import mmengine.config.config

#: Whether MMDetection imports matplotlib's pyplot when it is imported, as its fork does for a head that draws.
MMDET_LOADS_PYPLOT = find_spec("mmdet.models.dense_heads.clr_head") is not None
#: Where MMEngine looks up the function that lays out a config, which takes longer than a small training.
LAYOUT = (
    "mmengine.config.config.FormatCode"
    if hasattr(mmengine.config.config, "FormatCode")
    else "yapf.yapflib.yapf_api.FormatCode"
)
