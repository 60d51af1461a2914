"""Contrastive steps in two processes, and in one on the same images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path

from lad.base.progress import Progress

import torch
from fault_runs import free_port, import_server
from helpers import build, small_paa
from mmengine.dist import all_reduce
from mmengine.logging import MessageHub
from mmengine.model import MMDistributedDataParallel
from mmengine.registry import init_default_scope
from torch import nn


def run(step: Callable[[Callable[[nn.Module], nn.Module], slice], dict], folder: Path) -> dict[int, dict]:
    """What a step returns in one process, and in the first of two.

    Args:
        step: Called with a function that wraps a model for the processes and the part of the 4 images of this one.
        folder: For the answers.
    """
    port, context = free_port(), import_server()
    paths = {(0, 1): folder / "one.pth", (0, 2): folder / "two.pth", (1, 2): folder / "second.pth"}
    started = [context.Process(target=_run, args=(step, *place, port, path)) for place, path in paths.items()]
    for process in started:
        process.start()
    for process in started:
        process.join()
        assert process.exitcode == 0
    return {size: torch.load(paths[0, size]) for size in (1, 2)}


def _run(step: Callable, rank: int, size: int, port: int, path: Path) -> None:
    torch.set_num_threads(1)
    init_default_scope("mmdet")
    if size > 1:
        torch.distributed.init_process_group(
            "gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=size, timeout=timedelta(seconds=60)
        )
    count = 4 // size

    def wrap(model: nn.Module) -> nn.Module:
        return MMDistributedDataParallel(model, broadcast_buffers=False) if size > 1 else model

    torch.save(step(wrap, slice(rank * count, (rank + 1) * count)), path)


def mean_over_processes(loss: torch.Tensor) -> float:
    """A loss averaged over the processes."""
    loss = loss.detach().clone()
    all_reduce(loss, op="mean")
    return float(loss)


def linear_step(wrap: Callable, part: slice) -> dict:
    """NT-Xent of a linear layer on four images."""
    from lad.losses import nt_xent_loss
    from lad.methods.without_labels.gathering import gather_views

    generator = torch.Generator().manual_seed(0)
    images = torch.randn(2, 4, 5, generator=generator)
    model = nn.Linear(5, 3, bias=False)
    with torch.no_grad():
        model.weight.copy_(torch.randn(3, 5, generator=generator))
    wrapped = wrap(model)  # which exchanges gradients as long as it lives
    embeddings = wrapped(images[:, part])
    every = gather_views(*embeddings)
    loss = nt_xent_loss(*embeddings, candidates=every.views, start=every.start).mean()
    loss.backward()
    return dict(loss=mean_over_processes(loss), gradient=model.weight.grad)


def pretraining(student: dict | None = None, seed: int = 0, **settings) -> nn.Module:
    """A small detector's pretraining, with random weights that depend on the seed alone."""
    config = dict(type="SelfSupervisedPretraining")
    if "networks" not in settings:
        config["student"] = student or small_paa()
    config["methods"] = settings.pop("methods", [dict(type="ContrastiveLearning")])
    return build(config | settings, seed)


def random_views(images: int = 4, names: Sequence[str] = ("first", "second")) -> dict[str, torch.Tensor]:
    """Normalised noise."""
    generator = torch.Generator().manual_seed(0)
    return {name: torch.randn(images, 3, 64, 64, generator=generator) for name in names}


def pretraining_step(wrap: Callable, part: slice) -> dict:
    """A step of two small detectors' pretraining; batch norm as at test time, none in the projection."""
    model = pretraining(
        networks=dict(a=small_paa(), b=small_paa(base=12)),
        methods=[dict(type="ContrastiveLearning"), dict(type="SimilarityDistillation", weight=100.0)],
        projection=dict(norm_cfg=None),
    ).eval()
    return _whole_step(wrap, part, model)


def fedx_step(wrap: Callable, part: slice) -> dict:
    """A step with FedX, of a network that has moved away from its snapshot."""
    model = pretraining(
        methods=[dict(type="ContrastiveLearning"), dict(type="FedX")], projection=dict(norm_cfg=None)
    ).eval()
    model.take_snapshots(Progress())
    MessageHub.get_current_instance().update_info("iter", 1)
    with torch.no_grad():
        for parameter in model.backbone.parameters():
            parameter.mul_(1.1)
    return _whole_step(wrap, part, model)


def _whole_step(wrap: Callable, part: slice, model: nn.Module) -> dict:
    wrapped = wrap(model)
    views = {name: view[part] for name, view in random_views(names=model.views).items()}
    losses = wrapped(views, {}, mode="loss")
    sum(losses.values()).backward()
    gradients = [p.grad.flatten() for p in model.parameters() if p.requires_grad]
    found = {name: mean_over_processes(loss) for name, loss in losses.items()}
    return dict(losses=found, gradient=torch.cat(gradients))
