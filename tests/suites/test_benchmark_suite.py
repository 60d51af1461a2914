"""Suite files are read, and mistakes in them are refused in one line."""

from lad.errors import ConfigError
from suites.suite import Need, Statement
from suites.suite_file import load_suite

import pytest
import yaml
from helpers import ROOT

SUITE = dict(
    name="small",
    seeds=[0, 1],
    options=dict(train_dataloader=dict(num_workers=0)),
    schedule=dict(train_cfg=dict(max_epochs=1)),
    entries=dict(
        teacher=dict(config="t.py", seeds=[0]),
        student=dict(config="s.py", title="Student"),
        lad=dict(
            config="l.py",
            needs=dict(teacher=dict(entry="teacher", seed=0)),
            options={"model.teacher.checkpoint": "{teacher}", "train_cfg.max_epochs": 3},
            baseline="student",
        ),
        colad=dict(config="c.py", networks=dict(a=dict(baseline="student"), b=dict(title="B"))),
    ),
    claims=[
        dict(text="better", better="lad", than="student"),
        dict(
            text="both",
            statements=[dict(better="colad.a", than="student"), dict(better="lad", than="colad.b")],
        ),
    ],
)


def write(tmp_path, **changes):
    """A suite's file: the one above with parts replaced by dotted name (None takes a part out)."""
    content = yaml.safe_load(yaml.safe_dump(SUITE, sort_keys=False))
    for name, value in changes.items():
        *path, last = name.split("__")
        inner = content
        for key in path:
            inner = inner[key]
        if value is None:
            del inner[last]
        else:
            inner[last] = value
    file = tmp_path / "suite.yaml"
    file.write_text(yaml.safe_dump(content, sort_keys=False))
    return file


def test_a_suite_is_read(tmp_path):
    suite = load_suite(write(tmp_path))
    assert list(suite.networks) == ["teacher", "student", "lad", "colad.a", "colad.b"]
    assert suite.networks["colad.a"].title == "colad: a"
    assert suite.networks["colad.a"].baseline == "student"
    assert suite.entries["teacher"].seeds == (0,)
    assert suite.entries["lad"].seeds == (0, 1)
    assert suite.entries["lad"].needs == dict(teacher=Need("teacher", 0))
    # An entry's options stand above the suite's.
    assert suite.options_of(suite.entries["lad"]) == {
        "train_dataloader.num_workers": 0,
        "train_cfg.max_epochs": 3,
        "model.teacher.checkpoint": "{teacher}",
    }
    assert suite.claims[1].statements == (Statement("colad.a", "student"), Statement("lad", "colad.b"))


def test_a_statement_may_be_for_information(tmp_path):
    told = [dict(better="lad", than="student"), dict(better="lad", than="teacher", decides=False)]
    claim = load_suite(write(tmp_path, claims=[dict(text="x", statements=told)])).claims[0]
    assert [statement.decides for statement in claim.statements] == [True, False]


