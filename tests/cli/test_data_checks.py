"""Data sets, classes and evaluators that do not belong together are told before training."""

import copy
import json
import logging
from types import SimpleNamespace

from lad.base.config import load_config
from lad.cli.built_checks import build_datasets, built_problems, dropping_batch_sizes
from lad.cli.checks import (
    _check_channels,
    _check_heads,
    _check_objects,
    check_annotations,
    check_dataset_files,
    check_test_data,
)
from lad.cli.data_checks import AnnotationFile, inspect_data
from lad.cli.loaders import loaders_of
from lad.datasets.configured import loaded_channels
from lad.errors import ConfigError, DataError

import pytest
from helpers import small_paa
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from mmdet.datasets import CocoDataset
from mmdet.registry import DATASETS, MODELS
from mmengine.config import Config, ConfigDict
from mmengine.registry import init_default_scope
from pycocotools import mask as mask_utils
from torch import nn

CLASSES = ("cat", "dog", "cow")


def coco(names=CLASSES, images=6, first=1, prefix=""):
    """Images of 64x48, image k with one box of category k modulo the number of categories; ids by name."""
    ids = {name: 1 + sorted(CLASSES).index(name) if name in CLASSES else 9 for name in names}
    return dict(
        images=[dict(id=first + k, file_name=f"{prefix}{k}.jpg", width=64, height=48) for k in range(images)],
        annotations=[
            dict(
                id=k + 1,
                image_id=first + k,
                category_id=ids[names[k % len(names)]],
                bbox=[4, 6, 20, 10],
                area=200,
                iscrowd=0,
                segmentation=[[4, 6, 24, 6, 24, 16]],
            )
            for k in range(images)
        ],
        categories=[dict(id=ids[name], name=name) for name in names],
    )


@pytest.fixture(scope="module", autouse=True)
def scope():
    init_default_scope("mmdet")


def write(folder, **contents):
    for name, content in contents.items():
        (folder / f"{name}.json").write_text(json.dumps(content))


def config(folder, classes=CLASSES, **options):
    """Training, validation and test on train.json, val.json and val.json."""
    pipeline = [dict(type="LoadImageFromFile"), dict(type="LoadAnnotations", with_bbox=True)]
    common = dict(type="CocoDataset", data_root=str(folder), data_prefix=dict(img=""), pipeline=pipeline)
    if classes is not None:
        common["metainfo"] = dict(classes=classes)
    val = dict(dataset=dict(common, ann_file="val.json", test_mode=True))
    evaluator = dict(type="CocoMetric", ann_file=str(folder / "val.json"))
    cfg = Config(
        dict(
            train_dataloader=dict(dataset=dict(common, ann_file="train.json")),
            val_dataloader=val,
            test_dataloader=copy.deepcopy(val),
            val_evaluator=evaluator,
            test_evaluator=copy.deepcopy(evaluator),
        )
    )
    cfg.merge_from_dict(options)
    return cfg


def problems_of(cfg):
    """Everything that is wrong, as tools/check_dataset.py lists it."""
    loaders = loaders_of(cfg)
    report = inspect_data(loaders)
    if report.fatal:
        return report.problems
    present = [loader for loader in loaders if loader.is_present and all(loader.data)]
    built = build_datasets(cfg, [loader.name for loader in present])
    return [*report.problems, *built_problems(built, present, report.files, dropping_batch_sizes(cfg))]


def refusal(cfg):
    """The line that stops a training; None if nothing does."""
    try:
        check_dataset_files(cfg)
        check_annotations(cfg)
    except (DataError, ConfigError) as error:
        return str(error)
    return next((str(problem) for problem in problems_of(cfg) if problem.fatal), None)


@pytest.fixture
def data(tmp_path):
    write(tmp_path, train=coco(prefix="t"), val=coco(images=3, prefix="v"))
    return tmp_path


def test_refusal_is_one_line(data):
    write(data, train=coco(("dog", "cat", "cow")), val=coco(("cat",)))
    assert "\n" not in refusal(config(data))


def test_data_that_belong_together_are_accepted(data):
    assert refusal(config(data)) is None
    report = inspect_data(loaders_of(config(data)))
    assert report.problems == []
    assert [str(coverage) for _, coverage in report.coverage] == ["6 images and 6 objects"]
    assert [one.annotations.name for one in report.data] == ["train.json", "val.json"]


def test_other_ids_of_the_same_categories_in_the_same_order_change_no_label(data):
    content = coco(images=3)
    for entry, key in [(content["categories"], "id"), (content["annotations"], "category_id")]:
        for one in entry:
            one[key] += 40
    write(data, val=content)
    assert refusal(config(data)) is None


WRAPPED = {
    "plain": lambda one: one,
    "repeated": lambda one: dict(type="RepeatDataset", times=2, dataset=one),
    "balanced": lambda one: dict(type="ClassBalancedDataset", oversample_thr=0.1, dataset=one),
    "concatenated": lambda one: dict(type="ConcatDataset", datasets=[one]),
    "mixed": lambda one: dict(
        type="MultiImageMixDataset", dataset=dict(type="RepeatDataset", times=2, dataset=one), pipeline=[]
    ),
}


