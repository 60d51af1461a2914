"""The console command ``lad``: what it lists, what it starts, and what it says where something is missing."""

import ast
import importlib
import json
import subprocess
import sys

import lad_cli
from lad import __main__ as console
from lad.compat.stack import require_stack
from lad.errors import MissingPackageError

import pytest
from helpers import ROOT

#: What takes seconds to import.
HEAVY = {"torch", "torchvision", "numpy", "mmengine", "mmcv", "mmdet"}


def modules_of(folder):
    return {path.stem for path in folder.glob("*.py")} - {"__init__"}


def said(monkeypatch, capsys, *arguments):
    """Exit code, output and errors of ``lad ARGUMENTS``."""
    monkeypatch.setattr(sys, "argv", ["lad", *arguments])
    code = 0
    try:
        console.main()
    except SystemExit as end:
        code = end.code
    output = capsys.readouterr()
    return code, output.out, output.err


def test_every_command_is_a_module_with_a_main():
    names = {name.replace("-", "_") for name in console.COMMANDS}
    assert modules_of(ROOT / "lad/commands") == names
    for name in names - {"benchmark"}:
        assert callable(importlib.import_module(f"lad.commands.{name}").main), name


@pytest.mark.parametrize(
    ("tool", "command"),
    [
        ("train", "train"),
        ("test", "test"),
        ("check_dataset", "check"),
        ("model_info", "info"),
        ("visualize_assignment", "visualize"),
        ("search", "search"),
        ("label", "label"),
        ("export", "export"),
        ("online_distill", "online_distill"),
        ("demo", "demo"),
    ],
)
def test_tool_calls_the_function_of_its_command(tool, command):
    tree = ast.parse((ROOT / f"tools/{tool}.py").read_text())
    (imported,) = [node for node in tree.body if isinstance(node, ast.ImportFrom)]
    assert (imported.module, imported.names[0].name) == (f"lad.commands.{command}", "main")
    assert not [node for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)]


def test_help_and_version_import_nothing_heavy():
    """In a new process, started as the installed script starts it."""
    for option in ("--help", "--version"):
        code = (
            f"import json, sys; sys.argv = ['lad', {option!r}]\n"
            "import lad_cli\n"
            "try:\n    lad_cli.main()\nexcept SystemExit:\n    pass\n"
            "print(json.dumps(sorted({name.split('.')[0] for name in sys.modules})), file=sys.stderr)\n"
        )
        done = subprocess.run(
            [sys.executable, "-c", code],
            env=dict(PYTHONPATH=f"{ROOT}:{ROOT / 'tools'}"),
            capture_output=True,
            text=True,
            check=True,
        )
        loaded = set(json.loads(done.stderr.splitlines()[-1]))
        assert "argparse" in loaded
        assert not loaded & (HEAVY | {"lad"})
        for name in console.COMMANDS if option == "--help" else console.DISTRIBUTIONS:
            assert name in done.stdout


def test_entry_point_of_the_script_runs_the_same_file(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["lad", "--help"])
    with pytest.raises(SystemExit) as end:
        lad_cli.main()
    assert end.value.code == 0
    assert "dry-run" in capsys.readouterr().out


def test_unknown_command_names_the_nearest(monkeypatch, capsys):
    code, _, errors = said(monkeypatch, capsys, "trian", "config.py")
    assert code == 2
    assert errors.splitlines()[-1] == "lad: error: there is no command 'trian'; nearest: train"


def test_command_reads_its_own_arguments(monkeypatch):
    seen = []
    monkeypatch.setattr(sys, "argv", ["lad", "dry-run", "a.py", "--version"])
    monkeypatch.setattr(
        importlib.import_module("lad.commands.dry_run"), "main", lambda: seen.extend(sys.argv)
    )
    console.main()
    assert seen == ["lad dry-run", "a.py", "--version"]


def test_missing_stack_is_one_line_and_any_other_import_error_is_not_hidden(monkeypatch, capsys):
    def fail(error):
        def run(name):
            raise error

        monkeypatch.setattr(importlib, "import_module", run)
        with pytest.raises((SystemExit, ImportError)) as end:
            console.run("train", [])
        return end.value

    monkeypatch.setattr(sys, "argv", ["lad"])
    assert fail(MissingPackageError("lad needs mmdet: ...")).code == 2
    assert capsys.readouterr().err == "error: lad needs mmdet: ...\n"
    broken = ImportError("libtorch.so is not there")
    assert fail(broken) is broken


def test_missing_modules_are_named_with_the_extras_that_bring_them():
    require_stack()
    with pytest.raises(MissingPackageError) as refusal:
        require_stack(("mmdet", "no_such_mmcv", "no_such_mmengine"))
    message = str(refusal.value)
    assert message.startswith(
        "lad needs no_such_mmcv and no_such_mmengine: pip install 'lad-detection[lite]'"
    )
    assert "\n" not in message
    pyproject = (ROOT / "pyproject.toml").read_text()
    assert 'name = "lad-detection"' in pyproject
    for extra in ("lite", "onedl", "openmmlab"):
        assert f"[{extra}]" in message
        assert f"\n{extra} = [" in pyproject


@pytest.fixture
def environment(tmp_path, monkeypatch):
    """A function that installs distributions of mmcv into one of two folders of packages, and takes `lad --version`."""
    folders = [tmp_path / "first", tmp_path / "second"]

    def install(*names, folder=0, kernels=False):
        (folders[folder] / "mmcv").mkdir(parents=True, exist_ok=True)
        (folders[folder] / "mmcv/__init__.py").touch()
        if kernels:
            (folders[folder] / "mmcv/_ext.cpython-311-x86_64-linux-gnu.so").touch()
        for name in names:
            info = folders[folder] / f"{name.replace('-', '_')}-2.1.0.dist-info"
            info.mkdir()
            (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 2.1.0\n")

    def last_line():
        code = "import sys; sys.argv = ['lad', '--version']; import lad_cli; lad_cli.main()"
        paths = [*folders, ROOT, ROOT / "tools"]
        done = subprocess.run(
            [sys.executable, "-S", "-c", code],
            env=dict(PYTHONPATH=":".join(map(str, paths))),
            capture_output=True,
            text=True,
            check=True,
        )
        return done.stdout.splitlines()[-1]

    return install, last_line


def test_version_lists_what_is_installed(environment):
    install, last_line = environment
    assert last_line() == "mmcv         not installed"
    install("mmcv-lite")
    assert last_line() == "mmcv         mmcv-lite 2.1.0 (kernels of torchvision)"


def test_version_tells_compiled_kernels(environment):
    install, last_line = environment
    install("onedl-mmcv", kernels=True)
    assert last_line() == "mmcv         onedl-mmcv 2.1.0 (compiled kernels)"


def test_version_warns_of_distributions_in_one_folder_not_of_those_behind_each_other(environment):
    install, last_line = environment
    install("onedl-mmcv")
    install("mmcv-lite", folder=1)
    assert last_line() == "mmcv         onedl-mmcv 2.1.0 (kernels of torchvision)"
    install("mmcv")
    assert last_line() == (
        "mmcv         mmcv 2.1.0 and onedl-mmcv 2.1.0: they share their files; uninstall both, then install one"
    )


def test_benchmark_runs_the_tool_beside_its_suites(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["lad benchmark", "--help"])
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if not entry.endswith("tools")])
    with pytest.raises(SystemExit) as end:
        importlib.import_module("lad.commands.benchmark").main()
    assert end.value.code == 0
    assert "usage: lad benchmark" in capsys.readouterr().out
