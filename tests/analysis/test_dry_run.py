"""What --dry-run says of a config."""

import re
import runpy
import sys

from lad.analysis.dry_run import describe, describe_config, losses_of, wiring_of
from lad.base.config import load_config
from lad.base.phases import Pretraining
from lad.methods import DistillationMethod
from lad.methods.base import Link

import pytest
import torch
from dense_detectors import dense
from helpers import ROOT, build, co_learning, save_checkpoint, small_paa
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.logging import MessageHub
from seam_detectors import small
from torch import nn

LAD = ROOT / "configs/lad/solad_paa-r18-c16_paa-r18-c32_fpn_digits.py"


@MODELS.register_module(force=True)
class LinkProbe(DistillationMethod):
    """A connector on one level, trained before and with the task."""

    teacher_modules = ("neck",)
    student_modules = ("neck",)

    def __init__(self, pretrain=None, fails=False):
        super().__init__()
        self.pretraining = Pretraining.from_config(
            pretrain, "LinkProbe", ("backbone", "neck"), ("connector",)
        )
        self.connector = nn.Conv2d(32, 32, 1)
        self.fails = fails

    def links(self):
        return [Link("neck[1]", "neck[-1]", "1x1 convolution 32 -> 32")]

    def loss_weights(self):
        return dict(loss_link=0.5)

    def pretraining_losses(self, step):
        return dict(loss_before=self.connector(step.outputs["neck"][1]).mean())

    def losses(self, step):
        if self.fails:
            raise RuntimeError("no such\nthing")
        return dict(loss_link=step.outputs["neck"][1].mean() * 0 + 0.125)


def distil(spec, *methods, **settings):
    teacher = {} if "teachers" in settings else dict(teacher=spec)
    config = dict(
        type="DistillationDetector", student=small_paa(), methods=list(methods), **teacher, **settings
    )
    model = MODELS.build(config)
    model.student.load_state_dict(build(small_paa()).state_dict())
    return model


def test_rows_hold_the_shapes_of_both_sides(teacher_spec):
    """128 pixels: strides 8 and 16 to 128 give maps of 8 and 1."""
    model = distil(teacher_spec(), dict(type="LinkProbe"), dict(type="SoftLabelDistillation"))
    link, soft = wiring_of(model)
    assert (link.student, link.student_shape) == ("neck[1]", "2x32x8x8")
    assert (link.teacher, link.teacher_shape) == ("neck[-1]", "2x32x1x1")
    assert link.connector == "1x1 convolution 32 -> 32"
    assert (soft.method, soft.student, soft.teacher) == ("SoftLabelDistillation", "bbox_head", "bbox_head")
    assert re.fullmatch(r"2x3x16x16 .. 2x1x1x1 \(15\)", soft.student_shape)


def test_a_dry_run_changes_nothing_but_what_one_step_would(teacher_spec):
    model = distil(teacher_spec(), dict(type="LinkProbe")).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    flags, numbers = [module.training for module in model.modules()], torch.get_rng_state()
    wiring_of(model)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert [module.training for module in model.modules()] == flags
    losses_of(model)
    assert torch.equal(torch.get_rng_state(), numbers)
    assert all(torch.equal(before[name], value) for name, value in model.named_parameters())


def test_losses_are_named_as_in_the_log_with_source_and_weight(teacher_spec):
    teachers = dict(a=teacher_spec(), b=teacher_spec(seed=2))
    rows = losses_of(distil(None, dict(type="LinkProbe", taught_by="b"), teachers=teachers))
    assert {row.phase for row in rows} == {"task"}
    assert {row.name: row.source for row in rows} == dict(
        loss_cls="student", loss_bbox="student", loss_iou="student"
    ) | {"b.loss_link": "LinkProbe"}
    assert (rows[-1].weight, rows[-1].value) == ("0.5", "0.125")


