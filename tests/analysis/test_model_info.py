"""What networks cost: counted by hand and by MMEngine, and shared out among the parts of a training step."""

import copy
import json
import logging
import runpy
import sys

from lad.analysis.profiling import (
    build_offline,
    complexity_of,
    input_shape,
    measure_step,
    profile_config,
    random_batch,
)
from lad.analysis.profiling import stopwatch as stopwatch_module
from lad.analysis.profiling.batch import batches
from lad.analysis.profiling.complexity import count_macs
from lad.analysis.profiling.stopwatch import MemoryMeter, Stopwatch
from lad.errors import CheckpointError, ConfigError

import mmcv.ops
import pytest
import torch
from dense_detectors import dense
from helpers import ROOT, build, co_learning, make_batch, save_checkpoint, small_paa
from mmdet.registry import MODELS
from mmengine.analysis import FlopAnalyzer
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from torch import nn
from two_stage_detectors import two_stage

CPU = torch.device("cpu")
SMALL = dict(shape=(64, 96), batch_size=2, objects=3, device="cpu")


class Clock:
    """Time that passes only where a test says so."""

    def __init__(self):
        self.now = 0.0

    def perf_counter(self):
        return self.now

    def spend(self, seconds):
        self.now += seconds

    def slow(self, function, seconds):
        def run(*args, **kwargs):
            self.spend(seconds)
            return function(*args, **kwargs)

        return run


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(stopwatch_module, "time", clock)
    return clock


class Layers(nn.Module):
    """A detector as far as counting is concerned."""

    def __init__(self, *layers):
        super().__init__()
        self.layers = nn.Sequential(*layers)

    def _forward(self, inputs, data_samples):
        assert not self.training
        return self.layers(inputs)


class Deformable(nn.Module):
    def __init__(self, modulated):
        super().__init__()
        kind = mmcv.ops.ModulatedDeformConv2d if modulated else mmcv.ops.DeformConv2d
        self.conv = kind(3, 4, 3, padding=1)
        self.masks = [9] if modulated else []

    def forward(self, inputs):
        size = inputs.shape[-2:]
        extra = [inputs.new_zeros(len(inputs), channels, *size) for channels in (18, *self.masks)]
        return self.conv(inputs, *extra)


@pytest.mark.parametrize(
    ("layers", "macs"),
    [
        # 8 x 8 places, 3 x 3 x 3 weights for each of 4 channels.
        ((nn.Conv2d(3, 4, 3, padding=1),), 64 * 27 * 4),
        # 4 x 4 places; then a matrix of 64 x 5.
        ((nn.Conv2d(3, 4, 3, padding=1, stride=2), nn.Flatten(), nn.Linear(64, 5)), 16 * 27 * 4 + 64 * 5),
        # Normalisation and activation are not counted.
        ((nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.ReLU()), 64 * 3 * 4),
        ((Deformable(modulated=False),), 64 * 27 * 4),
        ((Deformable(modulated=True),), 64 * 27 * 4),
    ],
)
def test_multiply_adds_are_those_of_hand_arithmetic(layers, macs):
    model = Layers(*layers).train()
    assert count_macs(model, torch.randn(1, 3, 8, 8), []) == macs
    assert count_macs(model, torch.randn(5, 3, 8, 8), []) == macs
    assert model.training


class Attention(nn.Module):
    """An encoder layer's attention, of 6 queries with 8 channels."""

    def __init__(self, need_weights):
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.need_weights = need_weights

    def forward(self, inputs):
        return self.attention(inputs, inputs, inputs, need_weights=self.need_weights)[0]


@pytest.mark.parametrize("need_weights", [True, False])
def test_attention_is_counted_although_torch_fuses_it_in_evaluation(need_weights):
    # Queries, keys, values and outputs: 4 x 6 x 8 x 8; similarities and weighted sums: 2 x 6 x 6 x 8.
    before = torch.backends.mha.get_fastpath_enabled()
    assert count_macs(Layers(Attention(need_weights)), torch.randn(3, 6, 8), []) == 4 * 6 * 64 + 2 * 36 * 8
    assert torch.backends.mha.get_fastpath_enabled() == before


def test_multiply_adds_of_a_detector_are_those_that_mmengine_traces():
    model = build(small_paa(base=8)).eval()
    inputs, samples = make_batch((2, 0), size=(64, 96))
    analyzer = FlopAnalyzer(model, inputs)
    analyzer.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
    own = complexity_of(model, inputs, samples)
    assert own.macs * 2 == analyzer.by_operator()["conv"]
    assert own.parameters == sum(value.numel() for value in model.parameters())


