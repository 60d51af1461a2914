"""Steps of small distillations in two processes, and in one on the same images.

The models are built once, in a process that then forks the others.
"""

from __future__ import annotations

import copy
import multiprocessing
import tempfile
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from pathlib import Path

import seam_detectors
import specialists as several_teachers
import torch
import two_stage_detectors
from dense_detectors import dense
from detr_detectors import DETRS, small_detr
from fault_runs import free_port, import_server
from helpers import build, co_learning, make_batch, save_checkpoint, small_paa
from mmdet.registry import MODELS
from mmengine.model import MMDistributedDataParallel
from mmengine.registry import init_default_scope
from torch import nn

# So small that what differs between the processes' weights and the one's shows in the gradients alone.
LEARNING_RATE = 2e-8
LAD = dict(type="LabelAssignmentDistillation")
ROI_LOGITS = dict(type="RoILogitDistillation")
CBD = dict(type="ClassBalancedDistillation")


def distil(student: dict, teacher: dict, *methods: dict) -> nn.Module:
    """A student and a teacher with random weights."""
    with tempfile.TemporaryDirectory() as folder:
        path = save_checkpoint(build(teacher, 10), Path(folder) / "teacher.pth")
        model = MODELS.build(
            dict(
                type="DistillationDetector",
                student=copy.deepcopy(student),
                teacher=dict(copy.deepcopy(teacher), checkpoint=path),
                methods=[dict(method) for method in methods],
            )
        )
    model.student.load_state_dict(build(student).state_dict())
    return model


def lad(family: str) -> nn.Module:
    """LAD on a head that asks an assigner."""
    return distil(seam_detectors.small(family), seam_detectors.small(family, base=16), LAD)


def without_noise(family: str) -> dict:
    """A DETR; a DINO denoises in two groups, without noise."""
    settings = {}
    if family == "dino":
        groups = dict(dynamic=False, num_groups=2, num_dn_queries=None)
        settings["dn_cfg"] = dict(label_noise_scale=1e-9, box_noise_scale=1e-9, group_cfg=groups)
    return small_detr(family, **settings)


def lad_detr(family: str) -> nn.Module:
    """LAD on a DETR."""
    return distil(without_noise(family), small_detr(family, base=16), dict(LAD, inherit_queries=True))


def shared_queries(family: str) -> nn.Module:
    """KD-DETR with the teacher's queries; random ones differ between processes."""
    teacher = small_detr(family, base=16, dims=64 if family == "one_stage" else None)
    return distil(without_noise(family), teacher, dict(type="SharedQueryDistillation", num_random=0))


def matched_queries() -> nn.Module:
    """Predictions of a DINO, matched with those of a Deformable-DETR; random weights score about 0.01."""
    method = dict(type="MatchedQueryDistillation", min_score=0.0)
    return distil(small_detr("one_stage"), small_detr("dino", base=16), method)


def loss_ratio() -> nn.Module:
    """Hints whose weight follows the student's own loss in all processes."""
    factor = dict(type="loss_ratio", ratio=0.5)
    return distil(small_paa(), small_paa(base=16), dict(type="HintDistillation", factor=factor))


def masks() -> nn.Module:
    """Masks of proposals; samplers take everything, so that nothing is drawn."""

    def config(base: int) -> dict:
        own = two_stage_detectors.two_stage("mask", base=base)
        for stage in (own.train_cfg.rpn, own.train_cfg.rcnn):
            stage.sampler.update(num=100_000, pos_fraction=1.0)
        return own

    return distil(config(8), config(16), dict(type="MaskLogitDistillation", loss_name="loss_kd"))


def co_learn(config: Callable[..., dict], per: str = "gt_level", switch: str = "StdMeanSwitch") -> nn.Module:
    """Two networks that teach each other."""
    networks = dict(a=config(base=8), b=config(base=16))
    switch = dict(type=switch, per=per)
    model = MODELS.build(co_learning(networks, switch))
    for seed, (name, network) in enumerate(networks.items()):
        model.trained_networks[name].load_state_dict(build(network, seed).state_dict())
    return model


def hint() -> nn.Module:
    """Hints for a PAA."""
    return distil(small_paa(), small_paa(base=16), dict(type="HintDistillation"))


