"""Loading, verifying and feeding the teacher."""

import pickle

from lad.errors import CheckpointError, ConfigError
from lad.networks.building import build_teacher, without_pretraining
from lad.networks.dry_run import dry_run
from lad.networks.preprocessing import Renormalisation

import pytest
import torch
from helpers import Malicious, build, make_batch, save_checkpoint, small_paa
from mmdet.models.data_preprocessors import DetDataPreprocessor
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample


def load(spec):
    student = small_paa()
    student.data_preprocessor.update(mean=[0, 0, 0], std=[1, 1, 1], bgr_to_rgb=False)
    return build_teacher(spec, MODELS.build(student))


def test_weights_are_the_checkpoints(teacher_spec):
    spec = teacher_spec()
    expected = torch.load(spec["checkpoint"], weights_only=True)["state_dict"]
    state = load(spec).model.state_dict()
    assert all(torch.equal(state[key], value) for key, value in expected.items())


def test_checkpoint_of_a_distillation_and_of_ddp_can_teach(teacher_spec, tmp_path):
    spec = teacher_spec()
    state = torch.load(spec["checkpoint"], weights_only=True)["state_dict"]
    wrapped = {f"module.{key}": value for key, value in state.items()}
    wrapped["distillation.HintDistillation.connector.weight"] = torch.zeros(1)
    torch.save(dict(state_dict=wrapped), tmp_path / "ddp.pth")
    load(dict(spec, checkpoint=str(tmp_path / "ddp.pth")))
    torch.save(state, tmp_path / "bare.pth")  # weights alone, without a surrounding dict
    load(dict(spec, checkpoint=str(tmp_path / "bare.pth")))


def test_missing_and_unknown_keys_stop_the_run(teacher_spec, tmp_path):
    spec = teacher_spec()
    state = torch.load(spec["checkpoint"], weights_only=True)["state_dict"]
    value = state.pop("backbone.conv1.weight")
    torch.save(dict(state_dict=state), tmp_path / "missing.pth")
    with pytest.raises(
        CheckpointError, match=r"another architecture: 1 keys are missing \(backbone.conv1.weight\)"
    ):
        load(dict(spec, checkpoint=str(tmp_path / "missing.pth")))
    state["backbone.conv1.weight"] = value
    state["backbone.layer9.weight"] = value
    torch.save(dict(state_dict=state), tmp_path / "unknown.pth")
    with pytest.raises(CheckpointError, match=r"1 are unknown \(backbone.layer9.weight\)"):
        load(dict(spec, checkpoint=str(tmp_path / "unknown.pth")))


def test_deeper_network_is_refused_though_no_key_is_missing(teacher_spec, tmp_path):
    deeper = small_paa(base=16)
    deeper.backbone.depth = 34
    path = save_checkpoint(build(deeper), tmp_path / "r34.pth")
    with pytest.raises(CheckpointError, match="are unknown"):
        load(dict(teacher_spec(), checkpoint=path))


def test_wrong_number_of_classes_names_the_layer_and_both_shapes(teacher_spec, tmp_path):
    path = save_checkpoint(build(small_paa(base=16, num_classes=5)), tmp_path / "five.pth")
    with pytest.raises(
        CheckpointError, match=r"number of classes: bbox_head.atss_cls.weight \(5, 32, 3, 3\)"
    ):
        load(dict(teacher_spec(), checkpoint=path))


def test_absent_checkpoint_and_no_checkpoint_are_one_line(teacher_spec):
    with pytest.raises(CheckpointError, match=r"there is no checkpoint '/nowhere/x.pth'"):
        load(dict(teacher_spec(), checkpoint="/nowhere/x.pth"))
    with pytest.raises(ConfigError, match="teacher needs a checkpoint"):
        load(dict(config="mmdet::paa/paa_r50_fpn_1x_coco.py"))


def test_malicious_teacher_is_refused_and_runs_nothing(teacher_spec, tmp_path):
    target = tmp_path / "written"
    torch.save(dict(state_dict={}, meta=Malicious(target)), tmp_path / "bad.pth")
    with pytest.raises(CheckpointError, match=r"refused: it names posix\.system"):
        load(dict(teacher_spec(), checkpoint=str(tmp_path / "bad.pth")))
    assert not target.exists()
    pickle.loads(pickle.dumps(Malicious(target)))
    assert target.exists(), "the attack itself must work, or the test shows nothing"


def test_garbage_is_one_line(teacher_spec, tmp_path):
    (tmp_path / "garbage.pth").write_bytes(b"<html>404</html>")
    with pytest.raises(CheckpointError) as caught:
        load(dict(teacher_spec(), checkpoint=str(tmp_path / "garbage.pth")))
    assert "garbage.pth" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_teacher_needs_no_pretrained_backbone():
    config = dict(
        backbone=dict(type="ResNet", init_cfg=dict(type="Pretrained", checkpoint="torchvision://resnet50")),
        head=[dict(pretrained="x", init_cfg=dict(type="Normal", std=0.1))],
    )
    assert without_pretraining(config) == dict(
        backbone=dict(type="ResNet"), head=[dict(init_cfg=dict(type="Normal", std=0.1))]
    )


