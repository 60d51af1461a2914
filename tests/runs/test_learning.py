"""Sixty steps of every method on digits: the loss falls, and images without objects do no harm."""

import json

from lad.base.config import load_config
from lad.datasets import DigitsParameters, make_digits
from lad.networks.building import without_pretraining

import pytest
import torch
from helpers import ROOT
from mmdet.registry import DATASETS, MODELS
from mmengine.config import ConfigDict
from mmengine.dataset import pseudo_collate
from mmengine.optim import build_optim_wrapper

STEPS, BATCH = 60, 4
FISHER = dict(methods=[dict(type="CoLearningAssignment", switch=dict(type="FisherSwitch", per="gt"))])


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """The digits data set's config; of 32 images every fourth has lost its annotations."""
    folder = tmp_path_factory.mktemp("digits")
    make_digits(folder, DigitsParameters(images=32, val_images=1))
    file = folder / "annotations/train.json"
    content = json.loads(file.read_text())
    emptied = {image["id"] for image in content["images"][::4]}
    content["annotations"] = [box for box in content["annotations"] if box["image_id"] not in emptied]
    file.write_text(json.dumps(content))
    return folder


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    """A teacher's checkpoint with its config's initial weights."""
    path = tmp_path_factory.mktemp("teacher") / "teacher.pth"
    torch.manual_seed(1)
    model = MODELS.build(load_config(str(ROOT / "configs/lad/paa_r18-c32_fpn_digits.py")).model)
    model.init_weights()
    torch.save(dict(state_dict=model.state_dict()), path)
    return str(path)


@pytest.mark.parametrize(
    ("config", "changes"),
    [
        ("lad/lad_paa-r18-c16_paa-r18-c32_fpn_digits.py", {}),
        ("lad/solad_paa-r18-c16_paa-r18-c32_fpn_digits.py", {}),
        ("lad/kd_paa-r18-c16_paa-r18-c32_fpn_digits.py", {}),
        ("colad/colad_paa-r18-c16_paa-r18-c32_fpn_digits.py", {}),
        ("colad/colad_paa-r18-c16_paa-r18-c32_fpn_digits.py", FISHER),
    ],
    ids=["lad", "solad", "kd", "colad", "colad-fisher"],
)
def test_loss_falls_in_sixty_steps_with_images_without_objects(digits, teacher, config, changes):
    cfg = load_config(str(ROOT / "configs" / config))
    if cfg.model.get("teacher") is not None:
        cfg.model.teacher.checkpoint = teacher
    cfg.model.update(ConfigDict(changes))
    torch.manual_seed(0)
    model = MODELS.build(without_pretraining(cfg.model))
    model.init_weights()
    optimizer = build_optim_wrapper(model.train(), cfg.optim_wrapper)
    settings = cfg.train_dataloader.dataset
    settings.update(data_root=str(digits), filter_cfg=dict(filter_empty_gt=False))
    dataset = DATASETS.build(settings)
    samples = [dataset[index] for index in range(len(dataset))]
    assert sum(len(sample["data_samples"].gt_instances) == 0 for sample in samples) == 8
    # The first batch has no object at all, the others one image without any.
    empty = [sample for sample in samples if len(sample["data_samples"].gt_instances) == 0]
    full = [sample for sample in samples if len(sample["data_samples"].gt_instances) > 0]
    batches = [empty[:BATCH]] + [
        [empty[index], *full[3 * index : 3 * index + 3]] for index in range(len(empty))
    ]
    history = []
    for step in range(STEPS):
        logged = model.train_step(pseudo_collate(batches[step % len(batches)]), optimizer)
        history.append({name: value.item() for name, value in logged.items() if "loss" in name})
        assert all(torch.isfinite(torch.tensor(value)) for value in history[-1].values())
    rounds = len(batches)
    first, last = history[1:rounds], history[-rounds + 1 :]
    groups = {name: [name] for name in first[0] if name == "loss" or name.endswith("loss_cls")}
    # One by one the soft terms are so small beside the labels' that rounding decides how far each falls.
    groups["soft"] = [name for name in first[0] if "loss_soft_" in name]
    for group, names in groups.items():
        before, after = (
            sum(step[name] for step in part for name in names) / len(part) for part in (first, last)
        )
        assert not names or after < 0.9 * before, f"{group}: {before:.3f} to {after:.3f}"