def two_stage(kind: str, **rpn_proposal) -> nn.Module:
    """Hints, RPN and RoI head; samplers take everything, so that nothing is drawn."""
    student = two_stage_detectors.two_stage(kind)
    train_cfg = student.train_cfg
    train_cfg.rpn_proposal.update(rpn_proposal)
    stages = train_cfg.rcnn if isinstance(train_cfg.rcnn, list | tuple) else [train_cfg.rcnn]
    for stage in (train_cfg.rpn, *stages):
        stage.sampler.update(num=100_000, pos_fraction=1.0)
    methods = two_stage_detectors.HINT, two_stage_detectors.RPN, two_stage_detectors.RCNN, ROI_LOGITS
    return distil(student, two_stage_detectors.two_stage(kind, base=16), *methods)


def features() -> nn.Module:
    """The losses that compare maps; MGD masks them by chance, otherwise in each process."""
    losses = [dict(type=name) for name in ("ATLoss", "CWDLoss", "PKDLoss", "FGDLoss")]
    methods = [dict(type="FeatureDistillation", name=loss["type"], loss=loss) for loss in losses]
    return distil(small_paa(), small_paa(base=16), *methods)


def gradient_share() -> nn.Module:
    """A weight that follows gradients, and a method that rests."""
    share = dict(type="gradient_share", share=0.2, momentum=0.5)
    hint = dict(type="FeatureDistillation", loss=dict(type="CosineLoss"), loss_weight=share)
    resting = dict(type="HintDistillation", active=dict(iters=(1000, None)))
    return distil(small_paa(), small_paa(base=16), hint, resting)


def detections() -> nn.Module:
    """What a teacher detects, as objects."""
    return distil(
        small_paa(),
        small_paa(base=16),
        dict(type="DetectionDistillation", targets="hard", min_score=0.0),
    )


def relations() -> nn.Module:
    """Relations between the objects of each process, and maps before the activation."""
    methods = [dict(type="RelationalDistillation"), dict(type="OverhaulDistillation")]
    return distil(small_paa(), small_paa(base=16), *methods)


def responses() -> nn.Module:
    """Class logits, edge distributions and cross-head predictions of a GFL; CrossKD aligns each process's images."""
    names = ("DenseLogitDistillation", "LocalisationDistillation")
    cross = dict(type="CrossHeadDistillation", align=False)
    return distil(dense("gfl"), dense("gfl"), *(dict(type=name) for name in names), cross)


def roles() -> nn.Module:
    """Peers both ways, an exit that learns and one that teaches, a snapshot."""
    logits, feature = (
        dict(type="DenseLogitDistillation"),
        dict(type="FeatureDistillation", loss=dict(type="CWDLoss")),
    )
    networks = dict(a=dense("gfl"), b=dense("gfl"))
    model = MODELS.build(
        dict(
            type="DistillationDetector",
            networks=copy.deepcopy(networks),
            deploy="b",
            exits=dict(a=dict(early=dict(levels=[1]))),
            teachers=dict(before=dict(snapshot_of="b", at="epoch")),
            methods=[
                dict(logits, learner="a", taught_by="b"),
                dict(logits, learner="b", taught_by="a"),
                dict(logits, learner="a.early", taught_by="a"),
                dict(type="LocalisationDistillation", learner="b", taught_by="a.early"),
                dict(feature, learner="b", taught_by="before"),
            ],
        )
    )
    for seed, network in enumerate(model.learners.values()):
        network.load_state_dict(build_like(network, seed))
    return model


def mutual(*configs: dict, **settings) -> nn.Module:
    """Networks that learn from each other's class logits."""
    networks = dict(zip("abc", configs, strict=False))
    model = MODELS.build(
        dict(
            type="DistillationDetector",
            networks=copy.deepcopy(networks),
            exits=settings.pop("exits", None),
            methods=[dict(type="MutualLogitDistillation", **settings)],
        )
    )
    for seed, network in enumerate(model.learners.values()):
        network.load_state_dict(build_like(network, seed))
    return model


def cross_layer() -> nn.Module:
    """DCM: a GFL with two exits and one with one."""
    early, late = dict(levels=[1]), dict(levels=[1, 2])
    exits = dict(a=dict(early=early, late=late), b=dict(early=early))
    return mutual(dense("gfl"), dense("gfl"), exits=exits, pairs="all")


