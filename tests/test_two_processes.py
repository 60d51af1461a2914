"""Two processes train as one process with the same total batch does."""

import json

from lad.config import load_config

import numpy as np
import pytest
import torch
from fault_runs import STUDENT_CONFIG, Trainer, make_data
from helpers import ROOT, save_checkpoint
from mmdet.registry import MODELS

# Batch norm with running statistics and no flips of chance between ranks: what is left depends on the batch as a whole
# only through the normalisers. Half of the images have no objects: with one image a process, one waits for nobody.
CONFIG = """
_base_ = {base!r}
custom_imports = dict(imports=['lad', 'fault_runs'])
model = dict(
    student=dict(_delete_=True, config={student!r}, backbone=dict(norm_eval=True)),
    teacher=dict(checkpoint={teacher!r}))
train_dataloader = dict(
    batch_size={batch_size}, num_workers=0, persistent_workers=False,
    dataset=dict(data_root={data!r}, ann_file='annotations/half_empty.json',
        filter_cfg=dict(filter_empty_gt=False), pipeline=[
        dict(type='LoadImageFromFile'), dict(type='LoadAnnotations', with_bbox=True),
        dict(type='Resize', scale=(64, 64), keep_ratio=True), dict(type='RandomFlip', prob=0.5),
        dict(type='PackDetInputs')]))
val_dataloader = None
val_cfg = None
val_evaluator = None
train_cfg = dict(max_epochs=2)
custom_hooks = [dict(type='LossesHook')]
"""


@pytest.fixture(scope="module")
def trainer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("two_processes")
    make_data(folder)
    annotations = json.loads((folder / "digits/annotations/train.json").read_text())
    empty = {image["id"] for image in annotations["images"][::2]}
    annotations["annotations"] = [a for a in annotations["annotations"] if a["image_id"] not in empty]
    (folder / "digits/annotations/half_empty.json").write_text(json.dumps(annotations))
    with torch.random.fork_rng():
        torch.manual_seed(1)
        teacher = MODELS.build(load_config(str(ROOT / "configs/lad/paa_r18-c32_fpn_digits.py")).model)
        teacher.init_weights()
    save_checkpoint(teacher, folder / "teacher.pth")
    return Trainer(folder)


def losses_of(trainer, name, rank):
    """{loss name: a value for each iteration} of one rank."""
    lines = (trainer.folder / name / f"losses_{rank}.json").read_text().splitlines()
    steps = [json.loads(line) for line in lines]
    return {key: np.array([step[key] for step in steps]) for key in steps[0]}


@pytest.mark.parametrize("name", ["lad", "solad", "kd"])
def test_two_processes_train_as_one_with_the_same_total_batch(trainer, name):
    configs = []
    for batch_size in (2, 1):
        path = trainer.folder / f"{name}_{batch_size}.py"
        path.write_text(
            CONFIG.format(
                base=str(STUDENT_CONFIG.with_name(f"{name}_r18-c16-paa-r18-c32_fpn_digits.py")),
                student=str(STUDENT_CONFIG),
                teacher=f"{trainer.folder}/teacher.pth",
                batch_size=batch_size,
                data=f"{trainer.folder}/digits/",
            )
        )
        configs.append(path)
    assert trainer.run(configs[0], f"{name}_one") == 0, trainer.output
    assert trainer.run_two(configs[1], f"{name}_two") == [0, 0], trainer.output
    one = losses_of(trainer, f"{name}_one", 0)
    ranks = [losses_of(trainer, f"{name}_two", rank) for rank in (0, 1)]
    assert one.keys() == ranks[0].keys()
    for key, values in one.items():
        assert len(values) == 8
        np.testing.assert_allclose(
            (ranks[0][key] + ranks[1][key]) / 2, values, rtol=1e-4, atol=1e-6, err_msg=key
        )
    # One rank had nothing where the other had: the mean is not two equal halves.
    assert any(np.abs(ranks[0][key] - ranks[1][key]).max() > 0.1 for key in one)