def test_a_need_may_be_named_deep_in_an_option(tmp_path):
    options = {"custom_hooks": [dict(type="X", files=["{teachr}"])]}
    with pytest.raises(
        ConfigError, match=r"{teachr} is not among its needs: there is no 'teachr'; nearest: teacher"
    ):
        load_suite(write(tmp_path, entries__lad__options=options))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(sedes=[0]), "unknown key 'sedes'; nearest: seeds"),
        (dict(entries__lad__need={}), "entry 'lad': unknown key 'need'; nearest: needs"),
        (dict(entries__lad__config=None), "entry 'lad': 'config' is missing"),
        (dict(seeds=None), "suite.yaml: 'seeds' is missing"),
        (dict(seeds=[]), r"seeds must be non-empty, got \[\]"),
        (dict(seeds=[0, 0]), r"seeds must be different numbers, got \[0, 0\]"),
        (dict(seeds=True), "seeds must be a list, got True"),
        (dict(seeds=[True]), r"seeds\[0\] must be a whole number, got True"),
        (dict(entries__lad__seeds=["a"]), r"entry 'lad': seeds\[0\] must be a whole number, got 'a'"),
        (dict(name="A b"), "name must be a name of small letters, digits, '_' and '-', got 'A b'"),
        (dict(entries__Lad=dict(config="l.py")), "entry names must be a name of small letters.*, got 'Lad'"),
        # Of an unknown key and the missing one that it was meant to be, the unknown one is named.
        (dict(name=None, nmae="small"), "unknown key 'nmae'; nearest: name"),
        (
            dict(entries__lad__baseline="studnet"),
            "entry 'lad': baseline: there is no 'studnet'; nearest: student",
        ),
        (dict(entries__lad__baseline="colad"), "entry 'lad': baseline: there is no 'colad'; nearest: colad"),
        (
            dict(entries__lad__needs__teacher__entry="big"),
            "needs.teacher: there is no 'big'; known: teacher, student",
        ),
        (dict(entries__lad__needs__teacher__seed=1), "needs.teacher: 'teacher' has no seed 1"),
        (
            dict(entries__lad__needs__teacher=dict(entry="teacher")),
            "entry 'lad': needs.teacher: 'seed' is missing",
        ),
        (
            dict(entries__lad__needs__teacher__seed="0"),
            "needs.teacher.seed must be a whole number or 'same', got '0'",
        ),
        (dict(entries__lad__needs__teacher__seed="same"), "needs.teacher: 'teacher' has no seed 1; it has 0"),
        (dict(entries__lad__needs__teacher__entry="colad"), "'colad' trains several networks"),
        (dict(entries__lad__needs=None), "{teacher} is not among its needs"),
        (dict(entries__teacher__needs=dict(x=dict(entry="lad", seed=0))), "lad, teacher need each other"),
        (
            dict(entries__lad__evaluate=False),
            "entry 'lad': evaluate: false has no row of results; remove networks, baseline and evaluate_with",
        ),
        (
            dict(entries__student__evaluate=False),
            "entry 'lad': baseline: there is no 'student'",
        ),
        (dict(entries__lad__evaluate=0), "entry 'lad': evaluate must be true or false, got 0"),
        (dict(entries__colad__baseline="student"), "entry 'colad': its networks have baselines"),
        (
            dict(entries__colad__networks__a=dict(tilte="A")),
            "entry 'colad': networks.a: unknown key 'tilte'; nearest",
        ),
        (
            dict(entries__title=dict(config="t.py", sees=[0])),
            "entry 'title': unknown key 'sees'; nearest: seeds",
        ),
        (
            dict(entries__student__evaluate_with="p.py", entries__student__options={"model.head.topk": 3}),
            "entry 'student': options: model.head.topk would not reach the detector that is evaluated",
        ),
        (dict(claims=[dict(text="x", better="lad")]), "claim 'x' needs either better and than"),
        (dict(claims=[dict(text="x", better="a", statements=[])]), "claim 'x' needs either better and than"),
        (dict(claims=[dict(text="x", better="lad", than="lad")]), "claim 'x': 'lad' is compared with itself"),
        (dict(entries__lad__baseline="lad"), "entry 'lad': its baseline is itself"),
        (
            dict(entries__lad__options={"train_cfg.max_epochs": 3}),
            r"entry 'lad': needs.teacher: no option uses it: write '\{teacher\}'",
        ),
        (
            dict(options={"model.teacher.checkpoint": "{teacher}"}),
            r"options: \{teacher\} stands for what an entry",
        ),
        (dict(claims=[dict(text="x", better="lad", than="nobody")]), "claim 'x': there is no 'nobody'"),
        (
            dict(claims=[dict(text="x", statements=[dict(better="lad", than="student", decides=1)])]),
            r"claim 'x': statements\[0\].decides must be true or false, got 1",
        ),
        (
            dict(claims=[dict(text="x", statements=[dict(better="lad", than="student", decides=False)])]),
            "claim 'x' needs a statement that decides",
        ),
        (dict(claims=[dict(better="lad", than="student")]), r"claims\[0\]: 'text' is missing"),
        (dict(claims=["x"]), r"claims\[0\] must be a mapping, got 'x'"),
        (dict(entries=["lad"]), "entries must be a mapping, got a list"),
        (dict(entries={}), "entries must be non-empty"),
        (dict(options=3), "options must be a mapping, got 3"),
        (dict(seeds=[-1]), r"seeds\[0\] must be a whole number from 0 on, got -1"),
        (dict(seeds=[2**32]), r"seeds\[0\] must be a whole number below 2\^32"),
    ],
)
def test_what_a_suite_cannot_say_is_answered_in_one_line(tmp_path, changes, message):
    with pytest.raises(ConfigError, match=message) as caught:
        load_suite(write(tmp_path, **changes))
    assert "\n" not in str(caught.value)
    assert "suite.yaml" in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: x\nname: y\n", "'name' stands in line 1 and again in line 2"),
        (
            "entries:\n  a: {config: x}\n  b: {config: x}\n  a: {config: y}\n",
            "'a' stands in line 2 and again in line 4",
        ),
        ("options: {lr: 1, lr: 2}\n", "'lr' stands in line 1 and again in line 1"),
    ],
)
def test_a_key_that_stands_twice_is_named_with_its_lines(tmp_path, text, message):
    """PyYAML keeps the last one, and an entry is gone."""
    (tmp_path / "suite.yaml").write_text(text)
    with pytest.raises(ConfigError, match=message) as caught:
        load_suite(tmp_path / "suite.yaml")
    assert "\n" not in str(caught.value)