@pytest.mark.parametrize("wrapper", WRAPPED)
@pytest.mark.parametrize("names", [("dog", "cat", "cow"), ("cat", "cow"), ("cow", "dog", "cat")])
def test_training_file_with_other_labels_is_refused_however_wrapped(data, wrapper, names):
    write(data, train=coco(names))
    cfg = config(data)
    cfg.train_dataloader.dataset = WRAPPED[wrapper](cfg.train_dataloader.dataset)
    line = refusal(cfg)
    assert "train.json: label" in line
    assert f"by the file's categories ({', '.join(names)})" in line
    assert "by the config's classes (cat, dog, cow)" in line


@pytest.mark.parametrize("names", [("dog", "cat", "cow"), ("cat", "cow", "dog")])
def test_second_concatenated_file_with_another_order_is_named(data, names):
    write(data, more=coco(names))
    cfg = config(data)
    one = cfg.train_dataloader.dataset
    cfg.train_dataloader.dataset = dict(type="ConcatDataset", datasets=[one, dict(one, ann_file="more.json")])
    assert "more.json: label" in refusal(cfg)
    # Image ids may be the same: training does not use them.
    write(data, more=coco())
    assert refusal(cfg) is None


@pytest.mark.parametrize(
    ("names", "says"),
    [(("dog", "cat", "cow"), "val.json: label 0 is 'dog' by the file's categories"),
     (("dog", "cow"), "val.json: label 0 is 'dog'"),
     (("cat", "dog"), "val.json: class 'cow' of the config is no category of the file (cat, dog): add the category"),
     (("horse",), "val.json: none of the config's classes (cat, dog, cow) is a category of the file (horse)")],
)  # fmt: skip
def test_validation_file_with_other_labels_is_refused(data, names, says):
    write(data, val=coco(names, images=3))
    assert says in refusal(config(data))


@pytest.mark.parametrize(
    ("loader", "own"), [("train_dataloader", True), ("val_dataloader", False), ("test_dataloader", False)]
)
def test_metainfo_in_some_loaders_only_is_refused(data, loader, own):
    """CocoDataset has COCO's 80 names without it, of which cat, dog and cow are three."""
    cfg = config(data)
    del cfg[loader].dataset["metainfo"]
    line = refusal(cfg)
    assert "the 80 of CocoDataset (no metainfo is given)" in line
    assert "train_dataloader" in line
    assert ("val_dataloader" if own else loader) in line


def test_default_names_beside_other_categories_are_refused(data):
    write(data, train=coco(("horse",)), val=coco(("horse",), images=3))
    assert "label 0 is 'horse' by the file's categories" in refusal(config(data, classes=None))
    write(data, train=coco(("owl",)), val=coco(("owl",), images=3))
    assert "none of the config's classes" in refusal(config(data, classes=None))
    assert "person, bicycle" in refusal(config(data, classes=None))


@pytest.mark.parametrize(
    ("classes", "says"),
    [("cat", r"the text 'cat': write ('cat',)"), ("none.txt", "the text 'none.txt'"), ((), "is empty"),
     (("cat", 3), "a tuple of names"), (("cat", "cat"), "names 'cat' twice"), (7, "a tuple of names"),
     ("/", "the text '/'")],
)  # fmt: skip
def test_classes_that_are_no_names_are_refused(data, classes, says):
    assert says in refusal(config(data, classes=classes))


def test_classes_are_read_from_a_file_as_mmengine_reads_them(data):
    (data / "names.txt").write_text("cat\ndog\ncow\n")
    cfg = config(data, classes=str(data / "names.txt"))
    assert refusal(cfg) is None
    built = DATASETS.build(copy.deepcopy(cfg.train_dataloader.dataset))
    assert loaders_of(cfg)[0].classes == [tuple(built.metainfo["classes"])]
    (data / "names.txt").write_text("dog\ncat\ncow\n")
    assert "label 0 is 'cat'" in refusal(cfg)


@pytest.mark.parametrize("names", [("cat", "cat", "dog"), ("dog", "cat", "dog"), ("cow", "cow", "cow")])
def test_two_categories_of_one_name_are_refused(data, names):
    content = coco(("cat", "dog", "cow"))
    for category, name in zip(content["categories"], names, strict=True):
        category["name"] = name
    write(data, train=content)
    repeated = max(names, key=names.count)
    assert f"they have the same name {repeated!r}" in refusal(
        config(data, classes=tuple(dict.fromkeys(names)))
    )


def test_two_categories_of_one_name_that_is_no_class_are_told_and_no_more(data):
    for name in ("train", "val"):
        content = coco(images=3)
        content["categories"] += [dict(id=30, name="owl"), dict(id=31, name="owl")]
        write(data, **{name: content})
    assert refusal(config(data)) is None
    assert {p.kind for p in inspect_data(loaders_of(config(data))).problems} == {"duplicate_category_name"}


def test_evaluator_with_other_images_than_its_loader_is_refused(data):
    own = {"val_evaluator.ann_file": str(data / "train.json")}
    assert "3 of its 6 images are not loaded" in refusal(config(data, **own))
    write(data, train=coco(images=3, prefix="t"))  # the same ids
    assert "image 1 is t0.jpg in it and v0.jpg in the loader's file" in refusal(config(data, **own))
    write(data, val=coco(images=3, first=100))
    line = refusal(config(data, **own))
    assert "3 of 3 images (id 100, 101, 102) are not in it" in line
    assert line.startswith("val_evaluator.ann_file: it is ")
    assert "and val_dataloader reads " in line


