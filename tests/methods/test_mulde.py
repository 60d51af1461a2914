"""MulDE: its terms by the definition, gradients, the log, what is saved, mistakes."""

import copy
import math
from types import SimpleNamespace

from lad.analysis.dry_run import describe
from lad.analysis.pictures.curves import choose_keys, split_key
from lad.analysis.training_logs import Curve, Scalars
from lad.cli.checks import _check_teacher_classes
from lad.detectors.places import check_places
from lad.engine.hooks.bad_teachers import _modules_read
from lad.errors import ConfigError, DataError, UnsupportedError
from lad.exchange.labels import DenseLabels
from lad.methods.roi.heads import forward_stage
from lad.methods.specialists.cells import DenseQueries
from lad.methods.specialists.classes import KnownClasses

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from dense_detectors import dense, flat, outputs_of
from detr_detectors import small_detr
from helpers import at, build, fake_cuda, make_batch
from mmdet.registry import MODELS
from seam_detectors import set_epoch
from specialists import CLASSES, KNOWN, cascade, distil, faster, one_stage
from two_stage_detectors import seeded_loss, total, two_stage

BATCH = ((3, 2), (64, 96))


@pytest.fixture(autouse=True)
def _first_epoch():
    """Where other tests have left the run; the temperature of the attention follows it."""
    set_epoch(0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Of the teachers' checkpoints, which the tests share."""
    return tmp_path_factory.mktemp("teachers")


def batch(**more):
    return make_batch(BATCH[0], size=BATCH[1], **more)


def divergence(p, q):
    return (p * (p / q).log()).sum()


def fuse(student, scores, gates, knows, temperature):
    """Weights (M, K) and fused score (K,) of one query, by the definition, teacher by teacher and cell by cell."""
    gated = [gate.sigmoid() * own for gate, own in zip(gates, scores, strict=True)]
    far = [
        divergence(student[known].softmax(0), own[known].softmax(0)).item() / temperature
        for own, known in zip(gated, knows, strict=True)
    ]
    near = torch.stack(
        [torch.where(known, -distance, -torch.inf) for distance, known in zip(far, knows, strict=True)]
    )
    weights = near.softmax(0)
    return weights, sum(w * own for w, own in zip(weights, gated, strict=True))


def test_dense_terms_and_weights_are_those_of_the_definition(folder):
    model = distil(folder, candidates=40, temperature=2.0, loss_weight=0.25, gate_weight=0.5)
    [method] = model.methods
    with torch.no_grad():
        method.gates.copy_(torch.randn(method.gates.shape, generator=torch.Generator().manual_seed(3)))
    inputs, samples = batch()
    at(model, 0, epoch=7)  # the temperature of the attention is e
    losses = model.loss(inputs, copy.deepcopy(samples))

    own = outputs_of(model.student, inputs)
    logits = flat(own[0], 3).double()
    taught = {
        name: flat(outputs_of(teacher.model, inputs)[0], len(KNOWN[name])).double()
        for name, teacher in model.teachers.items()
    }
    head = model.student.bbox_head
    sizes = [level.shape[-2:] for level in own[0]]
    metas = [sample.metainfo for sample in samples]
    anchors, valid = head.get_anchors(sizes, metas, device="cpu")
    labels, label_weights, *_ = head.get_targets(anchors, valid, [s.gt_instances for s in samples], metas)
    labels, label_weights = torch.cat(labels, 1), torch.cat(label_weights, 1)
    level_of = [number for number, (h, w) in enumerate(sizes) for _ in range(h * w * 9)]

    kl, mistakes, num_labelled, chosen_weights = [], [], 0, []
    for image in range(len(samples)):
        cells = sorted(
            ((logits[image, p, c].item(), p, c) for p in range(logits.shape[1]) for c in range(3)),
            reverse=True,
        )[:40]
        student = torch.tensor([cell[0] for cell in cells], dtype=torch.float64)
        rows = {name: ([], [], []) for name in KNOWN}
        for _, p, c in cells:
            for number, (name, (scores, gates, knows)) in enumerate(rows.items()):
                known = CLASSES[c] in KNOWN[name]
                channel = KNOWN[name].index(CLASSES[c]) if known else 0
                scores.append(taught[name][image, p, channel])
                gates.append(method.gates[number, level_of[p], c].double())
                knows.append(known)
        columns = [
            [torch.stack(row[0]) for row in rows.values()],
            [torch.stack(row[1]).detach() for row in rows.values()],
            [torch.tensor(row[2]) for row in rows.values()],
        ]
        weights, fused = fuse(student, *columns, math.e)
        kl.append(4 * divergence((fused / 2).softmax(0), (student / 2).softmax(0)))
        for weight, (_, p, c), score in zip(weights.T, cells, fused, strict=True):
            chosen_weights.append((c, weight.tolist()))
            if label_weights[image, p] > 0:
                num_labelled += 1
                target = float(labels[image, p] == c)
                mistakes.append(F.softplus(score) - target * score)
    assert num_labelled < 80  # near misses have no label
    assert any(weights[0] not in (0, 1) for c, weights in chosen_weights if CLASSES[c] == "red")
    torch.testing.assert_close(losses["loss_mulde"].double(), 0.25 * sum(kl) / 2, rtol=1e-4, atol=1e-6)
    expected = 0.5 * sum(mistakes) / num_labelled
    torch.testing.assert_close(losses["loss_mulde_gates"].double(), expected, rtol=1e-4, atol=1e-6)
    for number, name in enumerate(KNOWN):
        for c, class_name in enumerate(CLASSES):
            found = [weights[number] for own_class, weights in chosen_weights if own_class == c]
            if class_name in KNOWN[name]:
                value = losses[f"{name}.weight.{class_name}"].item()
                assert value == pytest.approx(np.mean(found), rel=1e-4, abs=1e-6)
        everything = np.mean([weights[number] for _, weights in chosen_weights])
        assert losses[f"{name}.weight"].item() == pytest.approx(everything, rel=1e-4, abs=1e-6)


def test_terms_of_proposals_are_those_of_the_definition(folder):
    model = distil(folder, faster)
    [method] = model.methods
    with torch.no_grad():
        method.gates.copy_(torch.randn(method.gates.shape, generator=torch.Generator().manual_seed(3)))
    seen = []
    queries = method.source.queries
    method.source.queries = lambda step, observed, gates: (
        seen.extend(observed) or queries(step, observed, gates)
    )
    inputs, samples = batch()
    losses = seeded_loss(model, inputs, samples)
    [outputs] = seen
    answers = {
        name: forward_stage(teacher.model.roi_head, 0, teacher.model.extract_feat(inputs), outputs.rois)[
            0
        ].double()
        for name, teacher in model.teachers.items()
    }
    kl, mistakes, of_red = [], [], []
    for proposal, label in enumerate(outputs.targets.labels.tolist()):
        student = outputs.cls_score[proposal].double().detach()
        scores, gates, knows = [], [], []
        for number, (name, known) in enumerate(KNOWN.items()):
            logit = answers[name][proposal]
            strange = [channel for channel, other in enumerate(known) if other not in CLASSES]
            background = (logit[-1].exp() + sum(logit[channel].exp() for channel in strange)).log()
            own = [logit[known.index(c)] - background if c in known else torch.zeros(()) for c in CLASSES]
            scores.append(torch.tensor([*own, 0.0], dtype=torch.float64))
            gates.append(torch.tensor([*method.gates[number, 0].tolist(), 0.0], dtype=torch.float64))
            knows.append(torch.tensor([*(c in known for c in CLASSES), True]))
        weights, fused = fuse(student, scores, gates, knows, 1.0)
        assert fused[3] == 0
        kl.append(divergence(fused.softmax(0), student.softmax(0)))
        of_red.append(weights[:, 0])
        mistakes += [F.softplus(fused[c]) - float(label == c) * fused[c] for c in range(3)]
    assert len(kl) == 64
    torch.testing.assert_close(losses["loss_mulde"].double(), 0.5 * sum(kl) / 64, rtol=1e-4, atol=1e-6)
    expected = sum(mistakes) / len(mistakes)
    torch.testing.assert_close(losses["loss_mulde_gates"].double(), expected, rtol=1e-4, atol=1e-6)
    found = torch.stack([losses["a.weight.red"], losses["b.weight.red"]]).double()
    torch.testing.assert_close(found, torch.stack(of_red).mean(0).double(), rtol=1e-4, atol=1e-6)
    assert losses["a.weight.white"] == losses["b.weight.platelet"] == 1


def test_stages_of_a_cascade_have_gates_and_weights_of_their_own(folder):
    model = distil(folder, cascade)
    assert model.methods[0].gates.shape == (2, 3, 3)
    losses = seeded_loss(model, *batch())
    names = [f"s{stage}.loss_mulde{part}" for stage in range(3) for part in ("", "_gates")]
    assert all(losses[name] > 0 for name in names)
    model.student.roi_head.stage_loss_weights = [1, 0.25, 0]
    weighed = seeded_loss(model, *batch())
    factors = dict(s0=1, s1=0.5, s2=0)
    for name in names:
        torch.testing.assert_close(weighed[name], losses[name] * factors[name[:2]])


@pytest.mark.parametrize("make", [one_stage, faster])
def test_student_learns_from_the_divergence_and_gates_from_the_labels(make, folder):
    model = distil(folder, make)
    gates = model.methods[0].gates

    def reached(name):
        model.zero_grad()
        losses = seeded_loss(model, *batch())
        losses[name].backward()
        own = [p for p in model.student.parameters() if p.grad is not None and p.grad.any()]
        return bool(own), gates.grad is not None and bool(gates.grad.any())

    assert reached("loss_mulde") == (True, False)
    assert reached("loss_mulde_gates") == (False, True)
    assert all(p.grad is None for teacher in model.teachers.values() for p in teacher.model.parameters())


def test_gates_open_for_a_teacher_that_is_right_and_close_for_one_that_is_wrong(folder):
    """At 200 steps of BCE on a fixed batch, with a teacher that knows the labels and one that says the opposite."""
    model = distil(folder, known=dict(right=CLASSES, wrong=CLASSES), candidates=200)
    [method] = model.methods
    queries = method.source.queries

    def with_answers(step, observed, gates):
        [own] = queries(step, observed, gates)
        truth = 8 * own.targets - 4
        yield own.__class__(**{**vars(own), "teachers": torch.stack([truth, -truth], dim=1)})

    method.source.queries = with_answers
    # Alike in their weights, so that the gates alone tell them apart.
    method.max_attention_temperature, method.attention_epochs = None, 1
    at(model, 0, epoch=600)
    optimizer = torch.optim.SGD([method.gates], lr=20.0)
    for _ in range(30):
        optimizer.zero_grad()
        seeded_loss(model, *batch())["loss_mulde_gates"].backward()
        optimizer.step()
    moved = method.gates.detach() != 1
    assert moved.any()
    assert (method.gates[0][moved[0]] > 1).all()
    assert (method.gates[1][moved[1]] < 1).all()


def test_teacher_with_the_students_weights_and_open_gates_teaches_nothing(folder):
    model = distil(folder, known=dict(a=None), classes=None)
    for make in (None, faster):
        if make:
            model = distil(folder, make, known=dict(a=None), classes=None)
        model.teacher.model.load_state_dict(model.student.state_dict())
        with torch.no_grad():
            model.methods[0].gates.fill_(100.0)
        losses = seeded_loss(model, *batch())
        assert losses["loss_mulde"].item() == pytest.approx(0, abs=1e-6)
        assert losses["a.weight"] == 1


@pytest.mark.parametrize("make", [one_stage, faster, cascade])
def test_weight_of_zero_is_plain_training(make, folder):
    model = distil(folder, make, loss_weight=0.0)
    plain = distil(folder, make).student
    own, alone = seeded_loss(model, *batch()), seeded_loss(plain, *batch())
    for name, value in alone.items():
        assert torch.equal(own[name], value)
    for losses in (own, alone):
        sum(value for name, value in losses.items() if "loss" in name).backward()
    for (name, found), expected in zip(model.student.named_parameters(), plain.parameters(), strict=True):
        if expected.grad is not None:
            torch.testing.assert_close(found.grad, expected.grad, msg=name)


@pytest.mark.parametrize("make", [one_stage, faster])
def test_order_of_the_teachers_does_not_matter(make, folder):
    known = dict(KNOWN, c=CLASSES, d=("white",), e=("red", "platelet"))
    losses, turned = (
        seeded_loss(distil(folder, make, known, taught_by=names), *batch())
        for names in (list("abcde"), list("dbeac"))
    )
    torch.testing.assert_close(turned, losses, rtol=1e-4, atol=1e-5)


def test_attention_is_cooler_early_and_bounded_by_an_option(folder):
    """Shares of class 'red', which two teachers know: sharp in the first epoch, even where nothing bounds the rise."""
    model = distil(folder)
    [method] = model.methods
    assert (method.attention_epochs, method.max_attention_temperature) == (5, math.e)

    def share(epoch, maximum=math.e, every=5):
        method.max_attention_temperature, method.attention_epochs = maximum, every
        at(model, 0, epoch=epoch)
        return model.loss(*batch())["a.weight.red"].item()

    first, later = share(0), share(40)
    assert abs(first - 0.5) > abs(later - 0.5) > 0.001
    assert share(5) == later  # at e in both
    assert share(40, maximum=None) == pytest.approx(0.5, abs=0.001)
    assert share(40, maximum=1) == first
    assert share(40, every=100) == first


@pytest.mark.parametrize("make", [one_stage, faster, cascade])
def test_mean_without_gates_is_the_kl_from_the_mean_of_those_that_know_a_candidate(make, folder):
    model = distil(folder, make, attention="mean", gated=False, candidates=40)
    [method] = model.methods
    seen = []
    queries = method.source.queries
    method.source.queries = lambda *args: [seen.append(own) or own for own in queries(*args)]
    losses = seeded_loss(model, *batch())
    terms = [name for name in losses if "mulde" in name]
    assert len(terms) == len(seen) == (3 if make is cascade else 1)  # none of gates
    for name, own in zip(terms, seen, strict=True):
        expected = []
        for query in range(len(own.student)):
            means = [
                torch.stack([s for s, k in zip(scores, knows, strict=True) if k]).mean()
                for scores, knows in zip(own.teachers[query].T, own.known[query].T, strict=True)
            ]
            pair = torch.stack(means).double().softmax(0), own.student[query].double().softmax(0)
            expected.append(divergence(*pair) * own.weight[query])
        found = losses[name].double()
        expected = 0.5 * own.factor * sum(expected) / own.weight.sum()
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)
    assert losses["a.weight.red"] == losses["b.weight.red"] == 0.5
    assert not [name for name in model.state_dict() if name.endswith("gates")]
    assert not list(method.parameters())
    total(losses).backward()
    assert "gates" not in describe(distil(folder, make, attention="mean", gated=False))


