"""Server and clients in one process, with trainings that pretend: the average, failures, and going on."""

import json
import math

from lad.compat.safe_loading import load_safely
from lad.errors import CheckpointError, ConfigError, DataError
from lad.federated.client import Update, fingerprint
from lad.federated.history import ClientReport, Round
from lad.federated.server import Server, ServerOptions
from lad.federated.settings import FederationSettings

import pytest
import torch
from federation import NOT_TRUE, WITHOUT_VALIDATION, Pretence, make_clients, make_data, write_config
from helpers import ROOT

pytest.importorskip("flwr", reason="the extra federated")

from lad.federated.flower import (
    FederatedAveraging,
    answer,
    read_answer,
    read_task,
    task_record,
    to_arrays,
    to_state,
)
from lad.federated.local import LocalGrid, run_locally

STUDENT = str(ROOT / "configs/feature/retinanet_r18-c16_fpn_digits.py")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_data(tmp_path_factory.mktemp("federation"))


def federation(data, folder, more=WITHOUT_VALIDATION, told=None, options=None, **clients):
    """A server and clients that pretend; run it with ``run_locally``."""
    # Clients without files of their own have another's.
    specs = {name: dict(ann_file=str(data / "a.json")) for name in clients if name not in "abc"}
    names = "".join(name for name in clients if name not in specs)
    config = write_config(data, folder / "config.py", more, names=names, **specs)
    tell = (lambda line: None) if told is None else told.append
    server = Server(ServerOptions(config, str(folder / "work"), options), tell)
    return server, make_clients(config, folder / "clients", lambda line: None, **clients)


def moved(server, before, name="bbox_head.retina_cls.weight"):
    return (server.state[name] - before[name]).flatten()[0].item()


def test_average_is_weighted_by_images_and_every_buffer_keeps_its_type(data, tmp_path):
    server, clients = federation(
        data, tmp_path, a=Pretence(1.0, images=1), b=Pretence(2.0, images=2), c=Pretence(4.0, images=1)
    )
    before = {name: value.clone() for name, value in server.state.items()}
    run_locally(server, clients)
    assert [each.number for each in server.history.rounds] == [0, 1, 2]
    assert moved(server, before) == pytest.approx(2 * (1 + 2 * 2 + 4) / 4, abs=1e-5)
    for name, value in before.items():
        assert server.state[name].dtype == value.dtype, name
        assert server.state[name].shape == value.shape, name
    counters = [name for name in before if name.endswith("num_batches_tracked")]
    assert counters
    assert all(int(server.state[name]) == 2 for name in counters)
    plain = load_safely(tmp_path / "work/global.pth")
    assert plain["meta"]["dataset_meta"]["classes"] == tuple(map(str, range(10)))
    assert fingerprint(plain["state_dict"]) == fingerprint(server.state)
    last = server.history.rounds[-1]
    assert {name: report.images for name, report in last.clients.items()} == dict(a=1, b=2, c=1)


def test_order_of_the_clients_changes_no_bit(data, tmp_path):
    found = []
    for number, order in enumerate(("abc", "cab")):
        steps = dict(a=0.1, b=0.7, c=1e-3)
        trainings = {name: Pretence(steps[name], images=3) for name in order}
        server, clients = federation(
            data, tmp_path / str(number), options={"randomness.seed": 3}, **trainings
        )
        run_locally(server, clients)
        found.append(fingerprint(server.state))
    assert found[0] == found[1]


def test_one_client_leaves_its_weights_bit_for_bit(data, tmp_path):
    server, clients = federation(data, tmp_path, a=Pretence(0.1, images=7))
    run_locally(server, clients)
    sent = load_safely(next(tmp_path.glob("clients/a/*/round_0002/update.pth")))["state_dict"]
    assert fingerprint(server.state) == fingerprint(sent)