def test_evaluator_with_a_copy_of_its_loaders_file_is_accepted(data):
    write(data, copy=coco(images=3, prefix="elsewhere/v"))
    assert refusal(config(data, **{"val_evaluator.ann_file": str(data / "copy.json")})) is None


def test_evaluators_of_concatenated_files(data):
    write(data, more=coco(images=2, first=50), all=coco(images=3, prefix="v"))
    cfg = config(data)
    one = cfg.val_dataloader.dataset
    cfg.val_dataloader.dataset = dict(type="ConcatDataset", datasets=[one, dict(one, ann_file="more.json")])
    assert "2 of 5 images (id 50, 51) are not in it" in refusal(cfg)
    merged = coco(images=3, prefix="v")
    merged["images"] += coco(images=2, first=50)["images"]
    write(data, all=merged)
    cfg.val_evaluator.ann_file = str(data / "all.json")
    assert refusal(cfg) is None
    write(data, more=coco(images=2))
    assert "it yields images more than once (ids 1, 2)" in refusal(cfg)


def test_test_data_are_held_against_their_evaluator_where_they_are_there(data):
    cfg = config(data, **{"test_dataloader.dataset.ann_file": "test.json"})
    assert refusal(cfg) is None  # there is no test.json
    write(data, test=coco(images=2, first=70))
    assert "test_evaluator.ann_file: it is" in refusal(cfg)


def test_test_data_are_checked_before_a_test(data):
    def check(cfg):
        dataset = property(lambda _: build_datasets(cfg, ["test_dataloader"])["test_dataloader"])
        loader = type("Loader", (), dict(dataset=dataset))()
        check_test_data(SimpleNamespace(cfg=cfg, test_loop=SimpleNamespace(dataloader=loader)))

    cfg = config(data)
    check(cfg)
    with pytest.raises(
        DataError, match=r"test_evaluator.ann_file: it is .*train.json and test_dataloader reads val"
    ):
        check(config(data, **{"test_evaluator.ann_file": str(data / "train.json")}))
    write(data, val=coco(("dog", "cat", "cow"), images=3))
    with pytest.raises(DataError, match=r"val.json: label 0 is 'dog'"):
        check(cfg)
    cfg.test_dataloader.dataset.ann_file = "none.json"
    with pytest.raises(DataError, match=r"none.json: there is no such annotation file"):
        check(cfg)
    cfg.test_dataloader.dataset.metainfo.classes = "cat"
    with pytest.raises(ConfigError, match=r"test_dataloader: metainfo.classes is the text 'cat'"):
        check(cfg)


def test_files_without_annotations_serve_where_detections_are_only_written(data):
    content = coco(images=3)
    del content["annotations"]
    write(data, test=content)
    cfg = config(data)
    cfg.test_dataloader.dataset.ann_file = "test.json"
    cfg.test_evaluator = dict(
        type="CocoMetric", ann_file=str(data / "test.json"), format_only=True, outfile_prefix="x"
    )
    assert refusal(cfg) is None
    cfg.test_evaluator = dict(type="CocoMetric", ann_file=str(data / "test.json"))
    assert "test.json: not a COCO annotation file: it has no list of annotations" in refusal(cfg)
    cfg.test_evaluator = [dict(type="CocoMetric", format_only=True, outfile_prefix="x")]
    assert refusal(cfg) is None


@pytest.mark.parametrize(
    ("key", "metric", "masks", "refused"),
    [("iscrowd", "bbox", False, "val.json: annotation 1 of image 1: no iscrowd"),
     ("area", "bbox", False, "val.json: annotation 1 of image 1: no area"),
     ("segmentation", "bbox", False, None),
     ("segmentation", ["bbox", "segm"], False, "val.json: annotation 1 of image 1: no segmentation"),
     ("segmentation", "bbox", True, "val.json: annotation 1 of image 1: no segmentation")],
)  # fmt: skip
def test_annotations_have_what_is_needed_later(data, key, metric, masks, refused):
    content = coco(images=3)
    del content["annotations"][0][key]
    write(data, val=content)
    cfg = config(data, **{"val_evaluator.metric": metric})
    cfg.val_dataloader.dataset.pipeline[1].with_mask = masks
    line = refusal(cfg)
    assert line is None if refused is None else refused in line


def test_training_needs_no_iscrowd(data):
    content = coco()
    for annotation in content["annotations"]:
        del annotation["iscrowd"]
    write(data, train=content)
    assert refusal(config(data)) is None


RLE = dict(size=[48, 64], counts=[100, 50, 48 * 64 - 150])
TEXT = mask_utils.frPyObjects(RLE, 48, 64)["counts"].decode()


