"""What a client sends: the weights of the round's checkpoint, and the number of its images."""

from lad.compat.safe_loading import load_safely
from lad.federated.client import fingerprint
from lad.federated.update_hook import ClientUpdateHook, count_images

import pytest
import torch
from mmdet.registry import DATASETS
from mmengine.dataset import BaseDataset
from mmengine.model import BaseModel
from mmengine.registry import DefaultScope
from mmengine.runner import Runner
from torch import nn


class Line(BaseModel):
    """One weight that is 2 smaller after each step, and a batch norm, whose statistics are buffers."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))
        self.norm = nn.BatchNorm1d(1)

    def forward(self, x, mode="tensor"):
        return dict(loss=2 * self.weight.sum() + 0 * self.norm(x.view(-1, 1)).sum())


def run(folder, hooks):
    initial = dict(Line().state_dict())
    torch.save(dict(state_dict=initial), folder / "initial.pth")
    runner = Runner(
        Line(),
        str(folder),
        train_dataloader=dict(
            dataset=torch.arange(4.0).view(4, 1),
            batch_size=2,
            sampler=dict(type="DefaultSampler", shuffle=False),
            collate_fn=lambda items: dict(x=torch.stack(items)),
        ),
        train_cfg=dict(by_epoch=True, max_epochs=1),
        optim_wrapper=dict(optimizer=dict(type="SGD", lr=1.0)),
        default_hooks=dict(checkpoint=dict(type="CheckpointHook", interval=1)),
        custom_hooks=[*hooks, ClientUpdateHook(str(folder / "update.pth"))],
        load_from=str(folder / "initial.pth"),
        experiment_name=folder.name,
        default_scope="mmdet",
    )
    runner.train()
    return load_safely(folder / "update.pth"), load_safely(folder / "epoch_1.pth")


@pytest.mark.parametrize("averages", [False, True])
def test_client_sends_the_state_dict_of_the_rounds_checkpoint(tmp_path, averages):
    hooks = [dict(type="EMAHook", momentum=0.25)] if averages else []
    try:
        update, checkpoint = run(tmp_path, hooks)
    finally:
        DefaultScope._instance_dict.pop(tmp_path.name, None)
    assert fingerprint(update["state_dict"]) == fingerprint(dict(checkpoint["state_dict"]))
    # The weights are 1, -1, -3. The average's first update is a copy: -1, then 0.75 * -1 + 0.25 * -3.
    expected = -1.5 if averages else -3.0
    assert update["state_dict"]["weight"].item() == pytest.approx(expected)
    assert update["images"] == 4


class Images(BaseDataset):
    """A data set of images that are given."""

    def load_data_list(self):
        return [dict(img_path=path) for path in self.ann_file.split()]


def data_set(paths):
    return Images(ann_file=paths)


def test_images_are_counted_once_however_often_they_are_repeated():
    part = data_set("1 2 3")
    build = DATASETS.build
    assert count_images(part) == 3
    assert count_images(build(dict(type="RepeatDataset", times=20, dataset=part))) == 3
    both = dict(type="ConcatDataset", datasets=[data_set("1 2 3"), data_set("3 4")])
    assert count_images(build(both)) == 4
    assert count_images(build(dict(type="RepeatDataset", times=2, dataset=both))) == 4
    assert count_images([1, 2]) == 2
