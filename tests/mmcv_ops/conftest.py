from __future__ import annotations

import lad  # noqa: F401  provides mmcv._ext, which mmcv.ops loads when it is imported
from lad.mmcv_ops import is_installed

# With a compiled mmcv these tests would test mmcv, which has no CPU kernel for some operators.
collect_ignore_glob = [] if is_installed() else ["test_ops_*.py"]