def test_what_is_merged_may_be_overridden(tmp_path):
    (tmp_path / "suite.yaml").write_text(
        "name: x\nseeds: [0]\nentries:\n  a: {config: a.py, options: &some {lr: 1}}\n"
        "  b: {config: a.py, options: {<<: *some, lr: 2}}\n"
    )
    assert load_suite(tmp_path / "suite.yaml").entries["b"].options == {"lr": 2}
    # Also in what is merged itself, and before its own turn to be read.
    (tmp_path / "suite.yaml").write_text(
        "name: x\nseeds: [0]\nentries:\n  a: {config: a.py, options: &some {lr: 1}}\n"
        "  b: {config: a.py, options: &more {<<: *some, lr: 2}}\noptions: {<<: *more, momentum: 3}\n"
    )
    suite = load_suite(tmp_path / "suite.yaml")
    assert suite.options == {"lr": 2, "momentum": 3}
    assert suite.entries["b"].options == {"lr": 2}


def test_a_suite_that_is_no_yaml_or_not_there_is_named(tmp_path):
    broken = tmp_path / "broken.yaml"
    broken.write_text("name: [")
    with pytest.raises(ConfigError, match=r"broken\.yaml is not YAML"):
        load_suite(broken)
    with pytest.raises(ConfigError, match=r"there is no suite .*brokn\.yaml'; nearest: .*broken\.yaml"):
        load_suite(tmp_path / "brokn.yaml")


@pytest.mark.parametrize(
    "path", sorted((ROOT / "configs/benchmarks").glob("*.yaml")), ids=lambda path: path.stem
)
def test_the_projects_suites_name_configs_that_are_there(path):
    suite = load_suite(path)
    assert suite.name == path.stem
    for entry in suite.entries.values():
        assert (ROOT / entry.config).is_file()
        assert entry.evaluate_with is None or (ROOT / entry.evaluate_with).is_file()


def test_the_blood_cell_suite_is_the_papers_comparison():
    suite = load_suite(ROOT / "configs/benchmarks/bccd.yaml")
    assert len(suite.networks) == 22
    looked_at = ("big-2x", "kd-2x", "small-uniform-2x", "kd-gamma0", "kd-gamma2")
    once = {*looked_at, *(f"lad-uniform-{name}" for name in ("2x", "both-2x", "topk5", "topk15"))}
    assert {entry.seeds for name, entry in suite.entries.items() if name not in once} == {(0, 1, 2)}
    # MMDetection's LAD averages the box loss as this one does: the two differ in nothing but the code.
    assert suite.networks["mmdet-lad"].baseline == "lad-uniform"
    # The bigger network teaches the smaller one and the other way round.
    assert {
        suite.entries[name].needs["teacher"]
        for name in ("kd", "lad", "solad", "lad-uniform", "solad-uniform", "mmdet-lad")
    } == {Need("big", 0)}
    assert {suite.entries[name].needs["teacher"] for name in ("big-kd", "big-lad")} == {Need("small", 0)}