def test_candidates_above_the_number_of_cells_are_capped_and_logged_once(folder, caplog, monkeypatch):
    messages = []
    monkeypatch.setattr(
        "lad.methods.specialists.cells.print_log", lambda message, **more: messages.append(message)
    )
    model = distil(folder, candidates=10**6)
    losses = [model.loss(*batch())["loss_mulde"] for _ in range(2)]
    cells = 9 * 3 * (8 * 12 + 4 * 6 + 2 * 3 + 1 * 2 + 1 * 1)
    [message] = messages
    assert f"has {cells} cells" in message
    assert "candidates=1000000" in message
    exact = distil(folder, candidates=cells)
    torch.testing.assert_close(exact.loss(*batch())["loss_mulde"], losses[0])
    torch.testing.assert_close(losses[1], losses[0])
    assert len(messages) == 1


def test_padding_of_a_smaller_image_has_no_candidates(folder):
    """Its terms are those of the image alone, whatever else is in the batch, also where cells run out."""
    for candidates in (50, 100_000):
        model = distil(folder, candidates=candidates)
        inputs, samples = make_batch((2,), size=(64, 64))
        alone = model.loss(inputs, copy.deepcopy(samples))
        padded = torch.nn.functional.pad(inputs, (0, 128, 0, 64))
        beside = model.loss(padded, copy.deepcopy(samples))
        queries = []
        given = model.methods[0].source.queries

        def recorded(*args, given=given, queries=queries):
            queries.extend(given(*args))
            return iter(queries)

        model.methods[0].source.queries = recorded
        model.loss(padded, copy.deepcopy(samples))
        [found] = queries
        # Cells of 64x64 in levels of strides 8 to 128, with 9 anchors and 3 classes each.
        assert found.known.any(dim=1).sum() == min(candidates, (64 + 16 + 4 + 1 + 1) * 9 * 3)
        assert set(alone) == set(beside)
        assert all(value.isfinite().all() for value in beside.values() if isinstance(value, torch.Tensor))


