"""The k-NN accuracy of a pretraining: what is cut out, when it is measured, and what is refused."""

from types import SimpleNamespace

from lad.datasets.digits import DigitsParameters, make_digits
from lad.engine.hooks import KNNAccuracyHook
from lad.errors import ConfigError, DataError
from lad.networks.backbone_and_neck import pooled_features

import pytest
import torch
from helpers import build, small_paa
from mmdet.registry import DATASETS
from mmengine.registry import init_default_scope
from mmengine.runner import IterBasedTrainLoop
from view_runs import pretraining

NUMBERS = dict(size=32, batch_size=5)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("knn")
    make_digits(folder, DigitsParameters(images=2, val_images=4))
    return folder


def digits(folder, part):
    init_default_scope("mmdet")
    return dict(
        type="DigitsDataset",
        data_root=f"{folder}/",
        ann_file=f"annotations/{part}.json",
        data_prefix=dict(img=f"images/{part}/"),
    )


class Runner(SimpleNamespace):
    """What the hook needs of a runner; what it logs."""

    def __init__(self, model, dataset):
        self.logged, self.scalars = [], []
        super().__init__(
            model=model,
            train_dataloader=SimpleNamespace(dataset=dataset),
            train_loop=None,
            epoch=0,
            iter=0,
            logger=SimpleNamespace(info=self.logged.append),
            visualizer=SimpleNamespace(
                add_scalar=lambda name, value, step: self.scalars.append((name, value, step))
            ),
        )


@pytest.fixture
def training(folder):
    views = dict(type="ViewsDataset", size=32, dataset=dict(digits(folder, "train"), labelled=False))
    views["dataset"]["pipeline"] = [dict(type="LoadImageFromFile")]
    init_default_scope("mmdet")
    return Runner(pretraining(), DATASETS.build(views))


def test_it_is_measured_before_training_and_after_epochs_of_its_interval(folder, training):
    hook = KNNAccuracyHook(digits(folder, "val"), interval=2, **NUMBERS)
    hook.before_train(training)
    for training.epoch in range(4):
        hook.after_train_epoch(training)
    assert [(name, step) for name, _, step in training.scalars] == [
        ("knn_accuracy", 0),
        ("knn_accuracy", 2),
        ("knn_accuracy", 4),
    ]
    values = {value for _, value, _ in training.scalars}
    assert len(values) == 1  # nothing was trained
    assert 0 <= values.pop() <= 1
    assert training.logged[0].startswith("k-NN accuracy before training: ")
    assert (
        f"after epoch 2: {training.scalars[1][1]:.3f} on {len(hook.crops.labels)} objects"
        in training.logged[1]
    )


def test_a_resumed_run_is_not_measured_as_before_training(folder, training):
    training.iter = 6
    hook = KNNAccuracyHook(digits(folder, "val"), **NUMBERS)
    hook.before_train(training)
    assert not training.scalars
    hook.after_train_epoch(training)
    assert [step for _, _, step in training.scalars] == [1]


def test_a_run_that_counts_iterations_is_measured_after_iterations(folder, training):
    training.train_loop = object.__new__(IterBasedTrainLoop)
    with pytest.raises(ConfigError, match="interval counts epochs, and this run counts iterations"):
        KNNAccuracyHook(digits(folder, "val"), **NUMBERS).before_train(training)
    hook = KNNAccuracyHook(digits(folder, "val"), interval=3, by_epoch=False, **NUMBERS)
    hook.before_train(training)
    for training.iter in range(7):
        hook.after_train_iter(training, 0)
    hook.after_train_epoch(training)
    assert [step for _, _, step in training.scalars] == [0, 3, 6]
    assert "after iteration 3: " in training.logged[1]


def test_all_objects_of_all_images_are_cut_out_with_their_classes(folder, training):
    hook = KNNAccuracyHook(digits(folder, "val"), **NUMBERS)
    hook.before_train(training)
    dataset = DATASETS.build(digits(folder, "val"))
    objects = [
        (one["bbox_label"], number)
        for number in range(4)
        for one in dataset.get_data_info(number)["instances"]
    ]
    assert list(zip(hook.crops.labels.tolist(), hook.crops.sources.tolist(), strict=True)) == objects
    assert hook.crops.images.shape == (len(objects), 3, 32, 32)
    assert hook.crops.images.dtype == torch.uint8
    # Digits are drawn in other colours than what is around them.
    assert (hook.crops.images.float().flatten(1).std(dim=1) > 1).all()


def test_at_most_so_many_objects_are_taken(folder, training):
    hook = KNNAccuracyHook(digits(folder, "val"), max_objects=6, **NUMBERS)
    decoded = []
    build_dataset = hook._build_dataset

    class Counted:
        """A data set that tells which images were decoded."""

        def __init__(self, dataset):
            self.dataset = dataset

        def __len__(self):
            return len(self.dataset)

        def __getitem__(self, number):
            decoded.append(number)
            return self.dataset[number]

    hook._build_dataset = lambda: Counted(build_dataset())
    hook.before_train(training)
    assert len(hook.crops.images) == 6
    # No image is decoded that has none of them.
    assert decoded == sorted(set(hook.crops.sources.tolist()))
    assert len(decoded) < len(build_dataset())


def test_features_are_those_of_normalised_crops_in_eval_mode(folder, training):
    hook = KNNAccuracyHook(digits(folder, "val"), **NUMBERS)
    model = training.model.train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.get_rng_state()
    hook.before_train(training)
    assert torch.equal(torch.get_rng_state(), state)
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    preprocessor = model.student.data_preprocessor
    mean, std = preprocessor.mean.view(1, 3, 1, 1), preprocessor.std.view(1, 3, 1, 1)
    crops = hook.crops.images[:5].float()
    expected = pooled_features(model.eval().student, (crops.flip(1) - mean) / std)
    torch.testing.assert_close(hook._features(model, "student", hook.crops.images[:5]), expected)


def test_images_that_are_trained_on_are_refused(folder, training):
    hook = KNNAccuracyHook(digits(folder, "train"), **NUMBERS)
    with pytest.raises(DataError, match=r"2 of its images are trained on, .*: give it the validation data"):
        hook.before_train(training)


def test_a_data_set_with_objects_in_one_image_is_refused(folder, training):
    hook = KNNAccuracyHook(dict(digits(folder, "val"), indices=1), **NUMBERS)
    with pytest.raises(DataError, match="fewer than two images of its data set have objects"):
        hook.before_train(training)


def test_other_models_are_refused(folder, training):
    training.model = build(small_paa())
    with pytest.raises(ConfigError, match="and the model is a PAA: take the hook out of custom_hooks"):
        KNNAccuracyHook(digits(folder, "val")).before_train(training)


@pytest.mark.parametrize(
    "setting", [dict(size=0), dict(neighbours=2.5), dict(interval=True), dict(batch_size="a")]
)
def test_wrong_settings_are_refused(setting):
    [name] = setting
    with pytest.raises(ConfigError, match=f"KNNAccuracyHook: {name} must be a positive whole number, got"):
        KNNAccuracyHook(dict(type="DigitsDataset"), **setting)


def test_what_is_no_data_set_is_refused():
    with pytest.raises(ConfigError, match="dataset must be a dict with a type, got 'val'"):
        KNNAccuracyHook("val")
