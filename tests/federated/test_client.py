"""A client's round without its training."""

import json
from pathlib import Path

from lad.compat.safe_loading import load_safely
from lad.errors import ConfigError, DataError
from lad.federated.classes import with_categories
from lad.federated.client import Client, Task, fingerprint, round_seed

import pytest
import torch
from federation import Pretence, make_data, write_config
from mmengine.config import Config

DIGITS = tuple(map(str, range(10)))
TASK = Task("fed", 1, 5, DIGITS)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_data(tmp_path_factory.mktemp("federation"))


def weights(value=0.0):
    layer = {"n.weight": value, "n.bias": value, "n.running_mean": value, "n.running_var": value}
    state = {name: torch.full((2,), number) for name, number in {"w": value, **layer}.items()}
    return {**state, "n.num_batches_tracked": torch.tensor(3)}


def client(data, tmp_path, training, name="a", told=None, **settings):
    config = write_config(data, tmp_path / "config.py", **settings)
    tell = (lambda line: None) if told is None else told.append
    return Client(name, config, tmp_path / "work" / name, training, tell=tell)


def test_trains_the_clients_data_from_the_servers_weights(data, tmp_path):
    training = Pretence()
    options = dict(options={"optim_wrapper.optimizer.lr": 0.25})
    own = client(data, tmp_path, training, a=dict(ann_file=str(data / "a.json"), **options))
    update = own.round(TASK, weights(1.5))
    assert update.state["w"].tolist() == [2.5, 2.5]
    assert update.state["n.num_batches_tracked"] == 4
    assert (update.report.images, update.report.loss) == (4, 1.0)
    [cfg] = training.configs
    assert cfg.train_dataloader.dataset.ann_file == str(data / "a.json")
    assert cfg.optim_wrapper.optimizer.lr == 0.25
    assert cfg.randomness.seed == round_seed(5, "a", 1)
    assert cfg.load_from.endswith("round_0001/initial.pth")
    # The server's validation data are not the client's.
    assert cfg.val_dataloader is None
    assert cfg.test_evaluator is None
    assert "federation" not in cfg
    assert "lad.federated.update_hook" in cfg.custom_imports["imports"]


def test_seeds_differ_between_clients_rounds_and_federations():
    seeds = {round_seed(seed, name, number) for seed in range(4) for name in "abc" for number in range(9)}
    assert len(seeds) == 4 * 3 * 9


def test_finished_round_is_answered_without_training(data, tmp_path):
    training = Pretence()
    own = client(data, tmp_path, training)
    first = own.round(TASK, weights())
    again = client(data, tmp_path, training).round(TASK, weights())
    assert training.asked == ["round_0001"]
    assert fingerprint(first.state) == fingerprint(again.state)


def test_round_with_other_weights_begins_anew(data, tmp_path):
    training = Pretence()
    own = client(data, tmp_path, training)
    own.round(TASK, weights())
    assert own.round(TASK, weights(7.0)).state["w"].tolist() == [8.0, 8.0]
    assert training.asked == ["round_0001", "round_0001"]


def test_interrupted_round_keeps_its_checkpoints(data, tmp_path):
    training = Pretence(code=137)
    own = client(data, tmp_path, training)
    with pytest.raises(DataError, match="client a: round 1 ended with exit code 137: error: no room"):
        own.round(TASK, weights())
    checkpoint = tmp_path / "work/a/fed/round_0001/epoch_1.pth"
    checkpoint.write_bytes(b"kept")
    training.code = 0
    own.round(TASK, weights())
    assert checkpoint.read_bytes() == b"kept"


def test_checkpoints_of_earlier_rounds_are_removed_and_logs_stay(data, tmp_path):
    own = client(data, tmp_path, Pretence())
    for number in (1, 2):
        own.round(Task("fed", number, 5, DIGITS), weights(number))
    before, now = (tmp_path / f"work/a/fed/round_000{number}" for number in (1, 2))
    assert not list(before.glob("*.pth"))
    assert (before / "train.log").is_file()
    assert (now / "update.pth").is_file()