def test_epochs_of_the_attention_are_refused_where_a_run_counts_iterations(folder):
    bound = distil(folder).bound
    assert check_places(bound, 3, 30) == []
    with pytest.raises(
        ConfigError, match=r"attention_epochs counts epochs, .* use max_attention_temperature=1"
    ):
        check_places(bound, None, 30)
    for settings in (dict(attention="mean"), dict(max_attention_temperature=0.5)):
        assert check_places(distil(folder, **settings).bound, None, 30) == []


def test_every_cell_has_the_gate_of_its_level_and_class(folder):
    """With all cells for candidates; gates are numbered by level and class."""
    model = distil(folder, candidates=10**6)
    [method] = model.methods
    with torch.no_grad():
        method.gates.copy_(torch.arange(30.0).view(2, 5, 3))
    seen = []
    queries = method.source.queries
    method.source.queries = lambda *args: [seen.append(own) or own for own in queries(*args)]
    model.loss(*batch())
    [own] = seen
    expected = torch.arange(5).repeat_interleave(torch.tensor([96, 24, 6, 2, 1]) * 27) * 3
    expected = expected + torch.arange(3).repeat(len(expected) // 3)
    for image in range(2):
        torch.testing.assert_close(own.gates[image, 0].sort().values, expected.sort().values.float())
        torch.testing.assert_close(own.gates[image, 1], own.gates[image, 0] + 15)
        torch.testing.assert_close(own.gates[image, 0] % 3, own.classes[image].float())


# -- The log ----------------------------------------------------------------------------------------------------------


def test_log_has_each_teachers_mean_weight_and_they_are_no_losses(folder):
    model = distil(folder)
    losses = model.loss(*batch())
    total, logged = model.parse_losses(losses)
    names = {"a.weight", "b.weight", "a.weight.red", "b.weight.red", "a.weight.white", "b.weight.platelet"}
    assert {name for name in logged if "weight" in name} == names
    expected = sum(sum(v) if isinstance(v, list) else v for name, v in losses.items() if "loss" in name)
    torch.testing.assert_close(total, expected)
    assert logged["a.weight.red"] + logged["b.weight.red"] == pytest.approx(1, abs=1e-5)
    brief = distil(folder, log_classes=False).loss(*batch())
    assert {name for name in brief if "weight" in name} == {"a.weight", "b.weight"}


def test_class_whose_name_would_make_it_a_loss_is_called_by_its_number(folder):
    names = ("dental floss", "white", "platelet")
    model = distil(folder, known=dict(a=names), classes=names)
    logged = {name for name in model.loss(*batch()) if "weight" in name}
    assert logged == {"a.weight", "a.weight.0", "a.weight.white", "a.weight.platelet"}


def test_class_without_candidates_keeps_its_last_mean(folder):
    model = distil(folder, candidates=20)
    first = model.loss(*batch())
    with torch.no_grad():
        model.student.bbox_head.retina_cls.bias.view(9, 3)[:, 0] = -1e3
    later = model.loss(*batch())
    assert later["a.weight.red"] == first["a.weight.red"] != 0.5
    assert later["a.weight"] != first["a.weight"]


def test_plot_has_a_panel_for_each_class_with_a_line_for_each_teacher():
    assert split_key("a.weight.red") == ("a", "weight.red")
    assert split_key("a+b.a.weight.red") == ("a+b.a", "weight.red")
    assert split_key("a.loss_cls") == ("a", "loss_cls")
    curve = Curve(np.arange(2), np.ones(2))
    keys = ["loss", "a.weight", "a.weight.red", "coco/bbox_mAP"]
    run = Scalars("run", dict.fromkeys(keys, curve), None)
    assert choose_keys([run], None) == ["loss", "a.weight", "coco/bbox_mAP"]
    assert choose_keys([run], ["*.weight.*"]) == ["a.weight.red"]
    with pytest.raises(DataError, match="nothing is logged"):
        choose_keys([run], ["b.weight"])


def test_dry_run_has_a_row_and_the_gates_of_each_teacher(folder):
    text = describe(distil(folder))
    rows = [line.split() for line in text.splitlines() if line.startswith("MulDE")]
    assert [row[1] for row in rows] == ["a", "b"]
    assert all("gates 5x3" in " ".join(row) for row in rows)
    assert "2x18x16x16" in " ".join(rows[0])  # 9 anchors and 2 classes
    assert "loss_mulde_gates" in text


# -- State ------------------------------------------------------------------------------------------------------------


def test_gates_are_saved_beside_the_student_and_come_back(folder):
    model = distil(folder)
    model.loss(*batch())
    with torch.no_grad():
        model.methods[0].gates.normal_()
    state = model.state_dict()
    own = {name: value for name, value in state.items() if name.startswith("distillation.")}
    assert set(own) == {"distillation.MulDE.gates", "distillation.MulDE.mean_weights.last"}
    assert set(state) - set(own) == set(build(one_stage()).state_dict())
    again = distil(folder)
    again.load_state_dict(state)
    torch.testing.assert_close(again.loss(*batch()), model.loss(*batch()))


def test_gates_stay_in_full_precision_under_autocast(folder):
    for make in (one_stage, faster):
        model = distil(folder, make)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            losses = seeded_loss(model, *batch())
        assert losses["loss_mulde"].dtype == losses["loss_mulde_gates"].dtype == torch.float32
        sum(value for name, value in losses.items() if "loss" in name).backward()
        assert model.methods[0].gates.grad.isfinite().all()


def test_teachers_to_search_for_bad_values_are_those_that_are_read(folder):
    assert _modules_read(distil(folder, faster)) == dict(a=("neck",), b=("neck",))


def test_dense_queries_on_cuda_tensors_wait_for_nothing():
    known = KnownClasses(CLASSES, KNOWN)
    heads = {name: build(one_stage(len(classes))).bbox_head for name, classes in KNOWN.items()}
    head = build(one_stage()).bbox_head
    source = DenseQueries.__new__(DenseQueries)
    torch.nn.Module.__init__(source)
    source.owner, source.known, source.candidates, source._capped = "MulDE", known, 20, False
    with fake_cuda():
        for name in ("index", "known"):
            setattr(known, name, getattr(known, name).cuda())

        def levels(classes):
            return [torch.randn(2, 9 * classes, size, size, device="cuda") for size in (4, 2, 1, 1, 1)]

        views = {
            name: SimpleNamespace(
                model=SimpleNamespace(bbox_head=own),
                target=lambda module, own=own: [[levels(own.num_classes)]],
            )
            for name, own in heads.items()
        }
        step = SimpleNamespace(
            student=SimpleNamespace(bbox_head=head),
            outputs=dict(bbox_head=[levels(3)]),
            teachers=views,
            data_samples=[SimpleNamespace(metainfo=dict(pad_shape=shape)) for shape in ((32, 32), (32, 16))],
        )
        labels = torch.zeros(2, 207, dtype=torch.long, device="cuda")
        observed = SimpleNamespace(labels=lambda *_: DenseLabels(labels, labels == 0, labels == 0, 1.0))
        [queries] = source.queries(step, observed, torch.ones(2, 5, 3, device="cuda"))
        assert queries.teachers.shape == queries.gates.shape == queries.known.shape == (2, 2, 20)
        assert {value.device.type for value in vars(queries).values() if isinstance(value, torch.Tensor)} == {
            "cuda"
        }


# -- Mistakes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        (dict(candidates=1), "candidates must be a whole number of at least 2, got 1"),
        (dict(attention_epochs=0), "attention_epochs must be"),
        (dict(temperature=0.0), "temperature must be above 0"),
        (dict(loss_weight=-1.0), "loss_weight must be at least 0"),
        (dict(max_attention_temperature=0.0), "max_attention_temperature must be positive"),
        (dict(loss_name="mulde"), "must contain 'loss'"),
        (dict(attention="none"), "attention must be one of contrastive, mean, got 'none'"),
        (dict(gated="no"), "gated must be True or False, got 'no'"),
        (dict(knows=["red"]), "knows must be like"),
        (dict(knows=dict(a="red")), "knows.a must be a list of the teacher's class names"),
        (dict(knows=dict(a=[1, 2])), "knows.a must be a list of the teacher's class names"),
        (dict(knows=dict(a=3)), "knows.a must be a list of the teacher's class names"),
        (dict(max_attention_temperature=dict(type="linear", end=2.0)), "max_attention_temperature must be a"),
        (dict(log_classes="no"), "log_classes must be True or False"),
        (dict(ensemble="average"), "leave out ensemble"),
        (dict(classes=("red", "white", "dog")), "no teacher knows the class 'dog'"),
        (dict(known=dict(a=None, b=CLASSES)), r"teacher 'a' records none: add knows=dict\(a="),
    ],
)
def test_wrong_settings_are_refused_in_one_line(settings, says, folder):
    with pytest.raises(ConfigError, match=says) as refused:
        distil(folder, **settings)
    assert "\n" not in str(refused.value)