@pytest.mark.parametrize(
    ("segmentation", "says"),
    [([[4, 6, 24, 6, 24, 16]], None), (RLE, None), (dict(RLE, counts=TEXT), None),
     ([], "no segmentation, and masks are read"), ("abc", "is a str, not polygons or RLE"),
     ([["a"]], "no list of numbers"), ([4, 6, 24, 6], "no list of numbers"),
     (dict(size=[48, 64]), "no counts"), (dict(RLE, size=[64, 48]), "its RLE is for 48x64 pixels, its image has 64x48"),
     (dict(RLE, counts=[100, 50]), "its RLE counts 150 pixels of 3072"),
     (dict(RLE, counts=[-1, 3073]), "other things than numbers of pixels"),
     (dict(RLE, counts=["a"]), "other things than numbers of pixels"), (dict(RLE, counts=TEXT[:-1]), "its RLE c"),
     (dict(RLE, counts=""), "its RLE cannot be decoded: it is cut"), (dict(RLE, counts="aXYZ0"), "its RLE counts"),
     (dict(RLE, counts="\u00e9zz"), "its RLE cannot be decoded"), (dict(RLE, counts="PPPPPPPPPP0"), "its RLE c")],
)  # fmt: skip
def test_masks_that_cannot_be_read_are_refused(data, segmentation, says):
    content = coco()
    content["annotations"][1]["segmentation"] = segmentation
    write(data, train=content)
    cfg = config(data)
    assert refusal(cfg) is None  # nobody reads masks
    cfg.train_dataloader.dataset.pipeline[1].with_mask = True
    line = refusal(cfg)
    assert line is None if says is None else says in line


def test_masks_that_mmdetection_ignores_are_counted(data):
    content = coco()
    content["annotations"][1]["segmentation"] = [[1, 2, 3, 4]]
    write(data, train=content)
    cfg = config(data)
    cfg.train_dataloader.dataset.pipeline[1].with_mask = True
    assert refusal(cfg) is None
    (problem,) = inspect_data(loaders_of(cfg)).problems
    assert (problem.kind, problem.where) == ("empty_mask", "annotation 2 of image 2")


@pytest.mark.parametrize("scale", [1, 0.5, 1e-3])
def test_boxes_within_0_and_1_are_named_as_the_likely_cause(data, scale):
    content = coco()
    for annotation in content["annotations"]:
        annotation["bbox"] = [scale * value / 64 for value in annotation["bbox"]]
    write(data, train=content)
    line = refusal(config(data))
    assert (
        "no image has a usable object of the config's classes: all boxes lie within 0 and 1, and COCO's"
        in line
    )


def left_out(content, folder, classes, **options):
    """What is told of train.json, and the data set that MMDetection builds."""
    write(folder, train=content)
    cfg = config(folder, classes=classes)
    cfg.train_dataloader.dataset.update(options)
    [(_, coverage)] = inspect_data(loaders_of(cfg)).coverage
    return coverage, DATASETS.build(copy.deepcopy(cfg.train_dataloader.dataset))


def counts(dataset):
    infos = [dataset.get_data_info(index) for index in range(len(dataset))]
    return len(infos), sum(len(info["instances"]) for info in infos)


def test_what_mmdetection_leaves_out_is_counted_by_reason(data):
    content = coco(("cat", "dog", "owl"), images=9)
    content["annotations"][0]["bbox"] = [4, 6, 0.5, 10]
    content["annotations"][1]["bbox"] = [400, 6, 20, 10]
    content["annotations"][3]["area"] = 0
    content["annotations"][4]["ignore"] = 1
    content["images"][6]["width"] = 20
    coverage, built = left_out(
        content, data, ("cat", "dog"), filter_cfg=dict(filter_empty_gt=True, min_size=32)
    )
    assert (coverage.images, coverage.objects) == counts(built)
    assert str(coverage) == (
        "5 of 9 images and 1 of 9 objects; left out by MMDetection: images: 3 without objects (filter_empty_gt), "
        "1 below 32 pixels (min_size); objects: 1 with 'ignore', 1 outside their image, 1 without area, "
        "1 below one pixel, 3 of other categories (owl), 1 in images left out"
    )


BOX = st.tuples(*[st.sampled_from([-30, -1, 0, 0.4, 1, 5, 70])] * 4).map(list)
ANNOTATION = st.fixed_dictionaries(
    dict(
        bbox=BOX, area=st.sampled_from([0, 0.5, 9]), iscrowd=st.integers(0, 1), category_id=st.integers(1, 3)
    ),
    optional=dict(ignore=st.integers(0, 1)),
)


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.lists(st.tuples(st.integers(0, 3), ANNOTATION), max_size=8),
    st.lists(st.sampled_from([8, 32, 64]), min_size=4, max_size=4),
    st.sampled_from([{}, dict(filter_empty_gt=True), dict(min_size=32), dict(filter_empty_gt=True, min_size=33)]),
    st.booleans(),
)  # fmt: skip
def test_counts_are_those_of_the_built_data_set(tmp_path_factory, annotations, widths, filter_cfg, test_mode):
    content = dict(
        images=[dict(id=k, file_name=f"{k}.jpg", width=width, height=48) for k, width in enumerate(widths)],
        annotations=[dict(one, id=number, image_id=image) for number, (image, one) in enumerate(annotations)],
        categories=[dict(id=k, name=name) for k, name in zip((1, 2, 3), CLASSES, strict=True)],
    )
    coverage, built = left_out(
        content,
        tmp_path_factory.mktemp("data"),
        ("cat", "dog"),
        filter_cfg=filter_cfg,
        test_mode=test_mode,
        serialize_data=False,
    )
    data_list = built.data_list
    assert (coverage.images, coverage.objects) == (
        len(data_list),
        sum(len(info["instances"]) for info in data_list),
    )