def test_local_norm_layers_are_the_clients_own_and_all_others_the_servers(data, tmp_path):
    own = client(data, tmp_path, Pretence())
    first = own.round(Task("fed", 1, 5, DIGITS, "local"), weights(1.0))
    assert first.state["n.running_mean"].tolist() == [2.0, 2.0]
    second = own.round(Task("fed", 2, 5, DIGITS, "local"), weights(10.0))
    assert second.state["w"].tolist() == [11.0, 11.0]
    assert second.state["n.running_mean"].tolist() == second.state["n.weight"].tolist() == [3.0, 3.0]
    # Asked for the second round again, it begins with the norm after the first, not after the second.
    again = own.round(Task("fed", 2, 5, DIGITS, "local"), weights(20.0))
    assert again.state["n.running_mean"].tolist() == [3.0, 3.0]
    averaged = own.round(Task("fed", 3, 5, DIGITS), weights(30.0))
    assert averaged.state["n.running_mean"].tolist() == [31.0, 31.0]


def test_client_without_labels_sends_what_came_with_no_images(data, tmp_path):
    content = json.loads((data / "a.json").read_text())
    empty = tmp_path / "empty.json"
    empty.write_text(json.dumps(dict(content, annotations=[])))
    training, told = Pretence(), []
    own = client(data, tmp_path, training, told=told, a=dict(ann_file=str(empty)))
    update = own.round(TASK, weights(2.0))
    assert update.report.images == 0
    assert fingerprint(update.state) == fingerprint(weights(2.0))
    assert not training.asked
    assert told == ["client a: no image with labels in its training data: it sends nothing new"]


LEFT_OUT = {
    "ignored": dict(ignore=1),
    "ignored, without area": dict(ignore=1, area=None),
    "crowds": dict(iscrowd=1),
    "below one pixel": dict(bbox=[1, 1, 0.5, 9]),
    "outside the image": dict(bbox=[1000, 1000, 9, 9]),
}


@pytest.mark.parametrize("case", LEFT_OUT)
def test_client_whose_objects_are_all_left_out_of_a_training_is_one_without_labels(data, tmp_path, case):
    content = json.loads((data / "a.json").read_text())
    for one in content["annotations"]:
        one |= LEFT_OUT[case]
    path = tmp_path / "left_out.json"
    path.write_text(json.dumps(content))
    training = Pretence()
    update = client(data, tmp_path, training, a=dict(ann_file=str(path))).round(TASK, weights(2.0))
    assert update.report.images == 0
    assert not training.asked
    # One that counts is enough.
    content["annotations"][0] |= dict(ignore=0, iscrowd=0, bbox=[1, 1, 9, 9], area=81)
    path.write_text(json.dumps(content))
    assert client(data, tmp_path, training, a=dict(ann_file=str(path))).round(TASK, weights()).report.images


def test_unreadable_annotations_are_told_in_one_line(data, tmp_path):
    path = tmp_path / "broken.json"
    path.write_text("{")
    own = client(data, tmp_path, Pretence(), a=dict(ann_file=str(path)))
    with pytest.raises(DataError, match=r"broken\.json: not a JSON file"):
        own.round(Task("fed", 1, 5, None), weights())


def test_initial_weights_are_a_checkpoint_with_a_state_dict(data, tmp_path):
    client(data, tmp_path, Pretence()).round(TASK, weights(1.5))
    content = load_safely(tmp_path / "work/a/fed/round_0001/initial.pth")
    assert list(content) == ["state_dict"]
    assert fingerprint(content["state_dict"]) == fingerprint(weights(1.5))