def fusion() -> nn.Module:
    """FFSD: GFLs, two of which teach the third."""
    model = MODELS.build(
        dict(
            type="DistillationDetector",
            networks=dict(a=dense("gfl"), b=dense("gfl"), leader=dense("gfl")),
            methods=[dict(type="FeatureFusionSelfDistillation", leader="leader")],
        )
    )
    for seed, network in enumerate(model.learners.values()):
        network.load_state_dict(build_like(network, seed))
    return model


def mutual_two_stage() -> nn.Module:
    """Three Faster R-CNNs; samplers take everything."""
    configs = [two_stage_detectors.two_stage("faster", base=base) for base in (8, 16, 8)]
    for config in configs:
        for stage in (config.train_cfg.rpn, config.train_cfg.rcnn):
            stage.sampler.update(num=100_000, pos_fraction=1.0)
    model = mutual(*configs)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            # Outputs of the order of 1: what the own losses' divisors change in the weights changes no proposal.
            parameter.data.mul_(10 * parameter[0].numel() ** -0.5)
    return model


def self_distillation() -> nn.Module:
    """Two exits of a PAA that learn from it, one of them with its positives."""
    model = MODELS.build(
        dict(
            type="DistillationDetector",
            student=small_paa(),
            exits=dict(student=dict(early=dict(levels=[1]), late=dict(levels=[1, 2]))),
            methods=[
                dict(type="SelfDistillation"),
                dict(LAD, learner="student.late", taught_by="student"),
            ],
        )
    )
    for seed, network in enumerate(model.learners.values()):
        network.load_state_dict(build_like(network, seed))
    return model


def build_like(network: nn.Module, seed: int) -> dict[str, torch.Tensor]:
    """A network's state with random weights that depend on the seed alone."""
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.randn(value.shape, generator=generator) * 0.1 if value.dim() > 1 else value
        for name, value in network.state_dict().items()
    }


def specialists(make: Callable[[int], dict], **method) -> nn.Module:
    """Two teachers that know other classes; samplers take everything, so that nothing is drawn."""

    def config(num_classes: int) -> dict:
        own = make(num_classes)
        if "roi_head" in own:
            stages = (
                own.train_cfg.rcnn if isinstance(own.train_cfg.rcnn, list | tuple) else [own.train_cfg.rcnn]
            )
            for stage in (own.train_cfg.rpn, *stages):
                stage.sampler.update(num=100_000, pos_fraction=1.0)
        return own

    with tempfile.TemporaryDirectory() as folder:
        return several_teachers.distil(Path(folder), config, **method)


def cascade_without_proposals(num_classes: int) -> dict:
    """A Cascade R-CNN that samples the objects alone: boxes of no proposal are so large."""
    config = several_teachers.cascade(num_classes)
    config.train_cfg.rpn_proposal.min_bbox_size = 10_000
    return config


CASES: dict[str, Callable[[], nn.Module]] = {
    **{f"lad_{family}": partial(lad, family) for family in seam_detectors.FAMILIES},
    **{f"lad_{family}": partial(lad_detr, family) for family in DETRS},
    **{f"shared_queries_{family}": partial(shared_queries, family) for family in DETRS},
    **{
        f"colad_{family}": partial(co_learn, partial(seam_detectors.small, family))
        for family in ("tood", "rtmdet", "yolox")
    },
    "colad_paa": partial(co_learn, small_paa),
    "colad_paa_image_fisher": partial(co_learn, small_paa, per="image", switch="FisherSwitch"),
    "matched_queries": matched_queries,
    "loss_ratio": loss_ratio,
    "masks": masks,
    "hint": hint,
    "features": features,
    "gradient_share": gradient_share,
    "detections": detections,
    "relations": relations,
    "responses": responses,
    "roles": roles,
    "self_distillation": self_distillation,
    "cross_layer": cross_layer,
    "fusion": fusion,
    "mutual_two_stage": mutual_two_stage,
    "specialists": partial(specialists, partial(several_teachers.one_stage, family="gfl")),
    "specialists_faster": partial(specialists, several_teachers.faster),
    "specialists_without_proposals": partial(specialists, cascade_without_proposals),
    "class_balanced": partial(specialists, partial(several_teachers.one_stage, family="gfl"), **CBD),
    "class_balanced_faster": partial(specialists, several_teachers.faster, **CBD),
    "class_balanced_without_proposals": partial(specialists, cascade_without_proposals, **CBD),
    "faster": partial(two_stage, "faster"),
    # Boxes of no proposal are so large: what is sampled are the objects alone, and nothing where there are none.
    "cascade_without_proposals": partial(two_stage, "cascade", min_bbox_size=10_000),
}