COCO = dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], bgr_to_rgb=True)
CAFFE = dict(mean=[103.53, 116.28, 123.675], std=[1.0, 1.0, 1.0], bgr_to_rgb=False)
RAW = dict(pad_value=114)


@pytest.mark.parametrize("student", [COCO, CAFFE, RAW])
@pytest.mark.parametrize("teacher", [COCO, CAFFE, RAW])
def test_teacher_sees_images_as_its_own_config_prepares_them(student, teacher):
    generator = torch.Generator().manual_seed(0)
    images = [
        torch.randint(0, 256, (3, height, width), generator=generator, dtype=torch.uint8)
        for height, width in ((64, 96), (50, 96), (64, 70))
    ]

    def prepare(settings):
        samples = [DetDataSample(metainfo=dict(img_shape=tuple(image.shape[1:]))) for image in images]
        preprocessor = DetDataPreprocessor(**settings, pad_size_divisor=32)
        data = preprocessor(dict(inputs=[image.clone() for image in images], data_samples=samples))
        return preprocessor, data["inputs"], data["data_samples"]

    student_preprocessor, inputs, samples = prepare(student)
    teacher_preprocessor, expected, _ = prepare(teacher)
    renormalise = Renormalisation(student_preprocessor, teacher_preprocessor)
    torch.testing.assert_close(renormalise(inputs, samples), expected, rtol=1e-5, atol=1e-4)
    assert renormalise.is_identity == (student is teacher)
    if student is teacher:
        assert renormalise(inputs, samples) is inputs


def test_view_of_the_teacher_is_computed_at_the_first_question_and_once(teacher_spec):
    teacher = load(teacher_spec())
    calls = []
    teacher.model.backbone.register_forward_hook(lambda *args: calls.append(1))
    view = teacher.view(*make_batch(), ["bbox_head", "neck"])
    assert not calls
    scores, _, _ = view.outputs["bbox_head"]
    assert scores[0].requires_grad is False
    assert view.outputs["neck"][0].shape[1] == 32
    assert len(calls) == 1


@pytest.mark.parametrize("inference_mode", [False, True])
def test_teacher_answers_questions_about_its_features_in_tensors_that_a_loss_can_take(
    teacher_spec, inference_mode
):
    teacher = load(dict(teacher_spec(), speed=dict(inference_mode=inference_mode)))
    seen = []

    def second_level(model, outputs, factor):
        seen.append((model is teacher.model, torch.is_grad_enabled(), torch.is_inference_mode_enabled()))
        return [outputs["neck"][1] * factor, "words"]

    view = teacher.view(*make_batch(), ["neck"])
    answer, words = view.evaluate(second_level, 2)
    assert (seen, words) == ([(True, False, inference_mode)], "words")
    [levels] = view.target("neck")
    assert torch.equal(answer, levels[1] * 2)
    assert view.outputs["neck"][1].is_inference() == inference_mode
    own = torch.ones_like(answer, requires_grad=True)
    (own * answer * levels[1]).sum().backward()  # autograd saves both for the backward pass
    torch.testing.assert_close(own.grad, 2 * levels[1].square())


def test_dry_run_gives_shapes_and_leaves_the_detector_as_it_was():
    model = build(small_paa()).train()
    model.backbone.bn1.eval()
    state = {key: value.clone() for key, value in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    torch.manual_seed(0)
    outputs = dry_run(model, ["backbone", "bbox_head"], size=(64, 96))
    assert [tuple(stage.shape) for stage in outputs["backbone"]][1] == (2, 16, 8, 12)
    assert len(outputs["bbox_head"]) == 3
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    assert [module.training for module in model.modules()] == modes
    drawn = torch.rand(1)
    torch.manual_seed(0)
    assert torch.equal(drawn, torch.rand(1))


def test_overwritten_output_is_refused_under_inference_mode_too(teacher_spec):
    """Tensors of inference mode do not count what is written to them, so a step would not notice."""
    teacher = load(dict(teacher_spec(), speed=dict(inference_mode=True)))
    teacher.check_modules(["backbone.layer3", "backbone.layer3.1", "backbone.layer3.0.relu:input", "neck"])
    with pytest.raises(ConfigError, match=r"the output of 'backbone.layer3.0.bn1' was overwritten in place"):
        teacher.check_modules(["neck", "backbone.layer3.0.bn1"])


def test_what_a_part_is_given_takes_no_more_than_the_way_to_it(teacher_spec):
    teacher = load(teacher_spec())
    calls = []
    teacher.model.bbox_head.register_forward_hook(lambda *_: calls.append("head"))
    inputs, samples = make_batch((1, 1))
    outputs = teacher.run(inputs, samples, ["neck:input", "backbone:input", "backbone"])
    assert not calls
    [(given,)] = outputs.calls("neck:input")
    assert all(torch.equal(a, b) for a, b in zip(given, outputs["backbone"], strict=True))
    [(images,)] = outputs.calls("backbone:input")
    assert torch.equal(images, teacher.renormalisation(inputs, samples))
    (shapes,) = dry_run(teacher.model, ["neck:input"]).calls("neck:input")[0]
    assert [level.shape[1] for level in shapes] == [16, 32, 64, 128]
