"""The server evaluates with the federation's labels, whatever the order in its annotation file."""

import json
from pathlib import Path

from lad.errors import ConfigError, DataError
from lad.federated.evaluation import evaluation_of
from lad.federated.server import Server, ServerOptions

import pytest
import torch
from federation import make_data, write_config
from mmengine.structures import InstanceData

VALIDATION = """
val_dataloader['dataset']['ann_file'] = {path!r}
val_evaluator['ann_file'] = {path!r}
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_data(tmp_path_factory.mktemp("federation"))


def server(data, folder, change, more="", told=None):
    """A server whose validation file is changed."""
    content = json.loads((data / "digits/annotations/val.json").read_text())
    change(content)
    path = folder / "val.json"
    path.write_text(json.dumps(content))
    config = write_config(data, folder / "config.py", VALIDATION.format(path=str(path)) + more)
    tell = (lambda line: None) if told is None else told.append
    return Server(ServerOptions(config, str(folder / "work")), tell), content


def perfect(owner, content):
    """Predictions of all objects under the federation's labels."""
    names = {category["id"]: category["name"] for category in content["categories"]}

    def predict(inputs, samples, rescale=True):
        for sample in samples:
            own = [one for one in content["annotations"] if one["image_id"] == sample.img_id]
            boxes = torch.tensor([one["bbox"] for one in own])
            boxes[:, 2:] += boxes[:, :2]
            labels = torch.tensor([owner.classes.index(names[one["category_id"]]) for one in own])
            sample.pred_instances = InstanceData(bboxes=boxes, labels=labels, scores=torch.ones(len(own)))
        return samples

    return predict


def backwards(content):
    content["categories"].reverse()


def test_perfect_detections_have_map_one_whatever_the_order_of_the_files_categories(data, tmp_path):
    told = []
    owner, content = server(data, tmp_path, backwards, told=told)
    assert [line for line in told if "mapped by name" in line] == told[:1]
    evaluate = evaluation_of(owner.evaluated, tmp_path / "evaluation")
    evaluate.runner.model.predict = perfect(owner, content)
    assert evaluate(owner.state)["coco/bbox_mAP"] == pytest.approx(1.0)


def test_validation_in_the_federations_order_is_read_as_it_is(data, tmp_path):
    told = []
    owner, _ = server(data, tmp_path, lambda content: None, told=told)
    assert owner.evaluated.val_evaluator.ann_file == str(tmp_path / "val.json")
    assert not told
    assert not list((tmp_path / "work").glob("evaluation/*"))


def test_categories_that_the_federation_lacks_are_left_out_of_the_evaluation(data, tmp_path):
    def with_another(content):
        content["categories"].insert(0, dict(id=77, name="cat"))
        content["annotations"].append(dict(content["annotations"][0], id=10**6, category_id=77))

    owner, content = server(data, tmp_path, with_another)
    mapped = json.loads(Path(owner.evaluated.val_evaluator.ann_file).read_text())
    assert len(mapped["annotations"]) == len(content["annotations"]) - 1
    assert owner.evaluated.val_dataloader.dataset.ann_file == owner.evaluated.val_evaluator.ann_file


def test_class_that_the_validation_lacks_is_refused_in_one_line_before_the_first_round(data, tmp_path):
    def without_seven(content):
        content["categories"] = [one for one in content["categories"] if one["name"] != "7"]

    with pytest.raises(DataError, match=r"val\.json has no category '7', which the federation has") as error:
        server(data, tmp_path, without_seven)
    assert "\n" not in str(error.value)
    more = "val_dataloader['dataset']['metainfo'] = dict(classes=('0', 'cat'))\n"
    with pytest.raises(ConfigError, match="val_dataloader: class '1' is one of the federation alone"):
        server(data, tmp_path, backwards, more)


def test_missing_validation_file_is_told_in_one_line_before_the_first_round(data, tmp_path):
    config = write_config(data, tmp_path / "config.py", VALIDATION.format(path="/nowhere/val.json"))
    with pytest.raises(
        DataError, match=r"val_dataloader: /nowhere/val\.json: there is no such annotation file"
    ):
        Server(ServerOptions(config, str(tmp_path / "work")))