NAMES = st.permutations(["cat", "dog", "cow", "owl"]).flatmap(
    lambda names: st.integers(1, 4).map(lambda count: names[:count])
)


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(NAMES, NAMES, st.permutations(CLASSES))
@example(["cat"], ["cat", "dog", "cow"], ["cat", "dog", "cow"])
@example(["cat", "dog", "cow", "owl"], ["cat", "dog", "cow"], ["cat", "dog", "cow"])
def test_configs_are_refused_exactly_where_labels_mean_different_classes_or_one_is_absent(
    tmp_path_factory, train, val, classes
):
    """Against the data sets that MMDetection builds: label k must be the k-th class in each, up to the last class."""
    folder = tmp_path_factory.mktemp("data")
    write(folder, train=coco(train, images=4), val=coco(val, images=4))
    meaning = {}
    for name in ("train", "val"):
        built = CocoDataset(
            ann_file=str(folder / f"{name}.json"),
            data_prefix=dict(img=""),
            metainfo=dict(classes=tuple(classes)),
            serialize_data=False,
        )
        names = {one["id"]: one["name"] for one in coco(train if name == "train" else val)["categories"]}
        meaning[name] = [names[number] for number in built.cat_ids]
    sound = meaning["train"] == meaning["val"] == list(classes)
    assert (refusal(config(folder, classes=tuple(classes))) is None) == sound


class Heads(nn.Module):
    """A detector's heads, as far as the checks look at them."""

    def __init__(self, **heads):
        super().__init__()
        for name, classes in heads.items():
            head = nn.Module()
            head.num_classes = classes
            self.add_module(name, nn.ModuleList([head]) if name in ("bbox_head", "mask_head") else head)


@pytest.mark.parametrize(
    ("heads", "classes", "highest", "says"),
    [(dict(bbox_head=3), CLASSES, 2, None), (dict(bbox_head=2), CLASSES, 2, "bbox_head.0 has num_classes=2 but"),
     (dict(bbox_head=1), CLASSES, 2, "bbox_head.0 has num_classes=1 but"),
     (dict(bbox_head=4), CLASSES, 2, "bbox_head.0 has num_classes=4 but"),
     (dict(bbox_head=3, mask_head=80), CLASSES, 2, "mask_head.0 has num_classes=80 but"),
     (dict(bbox_head=3, mask_head=2), CLASSES, 2, "mask_head.0 has num_classes=2 but"),
     (dict(bbox_head=3), (), 3, "bbox_head.0 has num_classes=3 but the training data has label 3"),
     (dict(bbox_head=3, mask_head=2), (), 2, "mask_head.0 has num_classes=2 but the training data has label 2")],
)  # fmt: skip
def test_number_of_classes_of_each_head_is_the_datas(heads, classes, highest, says):
    if says is None:
        _check_heads(Heads(**heads), classes, highest)
    else:
        with pytest.raises(ConfigError, match=says):
            _check_heads(Heads(**heads), classes, highest)


def test_an_rpn_learns_boxes_of_any_class():
    config = load_config("mmdet::rpn/rpn_r50_fpn_1x_coco.py").model
    config.update(backbone=dict(type="ResNet", depth=18, base_channels=4), init_cfg=None)
    config.neck.in_channels = [4, 8, 16, 32]
    _check_heads(MODELS.build(config), CLASSES, 2)


def test_built_data_set_that_holds_something_else_is_told(data, caplog, monkeypatch):
    monkeypatch.setattr(
        "lad.cli.checks.print_log", lambda message, **_: logging.getLogger("x").warning(message)
    )
    cfg = config(data, **{"train_dataloader.dataset.indices": 2})
    report = inspect_data(loaders_of(cfg))
    built = DATASETS.build(copy.deepcopy(cfg.train_dataloader.dataset))
    assert _check_objects(built, report) == 1
    assert "train.json: its data set holds 2 images and 2 objects." in caplog.text
    caplog.clear()
    assert _check_objects(DATASETS.build(copy.deepcopy(config(data).train_dataloader.dataset)), report) == 2
    assert caplog.text == ""


@pytest.mark.parametrize("wrapper", WRAPPED)
def test_training_stops_where_no_object_is_left(data, wrapper):
    """Images whose boxes were all left out stay in the data set, even with filter_empty_gt."""
    content = coco()
    for annotation in content["annotations"]:
        annotation["bbox"][2] = 0.5
    write(data, train=content)
    cfg = config(data, **{"train_dataloader.dataset.filter_cfg": dict(filter_empty_gt=True)})
    with pytest.raises(ConfigError, match=r"no object is left to train on in (6|12) images"):
        _check_objects(DATASETS.build(WRAPPED[wrapper](copy.deepcopy(cfg.train_dataloader.dataset))), None)


@pytest.mark.parametrize("metric", ["CocoMetric", "mmdet.CocoMetric"])
def test_evaluators_that_sort_categories_are_numbered_as_they_sort(data, metric):
    """Objects365's are listed in one order and numbered in another."""
    shuffled = coco(("cow", "cat", "dog"), images=3, prefix="v")
    for number, one in enumerate(
        sorted(shuffled["categories"], key=lambda one: CLASSES.index(one["name"])), 1
    ):
        one["id"] = number
    write(data, sorted=shuffled)
    options = {"val_evaluator.type": metric, "val_evaluator.ann_file": str(data / "sorted.json")}
    assert "label 0 is 'cow'" in refusal(config(data, **options))
    assert refusal(config(data, **options, **{"val_evaluator.sort_categories": True})) is None
    for one in shuffled["categories"]:
        one["id"] = 4 - one["id"]
    write(data, sorted=shuffled)
    line = refusal(config(data, **options, **{"val_evaluator.sort_categories": True}))
    assert "label 0 is 'cow' by the file's categories (cow, dog, cat)" in line


