"""PAA inference end to end: BatchedPAAHead against MMDetection's PAAHead, in one run.

python tools/benchmarks/inference.py [--only small large] [--candidates 100 1000] [--repeats 10]
python tools/benchmarks/inference.py --config CONFIG --checkpoint FILE --images FOLDER

Both detectors have the same weights and see the same image, one at a time; their detections must be equal to 1e-5
(relative) or the program stops. Without a checkpoint the weights are random, and the classifier is scaled and shifted
so that a given number of (prior, class) pairs pass the score threshold, as many as trained networks have. Ratios are
medians over alternating repeats, with their range: of the whole, and of what comes after the network alone (decoding,
top-k, non-maximum suppression, score voting).
"""

from __future__ import annotations

import argparse
import copy
import logging
import sys
import warnings
from itertools import islice
from pathlib import Path

from lad.base.config import detector_config
from lad.networks.building import without_pretraining
from lad.networks.verified_checkpoint import load_verified

import mmcv
import torch
from assignment import small_paa
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample, SampleList
from mmengine.registry import init_default_scope
from timing import alternate, ratio
from torch import Tensor, nn

HEADS = dict(mmdet="PAAHead", lad="BatchedPAAHead")


def build_both(config: dict, checkpoint: str | None = None) -> dict[str, nn.Module]:
    """The detector with either head and the same weights, in eval mode."""
    models = {}
    for name, head in HEADS.items():
        spec = without_pretraining(copy.deepcopy(config))
        spec.bbox_head.type = head
        models[name] = MODELS.build(spec).eval()
    if checkpoint is None:
        models["mmdet"].init_weights()
    else:
        load_verified(models["mmdet"], checkpoint, owner="the detector")
    models["lad"].load_state_dict(models["mmdet"].state_dict())
    return models


def sample_of(inputs: Tensor) -> SampleList:
    """Metadata of one image that was not resized."""
    size = tuple(inputs.shape[-2:])
    return [DetDataSample(metainfo=dict(img_shape=size, ori_shape=size, scale_factor=(1.0, 1.0), img_id=0))]


def count_candidates(model: nn.Module, outputs: tuple) -> int:
    """Number of pairs of a prior and a class that score above the threshold."""
    cls_scores, _, iou_preds = outputs
    return sum(
        int(((cls.sigmoid() * iou.sigmoid()).sqrt() > model.test_cfg.score_thr).sum())
        for cls, iou in zip(cls_scores, iou_preds, strict=True)
    )


@torch.no_grad()
def make_confident(model: nn.Module, inputs: Tensor, wanted: int) -> None:
    """Scale and shift the last layer of the classifier until about ``wanted`` pairs pass the score threshold.

    Random weights give every prior nearly the same score: either all pass or none. Logits are spread to a standard
    deviation of 1.5 before.
    """
    classifier = model.bbox_head.atss_cls
    features = model.extract_feat(inputs)
    logits = torch.cat([level.flatten() for level in model.bbox_head(features)[0]])
    classifier.weight *= 1.5 / logits.std()
    low, high = -30.0, 10.0
    for _ in range(30):
        middle = (low + high) / 2
        classifier.bias.fill_(middle)
        if count_candidates(model, model.bbox_head(features)) > wanted:
            high = middle
        else:
            low = middle