def test_rounds_are_in_the_order_of_their_numbers_beyond_four_digits(data, tmp_path):
    own = client(data, tmp_path, Pretence())
    for number, value in ((9999, 1.0), (10000, 10.0)):
        update = own.round(Task("fed", number, 5, DIGITS, "local"), weights(value))
    # The norm layers of round 10000 go on from those after round 9999.
    assert update.state["n.running_mean"].tolist() == [3.0, 3.0]
    folder = tmp_path / "work/a/fed"
    assert sorted(path.name for path in (folder / "round_9999").glob("*.pth")) == ["norm.pth"]
    assert (folder / "round_10000/update.pth").is_file()
    again = own.round(Task("fed", 10001, 5, DIGITS, "local"), weights(20.0))
    assert again.state["n.running_mean"].tolist() == [4.0, 4.0]


def test_categories_in_another_order_are_mapped_by_name(data, tmp_path):
    content = json.loads((data / "b.json").read_text())
    names = {category["id"]: category["name"] for category in content["categories"]}
    # Backwards, with other ids, and one that the federation does not have.
    others = [dict(id=100 + index, name=name) for index, name in enumerate([*reversed(DIGITS), "cat"])]
    ids = {one["name"]: one["id"] for one in others}
    annotations = [dict(one, category_id=ids[names[one["category_id"]]]) for one in content["annotations"]]
    annotations.append(dict(annotations[0], id=10**6, category_id=ids["cat"]))
    path = tmp_path / "other.json"
    path.write_text(json.dumps(dict(content, categories=others, annotations=annotations)))
    training, told = Pretence(), []
    spec = dict(ann_file=str(path), metainfo=dict(classes=tuple(reversed(DIGITS))))
    client(data, tmp_path, training, "b", told, b=spec).round(TASK, weights())
    [cfg] = training.configs
    assert cfg.train_dataloader.dataset.metainfo.classes == list(DIGITS) or (
        cfg.train_dataloader.dataset.metainfo.classes == DIGITS
    )
    mapped = json.loads(Path(cfg.train_dataloader.dataset.ann_file).read_text())
    assert [category["name"] for category in mapped["categories"]] == list(DIGITS)
    new = {category["id"]: category["name"] for category in mapped["categories"]}
    assert [new[one["category_id"]] for one in mapped["annotations"]] == [
        names[one["category_id"]] for one in content["annotations"]
    ]
    assert len(told) == 1
    assert "mapped by name" in told[0]
    assert told[0].endswith(
        "left out are the objects of classes that the federation does not have: 1 of 'cat'"
    )
    assert with_categories(path, tuple(one["name"] for one in others), "b") is None


def test_left_out_objects_are_counted_by_class_and_unused_categories_pass(data, tmp_path):
    content = json.loads((data / "a.json").read_text())
    number = content["annotations"][0]["category_id"]
    count = sum(one["category_id"] == number for one in content["annotations"])
    own = next(category for category in content["categories"] if category["id"] == number)
    name, own["name"] = own["name"], "other"
    # A category without annotations teaches nothing wrong.
    content["categories"].append(dict(id=99, name="dog"))
    path = tmp_path / "renamed.json"
    path.write_text(json.dumps(content))
    mapped = with_categories(path, DIGITS, "a")
    assert mapped.left_out == {"other": count}
    assert mapped.absent == (name,)
    told = []
    client(data, tmp_path, Pretence(), told=told, a=dict(ann_file=str(path))).round(TASK, weights())
    assert told[0].endswith(f": {count} of 'other'; the file has no {name!r}")


def test_classes_that_the_federation_does_not_have_are_refused_in_one_line(data, tmp_path):
    spec = dict(ann_file=str(data / "a.json"), metainfo=dict(classes=("0", "1", "cat")))
    with pytest.raises(ConfigError, match="client a: its config names a class 'cat'") as error:
        client(data, tmp_path, Pretence(), a=spec).round(TASK, weights())
    assert "\n" not in str(error.value)
    with pytest.raises(DataError, match=r"client a: .*a\.json has none of the federation's classes cat"):
        with_categories(data / "a.json", ("cat", "dog"), "a")


