"""A federation that pretrains without labels: FedX between clients, k-NN accuracy at the server."""

import json

from lad.compat.safe_loading import load_safely
from lad.federated.client import Task, round_config
from lad.federated.embedding_evaluation import EmbeddingEvaluation
from lad.federated.evaluation import evaluation_of
from lad.federated.server import Server, ServerOptions
from lad.federated.settings import federation_of

import pytest
import torch
from federation import make_data
from helpers import ROOT, small_paa
from mmengine.config import Config
from mmengine.registry import init_default_scope

pytest.importorskip("flwr", reason="needs the extra `federated`")

CONFIG = """
_base_ = {base!r}
model = dict(_delete_=True, type='SelfSupervisedPretraining', student={student!r},
    methods=[dict(type='ContrastiveLearning'), dict(type='FedX')])
train_dataloader = dict(batch_size=4, num_workers=0, persistent_workers=False, dataset=dict(
    _delete_=True, type='ViewsDataset', size=32, references=True,
    dataset=dict(type='CocoDataset', labelled=False, data_root={data!r}, data_prefix=dict(img='images/train/'))))
custom_hooks = [dict(type='KNNAccuracyHook', size=32, neighbours=5, dataset=dict(
    type='DigitsDataset', data_root={data!r}, ann_file='annotations/val.json', data_prefix=dict(img='images/val/')))]
train_cfg = dict(max_epochs=1)
param_scheduler = []
federation = dict(rounds=2, clients={clients!r})
"""


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    data = make_data(tmp_path_factory.mktemp("federation"))
    path = data / "config.py"
    text = CONFIG.format(
        base=str(ROOT / "configs/pretraining/simclr_retinanet-r18-c16_fpn_digits.py"),
        student=small_paa().to_dict(),
        data=f"{data}/digits/",
        clients={name: dict(ann_file=str(data / f"{name}.json")) for name in "ab"},
    )
    path.write_text(text)
    return str(path)


def test_server_measures_the_averaged_features_and_writes_a_plain_backbone(config, tmp_path):
    from lad.federated.client import Client
    from lad.federated.local import run_locally

    from federation import Pretence

    server = Server(ServerOptions(config, str(tmp_path / "server")), tell=lambda line: None)
    clients = [Client(name, config, tmp_path / name, Pretence(0.01), tell=lambda line: None) for name in "ab"]
    run_locally(server, clients)
    rounds = json.loads((tmp_path / "server" / "federation.json").read_text())["rounds"]
    assert [sorted(one["metrics"]) for one in rounds] == [["knn_accuracy"]] * 3
    init_default_scope("mmdet")
    expected = EmbeddingEvaluation(Config.fromfile(config))(server.state)
    assert rounds[-1]["metrics"] == expected
    assert "knn_accuracy" in server.history.describe_last(2)
    names = load_safely(tmp_path / "server" / "global.pth")["state_dict"].keys()
    assert {name.split(".")[0] for name in names} == {"backbone", "neck"}
    assert any(name.startswith("distillation.FedX.prediction.") for name in server.state)
    assert not any(name.startswith("distillation.snapshots.") for name in server.state)


def test_clients_do_not_evaluate_on_the_servers_objects(config, tmp_path):
    cfg = Config.fromfile(config)
    own = round_config(cfg, federation_of(cfg), "a", Task("f", 1, 0, None), tmp_path)
    assert [hook["type"] for hook in own.custom_hooks] == ["ClientUpdateHook"]


def test_pretraining_without_objects_to_compare_is_not_evaluated(config, tmp_path):
    cfg = Config.fromfile(config)
    cfg.custom_hooks = []
    assert evaluation_of(cfg, tmp_path) is None


@pytest.mark.slow
def test_client_trains_a_round_that_begins_with_the_servers_weights(config, tmp_path):
    from lad.federated.client import Client
    from lad.federated.processes import run_training

    server = Server(ServerOptions(config, str(tmp_path / "server")), tell=lambda line: None)
    client = Client("a", config, tmp_path / "a", run_training, tell=lambda line: None)
    update = client.round(server.begin(1), server.state)
    assert update.report.images > 0
    assert update.state.keys() == server.state.keys()
    moved = [name for name, value in update.state.items() if not torch.equal(value, server.state[name])]
    assert any(name.startswith("distillation.FedX.prediction.") for name in moved)
    assert any(name.startswith("backbone.") for name in moved)