def test_distillation_sends_no_snapshot_and_leaves_a_plain_checkpoint(data, tmp_path):
    more = WITHOUT_VALIDATION + NOT_TRUE.format(student=STUDENT, weight=1.0)
    server, clients = federation(data, tmp_path, more, a=Pretence())
    assert not [name for name in server.state if name.startswith("distillation")]
    run_locally(server, clients)
    assert fingerprint(load_safely(tmp_path / "work/global.pth")["state_dict"]) == fingerprint(server.state)


def test_failed_and_broken_clients_do_not_stop_a_round(data, tmp_path):
    class Raises(Pretence):
        def __call__(self, *args):
            raise RuntimeError("its disk is gone")

    told = []
    server, clients = federation(
        data, tmp_path, told=told, a=Pretence(code=1), b=Pretence(math.nan), c=Pretence(2.0), d=Raises()
    )
    before = dict(server.state)
    run_locally(server, clients)
    assert moved(server, before) == pytest.approx(4.0)
    for round_ in server.history.rounds[1:]:
        assert sorted(round_.clients) == ["b", "c"]
        assert len(round_.failures) == 3
    text = "\n".join(told)
    assert "client a: round 1 ended with exit code 1: error: no room" in text
    assert "client b does not count" in text
    assert "values that are no numbers" in text
    assert "its disk is gone" in text


class FailsIn(Pretence):
    """A training that fails in some rounds."""

    def __init__(self, *rounds, **settings):
        super().__init__(**settings)
        self.rounds = {f"round_{number:04d}" for number in rounds}

    def __call__(self, config, folder, log):
        self.code = int(folder.name in self.rounds)
        return super().__call__(config, folder, log)


def test_round_without_any_update_leaves_the_model(data, tmp_path):
    told, options = [], {"federation.rounds": 3}
    server, clients = federation(data, tmp_path, told=told, options=options, a=FailsIn(2), b=FailsIn(2))
    before = dict(server.state)
    run_locally(server, clients)
    assert moved(server, before) == pytest.approx(2.0)  # by the first round and the third
    assert told[-1] == "no client has sent weights that count: the model stays as it was"
    assert [each.updated for each in server.history.rounds] == [False, True, False, True]


def test_federation_whose_clients_all_fail_at_once_ends_with_the_first_failure(data, tmp_path):
    server, clients = federation(data, tmp_path, a=Pretence(code=1), b=Pretence(math.nan))
    message = (
        r"round 1: no client .* the first failure: client a: round 1 ended with exit code 1: error: no room"
    )
    with pytest.raises(DataError, match=message) as error:
        run_locally(server, clients)
    assert "\n" not in str(error.value)
    assert server.history.last == 0


def test_federation_whose_last_round_fails_ends_with_an_error_and_repeats_it(data, tmp_path):
    def run(*fails):
        server, clients = federation(
            data,
            tmp_path,
            options={"federation.rounds": 4, "randomness.seed": 1},
            a=FailsIn(*fails),
            b=FailsIn(*fails),
        )
        run_locally(server, clients)
        return server

    with pytest.raises(DataError, match="round 4: no client has sent weights that count"):
        run(3, 4)
    server = run()
    assert server.history.last == 4
    assert [each.updated for each in server.history.rounds] == [False, True, True, False, True]


def test_clients_that_fail_and_have_no_labels_are_not_told_that_none_has_labels(data, tmp_path):
    server, clients = federation(data, tmp_path, a=Pretence(code=1), b=Pretence(images=0))
    with pytest.raises(DataError, match="the first failure: client a: round 1 ended with exit code 1"):
        run_locally(server, clients)


def test_fraction_of_clients_without_labels_is_gone_over_unless_nothing_is_ever_trained(data, tmp_path):
    options = {"federation.fraction": 0.5, "federation.rounds": 3}
    server, clients = federation(
        data, tmp_path / "0", options=options, a=Pretence(images=0), b=Pretence(images=0)
    )
    with pytest.raises(DataError, match=r"round 3: .* first failure: client [ab] has no image with labels"):
        run_locally(server, clients)
    server, _ = federation(data, tmp_path / "1", options=options, a=Pretence())
    server.history.rounds = [Round(0, updated=False), Round(1), Round(2)]
    server.begin(3)
    assert server.average({"a": Update(server.state, ClientReport(0))}) is server.state


