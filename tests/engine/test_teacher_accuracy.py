"""A teacher's AP50 is logged before the first step, and measuring it changes nothing."""

import logging
import random
from types import SimpleNamespace

from lad.base.config import detector_config, load_config
from lad.engine.hooks import TeacherCheckHook
from lad.engine.hooks.teacher_accuracy import ap50, ap50_by_chance, labelled_samples
from lad.errors import ConfigError

import numpy as np
import pytest
import torch
from fault_runs import STUDENT_CONFIG, Trainer, differences, final_state, make_data, write_config
from helpers import ROOT, build, make_batch, save_checkpoint, small_detector, small_paa
from mmdet.datasets.transforms import CachedMosaic
from mmdet.registry import MODELS
from mmdet.structures.bbox import HorizontalBoxes
from mmengine.structures import InstanceData
from torch import nn

CLASSES = ("a", "b", "c")


def instances(boxes, labels, scores=None):
    result = InstanceData(bboxes=torch.tensor(boxes).float().view(-1, 4), labels=torch.tensor(labels).long())
    if scores is not None:
        result.scores = torch.tensor(scores).float()
    return result


def test_average_precision_of_hand_made_detections():
    objects = [instances([[0, 0, 10, 10], [20, 20, 30, 30]], [0, 0]), instances([[0, 0, 10, 10]], [1])]
    # Class 0, by score: hit (0.9), miss (0.8), hit (0.7) of 2 objects: precision 1 up to recall 1/2, then 2/3; AP 5/6.
    # Class 1: IoU 10 * 6 / 100 = 0.6, found; but a miss of score 0.5 is before it: AP 1/2. Class 2 has no objects.
    found = [
        instances(
            [[0, 0, 10, 10], [50, 50, 60, 60], [20, 20, 30, 30], [0, 0, 9, 9]],
            [0, 0, 0, 2],
            [0.9, 0.8, 0.7, 1],
        ),
        instances([[0, 0, 10, 6], [40, 40, 50, 50]], [1, 1], [0.4, 0.5]),
    ]
    assert ap50(found, objects) == pytest.approx((5 / 6 + 1 / 2) / 2)
    assert ap50([instances([], [], [])] * 2, objects) == 0
    assert ap50(found, [instances([], [])] * 2) == 0


def test_chance_is_what_the_detections_reach_on_other_images():
    boxes = [[[0, 0, 10, 10]], [[20, 0, 30, 10]], [[0, 20, 10, 30]]]
    objects = [instances(box, [0]) for box in boxes]
    perfect = [instances(box, [0], [1.0]) for box in boxes]
    assert (ap50(perfect, objects), ap50_by_chance(perfect, objects)) == (1, 0)
    # The same three detections everywhere: one of three hits, in any image; ties decide which of them comes first.
    blind = [instances([box[0] for box in boxes], [0] * 3, [0.9, 0.8, 0.7])] * 3
    assert 0.3 < ap50(blind, objects) < 2 * ap50_by_chance(blind, objects)


class Items:
    """Random images; every second one has no objects."""

    metainfo = dict(classes=CLASSES)

    def __init__(self, count=8):
        self.count = count

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        sample = make_batch(objects=(3 * (index % 2),), seed=index)[1][0]
        # What a pipeline draws from.
        random.random(), np.random.rand(), torch.rand(1)
        sample.gt_instances.bboxes = HorizontalBoxes(sample.gt_instances.bboxes)
        return dict(inputs=torch.randint(0, 255, (3, 96, 128), dtype=torch.uint8), data_samples=sample)


def make_runner(tmp_path, model=None, teacher=None, methods=None, classes=CLASSES, dataset=None):
    teacher = teacher or small_paa()
    path = save_checkpoint(build(teacher), tmp_path / "teacher.pth", dataset_meta=dict(classes=classes))
    model = MODELS.build(
        dict(
            type="DistillationDetector",
            student=model or small_paa(),
            teacher=dict(teacher, checkpoint=path),
            methods=methods or [dict(type="LabelAssignmentDistillation")],
        )
    ).train()
    logger = logging.getLogger("teacher_check")
    logger.setLevel(logging.INFO)
    loop = SimpleNamespace(dataloader=SimpleNamespace(dataset=dataset or Items()))
    return SimpleNamespace(model=model, train_loop=loop, logger=logger)


def check(runner, caplog, images=4):
    caplog.clear()
    with caplog.at_level(logging.INFO):
        TeacherCheckHook(images=images).before_train(runner)
    return [
        (record.levelname, record.getMessage()) for record in caplog.records if record.name == "teacher_check"
    ]


def knowing(runner, shift=0):
    """Let the teacher answer with the truth, the labels shifted."""

    def predict(inputs, data_samples, rescale):
        for sample in data_samples:
            truth = sample.gt_instances
            sample.pred_instances = InstanceData(
                bboxes=truth.bboxes.clone(), labels=(truth.labels + shift) % 3, scores=torch.ones(len(truth))
            )
        return data_samples

    runner.model.teacher.model.predict = predict
    return runner


def test_teacher_that_knows_the_images_is_reported_without_a_warning(tmp_path, caplog):
    ((level, message),) = check(knowing(make_runner(tmp_path)), caplog)
    assert level == "INFO"
    assert message.startswith("Teacher: AP50 1.000 on 4 training images")


def test_teacher_with_other_labels_is_a_warning(tmp_path, caplog):
    messages = check(knowing(make_runner(tmp_path), shift=1), caplog)
    assert [level for level, _ in messages] == ["INFO", "WARNING"]
    assert "no better than chance: AP50 0.000 on 4 training images" in messages[1][1]