@pytest.mark.parametrize("backend", [dict(backend="local"), {}, None])
def test_evaluators_with_a_local_backend_are_checked(data, backend):
    own = {"val_evaluator.ann_file": str(data / "train.json"), "val_evaluator.backend_args": backend}
    assert "3 of its 6 images are not loaded" in refusal(config(data, **own))


@pytest.mark.parametrize("wrapper", ["repeated", "balanced"])
def test_images_that_are_evaluated_twice_are_refused(data, wrapper):
    cfg = config(data)
    cfg.val_dataloader.dataset = WRAPPED[wrapper](cfg.val_dataloader.dataset)
    if wrapper == "balanced":
        cfg.val_dataloader.dataset.oversample_thr = 2.0
    assert "val_dataloader: it yields images more than once" in refusal(cfg)


def test_validation_without_an_object_of_the_classes_is_refused(data):
    content = coco(("cat", "dog", "cow", "owl"), images=4)
    for annotation in content["annotations"]:
        annotation["category_id"] = 9
    write(data, val=content)
    assert "val.json: no image has a usable object of the config's classes" in refusal(config(data))


@DATASETS.register_module(name="NamesItsClasses")
class NamesItsClasses(CocoDataset):
    """A data set whose classes no config names."""

    def __init__(self, **kwargs):
        super().__init__(**dict(kwargs, metainfo=dict(classes=CLASSES)))


@DATASETS.register_module(name="NamesItsFile")
class NamesItsFile(CocoDataset):
    """A data set whose file no config names."""

    def __init__(self, folder, **kwargs):
        super().__init__(ann_file=f"{folder}/val.json", metainfo=dict(classes=CLASSES), **kwargs)


def test_data_sets_that_decide_for_themselves_are_compared_as_they_are_built(data):
    cfg = config(data, classes=None)
    for loader in ("train_dataloader", "val_dataloader", "test_dataloader"):
        cfg[loader].dataset.type = "NamesItsClasses"
    assert refusal(cfg) is None
    cfg.val_dataloader.dataset.type = "CocoDataset"
    cfg.val_dataloader.dataset.metainfo = dict(classes=("dog", "cat", "cow"))
    write(data, val=coco(("dog", "cat", "cow"), images=3))
    built = build_datasets(cfg, ["train_dataloader", "val_dataloader"])
    found = list(built_problems(built, loaders_of(cfg), {}, {}))
    assert [problem.kind for problem in found] == ["other_classes"]


def test_files_that_no_config_names_are_compared_as_they_are_built(data):
    content = coco(("dog", "cat", "cow"), images=3)
    write(data, val=content)
    cfg = config(data)
    cfg.val_dataloader.dataset = dict(
        type="NamesItsFile", folder=str(data), data_prefix=dict(img=""), test_mode=True
    )
    cfg.val_evaluator = dict(type="CocoMetric", format_only=True, outfile_prefix="x")
    built = build_datasets(cfg, ["train_dataloader", "val_dataloader"])
    files = {(data / "val.json").resolve(): AnnotationFile.of(content)}
    (problem,) = built_problems(built, loaders_of(cfg), files, {})
    assert (problem.kind, problem.file) == ("class_order", f"{data}/val.json")


@pytest.mark.parametrize(("batch_size", "refused"), [(1, False), (3, False), (2, True), (8, True)])
def test_validation_that_drops_its_last_batch_is_refused(data, batch_size, refused):
    cfg = config(data)
    cfg.val_dataloader.update(batch_size=batch_size, drop_last=True)
    line = refusal(cfg)
    assert (line is not None and "drop_last=True leaves out the last" in line) == refused


@pytest.mark.parametrize(
    ("setting", "value", "says"),
    [("train_dataloader.dataset.data_prefix", "train/", "train_dataloader: data_prefix must be a dict, got 'train/'"),
     ("train_dataloader.dataset.data_root", 7, "train_dataloader: data_root must be a str, got 7"),
     ("val_dataloader.dataset.backend_args", "petrel", "val_dataloader: backend_args must be a dict, got 'petrel'"),
     ("train_dataloader.dataset.filter_cfg", [1], "train_dataloader: filter_cfg must be a dict, got [1]"),
     ("train_dataloader.dataset.filter_cfg", dict(min_size="32"), "min_size must be a int or float, got '32'"),
     ("train_dataloader.dataset.metainfo", [1], "train_dataloader: metainfo must be a dict, got [1]"),
     ("train_dataloader.dataset.ann_file", 7, "train_dataloader: ann_file must be a str, got 7"),
     ("val_evaluator.metric", 5, "val_evaluator: metric must be a name such as 'bbox'"),
     ("val_evaluator.ann_file", 5, "val_evaluator: ann_file must be a path, got 5"),
     ("val_evaluator.backend_args", "local", "val_evaluator: backend_args must be a dict, got 'local'"),
     ("val_evaluator", "CocoMetric", "val_evaluator must be a dict or a list of dicts, got str"),
     ("train_dataloader", [1], "train_dataloader must be a dict, got [1]"),
     ("val_dataloader", "x", "val_dataloader must be a dict, got 'x'"),
     ("val_dataloader.dataset", [1], "val_dataloader: dataset must be a dict, got [1]")],
)  # fmt: skip
def test_settings_of_a_wrong_type_are_one_line(data, setting, value, says):
    cfg = config(data)
    *path, last = setting.split(".")
    node = cfg
    for key in path:
        node = node[key]
    node[last] = value
    assert says in refusal(cfg)