def batches(masks: bool) -> list[tuple[torch.Tensor, list]]:
    """Two images each, of which two processes take one: the second has no objects; the first no positives; none any.

    Args:
        masks: Whether the objects have masks; RTMDet's assigner takes an object with masks for one of RTMDet-Ins.
    """
    some, tiny, none = (
        make_batch(objects, (64, 160), seed=seed) for seed, objects in enumerate([(8, 0), (1, 8), (0, 0)])
    )
    # Between the centres of cells of every stride.
    tiny[1][0].gt_instances.bboxes = torch.tensor([[9.0, 9.0, 10.5, 10.5]])
    if masks:
        for _, samples in (some, tiny, none):
            two_stage_detectors.with_masks(samples)
    return [some, tiny, none]


@dataclass
class Record:
    """What became of one model.

    Attributes:
        losses: Of each step, by name.
        gradients: Of each step, all in one.
        untrained: Names of the trainable weights without a gradient, of each step.
        weights: At the end, all in one.
    """

    losses: list[dict[str, float]] = field(default_factory=list)
    gradients: list[torch.Tensor] = field(default_factory=list)
    untrained: list[list[str]] = field(default_factory=list)
    weights: torch.Tensor | None = None


def train(model: nn.Module, rank: int, world_size: int) -> Record:
    """A step of SGD on each batch, or this rank's part of it; batch norm and dropout as at test time."""
    model.eval()
    for detector in [model, *model.learners.values()]:
        detector.training = True
        if hasattr(detector, "bbox_head"):
            detector.bbox_head.training = True
    wrapped = model
    if world_size > 1:
        wrapped = MMDistributedDataParallel(model, broadcast_buffers=False, find_unused_parameters=False)
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    optimizer = torch.optim.SGD(trained.values(), lr=LEARNING_RATE)
    record = Record()
    for inputs, samples in batches(masks=any(network.with_mask for network in model.learners.values())):
        count = len(samples) // world_size
        part = slice(rank * count, (rank + 1) * count)
        optimizer.zero_grad()
        losses = wrapped(inputs[part], copy.deepcopy(samples[part]), mode="loss")
        total, logged = model.parse_losses(losses)
        total.backward()
        optimizer.step()
        record.losses.append({name: float(value) for name, value in logged.items() if "loss" in name})
        record.untrained.append([name for name, p in trained.items() if p.grad is None])
        gradients = [p.grad.flatten() for p in trained.values() if p.grad is not None]
        record.gradients.append(torch.cat(gradients))
    record.weights = torch.cat([p.detach().flatten() for p in trained.values()])
    return record


def _train_all(models: dict[str, nn.Module], rank: int, world_size: int, port: int, path: Path) -> None:
    if world_size > 1:
        address, timeout = f"tcp://127.0.0.1:{port}", timedelta(seconds=60)
        torch.distributed.init_process_group(
            "gloo", address, rank=rank, world_size=world_size, timeout=timeout
        )
    records: dict[str, Record | str] = {}
    for name, model in models.items():
        try:
            records[name] = train(model, rank, world_size)
        except Exception:
            # The processes are out of step from here on.
            records[name] = traceback.format_exc()
            break
    torch.save(records, path)


def _build_and_fork(names: Sequence[str], port: int, paths: dict[tuple[int, int], Path]) -> None:
    init_default_scope("mmdet")
    torch.set_num_threads(1)
    seam_detectors.set_epoch(1)
    models = {name: CASES[name]() for name in names}
    context = multiprocessing.get_context("fork")
    processes = [
        context.Process(target=_train_all, args=(models, *place, port, path)) for place, path in paths.items()
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()


def run(names: Sequence[str], folder: Path) -> dict[tuple[int, int], dict[str, Record | str]]:
    """By (rank, number of processes) and name: what became of a model, or a traceback."""
    paths = {(rank, size): folder / f"records_{rank}_{size}.pth" for rank, size in [(0, 1), (0, 2), (1, 2)]}
    process = import_server().Process(target=_build_and_fork, args=(names, free_port(), paths))
    process.start()
    process.join()
    return {place: torch.load(path, weights_only=False) for place, path in paths.items() if path.exists()}