def test_losses_of_exits_are_theirs_and_connectors_follow_each_of_their_maps():
    exits = dict(student=dict(early=dict(levels=[1]), late=dict(levels=[1, 2])))
    model = MODELS.build(
        dict(
            type="DistillationDetector",
            student=small_paa(),
            exits=exits,
            methods=[dict(type="SelfDistillation")],
        )
    )
    rows = {row.name: (row.source, row.weight) for row in losses_of(model)}
    assert rows["loss_cls"] == ("student", "-")
    for name in ("early", "late"):
        assert rows[f"{name}.loss_cls"] == (f"student.{name}", "-")
        source = f"SelfDistillation_student_{name}"
        assert rows[f"{name}.student.loss_self_logits"] == (source, "0.3")
        assert rows[f"{name}.student.loss_self_features"] == (source, "0.03")
    assert [row.student for row in wiring_of(model)] == [
        "bbox_head", *(f"neck[{level}]" for level in range(5)),
    ] * 2  # fmt: skip
    assert re.search(r"student.early +exit +Exit +BatchedPAAHead", describe(model))


def test_pretraining_has_losses_of_its_own_and_says_who_learns(teacher_spec):
    model = distil(
        teacher_spec(), dict(type="LinkProbe", pretrain=dict(iters=3)), initialise_from_teacher=["bbox_head"]
    )
    phases = {row.name: row.phase for row in losses_of(model)}
    assert phases["loss_before"] == "pretraining"
    assert phases["loss_link"] == phases["loss_cls"] == "task"
    text = describe(model)
    assert (
        "pretraining of LinkProbe: 3 iterations; student.backbone, student.neck, LinkProbe.connector learn."
        in text
    )
    assert re.search(r"initialise_from_teacher: (\d+) of \1 weights of bbox_head are the teacher's", text)


def test_wiring_is_told_where_the_losses_cannot_be_computed(teacher_spec):
    text = describe(distil(teacher_spec(), dict(type="LinkProbe", fails=True)))
    assert "neck[1]" in text
    assert text.endswith("could not be computed: RuntimeError: no such thing")
    assert describe(build(small_paa())) == "PAA: nothing is distilled."


@pytest.fixture
def dry_run(tmp_path, monkeypatch, capsys):
    """A function: ``tools/train.py --dry-run`` with options; returns exit code, output and errors."""
    teacher = build(load_config(str(ROOT / "configs/lad/paa_r18-c32_fpn_digits.py")).model)
    checkpoint = save_checkpoint(teacher, tmp_path / "teacher.pth")
    files = tmp_path / "empty"
    files.mkdir()
    monkeypatch.chdir(files)

    def run(*options):
        arguments = [
            str(LAD),
            "--dry-run",
            "--cfg-options",
            f"model.teacher.checkpoint={checkpoint}",
            *options,
        ]
        monkeypatch.setattr(sys, "argv", ["train.py", *arguments])
        capsys.readouterr()
        code = 0
        try:
            runpy.run_path(str(ROOT / "tools/train.py"), run_name="__main__")
        except SystemExit as error:
            code = error.code
        said = capsys.readouterr()
        assert not list(files.iterdir())
        return code, said.out, said.err

    return run


def test_tool_prints_the_wiring_writes_nothing_and_needs_no_data(dry_run):
    code, out, _ = dry_run("train_dataloader.dataset.data_root=nowhere/")
    assert code == 0
    lines = [line.split() for line in out.splitlines()]
    assert ["method", "student", "shape", "teacher", "shape"] in lines
    assert any(line[:2] == ["SoftLabelDistillation", "bbox_head"] for line in lines)
    (soft,) = [line for line in lines if line[:1] == ["loss_soft_iou"]]
    assert soft[1] == "SoftLabelDistillation"
    assert float(soft[-1]) > 0
    assert out.startswith("student PAA, teacher PAA\n")


def test_tools_errors_are_one_line_with_the_nearest_names(dry_run):
    hint = dict(type="HintDistillation", student="backbone.layr3", teacher="backbone.layer3")
    code, out, err = dry_run(*(f"model.methods.0.{key}={value}" for key, value in hint.items()))
    assert (code, out) == (2, "")
    (line,) = [line for line in err.splitlines() if line.startswith("error: ")]
    assert re.search(r"no module 'backbone.layr3'; nearest: backbone.layer3", line)


def test_values_of_another_kind_are_refused_as_in_a_training(dry_run):
    code, out, err = dry_run("model.methods.1.gamma=heavy")
    assert (code, out) == (2, "")
    (line,) = [line for line in err.splitlines() if line.startswith("error: ")]
    assert "model.methods.1.gamma must be" in line


