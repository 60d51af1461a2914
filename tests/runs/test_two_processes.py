"""Two processes train as one process with the same total batch does."""

import json

from lad.base.config import load_config

import numpy as np
import pytest
import rank_runs
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
                base=str(STUDENT_CONFIG.with_name(f"{name}_paa-r18-c16_paa-r18-c32_fpn_digits.py")),
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


#: What is computed otherwise in two processes, by MMDetection itself but for RKD: parts of the names of losses.
DIFFERING = {
    # The weights of DDOD's levels count each process's own positives.
    "lad_ddod": ("loss_cls",),
    # An image without objects has denoising queries where one of its batch has objects: they learn the background.
    "lad_dino": ("dn_",),
    "shared_queries_dino": ("dn_",),
    # RKD relates the objects of one process.
    "relations": ("loss_rkd",),
    # An RPN and a RoI head divide by each process's own number of samples.
    "faster": ("_hard",),
    **{
        f"{method}_{case}": ("loss_rpn", "loss_cls", "loss_bbox")
        for method in ("specialists", "class_balanced")
        for case in ("faster", "without_proposals")
    },
    "masks": ("loss_rpn", "loss_cls", "loss_bbox", "loss_mask"),
    "mutual_two_stage": tuple(f"{name}.loss_{part}" for name in "abc" for part in ("rpn", "cls", "bbox")),
    "cascade_without_proposals": ("_hard",),
}
WITHOUT_OBJECTS_IN_RANK_1, WITHOUT_POSITIVES_IN_RANK_0, WITHOUT_ANY = range(3)


@pytest.fixture(scope="module")
def steps(tmp_path_factory):
    """What became of each case: in one process, and in each of two."""
    records = rank_runs.run(list(rank_runs.CASES), tmp_path_factory.mktemp("steps"))

    def of(name):
        found = [records[place].get(name, "not reached") for place in [(0, 1), (0, 2), (1, 2)]]
        for record in found:
            assert isinstance(record, rank_runs.Record), record
        return found

    return of


@pytest.mark.parametrize("name", rank_runs.CASES)
def test_every_method_trains_in_two_processes_whatever_one_of_them_has_not(steps, name):
    """Without `find_unused_parameters`: each step would wait for a missing gradient, or the next one refuse."""
    _, first, second = steps(name)
    assert len(first.losses) == len(second.losses) == 3
    assert first.untrained == second.untrained == [[]] * 3
    assert torch.equal(first.weights, second.weights)
    assert first.weights.isfinite().all()


@pytest.mark.parametrize("name", ["lad_tood", "lad_rtmdet", "lad_ddod", "colad_tood", "colad_rtmdet"])
def test_a_rank_of_these_cases_has_objects_and_no_positives(steps, name):
    _, first, second = steps(name)
    boxes = [
        {key: value for key, value in record.losses[WITHOUT_POSITIVES_IN_RANK_0].items() if "bbox" in key}
        for record in (first, second)
    ]
    assert set(boxes[0].values()) == {0.0}
    assert min(boxes[1].values()) > 0


@pytest.mark.parametrize("name", rank_runs.CASES)
def test_losses_and_gradients_of_two_processes_are_those_of_one_with_the_same_total_batch(steps, name):
    one, *ranks = steps(name)
    # A batch without any object is left out: MMDetection's heads divide by one positive a process at least.
    for step in (WITHOUT_OBJECTS_IN_RANK_1, WITHOUT_POSITIVES_IN_RANK_0):
        losses = [record.losses[step] for record in ranks]
        compared = 0
        for key, value in one.losses[step].items():
            differs = any(key == "loss" or part in key for part in DIFFERING.get(name, ()))
            if not differs:
                # Where MMDetection leaves a cascade early, a term is missing.
                mean = sum(own.get(key, 0.0) for own in losses) / 2
                assert mean == pytest.approx(value, rel=1e-4, abs=1e-6), (step, key)
                compared += 1
        assert compared
    if name not in DIFFERING:
        step = WITHOUT_OBJECTS_IN_RANK_1
        expected, *own = (record.gradients[step] for record in (one, *ranks))
        # Averaged by DDP, the same in both.
        assert torch.equal(*own)
        assert (own[0] - expected).norm() < 1e-4 * expected.norm()
