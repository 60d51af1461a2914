"""The wheel alone, in an environment of its own and an empty folder."""

import os
import shutil
import subprocess
import sys
import sysconfig

import pytest
from helpers import ROOT

pytestmark = pytest.mark.slow

SOURCES = ("lad", "configs", "tools", "setup.py", "pyproject.toml", "README.md", "LICENSE")
#: Four images, one epoch.
SMALL = ("--images", "4", "--val-images", "2", "--epochs", "1")


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """Folder of a virtual environment that has the wheel; every other package is the one that runs this test."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    source.mkdir()
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(
                ROOT / name, source / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__")
            )
        else:
            shutil.copy(ROOT / name, source / name)
    pip = [sys.executable, "-m", "pip", "--quiet"]
    build = [*pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", folder, source]
    subprocess.run(build, check=True)
    # What is not in the wheel must not be found.
    shutil.rmtree(source)
    home = folder / "env"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", home], check=True)
    (wheel,) = folder.glob("lad_detection-*.whl")
    install = ["--python", home / "bin/python", "install", "--no-deps", "--no-index", wheel]
    subprocess.run([*pip, *install], check=True)
    (packages,) = home.glob("lib/python*/site-packages")
    # The packages, not the editable installation of this project among them, which a .pth file of theirs names.
    (packages / "other_packages.pth").write_text(sysconfig.get_path("purelib"))
    return home


def lad(environment, folder, *arguments):
    """Run the installed command in a folder; returns its output."""
    variables = {
        name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")
    }
    done = subprocess.run(
        [environment / "bin/lad", *map(str, arguments)],
        cwd=folder,
        env=variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:]
    return done.stdout


def test_modules_come_from_the_wheel(environment, tmp_path):
    python = [environment / "bin/python", "-c", "import lad; print(lad.__file__)"]
    found = subprocess.run(python, cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    assert found.startswith(str(environment))
    assert "lad-detection" in lad(environment, tmp_path, "--version").splitlines()[0]


def test_demo_trains_from_an_empty_folder(environment, tmp_path):
    output = lad(environment, tmp_path, "demo", *SMALL)
    assert "| student with LAD |" in output
    assert (tmp_path / "work_dirs/demo/lad/student.py").is_file()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "work_dirs"]
    # The distilled student is tested by the package's own config, and by the one beside its checkpoint.
    checkpoint = "work_dirs/demo/lad/epoch_1.pth"
    for config in ("lad::lad/lad_paa-r18-c16_paa-r18-c32_fpn_digits.py", "work_dirs/demo/lad/student.py"):
        assert "coco/bbox_mAP" in lad(environment, tmp_path, "test", config, checkpoint)


def test_suites_and_shell_scripts_are_in_the_wheel(environment, tmp_path):
    assert "usage: lad benchmark" in lad(environment, tmp_path, "benchmark", "--help")
    (tools,) = environment.glob("lib/python*/site-packages/lad/.mim/tools")
    for name in ("dist_train.sh", "slurm_train.sh", "slurm_train.sbatch"):
        assert os.access(tools / name, os.X_OK), name
