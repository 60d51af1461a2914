"""Two networks pretrained without labels as a user runs it: annotations deleted, resumed, and then trained on."""

import json
from pathlib import Path

from lad.compat.safe_loading import load_safely

import pytest
import torch
from fault_runs import Moment, Trainer, differences, final_state, make_data, write_config

# EMA and accumulated gradients; 3 iterations of 3, 3 and 2 images.
MORE = """
custom_imports = dict(imports=['lad', 'fault_runs'])
small = dict(
    config={student!r}, backbone=dict(base_channels=8), neck=dict(in_channels=[8, 16, 32, 64], out_channels=32))
model = dict(_delete_=True, type='SelfSupervisedPretraining', networks=dict(small=small, peer=small),
    methods=[dict(type='ContrastiveLearning'), dict(type='SimilarityDistillation')])
custom_hooks = [dict(type='EMAHook'), dict(type='NoiseHook'), dict(type='SaveNetworksHook')]
train_dataloader = dict(batch_size=3, dataset=dict(_delete_=True, type='ViewsDataset', size=64, dataset=dict(
    type='CocoDataset', labelled=False, data_root={data!r}, ann_file='images.json',
    data_prefix=dict(img='images/train/'))))
optim_wrapper = dict(accumulative_counts=2)
"""
# The third of SimCLRv2's commands: the labels of the second are not there any more.
DISTILLED = """
small = dict(
    config={student!r}, backbone=dict(base_channels=8), neck=dict(in_channels=[8, 16, 32, 64], out_channels=32),
    bbox_head=dict(in_channels=32, feat_channels=32, stacked_convs=1))
model = dict(_delete_=True, type='DistillationDetector', student=small, student_loss=False,
    teacher=dict(config={teacher!r}, checkpoint={checkpoint!r}),
    methods=[dict(type='SoftLabelDistillation', weights='teacher', min_score=0.0)])
train_dataloader['dataset'].update(labelled=False, ann_file='images.json')
train_cfg = dict(max_epochs=1)
"""


@pytest.fixture(scope="module")
def trainer(tmp_path_factory):
    from fault_runs import STUDENT_CONFIG

    folder = tmp_path_factory.mktemp("views")
    make_data(folder)
    annotations = folder / "digits/annotations/train.json"
    images = json.loads(annotations.read_text())["images"]
    (folder / "digits/images.json").write_text(json.dumps(dict(images=images)))
    annotations.rename(folder / "labels.json")
    text = MORE.format(student=str(STUDENT_CONFIG), data=f"{folder}/digits/")
    write_config(folder / "views.py", more=text)
    return Trainer(folder)


@pytest.fixture(scope="module")
def undisturbed(trainer):
    assert trainer.run(trainer.folder / "views.py", "undisturbed") == 0, trainer.output
    return trainer.folder / "undisturbed"


def test_run_without_annotations_on_the_disk_trains_backbone_and_neck(undisturbed):
    state = load_safely((undisturbed / "last_checkpoint").read_text())["state_dict"]
    assert {key.split(".")[0] for key in state} == {"backbone", "neck", "distillation"}
    assert all(value.isfinite().all() for value in state.values() if value.is_floating_point())


def test_killed_run_goes_on_to_the_weights_of_the_undisturbed_one(trainer, undisturbed):
    config = trainer.folder / "views.py"
    moment = Moment(event="iteration 4")
    assert trainer.run(config, "killed", moment=moment) != 0
    assert trainer.run(config, "killed", "--resume") == 0, trainer.output
    assert differences(final_state(trainer.folder / "killed"), final_state(undisturbed)) == []


@pytest.fixture(scope="module")
def finetuned(trainer, undisturbed):
    """The detector trained on labels from the second network's own file; the labels are gone again."""
    last = Path((undisturbed / "last_checkpoint").read_text())
    checkpoint = last.with_name(f"peer_{last.name}")
    labels, annotations = trainer.folder / "labels.json", trainer.folder / "digits/annotations/train.json"
    labels.rename(annotations)
    config = write_config(trainer.folder / "detector.py", more="train_cfg = dict(max_epochs=1)")
    assert trainer.run(config, "detector", "--cfg-options", f"load_from={checkpoint}") == 0, trainer.output
    assert "keys are loaded. Not loaded:" in trainer.output
    annotations.rename(labels)
    return trainer.folder / "detector"


def test_detector_starts_from_a_networks_own_file_through_the_command_line(finetuned):
    assert torch.isfinite(torch.tensor(final_state(finetuned)["losses"])).all()


def test_detector_teaches_another_without_annotations_on_the_disk(trainer, finetuned):
    """SimCLRv2's third step; the first is the pretraining, the second the detector on labels."""
    from fault_runs import STUDENT_CONFIG

    checkpoint = (finetuned / "last_checkpoint").read_text()
    teacher = str(trainer.folder / "detector.py")
    text = DISTILLED.format(student=str(STUDENT_CONFIG), teacher=teacher, checkpoint=checkpoint)
    config = write_config(trainer.folder / "distilled.py", more=text)
    assert not (trainer.folder / "digits/annotations/train.json").exists()
    assert trainer.run(config, "distilled") == 0, trainer.output
    losses = torch.tensor(final_state(trainer.folder / "distilled")["losses"])
    assert torch.isfinite(losses).all()
    assert (losses > 0).all()
    plain = trainer.folder / "distilled/student.py"
    assert "DistillationDetector" not in plain.read_text()


def test_last_batch_of_one_image_is_refused_in_one_line(trainer):
    config = trainer.folder / "views.py"
    assert trainer.run(config, "seven", "--cfg-options", "train_dataloader.batch_size=7") != 0
    lines = [line for line in trainer.output.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    assert "last batch of 8 images in batches of 7 has a single one" in lines[0]