def softmax(count):
    """A RetinaNet with a softmax over classes and background."""
    config = one_stage(count)
    config.bbox_head.loss_cls = dict(type="CrossEntropyLoss", use_sigmoid=False)
    return config


def mixed(tmp_path, student, teacher, **method):
    """A student and one teacher of other detectors."""
    return distil(tmp_path, lambda count: student if count == 3 else teacher, **method)


@pytest.mark.parametrize(
    ("student", "teacher", "says"),
    [
        (
            one_stage(),
            dense("retinanet", num_classes=2, anchor_generator=dict(strides=[4, 8, 16, 32, 64])),
            r"MulDE \(teacher a\) compares two heads prior by prior, and",
        ),
        (
            one_stage(),
            dense("retinanet", num_classes=2, anchor_generator=dict(ratios=[1.0, 0.5, 2.0])),
            r"MulDE \(teacher a\) compares two heads prior by prior, and",
        ),
        (one_stage(), faster(2), r"MulDE \(teacher a\) does not fit teacher FasterRCNN \(no bbox_head\)"),
        (faster(), one_stage(2), r"MulDE \(teacher a\) does not fit teacher RetinaNet \(no roi_head\)"),
        (
            softmax(3),
            dense("retinanet", num_classes=2),
            "the student's classifier is softmax and the teacher's sigmoid",
        ),
    ],
)
def test_detectors_that_do_not_correspond_are_refused(student, teacher, says, tmp_path):
    with pytest.raises(UnsupportedError, match=says) as refused:
        mixed(tmp_path, student, teacher, known=dict(a=("white", "red")))
    assert "\n" not in str(refused.value)