def test_failure_of_a_client_is_told_once(data, tmp_path):
    told, own = [], []
    server, clients = federation(data, tmp_path, told=told, a=Pretence(code=1), b=Pretence())
    for one in clients:
        one.tell = own.append
    run_locally(server, clients)
    assert [line for line in told + own if line.startswith("client a: round 1 ended")] == [
        "client a: round 1 ended with exit code 1: error: no room"
    ]


def test_all_clients_without_labels_end_it_in_one_line(data, tmp_path):
    content = json.loads((data / "a.json").read_text())
    empty = tmp_path / "empty.json"
    empty.write_text(json.dumps(dict(content, annotations=[])))
    spec = dict(ann_file=str(empty))
    config = write_config(data, tmp_path / "config.py", WITHOUT_VALIDATION, names="", a=spec, b=spec)
    server = Server(ServerOptions(config, str(tmp_path / "work")), print)
    clients = make_clients(config, tmp_path / "clients", a=Pretence(), b=Pretence())
    with pytest.raises(DataError, match=r"round 1: no client has an image with labels \(a, b\)"):
        run_locally(server, clients)


def test_one_client_without_labels_does_not_count(data, tmp_path):
    server, clients = federation(data, tmp_path, a=Pretence(1.0), b=Pretence(5.0, images=0))
    before = dict(server.state)
    run_locally(server, clients)
    assert moved(server, before) == pytest.approx(2.0)
    assert list(server.history.rounds[1].failures) == ["client b has no image with labels and does not count"]


class Killed(BaseException):
    """What no handler catches."""


@pytest.mark.parametrize("when", ["in a client", "after the state is written", "between rounds"])
def test_killed_federation_goes_on_to_equal_weights(data, tmp_path, when, monkeypatch):
    options = {"randomness.seed": 1, "federation.rounds": 3}
    whole, clients = federation(data, tmp_path / "whole", options=options, a=Pretence(0.3), b=Pretence(0.7))
    run_locally(whole, clients)

    class Dies(Pretence):
        def __call__(self, config, folder, log):
            if folder.name == "round_0002" and when == "in a client":
                raise Killed
            return super().__call__(config, folder, log)

    def run(**trainings):
        server, clients = federation(data, tmp_path / "killed", options=options, **trainings)

        def finished(done):
            if done.number == 1 and when == "between rounds" and not again:
                raise Killed

        run_locally(server, clients, finished)
        return server

    again = False
    write = Server._write_deployed

    def die(self):
        write(self)
        if len(self.history.rounds) == 3 and when == "after the state is written":
            raise Killed  # the second round is not in the file of the history yet

    with monkeypatch.context() as patch:
        patch.setattr(Server, "_write_deployed", die)
        with pytest.raises(Killed):
            run(a=Pretence(0.3), b=Dies(0.7))
    again = True
    first = Pretence(0.3)
    server = run(a=first, b=Pretence(0.7))
    assert fingerprint(server.state) == fingerprint(whole.state)
    assert [each.number for each in server.history.rounds] == [0, 1, 2, 3]
    # What a client had finished is not trained again.
    assert first.asked == (["round_0002", "round_0003"] if when == "between rounds" else ["round_0003"])