def test_frozen_weights_are_parameters_that_are_not_trained():
    model = Layers(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 5, 1))
    model.layers[0].requires_grad_(False)
    own = complexity_of(model, torch.randn(1, 3, 4, 4), [])
    assert (own.parameters, own.trainable) == (3 * 4 + 4 + 4 * 5 + 5, 4 * 5 + 5)


def test_a_part_is_charged_for_what_no_inner_part_takes(clock):
    watch = Stopwatch(CPU)
    with watch.part("outer"):
        clock.spend(1)
        with watch.part("inner"):
            clock.spend(10)
            with watch.part("inner"):
                clock.spend(20)
            with watch.part("outer"):
                clock.spend(300)
        clock.spend(2)
        with watch.part("alone", alone=True):
            clock.spend(4000)
            with watch.part("inner"):
                clock.spend(50000)
    clock.spend(7)
    assert watch.seconds == {"outer": 303, "inner": 30, "alone": 54000}


def test_a_part_keeps_the_peak_of_its_own_time(clock):
    class Meter(MemoryMeter):
        kind = "test"
        used = highest = 0

        def now(self):
            return self.used

        def reset(self):
            self.highest = self.used

        def peak(self):
            return self.highest

        def allocate(self, count):
            self.used += count
            self.highest = max(self.highest, self.used)

    meter = Meter()
    watch = Stopwatch(CPU, meter)
    with watch.part("a"):
        meter.allocate(5)
        with watch.part("b"):
            meter.allocate(100)
            meter.allocate(-100)
        meter.allocate(2)
    assert watch.peaks == {"a": 7, "b": 105}


def spending(clock, owner, name, seconds):
    """Let a method of an object take a time of its own."""
    owner.__dict__[name] = clock.slow(getattr(owner, name), seconds)


def test_a_distillation_step_is_shared_out_among_student_teacher_assignment_and_losses(clock):
    model = dict(
        type="DistillationDetector",
        student=small_paa(base=4),
        teacher=dict(small_paa(base=4), checkpoint="https://example.org/teacher.pth"),
        methods=[dict(type="LabelAssignmentDistillation"), dict(type="SoftLabelDistillation")],
    )
    detector, origins = build_offline(model)
    assert origins == dict(teacher="random weights")
    wrapper = build_optim_wrapper(detector, dict(optimizer=dict(type="SGD", lr=1e-3)))
    head = detector.student.bbox_head
    spending(clock, detector.data_preprocessor, "forward", 1)
    spending(clock, detector.teacher.model.backbone, "forward", 20)
    spending(clock, detector.student.backbone, "forward", 300)
    spending(clock, head, "reassign", 4_000)
    spending(
        clock, head.loss_bbox, "forward", 50_000
    )  # for the student's loss; the teacher's is its own module
    spending(clock, detector.distillation["SoftLabelDistillation"], "losses", 600_000)
    spending(clock, wrapper, "backward", 7_000_000)
    spending(clock, wrapper.optimizer, "step", 80_000_000)
    state = {module: set(vars(module)) for module in detector.modules()}
    cost = measure_step(
        detector, wrapper, batches(images=2, shape=(64, 96), objects=3, num_classes=3), steps=2, warmup=0
    )
    assert {part.name: part.seconds for part in cost.parts} == {
        "data preprocessing": 1,
        "teacher": 20,
        "student forward": 300,
        "assignment": 4_000,
        "student losses": 50_000,
        "loss of SoftLabelDistillation": 600_000,
        "backward": 7_000_000,
        "optimizer": 80_000_000,
    }
    assert cost.seconds == 87_654_321
    # Nothing that listened is left behind.
    assert {module: set(vars(module)) for module in detector.modules()} == state
    assert not any(module._forward_hooks for module in detector.student.modules())
    assert "run" not in vars(detector.teacher)


def test_co_learning_networks_have_a_forward_and_losses_each(clock):
    networks = dict(a=small_paa(base=4), b=small_paa(base=8))
    detector, _ = build_offline(co_learning(networks, dict(type="StdMeanSwitch", per="gt_level")))
    wrapper = build_optim_wrapper(detector, dict(optimizer=dict(type="SGD", lr=1e-3)))
    spending(clock, detector.trained_networks["a"].backbone, "forward", 1)
    spending(clock, detector.trained_networks["b"].backbone, "forward", 20)
    spending(clock, detector.methods[0].switch, "__call__", 0)
    spending(clock, detector.trained_networks["a"].bbox_head, "assigned_losses", 300)
    spending(clock, detector.trained_networks["b"].bbox_head, "assigned_losses", 4000)
    cost = measure_step(
        detector, wrapper, batches(images=2, shape=(64, 96), objects=3, num_classes=3), steps=1, warmup=0
    )
    spent = {part.name: part.seconds for part in cost.parts}
    assert spent == {"a forward": 1, "b forward": 20, "a losses": 300, "b losses": 4000}