@pytest.mark.parametrize("crowd", [None, -1, "no", 2])
def test_crowds_that_no_evaluation_understands_are_refused(data, crowd):
    content = coco(images=3)
    content["annotations"][1]["iscrowd"] = crowd
    write(data, val=content)
    assert f"annotation 2 of image 2: its iscrowd is {crowd!r}, which must be 0 or 1" in refusal(config(data))


def test_metric_without_a_file_needs_the_annotations_in_the_batches(data):
    cfg = config(data)
    cfg.val_evaluator = dict(type="CocoMetric")
    cfg.val_dataloader.dataset.pipeline.append(ConfigDict(type="PackDetInputs", meta_keys=("img_id",)))
    assert "val_evaluator: it has no ann_file, and the pipeline of val_dataloader leaves out" in refusal(cfg)
    cfg.val_dataloader.dataset.pipeline[-1].meta_keys = ("img_id", "instances")
    assert refusal(cfg) is None


def test_metrics_of_the_parts_of_concatenated_data(data):
    """Each of a list of metrics gets all detections; MultiDatasetsEvaluator gives each its part."""
    write(data, more=coco(images=2, first=50))
    cfg = config(data)
    one = cfg.val_dataloader.dataset
    cfg.val_dataloader.dataset = dict(type="ConcatDataset", datasets=[one, dict(one, ann_file="more.json")])
    metrics = [dict(type="CocoMetric", ann_file=str(data / name)) for name in ("val.json", "more.json")]
    cfg.val_evaluator = metrics
    assert "2 of 5 images (id 50, 51) are not in it" in refusal(cfg)
    cfg.val_evaluator = dict(type="MultiDatasetsEvaluator", metrics=metrics, dataset_prefixes=["a", "b"])
    assert refusal(cfg) is None


ODD_FILES = [
    ("annotations", 1, "id", 0, "annotation 0: COCO's evaluation takes a match with annotation 0 for none"),
    ("annotations", 1, "id", "two", "ids of annotations are partly numbers and partly texts"),
    ("annotations", 1, "area", None, "its area is no number: None"),
    ("annotations", 1, "area", "200", "its area is no number: '200'"),
    ("images", 1, "file_name", None, "image 2: its file_name is no text: None"),
    ("images", 1, "file_name", 5, "image 2: its file_name is no text: 5"),
    ("images", 1, "width", "64", "image 2: its size is no numbers: '64'x48"),
    ("images", 1, "id", [2], "an id of images is no number and no text"),
    ("images", 1, "id", "two", "ids of images are partly numbers and partly texts"),
]


@pytest.mark.parametrize(("section", "number", "key", "value", "says"), ODD_FILES)
def test_values_that_stop_mmdetection_later_are_refused(data, section, number, key, value, says):
    content = coco(images=3)
    content[section][number][key] = value
    write(data, val=content)
    assert any(says in str(problem) for problem in problems_of(config(data)) if problem.fatal)
    assert refusal(config(data)) is not None


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_files_that_pycocotools_cannot_decode_are_refused(data, encoding):
    (data / "val.json").write_text(json.dumps(coco(images=3)), encoding=encoding)
    assert "val.json: not a JSON file" in refusal(config(data))


def test_deeply_nested_file_is_no_json_file(data):
    (data / "val.json").write_text("[" * 100_000)
    assert "val.json: not a JSON file: its lists are nested too deep" in refusal(config(data))


@pytest.mark.parametrize("unlabelled", [False, True])
def test_training_files_without_objects_may_stand_beside_others(data, unlabelled):
    content = dict(coco(), annotations=[])
    if unlabelled:
        del content["annotations"]
    write(data, negatives=content)
    cfg = config(data)
    one = cfg.train_dataloader.dataset
    negatives = dict(one, ann_file="negatives.json")
    cfg.train_dataloader.dataset = dict(type="ConcatDataset", datasets=[one, negatives])
    assert refusal(cfg) is None
    cfg.train_dataloader.dataset = dict(type="ConcatDataset", datasets=[negatives, negatives])
    assert "negatives.json: no image has a usable object" in refusal(cfg)
    cfg.train_dataloader.dataset = negatives
    assert "negatives.json: n" in refusal(cfg)


def test_nothing_is_asked_of_annotations_that_nobody_reads(data):
    content = coco(("cat", "dog", "cow", "owl"), images=8)
    for annotation in content["annotations"]:
        if annotation["category_id"] == 9:
            del annotation["iscrowd"], annotation["segmentation"]
    content["annotations"].append(dict(id=90, image_id=1, category_id=1, ignore=1))
    content["annotations"].append(dict(id=91, image_id=77, category_id=1))
    write(data, train=content)
    content["annotations"] = content["annotations"][:8]
    write(data, val=content)
    cfg = config(data, **{"val_evaluator.metric": ["bbox", "segm"]})
    cfg.train_dataloader.dataset.pipeline[1].with_mask = True
    assert refusal(cfg) is None


