"""Every config in configs/ builds offline and trains one step."""

from pathlib import Path

from lad.cli import student_only
from lad.config import detector_config, load_config
from lad.teacher import without_pretraining

import pytest
import torch
import yaml
from helpers import ROOT, make_batch
from mmdet.registry import MODELS
from mmengine.config import Config

CONFIGS = sorted(
    str(path.relative_to(ROOT)) for path in (ROOT / "configs").rglob("*.py") if "_base_" not in path.parts
)


def offline(spec):
    """A detector's config without a download: no pretrained backbone."""
    return without_pretraining(
        detector_config({k: v for k, v in spec.items() if k != "checkpoint"}, "teacher")
    )


@pytest.mark.parametrize("path", CONFIGS)
def test_config_builds_and_trains_one_step(path, tmp_path):
    cfg = load_config(str(ROOT / path))
    model = cfg.model
    if model.type == "DistillationDetector":
        student = dict(config=model.student) if isinstance(model.student, str) else model.student
        teacher = offline(model.teacher)
        file = tmp_path / "teacher.pth"
        torch.save(dict(state_dict=MODELS.build(teacher).state_dict()), file)
        model.student = offline(student)
        model.teacher = dict(teacher, checkpoint=str(file))
    detector = MODELS.build(without_pretraining(model)).train()
    num_classes = len(cfg.get("classes", ())) or detector.bbox_head.num_classes
    losses = detector.loss(*make_batch((2, 1), size=(128, 128), num_classes=num_classes))
    total = sum(value for name, value in losses.items() if "loss" in name)
    total.backward()
    assert torch.isfinite(total)
    gradients = [p.grad for p in detector.parameters() if p.requires_grad]
    assert all(gradient is not None and gradient.isfinite().all() for gradient in gradients)


@pytest.mark.parametrize("folder", sorted({str(Path(path).parent) for path in CONFIGS}))
def test_metafile_names_the_folders_coco_configs_and_says_whose_figures_it_holds(folder):
    coco = {path for path in CONFIGS if path.startswith(f"{folder}/") and path.endswith("_coco.py")}
    models = yaml.safe_load((ROOT / folder / "metafile.yml").read_text())["Models"]
    assert {model["Config"] for model in models} == coco
    assert len(models) == len(coco)
    for model in models:
        assert model["Name"] == Path(model["Config"]).stem
        # What nobody published has no figure: none was measured here either.
        for result in model.get("Results", []):
            assert result["Source"] == "published by the paper, not measured here"
            assert 20 < result["Metrics"]["box AP"] < 60


@pytest.mark.parametrize("path", [path for path in CONFIGS if "/lad/lad_" in path])
def test_distillation_config_says_what_it_is_in_ten_lines_and_its_student_is_plain(path):
    lines = (ROOT / path).read_text().splitlines()
    start = lines.index("model = dict(")
    assert len(lines) - start <= 16  # ten settings, wrapped at 110 columns
    plain = student_only(Config.fromfile(str(ROOT / path)))
    assert plain.model.type == "PAA"


def test_teachers_of_the_coco_configs_are_mmdetections_official_weights():
    for path in CONFIGS:
        cfg = load_config(str(ROOT / path))
        if path.endswith("_coco.py") and cfg.model.type == "DistillationDetector":
            teacher = cfg.model.teacher
            folder, name = teacher.config.removeprefix("mmdet::").removesuffix(".py").split("/")
            assert teacher.checkpoint.startswith(
                f"https://download.openmmlab.com/mmdetection/v2.0/{folder}/{name}/{name}_"
            )