def test_labels_do_not_count_where_the_teacher_has_other_classes(tmp_path, caplog):
    ((_, message),) = check(knowing(make_runner(tmp_path, classes=("x", "y", "z")), shift=1), caplog)
    assert message.startswith("Teacher: AP50 1.000 (whatever the class) on 4 training images")


@pytest.mark.parametrize(
    "config",
    ["mmdet::paa/paa_r50_fpn_1x_coco.py", "mmdet::fcos/fcos_r50-caffe_fpn_gn-head_1x_coco.py",
     "mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py", "mmdet::rpn/rpn_r50_fpn_1x_coco.py",
     "mmdet::rtmdet/rtmdet_tiny_8xb32-300e_coco.py"],
)  # fmt: skip
def test_untrained_teacher_of_any_kind_is_a_warning(tmp_path, caplog, config):
    teacher = small_detector(config) if "rtmdet" not in config and "rpn_" not in config else thin(config)
    module = "neck[0]" if "rtmdet" in config else "backbone"
    runner = make_runner(
        tmp_path, small_paa(), teacher, [dict(type="HintDistillation", student=module, teacher=module)]
    )
    messages = check(runner, caplog)
    assert [level for level, _ in messages] == ["INFO", "WARNING"], messages


def thin(config):
    if "rtmdet" in config:
        return detector_config(
            dict(config=config, backbone=dict(deepen_factor=0.167, widen_factor=0.125, init_cfg=None),
                 neck=dict(in_channels=[32, 64, 128], out_channels=32, num_csp_blocks=1),
                 bbox_head=dict(num_classes=3, in_channels=32, feat_channels=32)), "teacher")  # fmt: skip
    backbone = dict(depth=18, base_channels=8, init_cfg=None, frozen_stages=-1, style="pytorch")
    neck = dict(in_channels=[8, 16, 32, 64], out_channels=32)
    head = dict(in_channels=32, feat_channels=32)
    return detector_config(dict(config=config, backbone=backbone, neck=neck, rpn_head=head), "teacher")


def test_measuring_changes_no_random_state_no_weight_and_no_flag(tmp_path, caplog):
    runner = make_runner(tmp_path)
    both = nn.ModuleList([runner.model, runner.model.teacher.model])

    def everything():
        return dict(
            python=random.getstate(),
            numpy=np.random.get_state()[1].tolist(),
            torch=torch.get_rng_state().tolist(),
            weights=[value.clone() for value in both.state_dict().values()],
            flags=[module.training for module in both.modules()],
            gradients=[parameter.grad for parameter in both.parameters()],
        )

    before = everything()
    assert len(check(runner, caplog)) == 2
    after = everything()
    assert all(torch.equal(*pair) for pair in zip(before.pop("weights"), after.pop("weights"), strict=True))
    assert before == after


def test_transforms_that_keep_images_keep_what_they_had():
    class Mosaic(Items):
        def __init__(self):
            super().__init__()
            self.data_list = [object()]
            self.mosaic = CachedMosaic(img_scale=(32, 32), max_cached_images=4, pad_val=0)

        def __getitem__(self, index):
            self.mosaic.results_cache.append(index)
            assert self.data_list is shared
            return super().__getitem__(index)

    dataset = Mosaic()
    shared = dataset.data_list
    assert len(labelled_samples(dataset, 4, seed=0)) == 4
    assert dataset.mosaic.results_cache == []


def test_samples_come_from_all_over_the_data_set_and_have_objects():
    samples = labelled_samples(Items(count=64), 4, seed=0)
    numbers = [next(n for n in range(64) if torch.equal(make_batch((3,), seed=n)[1][0].gt_instances.bboxes,
                    sample["data_samples"].gt_instances.bboxes.tensor)) for sample in samples]  # fmt: skip
    assert all(number % 2 for number in numbers)
    assert max(numbers) - min(numbers) >= 32


def test_teacher_that_cannot_be_measured_does_not_end_the_run(tmp_path, caplog):
    runner = make_runner(tmp_path)
    del runner.train_loop.dataloader.dataset
    ((level, message),) = check(runner, caplog)
    assert level == "WARNING"
    assert message.startswith("The teacher could not be checked: AttributeError")
    ((level, message),) = check(make_runner(tmp_path, dataset=Items(1)), caplog)
    assert (level, "was not checked" in message) == ("INFO", True)


def test_other_models_are_passed_over(caplog):
    assert check(SimpleNamespace(model=nn.Linear(1, 1)), caplog) == []


def test_too_few_images_are_refused():
    with pytest.raises(ConfigError, match="images must be at least 2, got 1"):
        TeacherCheckHook(images=1)


def test_training_is_the_same_bit_for_bit_with_and_without_it(tmp_path):
    make_data(tmp_path)
    trainer = Trainer(tmp_path)
    with torch.random.fork_rng():
        teacher = build(load_config(str(ROOT / "configs/lad/paa_r18-c32_fpn_digits.py")).model)
    path = save_checkpoint(teacher, tmp_path / "teacher.pth")
    weights = []
    for name, hook in [("with", "dict(type='TeacherCheckHook', images=4)"), ("without", "None")]:
        model = dict(
            _delete_=True,
            type="DistillationDetector",
            student=str(STUDENT_CONFIG),
            teacher=dict(config=str(ROOT / "configs/lad/paa_r18-c32_fpn_digits.py"), checkpoint=path),
            methods=[dict(type="LabelAssignmentDistillation")],
        )
        more = f"model = {model!r}\ndefault_hooks['teacher_check'] = {hook}\ntrain_cfg['max_epochs'] = 1"
        config = write_config(tmp_path / f"{name}.py", more=more)
        assert trainer.run(config, name) == 0, trainer.output
        assert ("Teacher: AP50" in trainer.output) == (name == "with")
        weights.append(final_state(tmp_path / name)["weights"])
    assert differences(*weights) == []