def test_networks_that_learn_together_are_told_with_their_switch():
    networks = dict(small=small_paa(), big=small_paa(base=16))
    config = co_learning(networks, dict(type="FisherSwitch", per="gt"))
    lines = [line.split() for line in describe(MODELS.build(config)).splitlines()]
    counts = [f"{sum(p.numel() for p in build(small_paa(base=base)).parameters()):,}" for base in (8, 16)]
    assert lines[0] == ["network", "role", "detector", "head", "parameters"]
    assert lines[2] == ["small", "deployed", "PAA", "BatchedPAAHead", counts[0]]
    assert lines[3] == ["big", "trained", "PAA", "BatchedPAAHead", counts[1]]
    assert ["FisherSwitch", "chooses", "who", "teaches,", "per", "gt."] in lines
    losses = {line[0]: line[1] for line in lines if line and ".loss_" in line[0]}
    assert losses["small.loss_cls"] == "small"
    assert losses["big.loss_bbox"] == "big"


def test_every_mutual_term_is_told_with_its_method_and_weight():
    wide = dense("retinanet")
    wide.backbone.base_channels = 16
    wide.neck.in_channels = [16, 32, 64, 128]
    config = dict(
        type="DistillationDetector",
        networks=dict(a=dense("retinanet"), b=wide),
        exits=dict(b=dict(early=dict(levels=[1]))),
        methods=[dict(type="MutualLogitDistillation", pairs="all", weight=0.5)],
    )
    lines = [line.split() for line in describe(MODELS.build(config)).splitlines()]
    assert lines[8][:6] == ["MutualLogitDistillation", "a", "+", "b", "+", "b.early"]
    terms = {line[0]: line for line in lines if line and line[0].startswith("loss_mutual")}
    assert set(terms) == {f"loss_mutual.{pair}" for pair in ("a.b", "a.b.early", "b.a", "b.early.a")}
    assert all(
        line[1:3] == ["MutualLogitDistillation", "0.5"] and float(line[3]) > 0 for line in terms.values()
    )


def test_terms_of_a_fusion_are_told_with_its_method():
    networks = {name: dense("retinanet") for name in ("a", "b", "top")}
    config = dict(
        type="DistillationDetector",
        networks=networks,
        methods=[dict(type="FeatureFusionSelfDistillation", leader="top", fusion_weight=2.0)],
    )
    lines = [line.split() for line in describe(MODELS.build(config)).splitlines()]
    terms = {line[0]: line for line in lines if line and line[0].startswith(("loss_ffsd", "fusion."))}
    assert terms["loss_ffsd.top.reverse"][1:3] == ["FeatureFusionSelfDistillation", "2"]
    assert terms["loss_ffsd.a.b"][1:3] == ["FeatureFusionSelfDistillation", "1"]
    assert terms["fusion.loss_cls"][1] == "FeatureFusionSelfDistillation"


@pytest.mark.parametrize("kind", ["DistillationDetector", "mmdet.DistillationDetector"])
def test_students_pretrained_weights_are_not_fetched_whatever_the_scope(teacher_spec, kind):
    student = small_paa()
    student.backbone.init_cfg = dict(type="Pretrained", checkpoint="/nowhere/r18.pth")
    model = dict(type=kind, student=student, teacher=teacher_spec(), methods=[dict(type="LinkProbe")])
    assert describe_config(Config(dict(model=model))).startswith("student PAA, teacher PAA\n")


def test_losses_of_a_head_that_reads_the_epoch_are_those_of_a_late_one(tmp_path):
    """TOOD assigns by ATSS, without a teacher, in its first epochs; outside of a run there is no epoch."""
    MessageHub.get_current_instance().runtime_info.pop("epoch", None)
    teacher = save_checkpoint(build(small("tood", base=16), 1), tmp_path / "teacher.pth")
    model = MODELS.build(
        dict(
            type="DistillationDetector",
            student=small("tood"),
            teacher=dict(small("tood", base=16), checkpoint=teacher),
            methods=[dict(type="LabelAssignmentDistillation")],
        )
    )
    report = describe(model)
    assert "could not be computed" not in report
    assert "loss_cls" in report