def compare(title: str, models: dict[str, nn.Module], images: list[Tensor], repeats: int) -> None:
    """Assert equal detections and time both, split into the network and what comes after it."""
    metas = [sample_of(inputs)[0].metainfo for inputs in images]

    def network(model: nn.Module) -> list[tuple]:
        return [model.bbox_head(model.extract_feat(inputs)) for inputs in images]

    outputs = {name: network(model) for name, model in models.items()}

    def after(name: str) -> list:
        head = models[name].bbox_head
        return [
            head.predict_by_feat(*output, batch_img_metas=[meta])
            for output, meta in zip(outputs[name], metas, strict=True)
        ]

    def whole(model: nn.Module) -> list:
        return [model.predict(inputs, sample_of(inputs))[0].pred_instances for inputs in images]

    detections = {name: whole(model) for name, model in models.items()}
    for slow, fast in zip(detections["mmdet"], detections["lad"], strict=True):
        assert torch.equal(slow.labels, fast.labels)
        torch.testing.assert_close(fast.bboxes, slow.bboxes, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(fast.scores, slow.scores, rtol=1e-5, atol=1e-5)
    candidates = [count_candidates(models["mmdet"], output) for output in outputs["mmdet"]]
    found = [len(instances) for instances in detections["mmdet"]]
    count = len(images)
    print(
        f"{title}: {sum(candidates) / count:.0f} candidates and {sum(found) / count:.0f} detections an image, equal"
    )
    tasks = {
        "network": lambda: network(models["lad"]),
        **{f"after {name}": lambda name=name: after(name) for name in models},
        **{f"whole {name}": lambda model=model: whole(model) for name, model in models.items()},
    }
    seconds = alternate(tasks, repeats)
    milliseconds = 1e3 / count
    same = ratio(seconds["network"], seconds["network"])
    print(f"  network              {same.slow * milliseconds:9.2f} ms an image")
    for part, label in (("after", "head's post-processing"), ("whole", "end to end")):
        result = ratio(seconds[f"{part} mmdet"], seconds[f"{part} lad"])
        print(
            f"  {label:22s} mmdet {result.slow * milliseconds:9.2f} ms  lad {result.fast * milliseconds:9.2f} ms  "
            f"{result}",
            flush=True,
        )


def read_images(model: nn.Module, folder: str, count: int) -> list[Tensor]:
    """The first images of a folder, normalised as the detector wants them, each (1, 3, H, W)."""
    paths = (path for path in sorted(Path(folder).rglob("*")) if path.suffix in (".jpg", ".png"))
    images = []
    for path in islice(paths, count):
        image = torch.from_numpy(mmcv.imread(str(path))).permute(2, 0, 1).contiguous()
        images.append(model.data_preprocessor(dict(inputs=[image]), False)["inputs"])
    if not images:
        sys.exit(f"there is no .jpg or .png in {folder}")
    return images


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--only", nargs="+", choices=["small", "large"], default=["small", "large"], help="random weights"
    )
    parser.add_argument("--candidates", type=int, nargs="+", default=[100, 1000])
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--config", help="a PAA detector; with --checkpoint and --images")
    parser.add_argument("--checkpoint", help="its trained weights")
    parser.add_argument("--images", help="a folder")
    parser.add_argument("--num-images", type=int, default=20)
    args = parser.parse_args()
    if len({args.config is None, args.checkpoint is None, args.images is None}) > 1:
        parser.error("--config, --checkpoint and --images belong together")
    warnings.filterwarnings("ignore")
    logging.disable(logging.INFO)  # MMEngine lists every weight that it initialises
    init_default_scope("mmdet")
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    print(f"torch {torch.__version__}, Python {sys.version.split()[0]}, {args.threads} threads, batch 1")
    with torch.no_grad():
        if args.config is not None:
            models = build_both(detector_config(args.config, "detector"), args.checkpoint)
            images = read_images(models["lad"], args.images, args.num_images)
            compare(f"{args.config}, trained weights", models, images, args.repeats)
            return
        small = small_paa("PAAHead", 64)
        large = detector_config("mmdet::paa/paa_r50_fpn_1x_coco.py", "detector")
        for name, config, size in (("small", small, (240, 320)), ("large", large, (800, 1344))):
            if name not in args.only:
                continue
            for wanted in args.candidates:
                models = build_both(config)
                inputs = torch.randn(1, 3, *size)
                make_confident(models["mmdet"], inputs, wanted)
                models["lad"].load_state_dict(models["mmdet"].state_dict())
                classes = models["lad"].bbox_head.num_classes
                title = (
                    f"PAA R{config.backbone.depth}, {size[0]}x{size[1]}, {classes} classes, random weights"
                )
                compare(title, models, [inputs], args.repeats)


if __name__ == "__main__":
    main()
