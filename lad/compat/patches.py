"""Patches of MMEngine 0.10, MMCV 2 and MMDetection 3 for current PyTorch, each with its reason.

No other module of the project changes another package. Each patch is idempotent and keeps the behaviour of the package
where the package works.
"""

from __future__ import annotations

import functools
import importlib
import io
import sys
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from typing import Any
from unittest import mock

from lad import mmcv_ops
from lad.compat.safe_loading import load_safely, load_url_safely

import mmengine.config.utils as config_utils
import mmengine.dist.utils as dist_utils
import mmengine.runner.checkpoint as checkpoint_module
import torch
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.model import MMDistributedDataParallel
from pycocotools.coco import COCO


def _once(patch: Callable[[], None]) -> Callable[[], None]:
    done = False

    @functools.wraps(patch)
    def run() -> None:
        nonlocal done
        if not done:
            patch()
            done = True

    return run


@_once
def load_checkpoints_safely() -> None:
    """Replace ``torch.load`` and ``load_url`` in MMEngine's checkpoint loaders by their safe counterparts.

    MMEngine calls ``torch.load`` without ``weights_only``: unsafe before torch 2.6, and unable to read its own files
    since. Its loader for URLs passes ``weights_only=False`` to ``torch.hub`` on every version. All of its loaders look
    ``torch`` and ``load_url`` up in their module, so these two names are replaced there and nowhere else.

    OneDL's MMEngine has a function in between, ``_safe_torch_load``, that runs the code in files that torch refuses.
    """
    safe_torch = types.ModuleType("torch")
    vars(safe_torch).update(__getattr__=lambda name: getattr(torch, name), load=load_safely)
    checkpoint_module.torch = safe_torch
    checkpoint_module.load_url = load_url_safely
    if hasattr(checkpoint_module, "_safe_torch_load"):
        checkpoint_module._safe_torch_load = load_safely


@_once
def start_processes_without_gpu() -> None:
    """Let MMEngine's launchers start gloo processes on a machine without a GPU.

    They call ``torch.cuda.set_device`` in any case.
    """

    def without_gpu(initialise: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(initialise)
        def run(backend: str, **kwargs: Any) -> None:
            if get_device() != "cpu":
                return initialise(backend, **kwargs)
            with mock.patch.object(torch.cuda, "set_device"):
                return initialise("gloo", **kwargs)

        return run

    dist_utils._init_dist_pytorch = without_gpu(dist_utils._init_dist_pytorch)
    dist_utils._init_dist_slurm = without_gpu(dist_utils._init_dist_slurm)


@_once
def wrap_cpu_models_for_ddp() -> None:
    """Drop ``device_ids`` when MMEngine wraps a CPU model for DDP.

    MMEngine always passes them; torch refuses them for a module on the CPU.
    """
    initialise = MMDistributedDataParallel.__init__

    @functools.wraps(initialise)
    def run(self: MMDistributedDataParallel, module: torch.nn.Module, *args: Any, **kwargs: Any) -> None:
        if all(parameter.device.type == "cpu" for parameter in module.parameters()):
            kwargs.pop("device_ids", None)
        initialise(self, module, *args, **kwargs)

    MMDistributedDataParallel.__init__ = run


@_once
def find_own_configs() -> None:
    """Let ``lad::`` paths name the configs of this package, also in ``_base_``.

    MMEngine has a table of the packages whose configs it finds. The name of this one is that of the module: the
    distribution has another (``lad-detection``), and a module is also found in a checkout that is not installed.
    Configs of a package are built in the scope of its name; what this package registers is in MMDetection's.
    """
    config_utils.MODULE2PACKAGE["lad"] = "lad"
    find = Config._get_cfg_path

    @functools.wraps(find)
    def run(cfg_path: str, filename: str) -> tuple[str, str | None]:
        path, scope = find(cfg_path, filename)
        return path, "mmdet" if scope == "lad" else scope

    Config._get_cfg_path = staticmethod(run)


@_once
def find_configs_once() -> None:
    """Let MMEngine find the file of each ``package::`` path once in a process.

    It reads all metafiles of the package, a hundred of MMDetection's, and loads ``pkg_resources`` anew for every path,
    also for one that it has just found: 0.1 s each, and a config has several in ``_base_``. What it does not find it
    looks for again.
    """
    config_utils.load = functools.cache(config_utils.load)
    find = Config._get_cfg_path
    find_once = functools.cache(lambda cfg_path: find(cfg_path, ""))

    @functools.wraps(find)
    def run(cfg_path: str, filename: str) -> tuple[str, str | None]:
        # Only other paths are relative to the file that names them.
        return find_once(cfg_path) if "::" in cfg_path else find(cfg_path, filename)

    Config._get_cfg_path = staticmethod(run)


@contextmanager
def coco_evaluation_by(evaluator: type) -> Iterator[None]:
    """Temporarily replace pycocotools' ``COCOeval`` in MMDetection's ``CocoMetric``.

    The metric looks ``COCOeval`` up in its module, in the middle of a method of 180 lines, and has no option for it.
    """
    # Imported here: MMDetection needs mmcv's kernels, which `apply` provides.
    from mmdet.evaluation.metrics import coco_metric

    with mock.patch.object(coco_metric, "COCOeval", evaluator):
        yield


@contextmanager
def coco_results_of_nothing() -> Iterator[None]:
    """Temporarily let pycocotools load the results of a detector that detected nothing.

    It looks at the first detection of them. MMDetection's ``CocoMetric`` gives no numbers then instead of zeros.
    """
    load_results = COCO.loadRes

    def load(self: COCO, results: Any) -> COCO:
        if not isinstance(results, list) or results:
            return load_results(self, results)
        nothing = COCO()
        nothing.dataset = dict(self.dataset, annotations=[])
        nothing.createIndex()
        return nothing

    with mock.patch.object(COCO, "loadRes", load):
        yield


@_once
def import_mmdetection_silently() -> None:
    """Import MMDetection's data sets without what they print on the standard output, which is for results.

    OneDL's MMDetection prints that a package of OneDL's is missing.
    """
    with redirect_stdout(io.StringIO()):
        importlib.import_module("mmdet.datasets")


@_once
def load_drawing_code_late() -> None:
    """Import ``mmdet.utils.mot_error_visualize`` when its function is first called instead of with ``mmdet``.

    That module imports matplotlib's pyplot for one function that draws tracking errors, which no training calls. It is
    left as it is where it is loaded already.
    """
    name = "mmdet.utils.mot_error_visualize"
    if name in sys.modules:
        return

    def imshow_mot_errors(*args: Any, **kwargs: Any) -> Any:
        if sys.modules.get(name) is late:
            del sys.modules[name]
        return importlib.import_module(name).imshow_mot_errors(*args, **kwargs)

    late = types.ModuleType(name)
    vars(late).update(imshow_mot_errors=imshow_mot_errors)
    sys.modules[name] = late


def apply() -> None:
    """Apply all patches. Importing :mod:`lad` calls this."""
    mmcv_ops.install()
    find_own_configs()
    find_configs_once()
    load_drawing_code_late()
    load_checkpoints_safely()
    start_processes_without_gpu()
    wrap_cpu_models_for_ddp()
    import_mmdetection_silently()