def test_softmax_dense_heads_and_sigmoid_roi_heads_are_refused(tmp_path):
    def sigmoid(count):
        return two_stage("faster", num_classes=count, head=dict(loss_cls=dict(use_sigmoid=True)))

    with pytest.raises(UnsupportedError, match=r"RetinaHead has a softmax .* works with dense heads whose"):
        distil(tmp_path, softmax)
    with pytest.raises(
        UnsupportedError, match="has a sigmoid for each class; it works with softmax RoI heads"
    ):
        distil(tmp_path, sigmoid)


def test_detrs_and_training_without_labels_are_refused(tmp_path):
    with pytest.raises(UnsupportedError, match=r"MulDE .* does not fit student DeformableDETR"):
        distil(tmp_path, lambda count: small_detr("one_stage"), known=dict(a=None))
    model = distil(tmp_path)
    with pytest.raises(UnsupportedError, match="MulDE needs the labels of the student's own loss"):
        model.methods[0].check_without_labels(model.student)


def test_classes_of_the_config_must_be_the_datas_in_their_order(folder):
    model = distil(folder)
    _check_teacher_classes(model, CLASSES)
    with pytest.raises(ConfigError, match="MulDE: classes red, white, platelet are not the training data's"):
        _check_teacher_classes(model, CLASSES[::-1])
    nameless = distil(folder, known=dict(a=None), knows=dict(a=CLASSES))
    with pytest.raises(ConfigError, match="are not the training data's"):
        _check_teacher_classes(nameless, CLASSES[::-1])
    alike = distil(folder, known=dict(a=None, b=CLASSES), classes=None)
    with pytest.raises(ConfigError, match="the teacher b was trained on other classes"):
        _check_teacher_classes(alike, CLASSES[::-1])


def test_registered_under_its_papers_name():
    assert MODELS.get("MulDE").__name__ == "MulDE"
