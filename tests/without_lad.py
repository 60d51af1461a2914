"""Run in a Python of its own: a student's config and checkpoint where there is MMDetection and no lad.

Prints the detections on an image and the mAP as one line of JSON.
"""

import importlib
import json
import sys
import types
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def block_lad() -> None:
    """From here on lad is not there; its kernels stay, in the place of the compiled mmcv that others have."""
    package = types.ModuleType("lad")
    package.__path__ = [str(ROOT / "lad")]  # its submodules, without what importing it does
    sys.modules["lad"] = package
    importlib.import_module("lad.mmcv_ops").install()
    for name in [name for name in sys.modules if name.split(".")[0] == "lad"]:
        del sys.modules[name]
    sys.modules["lad"] = None


if __name__ == "__main__":
    config, checkpoint, image, work_dir = sys.argv[1:]
    block_lad()
    from mmdet.apis import inference_detector, init_detector
    from mmengine.config import Config
    from mmengine.runner import Runner

    found = inference_detector(init_detector(config, checkpoint, device="cpu"), image).pred_instances
    cfg = Config.fromfile(config)
    cfg.work_dir, cfg.load_from = work_dir, checkpoint
    runner = Runner.from_cfg(cfg)
    metrics = runner.test()
    assert not [name for name, module in sys.modules.items() if module and name.split(".")[0] == "lad"]
    answer = dict(bboxes=found.bboxes.tolist(), scores=found.scores.tolist(), metrics=metrics)
    print(f"\nanswer: {json.dumps(answer)}")