def test_exits_have_rows_and_parts_of_their_own_and_are_no_adapters():
    model = dict(
        type="DistillationDetector",
        student=dense("retinanet"),
        exits=dict(student=dict(early=dict(levels=[1]))),
        methods=[dict(type="SelfDistillation")],
    )
    report = profile_config(Config(dict(model=model)), steps=1, shape=(128, 128), batch_size=2, objects=2)
    exit_ = report.networks["student.early"]
    # Neck: 3x3 convolutions of C3 (16 channels) to 32 for strides 8 and 16, then of 32 to 32 for 32, 64 and 128. Head:
    # a convolution of 32 to 32 for classes and for boxes, then 9 anchors of 3 classes and of 4 distances.
    convolutions = [(16, 32, 16 * 16), (16, 32, 8 * 8), *[(32, 32, side * side) for side in (4, 2, 1)]]
    cells = sum(side * side for side in (16, 8, 4, 2, 1))
    head = [(32, 32), (32, 32), (32, 9 * 3), (32, 9 * 4)]
    weights = [9 * i * o + o for i, o, _ in convolutions] + [9 * i * o + o for i, o in head]
    assert exit_.parameters == exit_.trainable == sum(weights)
    work = [9 * i * o * cells for i, o, cells in convolutions] + [9 * i * o * cells for i, o in head]
    assert exit_.macs == sum(work)
    assert report.adapters == 0
    text = str(report)
    assert "Exit: without the backbone, which it shares." in text
    assert "adapters" not in text
    assert {
        "student forward",
        "student.early forward",
        "student.early losses",
        "loss of SelfDistillation",
    } <= {part.name for part in report.step.parts}


def test_mutual_learning_is_a_part_of_its_own(clock):
    model = dict(
        type="DistillationDetector",
        networks=dict(a=small_paa(base=4), b=small_paa(base=8)),
        methods=[dict(type="MutualLogitDistillation")],
    )
    detector, _ = build_offline(model)
    wrapper = build_optim_wrapper(detector, dict(optimizer=dict(type="SGD", lr=1e-3)))
    spending(clock, detector.trained_networks["b"].backbone, "forward", 1)
    spending(clock, detector.methods[0].comparison, "losses", 20)
    cost = measure_step(
        detector, wrapper, batches(images=2, shape=(64, 96), objects=3, num_classes=3), steps=1, warmup=0
    )
    assert {part.name: part.seconds for part in cost.parts} == {
        "b forward": 1,
        "loss of MutualLogitDistillation": 20,
    }


def test_a_two_stage_detector_has_proposals_and_its_assigners_and_samplers_are_assignment(clock):
    detector, _ = build_offline(two_stage())
    wrapper = build_optim_wrapper(detector, dict(optimizer=dict(type="SGD", lr=1e-3)))
    spending(clock, detector.rpn_head, "predict_by_feat", 1)
    spending(clock, detector.rpn_head.assigner, "assign", 20)  # once an image
    spending(clock, detector.roi_head.bbox_sampler, "sample", 300)
    spending(clock, detector.roi_head.bbox_head, "loss_and_target", 4000)
    spending(clock, detector.roi_head.bbox_head.shared_fcs[0], "forward", 50_000)
    batch = batches(images=2, shape=(64, 96), objects=3, num_classes=3)
    cost = measure_step(detector, wrapper, batch, steps=1, warmup=0)
    spent = {part.name: part.seconds for part in cost.parts}
    assert spent == {"forward": 50_000, "proposals": 1, "assignment": 2 * 320, "losses": 4000}


def test_a_local_checkpoint_is_loaded_and_others_are_random(tmp_path):
    teacher = small_paa(base=4)
    path = save_checkpoint(build(teacher, seed=3), tmp_path / "teacher.pth")
    model = dict(
        type="DistillationDetector",
        student=small_paa(base=4),
        teachers=dict(
            here=dict(teacher, checkpoint=path), away=dict(teacher, checkpoint=str(tmp_path / "missing.pth"))
        ),
        methods=[
            dict(
                type="LabelAssignmentDistillation", taught_by="here", cache=dict(dir=str(tmp_path / "cache"))
            )
        ],
    )
    before = copy.deepcopy(model)
    detector, origins = build_offline(model)
    assert origins == dict(here=path, away="random weights")
    expected = build(teacher, seed=3).state_dict()
    loaded = detector.teachers["here"].model.state_dict()
    assert all(torch.equal(loaded[key], value) for key, value in expected.items())
    assert detector.methods[0].cache is None
    assert model == before
    _, origins = build_offline(model, random_teacher=True)
    assert set(origins.values()) == {"random weights"}


