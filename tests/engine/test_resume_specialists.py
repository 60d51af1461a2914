"""Runs with several teachers resume in the middle of an epoch to the same bits: gates, projections, order of images."""

import copy

import pytest
import torch
from helpers import build, make_batch, save_checkpoint
from mmengine.config import Config
from mmengine.registry import DATASETS
from resumable_runs import Run
from specialists import CLASSES, KNOWN, faster, one_stage
from stacks import LAYOUT


@DATASETS.register_module()
class FewImages(torch.utils.data.Dataset):
    """Six images of noise with objects of three classes."""

    metainfo = dict(classes=CLASSES)

    def __init__(self):
        inputs, samples = make_batch((2, 1, 3, 2, 1, 4), size=(64, 64))
        self.items = [
            dict(inputs=own, data_samples=sample) for own, sample in zip(inputs, samples, strict=True)
        ]

    def __len__(self):
        return len(self.items)

    def __getitem__(self, index):
        return copy.deepcopy(self.items[index])

    def get_cat_ids(self, index):
        return self.items[index]["data_samples"].gt_instances.labels.tolist()


def config(folder, make, method):
    teachers = {}
    for seed, (name, classes) in enumerate(KNOWN.items(), 1):
        own = make(len(classes))
        path = save_checkpoint(build(own, seed), folder / f"{name}.pth", dataset_meta=dict(classes=classes))
        teachers[name] = dict(own, checkpoint=path)
    return Config(
        dict(
            model=dict(type="DistillationDetector", student=make(3), teachers=teachers, methods=[method]),
            train_dataloader=dict(
                dataset=dict(type="FewImages"),
                batch_size=2,
                num_workers=0,
                sampler=dict(type="ClassAwareSampler"),
                collate_fn=dict(type="pseudo_collate"),
            ),
            train_cfg=dict(by_epoch=True, max_epochs=2),
            optim_wrapper=dict(optimizer=dict(type="SGD", lr=0.001, momentum=0.9)),
            default_hooks=dict(
                checkpoint=dict(type="CheckpointHook", by_epoch=False, interval=4),
                logger=dict(type="LoggerHook", interval=1),
            ),
            randomness=dict(seed=0),
            default_scope="mmdet",
        )
    )


@pytest.mark.parametrize(
    ("make", "method", "own"),
    [
        (one_stage, dict(type="MulDE", classes=CLASSES, candidates=50), ("gates", "mean_weights.last")),
        (faster, dict(type="ClassBalancedDistillation"), ("connectors.0.linear.weight",)),
    ],
)
def test_run_resumes_in_the_middle_of_an_epoch_to_the_same_bits(tmp_path, monkeypatch, make, method, own):
    monkeypatch.setattr(LAYOUT, lambda text, **_: (text, True))
    cfg = config(tmp_path, make, method)
    whole = Run(cfg, tmp_path / "whole").train()
    resumed = Run(cfg, tmp_path / "resumed", tmp_path / "whole/iter_4.pth").train()
    assert resumed.runner.iter == whole.runner.iter == 6
    assert whole.weights.keys() == resumed.weights.keys()
    for key, value in whole.weights.items():
        assert torch.equal(value, resumed.weights[key]), key
    for name in own:
        key = f"distillation.{method['type']}.{name}"
        assert not torch.equal(whole.before[key], whole.weights[key])