def test_more_rounds_go_on_and_another_config_or_seed_is_refused(data, tmp_path):
    server, clients = federation(data, tmp_path, a=Pretence())
    run_locally(server, clients)
    more = {"federation.rounds": 3}
    longer, clients = federation(data, tmp_path, options=more, a=Pretence())
    run_locally(longer, clients)
    assert longer.history.last == 3
    assert longer.history.federation == server.history.federation
    with pytest.raises(ConfigError, match="another config"):
        federation(data, tmp_path, options={"optim_wrapper.optimizer.lr": 1.0}, a=Pretence())
    with pytest.raises(ConfigError, match="another seed"):
        Server(ServerOptions(str(tmp_path / "config.py"), str(tmp_path / "work"), None, seed=9))


def test_same_seed_same_initial_weights(data, tmp_path):
    def initial(number, seed):
        server, _ = federation(data, tmp_path / str(number), options={"randomness.seed": seed})
        return fingerprint(server.state)

    assert initial(0, 4) == initial(1, 4) != initial(2, 5)


def test_begins_with_a_checkpoint_and_refuses_one_that_does_not_fit(data, tmp_path):
    first, _ = federation(data, tmp_path / "a", options={"randomness.seed": 4}, a=Pretence())
    torch.save(dict(state_dict=first.state, meta={}), tmp_path / "begin.pth")
    options = {"randomness.seed": 5, "load_from": str(tmp_path / "begin.pth")}
    second, _ = federation(data, tmp_path / "b", options=options, a=Pretence())
    assert fingerprint(second.state) == fingerprint(first.state)
    del first.state["bbox_head.retina_cls.bias"]
    torch.save(first.state, tmp_path / "begin.pth")
    with pytest.raises(
        CheckpointError, match=r"does not fit the detector: bbox_head\.retina_cls\.bias missing"
    ):
        federation(data, tmp_path / "c", options=options, a=Pretence())
    with pytest.raises(CheckpointError, match="there is no checkpoint"):
        federation(data, tmp_path / "d", options={"load_from": "nowhere.pth"}, a=Pretence())


def test_sampling_is_a_function_of_seed_and_round(data, tmp_path):
    server, _ = federation(data, tmp_path, options={"federation.fraction": 0.5})
    nodes = list(range(1, 9))
    drawn = [server.sample(nodes, number) for number in range(1, 9)]
    assert all(len(set(each)) == 4 for each in drawn)
    assert len({tuple(each) for each in drawn}) > 1
    assert drawn == [server.sample(nodes[::-1], number) for number in range(1, 9)]
    assert len(server.sample([5], 1)) == 1


def test_number_of_clients_that_train_loses_none_to_floating_point(data, tmp_path):
    def count(fraction, number):
        settings = FederationSettings(1, fraction=fraction)
        server.settings = settings
        return len(server.sample(map(str, range(number)), 1))

    server, _ = federation(data, tmp_path)
    assert [count(*one) for one in ((0.58, 50), (0.29, 100), (2 / 3, 3), (0.5, 3), (0.1, 3))] == [
        29,
        29,
        2,
        1,
        1,
    ]


def test_clients_that_train_are_drawn_by_name_whatever_flower_calls_their_nodes(data, tmp_path):
    class Shuffled(LocalGrid):
        """A grid with other node numbers."""

        def __init__(self, clients, numbers):
            super().__init__(clients)
            self.clients = dict(zip(numbers, clients, strict=True))

    found, states = [], []
    options = {"federation.fraction": 0.34, "federation.rounds": 4, "randomness.seed": 3}
    for run, numbers in enumerate(((1, 2, 3), (907, 33, 512), (5, 900, 4))):
        steps = dict(a=Pretence(0.1), b=Pretence(0.7), c=Pretence(0.01))
        server, clients = federation(data, tmp_path / str(run), options=options, **steps)
        FederatedAveraging(server).run(Shuffled(clients, numbers))
        found.append([sorted(each.clients) for each in server.history.rounds[1:]])
        states.append(fingerprint(server.state))
    assert found[0] == found[1] == found[2]
    assert len(set(states)) == 1
    assert len({tuple(each) for each in found[0]}) > 1
    assert found[0] == [server.sample("cab", number) for number in (1, 2, 3, 4)]