def test_a_local_checkpoint_of_another_network_is_refused(tmp_path):
    path = save_checkpoint(build(small_paa(base=8)), tmp_path / "teacher.pth")
    with pytest.raises(CheckpointError, match="another architecture"):
        build_offline(
            dict(
                type="DistillationDetector",
                student=small_paa(base=4),
                teacher=dict(small_paa(base=4), checkpoint=path),
                methods=[dict(type="LabelAssignmentDistillation")],
            )
        )


def test_random_boxes_are_inside_of_their_images_and_labels_below_the_number_of_classes():
    batch = random_batch(3, (50, 1000), objects=200, num_classes=4, seed=1, with_masks=True)
    assert [tuple(image.shape) for image in batch["inputs"]] == [(3, 50, 1000)] * 3
    for sample in batch["data_samples"]:
        boxes = sample.gt_instances.bboxes
        assert boxes.min() >= 0
        assert boxes[:, 2].max() <= 1000
        assert boxes[:, 3].max() <= 50
        assert ((boxes[:, 2:] - boxes[:, :2]) >= 15.9).all()
        assert set(sample.gt_instances.labels.tolist()) == {0, 1, 2, 3}
        x1, y1, x2, y2 = boxes[0].int().tolist()
        assert sample.gt_instances.masks.masks[0].sum() == (min(x2, 999) - x1 + 1) * (min(y2, 49) - y1 + 1)


@pytest.mark.parametrize(
    ("config", "shape"),
    [
        ("configs/lad/lad_paa-r18-c16_paa-r18-c32_fpn_digits.py", (128, 128)),
        ("configs/lad/lad_paa-r50_paa-r101_fpn_1x_coco.py", (800, 1333)),
    ],
)
def test_images_are_as_large_as_the_training_pipeline_makes_them(config, shape):
    assert input_shape(Config.fromfile(str(ROOT / config))) == shape
    assert input_shape({}) == (800, 1333)


def test_networks_with_masks_are_measured():
    report = profile_config(Config(dict(model=two_stage("mask"))), steps=1, **SMALL)
    assert "proposals" in {part.name for part in report.step.parts}
    assert report.networks["detector"].parameters == sum(
        value.numel() for value in MODELS.build(two_stage("mask")).parameters()
    )


def test_the_parts_of_a_measured_step_add_up():
    report = profile_config(Config(dict(model=small_paa(base=4))), steps=1, **SMALL)
    assert sum(part.seconds for part in report.step.parts) == pytest.approx(report.step.seconds, rel=1e-6)
    assert report.step.peak_bytes == max(part.peak_bytes for part in report.step.parts)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (dict(batch_size=-1), "must be positive"),
        (dict(shape=(0, 10)), "must be positive"),
        (dict(device="cuda:99"), "device 'cuda:99' cannot be used: .+"),
        (dict(device="gpu"), "device 'gpu' cannot be used: .+"),
        (dict(device="meta"), "device 'meta' cannot be used: .+"),
    ],
)
def test_sizes_and_devices_that_cannot_be_are_refused_in_one_line(settings, message):
    with pytest.raises(ConfigError, match=message) as refusal:
        profile_config(Config(dict(model=small_paa(base=4))), **(SMALL | settings))
    assert "\n" not in str(refusal.value)


def test_the_tool_prints_a_table_and_writes_json(tmp_path, monkeypatch, capsys):
    config = tmp_path / "config.py"
    model = dict(
        type="DistillationDetector",
        student=small_paa(base=4).to_dict(),
        teacher=dict(small_paa(base=8).to_dict(), checkpoint="https://example.org/teacher.pth"),
        methods=[dict(type="HintDistillation")],
    )
    config.write_text(f"model = {model!r}\n")
    out = tmp_path / "info.json"
    arguments = "--shape 64 96 --batch 2 --steps 1 --device cpu --cfg-options model.methods.0.gamma=2.0"
    monkeypatch.setattr(sys, "argv", ["model_info.py", str(config), *arguments.split(), "--out", str(out)])
    try:
        runpy.run_path(str(ROOT / "tools/model_info.py"), run_name="__main__")
    finally:
        logging.disable(logging.NOTSET)
    printed = capsys.readouterr().out
    assert "random weights" in printed
    assert "one image of 64x96 pixels" in printed
    assert "loss of HintDistillation" in printed
    written = json.loads(out.read_text())
    assert written["networks"]["teacher"]["trainable"] == 0
    # A 1x1 convolution of 32 to 32 channels for each of five levels.
    assert written["adapters"] == 5 * (32 * 32 + 32)
    assert {"student forward", "teacher", "backward"} <= {part["name"] for part in written["step"]["parts"]}
