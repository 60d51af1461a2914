"""One direction of imports: nothing lower knows anything above it."""

import ast

import pytest
from helpers import ROOT

# From the bottom up; a package may import itself and what stands before it.
LAYERS = [
    ["errors"],
    [
        "checkpoint",
        "config",
        "capture",
        "mmcv_ops",
        "optim",
        "teacher_cache",
        "teacher_speed",
        "shapes",
        "losses",
        "connectors",
        "phases",
        "inheritance",
        "modes",
    ],
    ["compat"],
    ["assignment", "heads", "datasets", "evaluation", "visualization"],
    ["teacher", "ensemble", "teachers"],
    ["methods"],
    ["detectors"],
    ["engine"],
    ["hooks"],
    ["checks", "wiring"],
    ["profiling"],
    ["cli"],
    ["benchmark"],
]
RANK = {name: rank for rank, layer in enumerate(LAYERS) for name in layer}


def imported(path):
    """The parts of lad that a file imports, wherever in the file."""
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "lad":
            parts = node.module.split(".")
            names = parts[1:2] or [alias.name for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name.split(".")[1] for alias in node.names if alias.name.startswith("lad.")]
        yield from names


FILES = sorted(path for path in (ROOT / "lad").rglob("*.py") if path != ROOT / "lad/__init__.py")


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_file_imports_nothing_from_above(path):
    own = path.relative_to(ROOT / "lad").parts[0].removesuffix(".py")
    assert own in RANK, f"give {own} a layer"
    above = {name for name in imported(path) if RANK[name] > RANK[own]}
    assert not above


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
    assert patching == {"lad/compat.py", "lad/mmcv_ops/extension.py"}