def test_clients_that_do_not_tell_their_names_are_left_out_and_asked_again(data, tmp_path):
    class Silent(LocalGrid):
        asked = []

        def send_and_receive(self, messages, *, timeout=None):
            messages = list(messages)
            if messages and messages[0].metadata.message_type == "query":
                self.asked.append([message.metadata.dst_node_id for message in messages])
                messages = [one for one in messages if one.metadata.dst_node_id != 2]
            return super().send_and_receive(messages, timeout=timeout)

    told = []
    options = {"federation.fraction": 0.9}
    server, clients = federation(
        data, tmp_path, told=told, options=options, a=Pretence(), b=Pretence(), c=Pretence()
    )
    FederatedAveraging(server).run(Silent(clients))
    assert "1 of 3 clients did not tell their names" in told
    assert "b" not in {name for each in server.history.rounds for name in each.clients}
    assert Silent.asked == [[1, 2, 3], [2]]


def test_states_of_rounds_beyond_four_digits_are_kept(data, tmp_path):
    options = {"federation.rounds": 20000}
    server, _ = federation(data, tmp_path, options=options)
    for number in (9998, 9999, 10000):
        server.finish(number)
    assert sorted(path.name for path in (tmp_path / "work/states").iterdir()) == [
        "round_10000.pth",
        "round_9999.pth",
    ]
    again, _ = federation(data, tmp_path, options=options)
    assert again.next_round == 10001


def test_begins_with_no_checkpoint_of_the_classes_in_another_order(data, tmp_path):
    first, _ = federation(data, tmp_path / "a")
    path = tmp_path / "begin.pth"
    for classes in (first.classes[::-1], (*first.classes[:9], "cat")):
        torch.save(dict(state_dict=first.state, meta=dict(dataset_meta=dict(classes=classes))), path)
        with pytest.raises(
            CheckpointError, match=r"load_from: .* is of the classes .* \(label \d is"
        ) as error:
            federation(data, tmp_path / "b", options={"load_from": str(path)})
        assert "\n" not in str(error.value)
    torch.save(dict(state_dict=first.state, meta=dict(dataset_meta=dict(classes=first.classes))), path)
    federation(data, tmp_path / "c", options={"load_from": str(path)})


def test_messages_give_back_what_was_sent(data, tmp_path):
    server, clients = federation(data, tmp_path, a=Pretence(code=1), b=Pretence(0.5, images=3))
    task = server.begin(2)
    assert read_task(task_record(task)) == task
    state = {
        "f": torch.randn(2, 3),
        "i": torch.tensor(3),
        "b": torch.tensor([True]),
        "h": torch.randn(2).half(),
    }
    assert fingerprint(to_state(to_arrays(state))) == fingerprint(state)
    # numpy has no bfloat16.
    assert to_state(to_arrays({"x": torch.ones(2).bfloat16()}))["x"].dtype == torch.float32
    from flwr.app import Message, RecordDict

    grid = LocalGrid(clients)
    content = RecordDict({"arrays": to_arrays(server.state), "config": task_record(task)})
    message = Message(content=content, message_type="train", dst_node_id=1)
    name, reason = read_answer(answer(message, grid.clients[1]).content)
    assert name == "a"
    assert reason == "client a: round 2 ended with exit code 1: error: no room"
    name, update = read_answer(answer(message, grid.clients[2]).content)
    assert (name, update.report.images, update.report.loss) == ("b", 3, 0.5)
    assert update.state.keys() == server.state.keys()


def test_two_clients_of_one_name(data, tmp_path):
    told = []
    server, clients = federation(data, tmp_path, told=told, a=Pretence(1.0))
    before = dict(server.state)
    run_locally(server, [*clients, *make_clients(clients[0].config, tmp_path / "other", a=Pretence(9.0))])
    assert moved(server, before) == pytest.approx(2.0)
    assert "two clients are called 'a': the second one does not count" in told