@pytest.mark.parametrize("metric", ["proposal", "proposal_fast", ["proposal", "proposal_fast"]])
def test_classes_of_proposals_make_no_difference(data, metric):
    write(data, other=coco(("dog", "cat", "cow"), images=3, prefix="v"))
    options = {"val_evaluator.ann_file": str(data / "other.json"), "val_evaluator.metric": metric}
    assert refusal(config(data, **options)) is None


def test_detectors_that_are_told_their_classes_may_be_evaluated_on_others(data):
    write(data, val=coco(("owl",), images=3))
    cfg = config(data, **{"val_dataloader.dataset.metainfo.classes": ("owl",)})
    cfg.test_dataloader = None
    assert "the classes of val.json are owl" in refusal(cfg)
    cfg.val_dataloader.dataset.return_classes = True
    assert refusal(cfg) is None


def test_images_elsewhere_are_not_looked_for_here(data):
    cfg = config(data, **{"train_dataloader.dataset.data_prefix.img": "s3://bucket/train"})
    assert refusal(cfg) is None
    cfg = config(data, **{"train_dataloader.dataset.data_prefix.img": "none/"})
    assert "train_dataloader: there is no image folder" in refusal(cfg)
    content = coco()
    for image in content["images"]:
        image["file_name"] = f"/elsewhere/{image['file_name']}"
    write(data, train=content)
    assert refusal(cfg) is None


def test_some_images_evaluated_by_a_file_of_these_are_accepted(data):
    write(data, some=coco(images=2, prefix="v"))
    options = {"val_dataloader.dataset.indices": 2, "test_dataloader.dataset.indices": 2}
    assert "1 of its 3 images are not loaded" in refusal(config(data, **options))
    options |= {f"{name}_evaluator.ann_file": str(data / "some.json") for name in ("val", "test")}
    assert refusal(config(data, **options)) is None


def test_images_without_objects_need_not_be_loaded(data):
    more = coco(images=3, prefix="v")
    more["images"] += [dict(id=90), dict(id=91, file_name="empty.jpg")]
    write(data, more=more)
    assert refusal(config(data, **{"val_evaluator.ann_file": str(data / "more.json")})) is None


@pytest.mark.parametrize("names", [None, "deep\\v{}.jpg", "other/v{}.jpg"])
def test_evaluators_file_may_name_its_images_otherwise(data, names):
    content = coco(images=3)
    for number, image in enumerate(content["images"]):
        del image["file_name"], image["width"]
        if names:
            image["file_name"] = names.format(number)
    write(data, bare=content)
    assert refusal(config(data, **{"val_evaluator.ann_file": str(data / "bare.json")})) is None


def test_detections_that_are_only_dumped_need_no_annotations(data):
    content = coco(images=3)
    del content["annotations"]
    write(data, test=content)
    cfg = config(data, **{"test_dataloader.dataset.ann_file": "test.json"})
    dump = dict(type="DumpDetResults", out_file_path="x.pkl")
    for evaluator in (dump, [dump, dict(type="CocoMetric", format_only=True, outfile_prefix="x")]):
        cfg.test_evaluator = evaluator
        assert refusal(cfg) is None


@pytest.mark.parametrize(("min_size", "refused"), [(0, False), (32, False), (40, True)])
def test_filters_of_validation_are_refused_where_they_drop_objects(data, min_size, refused):
    content = coco(images=3, prefix="v")
    content["images"][0]["height"] = 36
    write(data, val=content)
    cfg = config(data)
    cfg.val_dataloader.dataset.update(test_mode=False, filter_cfg=dict(min_size=min_size))
    line = refusal(cfg)
    assert (line is not None and "1 of its 3 images are not loaded" in line) == refused


def test_validation_without_any_image_left_is_refused(data):
    cfg = config(data)
    cfg.val_dataloader.dataset.update(test_mode=False, filter_cfg=dict(min_size=500))
    with pytest.raises(ConfigError, match="val_dataloader: no image is left: check"):
        refusal(cfg)


GREY, COLOUR = dict(type="LoadImageFromFile", color_type="grayscale"), dict(type="LoadImageFromFile")


@pytest.mark.parametrize(
    ("steps", "channels"),
    [([GREY], 1), ([COLOUR], 3), ([COLOUR, dict(type="mmdet.Resize", scale=3)], 3), ([], None),
     ([COLOUR, dict(type="RandomGrayscale")], None), ([COLOUR, dict(type="TheirOwn")], None),
     ([dict(type="LoadImageFromFile", color_type="unchanged")], None)],
)  # fmt: skip
def test_channels_of_the_images_of_a_pipeline(steps, channels):
    assert loaded_channels(steps) == channels


@pytest.mark.parametrize(
    ("in_channels", "step", "refused"),
    [(3, COLOUR, False), (3, GREY, True), (1, GREY, False), (1, COLOUR, True)],
)
def test_images_of_other_channels_than_the_detectors_are_refused(data, in_channels, step, refused):
    model = small_paa(base=4)
    model.backbone.in_channels = in_channels
    cfg = config(data)
    for loader in ("train_dataloader", "val_dataloader"):
        cfg[loader].dataset.pipeline[0] = step
    if refused:
        with pytest.raises(ConfigError, match="train_dataloader: its pipeline loads images of"):
            _check_channels(cfg, MODELS.build(model))
    else:
        _check_channels(cfg, MODELS.build(model))
