"""One direction of imports, a small top level, no drawing code in a training."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import ROOT
from stacks import MMDET_LOADS_PYPLOT

#: From the bottom up: a package imports itself and what stands before it. No two stand side by side.
ORDER = [
    "errors",
    "base",
    "mmcv_ops",
    "compat",
    "losses",
    "assignment",
    "heads",
    "datasets",
    "evaluation",
    "networks",
    "exchange",
    "methods",
    "detectors",
    "engine",
    "export",
    "synthesis",
    "online",
    "cli",
    "federated",
    "analysis",
    "search",
    "recipes",
    "commands",
    "__main__",
]
RANK = {name: rank for rank, name in enumerate(ORDER)}
#: Packages that draw, which a training must not load.
DRAWING = {"matplotlib", "seaborn"}


def imported(path: Path) -> set[str]:
    """The parts of lad that a file imports, wherever in the file."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            raise AssertionError(f"{path}: relative imports hide where they lead")
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "lad":
            parts = node.module.split(".")
            names.update(parts[1:2] or [alias.name for alias in node.names])
        elif isinstance(node, ast.Import):
            names.update(alias.name.split(".")[1] for alias in node.names if alias.name.startswith("lad."))
    return names


FILES = sorted(path for path in (ROOT / "lad").rglob("*.py") if path != ROOT / "lad/__init__.py")


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_file_imports_nothing_from_above(path):
    own = path.relative_to(ROOT / "lad").parts[0].removesuffix(".py")
    assert own in RANK, f"give {own} a place in ORDER"
    above = {name for name in imported(path) if name != own and RANK[name] >= RANK[own]}
    assert not above


def test_order_names_every_package_once():
    packages = {path.parent.name for path in (ROOT / "lad").glob("*/__init__.py")}
    modules = {path.stem for path in (ROOT / "lad").glob("*.py")} - {"__init__"}
    assert sorted(ORDER) == sorted(packages | modules)


def test_top_level_of_the_package_holds_packages_and_at_most_five_files():
    assert len([path for path in (ROOT / "lad").iterdir() if path.is_file()]) <= 5


def test_package_imports_nothing_of_the_tools():
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom):
                assert (node.module or "").split(".")[0] not in ("suites", "tools"), path


def test_importing_lad_loads_no_drawing_code():
    """In a process of its own: tests load pictures. MMDetection's fork loads pyplot itself."""
    code = "import sys, lad; print(*sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = done.stdout.split()
    assert "lad.detectors" in loaded
    assert MMDET_LOADS_PYPLOT or not DRAWING & {name.split(".")[0] for name in loaded}
    assert not [name for name in loaded if name.startswith("lad.analysis.pictures")]


def test_nothing_but_compat_changes_another_package():
    """Assignments to attributes of imported modules, which is how patches are made."""
    patching = set()
    for path in FILES:
        tree = ast.parse(path.read_text())
        foreign = {
            (alias.asname or alias.name).split(".")[0]
            for node in ast.walk(tree)
            if isinstance(node, ast.Import | ast.ImportFrom)
            and not (getattr(node, "module", None) or node.names[0].name).startswith("lad")
            for alias in node.names
        }
        for node in ast.walk(tree):
            if isinstance(node, ast.Assign):
                for target in node.targets:
                    root = target
                    while isinstance(root, ast.Attribute):
                        root = root.value
                    if (
                        isinstance(target, ast.Attribute)
                        and isinstance(root, ast.Name)
                        and root.id in foreign
                    ):
                        patching.add(str(path.relative_to(ROOT)))
    # The stand-in puts itself where mmcv looks for its extension.
    assert patching == {"lad/compat/patches.py", "lad/mmcv_ops/extension.py"}