def test_data_set_inside_of_wrappers(data, tmp_path):
    text = "train_dataloader = dict(dataset=dict(_delete_=True, type='RepeatDataset', times=2, dataset=dict("
    text += f"type='DigitsDataset', data_root={f'{data}/digits/'!r}, ann_file='annotations/train.json')))"
    training = Pretence()
    path = tmp_path / "wrapped.py"
    path.write_text(f"_base_ = {write_config(data, tmp_path / 'config.py')!r}\n{text}\n")
    Client("c", str(path), tmp_path / "work", training).round(TASK, weights())
    assert training.configs[0].train_dataloader.dataset.dataset.ann_file == str(data / "c.json")


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("dict(clients={})", "needs its number of rounds"),
        ("dict(rounds=0)", "rounds must be a number 1 or more"),
        ("dict(rounds=True)", "rounds must be a number"),
        ("dict(rounds=2, norm='batch')", "norm must be 'average' or 'local'"),
        ("dict(rounds=2, fraction=1.5)", "fraction must be at most 1"),
        ("dict(rounds=2, fraction=0)", "fraction must be a number above 0"),
        ("dict(rounds=2, round=3)", "has no setting 'round'"),
        ("dict(rounds=2, clients=['a'])", "clients must be like"),
        ("dict(rounds=2, clients={'../a': dict()})", "letters, digits"),
        ("dict(rounds=2, clients=dict(a='a.json'))", "clients.a must be a dict"),
        ("dict(rounds=2, clients=dict(a=dict()), min_clients=2)", "wait for ever"),
        (
            "dict(rounds=2, clients=dict(a=dict(options={'randomness.seed': 5})))",
            "each round sets randomness.seed",
        ),
        (
            "dict(rounds=2, clients=dict(a=dict(options=dict(randomness=dict(seed=5)))))",
            "sets randomness.seed, and",
        ),
        (
            "dict(rounds=2, clients=dict(a=dict(options={'load_from': 'x.pth'})))",
            "clients.a.options sets load_from",
        ),
        (
            "dict(rounds=2, clients=dict(a=dict(options={'val_dataloader.batch_size': 5})))",
            "sets val_dataloader itself",
        ),
        (
            "dict(rounds=2, clients=dict(a=dict(options={'default_hooks.checkpoint.save_best': 'auto'})))",
            "save_best itself",
        ),
        ("None", "has no federation"),
    ],
)
def test_wrong_settings_are_refused(setting, message):
    from lad.federated.settings import federation_of

    with pytest.raises(ConfigError, match=message) as error:
        federation_of(Config(dict(federation=eval(setting))))
    assert "\n" not in str(error.value)


def test_other_options_of_a_client_are_its_own():
    from lad.federated.settings import federation_of

    options = {"randomness.deterministic": True, "default_hooks.checkpoint.interval": 2, "custom_hooks": []}
    settings = federation_of(Config(dict(federation=dict(rounds=1, clients=dict(a=dict(options=options))))))
    assert settings.options_of("a") == ({}, options)


def test_settings_of_a_clients_data_are_refused_where_several_data_sets_would_get_them():
    from lad.federated.settings import federation_of

    def config(**spec):
        parts = [dict(type="CocoDataset", ann_file=f"{name}.json") for name in "xy"]
        data = dict(dataset=dict(type="ConcatDataset", datasets=parts))
        return Config(dict(train_dataloader=data, federation=dict(rounds=1, clients=dict(a=spec))))

    with pytest.raises(
        ConfigError, match=r"clients\.a sets ann_file .* has 2 data sets that would all get it"
    ):
        federation_of(config(ann_file="a.json"))
    options = {"train_dataloader.dataset.datasets.0.ann_file": "a.json"}
    assert federation_of(config(options=options)).options_of("a") == ({}, options)
