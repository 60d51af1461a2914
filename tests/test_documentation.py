"""Everything that the documentation tells readers to type is run: each command, and each listing in Python.

The commands are collected from the shell blocks and the sentences of README.md, CONTRIBUTING.md and docs/. A command
runs in a project folder with data sets of a few small images and untrained weights (``documentation.project``), as it
stands, with what the tables below add to it or put in the place of its placeholders. What only a network or a cluster
could answer is listed with its reason, and checked in another way.
"""

from __future__ import annotations

import ast
import re
import shlex
import subprocess
from dataclasses import dataclass, field
from inspect import signature
from pathlib import Path
from unittest import mock

from lad.base.config import load_config
from lad.commands.federate import parse_args as parse_federate_args
from lad.detectors import DistillationDetector
from suites.suite_file import load_suite

import pytest
from documentation.pages import (
    PAGES,
    SHELLS,
    Block,
    Command,
    all_blocks,
    blocks,
    commands,
    commands_of,
    inline_commands,
)
from documentation.project import Project
from documentation.running import run
from helpers import ROOT
from mmdet.registry import MODELS

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10
    tomllib = None

# -- The tables ---------------------------------------------------------------------------------------------------

#: What stands for readers' own names, in every command.
PLACEHOLDERS = {
    "CONFIG": "configs/lad/paa_r18-c16_fpn_digits.py",
    "CHECKPOINT": "work_dirs/paa_r18-c16_fpn_digits/epoch_1.pth",
    "WORK_DIR": "work_dirs/job",
    "RUN": "paa_r18-c16_fpn_digits",
    "PARTITION": "gpu",
    "JOB": "lad",
    "IMAGE": "id=1",
    "id=9": "id=1",
    "BloodImage_00002.jpg": "val_1.jpg",
    "annotations/train.json": "data/mine/annotations/train.json",
    "images/train": "data/mine/train",
}
#: One epoch of two or four images, in one process.
SHORT = " ".join(
    [
        "--cfg-options train_cfg.max_epochs=1 train_cfg.val_interval=1 train_dataloader.batch_size=2",
        *(f"{name}_dataloader.num_workers=0" for name in ("train", "val", "test")),
        *(f"{name}_dataloader.persistent_workers=False" for name in ("train", "val", "test")),
    ]
)
#: The same on images of 64 x 64 pixels, where MMDetection's configs make them large.
SMALL = " ".join(
    [
        SHORT,
        "'train_dataloader.dataset.pipeline.2.scale=(64,64)'",
        *(f"'{name}_dataloader.dataset.pipeline.1.scale=(64,64)'" for name in ("val", "test")),
    ]
)
#: A pretraining without labels, which has no validation.
VIEWS = " ".join(
    [
        "--cfg-options train_cfg.max_epochs=1 train_dataloader.batch_size=2",
        "train_dataloader.num_workers=0 train_dataloader.persistent_workers=False",
    ]
)
#: Leaves a folder of digits.
CUT = (
    "python tools/dataset_converters/cut_objects.py data/digits/annotations/train.json data/digits/images/train "
    "data/digits_crops"
)
#: What SimCLRv2's first and second step leave when they are short.
PHASE_1 = "work_dirs/simclr_paa-r18_fpn_bccd/epoch_1.pth"
PHASE_2 = "work_dirs/paa-pretrained_r18_fpn_bccd/epoch_1.pth"
#: Leaves a work_dir with logs.
TRAIN = f"python tools/train.py configs/{{}}.py {SHORT}"
#: Test-time augmentation, likewise small.
TTA = " ".join([SMALL, *(f"'tta_pipeline.1.transforms.0.{number}.scale=(64,64)'" for number in range(3))])


#: Class names, which the stand-in for a checkpoint has not.
DIGITS = "--classes 0 1 2 3 4 5 6 7 8 9"
EXPORT = (
    "python tools/export.py {} work_dirs/paa_r18-c16_fpn_digits/epoch_1.pth --out detector.onnx --force "
    + DIGITS
)

#: Two batches of two images.
FEW_IMAGES = f"--images 4 --batch-size 2 --steps 2 {DIGITS}"
#: As docs/data_free.md makes them.
SYNTHESIZE = (
    "python tools/synthesize.py configs/lad/paa_r18-c32_fpn_digits.py work_dirs/paa_r18-c32_fpn_digits/epoch_6.pth "
    f"--object-size 0.16 0.4 --out data/digits_synthesised {FEW_IMAGES}"
)
#: Each leaves the file of a client with all images of the small stand-in.
CLIENTS = tuple(
    "python tools/split_clients.py data/bccd/annotations/train.json --out data/bccd/annotations/clients --force "
    f"--classes {name}=RBC,WBC,Platelets"
    for name in ("RBC", "WBC", "Platelets")
)
#: A teacher and one student; the suites of ``documentation.project`` train for one epoch.
SUITE = "--only lad --seeds 0"
#: Leaves a video of a few frames.
VIDEO = (
    "python tools/dataset_converters/make_video.py data/bccd/annotations/val.json data/bccd/images data/bccd_video "
    "--frames 4 --size 64 48 --force"
)
#: The stand-ins for its checkpoints name no classes.
ONLINE = (
    "--classes RBC WBC Platelets --teacher work_dirs/retinanet_r18_fpn_bccd/epoch_12.pth "
    "--cfg-options 'online.teacher.classes=[RBC,WBC,Platelets]'"
)
#: ``[--option VALUE]``, ``[NAME ...]`` and the ellipsis of a synopsis.
OPTIONAL = re.compile(r" (\[[^\[\]]*\]|\.\.\.)(?=[ \]]|$)")


@dataclass(frozen=True)
class Rule:
    """How the commands in which a pattern is found are run.

    Attributes:
        pattern: A regular expression.
        add: What is put behind the command to make it short.
        replace: Words in it that others are put in the place of.
        after: Commands that must have been run before; run as they are here.
        slow: Whether it takes more than a few seconds even so.
    """

    pattern: str
    add: str = ""
    replace: dict[str, str] = field(default_factory=dict)
    after: tuple[str, ...] = ()
    slow: bool = False


#: The first that matches counts. A command without a rule runs as it stands.
RULES = [
    Rule(r"outfile_prefix", "", {"annotations/train.json": "annotations/train.json"}),
    # Eight processes are as good as two to see that there are several.
    Rule(r"dist_train.sh mine_lad", SMALL, {"8": "2"}, slow=True),
    Rule(r"dist_train.sh .*_coco", SMALL, {"8": "2"}, slow=True),
    Rule(r"dist_(train|test).sh", SHORT, {"8": "2"}, slow=True),
    Rule(r"slurm_train.* (mine_lad|\S*_coco)", SMALL, slow=True),
    Rule(r"slurm_train", SHORT, slow=True),
    Rule(r"(torchrun|srun) .*lad train mine_lad.py", SMALL, {"8": "2"}, slow=True),
    Rule(r"(tools/demo.py|lad demo)", "--images 4 --val-images 2 --epochs 1", slow=True),
    Rule(r"mine_lad.py --dry-run", slow=True),
    Rule(r"--dry-run", SHORT, {"CONFIG": "configs/lad/solad_paa-r18-c16_paa-r18-c32_fpn_digits.py"}),
    Rule(r"--resume CHECKPOINT", SHORT, slow=True, after=(TRAIN.format("lad/paa_r18-c16_fpn_digits"),)),
    Rule(r"--tta", TTA, {"CHECKPOINT": "work_dirs/paa-cop_r50_fpn_1x_coco/epoch_12.pth"}, slow=True),
    Rule(r"tools/(train|test).py .*_coco", SMALL, slow=True),
    Rule(r"tools/(train|test).py mine", SMALL, slow=True),
    # In the daily suite one with a one-stage and one with a two-stage detector.
    Rule(r"train.py configs/(\w+/faster-rcnn|feature/|lad/paa_r18-c32|colad/)", SHORT, slow=True),
    Rule(r"train.py configs/specialists/retinanet-shuffled", SHORT, slow=True, after=(
        "python tools/dataset_converters/shuffle_labels.py data/bccd/annotations/train.json "
        "data/bccd/annotations/train_shuffled.json",)),
    Rule(r"train.py configs/specialists/", SHORT, slow=True),
    Rule(r"train.py configs/online/", SHORT, slow=True),
    Rule(r"train.py configs/pretraining/simclr-crops", VIEWS, slow=True, after=(CUT,)),
    Rule(r"train.py configs/pretraining/simclr_paa-r18_fpn_bccd", VIEWS, slow=True),
    Rule(r"train.py configs/pretraining/paa-pretrained", f"{SHORT} load_from={PHASE_1}", slow=True, after=(
        f"python tools/train.py configs/pretraining/simclr_paa-r18_fpn_bccd.py {VIEWS}",)),
    Rule(r"train.py configs/pretraining/simclrv2", f"{SHORT} model.teacher.checkpoint={PHASE_2}", slow=True, after=(
        f"python tools/train.py configs/pretraining/simclr_paa-r18_fpn_bccd.py {VIEWS}",
        f"python tools/train.py configs/pretraining/paa-pretrained_r18_fpn_bccd.py {SHORT} load_from={PHASE_1}")),
    Rule(r"train.py configs/long_tail/", SHORT, slow=True, after=(
        "python tools/dataset_converters/make_digits.py --out data/digits_tail --images 20 --val-images 4 "
        "--imbalance 10",)),
    Rule(r"train.py configs/data_free/", SHORT, slow=True, after=(SYNTHESIZE,)),
    Rule(r"tools/(train|test).py", SHORT),
    Rule(r"tools/model_info.py", "--steps 1 --batch 2 --shape 64 64"),
    Rule(r"plot_losses.py WORK_DIR", "", {"WORK_DIR": "work_dirs/paa_r18-c16_fpn_digits"},
         after=(TRAIN.format("lad/paa_r18-c16_fpn_digits"),)),
    Rule(r"last_values.py work_dirs/benchmark", "",
         {"work_dirs/benchmark/digits_lad/colad/seed_*": "work_dirs/paa_r18-c16_fpn_digits",
          "work_dirs/benchmark/digits_foreign/file/seed_4": "work_dirs/paa_r18-c16_fpn_digits"},
         after=(TRAIN.format("lad/paa_r18-c16_fpn_digits"),)),
    Rule(r"last_values.py WORK_DIR", "", {"WORK_DIR": "work_dirs/paa_r18-c16_fpn_digits"},
         after=(TRAIN.format("lad/paa_r18-c16_fpn_digits"),)),
    Rule(r"plot_losses.py work_dirs/paa", slow=True,
         after=(
             TRAIN.format("lad/paa_r18-c16_fpn_digits"), TRAIN.format("lad/lad_paa-r18-c16_paa-r18-c32_fpn_digits"))),
    Rule(r"plot_losses.py work_dirs/colad", slow=True,
         after=(TRAIN.format("colad/colad_paa-r18-c16_paa-r18-c32_fpn_digits"),)),
    Rule(r"plot_losses.py work_dirs/mulde", slow=True,
         after=(TRAIN.format("specialists/mulde_retinanet-r18-c16_retinanet-low-r18-c32+retinanet-high-r18-c32_fpn_digits"),)),
    Rule(r"visualize_assignment.py configs/", slow=True),
    Rule(r"visualize_assignment.py", "", {"CONFIG": "configs/lad/lad_paa-r18-c16_paa-r18-c32_fpn_digits.py"}),
    Rule(r"cut_objects.py", slow=True),
    # Other commands use the stand-in for its result.
    Rule(r"voc_to_coco.py", "", {"data/bccd": "data/made_bccd"}),
    Rule(r"tools/benchmark.py run bccd_beyond_paa", "--only tood --seeds 0", slow=True),
    Rule(r"tools/benchmark.py run bccd_few_labels", "--only small --seeds 0", slow=True),
    Rule(r"tools/benchmark.py run (digits|bccd)_foreign", "--only nano --seeds 0", slow=True),
    Rule(r"tools/benchmark.py run (digits|bccd)_detr", "--only small --seeds 0", slow=True),
    Rule(r"tools/benchmark.py run digits_exits", "--only network --seeds 0", slow=True),
    Rule(r"tools/benchmark.py run digits_data_free", "--only real --seeds 0", slow=True),
    Rule(r"tools/benchmark.py run digits_pretraining", "--only few --seeds 0", slow=True),
    Rule(r"tools/benchmark.py run bccd_(faster_rcnn|catalogue|together)", "--only alone --seeds 0", slow=True),
    # In the foreground: the second finds the first's results.
    Rule(r"tools/benchmark.py run .* &$", SUITE, {"&": ""}, slow=True),
    Rule(r"tools/benchmark.py run", SUITE, slow=True),
    Rule(r"tools/search.py", "--trials 1 --cfg-options train_cfg.max_epochs=1",
         {"model.methods.0.loss_weight": "optim_wrapper.optimizer.lr", "log:0.1..10": "log:0.001..0.01"}, slow=True),
    Rule(r"lad new", "--force"),
    Rule(r"tools/benchmark.py archive"),
    Rule(r"tools/benchmark.py claims --out docs/results.md", replace={"--out": "", "docs/results.md": ""}),
    Rule(r"tools/benchmark.py claims"),
    Rule(r"tools/benchmark.py report", "--replicates 10", slow=True,
         after=(f"python tools/benchmark.py run bccd {SUITE}",)),
    # Beside the data set that other commands use.
    Rule(r"make_digits.py", "--images 4 --val-images 2", {"data/digits": "data/made"}),
    Rule(r"benchmarks/gpu.py", "--size 64 64 --batch-size 1 --objects 1 --repeats 1 --only faster pkd", slow=True),
    Rule(r"benchmarks/assignment.py", "--repeats 1 --objects 2", slow=True),
    Rule(r"benchmarks/teacher.py", "--images 2 --repeats 1 --only inference_mode", slow=True),
    Rule(r"benchmarks/faster_rcnn.py", "--batch-size 2 --size 64 64 --repeats 1", slow=True),
    Rule(r"benchmarks/evaluation.py", "--images 20 --detections 5 --classes 3 --repeats 1", slow=True),
    Rule(r"benchmarks/inference.py", "--repeats 1", slow=True),
    Rule(r"benchmarks/seams.py", "--repeats 1 --only tood", slow=True),
    Rule(r"benchmarks/self_distillation.py", "--repeats 1", slow=True),
    Rule(r"benchmarks/data_checks.py", "--images 50 --boxes 200 --repeats 1"),
    Rule(r"benchmarks/export.py", "--repeats 1 --num-images 2", slow=True,
         after=(EXPORT.format("configs/lad/paa_r18-c16_fpn_digits.py"),)),
    Rule(r"tools/export.py", f"{DIGITS} --force --no-evaluation", slow=True),
    Rule(r"benchmarks/mutual.py", "--repeats 1", slow=True),
    # The stand-in for the checkpoint has weights alone.
    Rule(r"make_video.py", "--frames 4 --size 64 48 --force"),
    Rule(r"tools/online_distill.py",
         f"--frames 3 --force --student work_dirs/retinanet-few_r18-c16_fpn_bccd/epoch_3.pth {ONLINE}",
         {"CONFIG": "configs/online/online_retinanet-few-r18-c16_retinanet-r18_fpn_bccd.py",
          "SOURCE": "data/bccd_video/video.mp4"}, after=(VIDEO,)),
    Rule(r"benchmarks/online.py", f"--frames 4 --shot 2 {ONLINE}", slow=True),
    Rule(r"tools/federate.py", f"--in-process {SHORT} federation.rounds=1",
         {"CONFIG": "configs/federated/retinanet-clients_r18-c16_fpn_bccd.py"}, slow=True,
         after=(*CLIENTS, f"python tools/train.py configs/federated/retinanet-server_r18-c16_fpn_bccd.py {SHORT}",
                "cp work_dirs/retinanet-server_r18-c16_fpn_bccd/epoch_1.pth "
                "work_dirs/retinanet-server_r18-c16_fpn_bccd/epoch_10.pth")),
    Rule(r"train.py configs/federated/", SHORT, slow=True),
    # The stand-in has fewer photographs than the server keeps.
    Rule(r"split_clients.py data/bccd", "--force", {"--skip": "--seed", "WBC=WBC": "", "Platelets=Platelets": ""}),
    Rule(r"tools/split_clients.py", "--force",
         {"train.json": "data/digits/annotations/train.json", "a=cat": "a=1", "b=dog,horse": "b=2,3"}),
    Rule(r"tools/label.py", DIGITS, {"FOLDER": "data/mine/train"}),
    # The wide detector's.
    Rule(r"synthesize.py configs/lad/paa_r18-c32", FEW_IMAGES,
         {"CHECKPOINT": "work_dirs/paa_r18-c32_fpn_digits/epoch_6.pth"}),
    Rule(r"tools/synthesize.py", FEW_IMAGES),
]  # fmt: skip

#: What a federation's commands for several machines are called among the programs.
SEVERAL_MACHINES = "federate.py on several machines"
#: What is not run here, why, and what is checked instead (a function below).
NOT_RUN = {
    "git clone": ("needs the network", "the_folder_that_the_next_commands_use_is_stood_in_for"),
    "pip install": ("needs the network and would change this environment", "its_extras_exist"),
    "pip uninstall": ("would change this environment", "its_extras_exist"),
    "make": ("would install an environment or run this test suite in itself", "its_target_exists"),
    "tensorboard": ("serves until it is stopped", "its_program_comes_with_the_project"),
    "pytest": ("would run this test suite in itself", "its_tests_and_markers_exist"),
    ".": ("enters an environment that nothing installed here", "its_folder_is_the_makefiles"),
    SEVERAL_MACHINES: ("waits for other machines", "its_options_are_parsed"),
}

#: Configs that listings of a part of a config are put into: the first whose word is in the listing.
PARTS = [
    ("inherit_queries", "configs/dino/lad_dino-r18-c16_dino-r18-c32_digits.py"),
    ("QueryDistillation", "configs/dino/kddetr_dino-r18-c16_dino-r18-c32_digits.py"),
    ('mode="soft"', "configs/tood/lad_tood-r18-c16_tood-r18-c32_fpn_digits.py"),
    ("", "configs/lad/lad_paa-r18-c16_paa-r18-c32_fpn_digits.py"),
]
#: Readers' own names in listings.
LISTING_PLACEHOLDERS = {"NAME": "lad_paa-r18-c16_paa-r18-c32_fpn_digits", "RUN": "paa_r18-c16_fpn_digits"}
#: What listings that are for a reader's own code suppose to be there.
PREAMBLES = {
    # The page says that nothing else is needed.
    "onnxruntime.InferenceSession": "import sys\n"
    "for name in ('mmdet', 'mmengine', 'mmcv', 'torch', 'lad'):\n    sys.modules[name] = None\n",
    "class MySeam": "import torch\n"
    "from mmdet.models.dense_heads import RetinaHead as MyHead\n"
    "from mmdet.structures.bbox import distance2bbox\n",
}

# -- The commands -------------------------------------------------------------------------------------------------


def rule_of(command: Command) -> Rule:
    return next((rule for rule in RULES if re.search(rule.pattern, command.text)), Rule(""))


def program_of(command: Command) -> str:
    """The first words of a command, behind the variables that are set for it."""
    words = [word for word in shlex.split(command.text) if not re.match(r"[A-Z_]+=", word)]
    if "tools/federate.py" in words and {"--listen", "--client"} & set(words):
        return SEVERAL_MACHINES
    return f"{words[0]} {words[1]}" if words[0] in ("git", "pip") and len(words) > 1 else words[0]


def in_small(command: str, rule: Rule) -> str:
    """The command line that is run; a synopsis without its optional parts."""
    while re.search(OPTIONAL, command):
        command = re.sub(OPTIONAL, "", command)
    words = {**PLACEHOLDERS, **rule.replace}
    pattern = "|".join(
        rf"(?<![\w/.-]){re.escape(word)}(?![\w/-]|\.\w)" for word in sorted(words, key=len, reverse=True)
    )
    line = f"{re.sub(pattern, lambda word: words[word[0]], command)} {rule.add}".strip()
    assert "&" not in shlex.split(line), f"{line!r} would go on in the background: give it a Rule without &"
    return line


def by_effort(wanted):
    for command in commands():
        if (program_of(command) in NOT_RUN) == wanted:
            yield pytest.param(
                command, id=command.text, marks=[pytest.mark.slow] if rule_of(command).slow else []
            )


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    made = Project(tmp_path_factory.mktemp("project"))
    # One process of one job: srun runs the program, and sbatch the script.
    made.add_program("scontrol", "echo 127.0.0.1\n")
    made.add_program(
        "srun",
        "while [[ $1 == -* ]]; do [[ $1 == -p ]] && shift; shift; done\n"
        "export SLURM_PROCID=0 SLURM_LOCALID=0 SLURM_NTASKS=1 SLURM_NODELIST=localhost SLURM_JOB_ID=1\n"
        'exec "$@"\n',
    )
    made.add_program(
        "sbatch",
        "while [[ $1 == -* ]]; do [[ $1 == -p ]] && shift; shift; done\n"
        "export SLURM_NTASKS=1 SLURM_JOB_NUM_NODES=1 SLURM_JOB_ID=1 SLURM_JOB_PARTITION=gpu SLURM_JOB_NAME=lad\n"
        'exec bash "$@"\n',
    )
    return made


@pytest.mark.parametrize("command", by_effort(wanted=False))
def test_command_of_the_documentation_runs(command, project, monkeypatch):
    monkeypatch.chdir(project.folder)
    rule = rule_of(command)
    for line in [*rule.after, in_small(command.text, rule)]:
        project.prepare(line)
        try:
            done = run(line, project.folder, project.environment, timeout=900, fresh=rule.slow)
        except subprocess.TimeoutExpired:
            pytest.fail(
                f"{command.where}: {line!r} does not end: make it shorter by a Rule in RULES of {__file__}."
            )
        assert done.code == 0, (
            f"{command.where}: {line!r} ends with {done.code}. If it needs other data, files or options in a small "
            f"project, add a Rule to RULES of {__file__}; if nothing here can run it, an entry of NOT_RUN with the "
            f"reason and a check.\n{done.output[-3000:]}"
        )


@pytest.mark.parametrize("command", by_effort(wanted=True))
def test_command_that_is_not_run_is_checked_in_another_way(command):
    CHECKS[NOT_RUN[program_of(command)][1]](command)


def its_extras_exist(command):
    """What is installed is this project, something that it says it uses, or what its Makefile installs."""
    project = pyproject()["project"]
    extras = project["optional-dependencies"]
    known = [
        name_in(requirement) for part in (project["dependencies"], *extras.values()) for requirement in part
    ]
    packages = [word for word in shlex.split(command.text)[2:] if not word.startswith("-")]
    assert packages, f"{command.where}: nothing to install"
    makefile = (ROOT / "Makefile").read_text()
    for package in packages:
        assert name_in(package) in (".", project["name"], *known) or f"'{package}'" in makefile, (
            f"{command.where}: neither pyproject.toml nor the Makefile has {package}"
        )
    for wanted in re.findall(r"\[([\w,-]+)\]", command.text):
        assert set(wanted.split(",")) <= set(extras), f"{command.where}: there is no extra {wanted}"


def name_in(requirement: str) -> str:
    """Of a requirement like ``opencv-python<5`` or ``.[lite]``."""
    return re.match(r"[\w.-]+", requirement)[0]


def its_options_are_parsed(command):
    words = shlex.split(command.text)
    with mock.patch("sys.argv", words[words.index("tools/federate.py") :]):
        args = parse_federate_args()
    assert args.listen or args.client


def its_target_exists(command):
    done = subprocess.run(
        ["make", "-n", *shlex.split(command.text)[1:]], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{command.where}: {done.stderr}"
    assert done.stdout.strip(), f"{command.where}: does nothing"


def its_program_comes_with_the_project(command):
    assert shlex.split(command.text)[0] in map(name_in, pyproject()["project"]["dependencies"])


def its_folder_is_the_makefiles(command):
    assert f"VENV ?= {shlex.split(command.text)[1].split('/')[0]}\n" in (ROOT / "Makefile").read_text()


def its_tests_and_markers_exist(command):
    words = shlex.split(command.text)[1:]
    for before, word in zip([None, *words], words, strict=False):
        if before == "-m":
            assert any(
                marker.startswith(f"{word}:")
                for marker in pyproject()["tool"]["pytest"]["ini_options"]["markers"]
            )
        elif not word.startswith("-"):
            assert (ROOT / word.split("::")[0]).exists(), f"{command.where}: there is no {word}"


def the_folder_that_the_next_commands_use_is_stood_in_for(command):
    folder = shlex.split(command.text)[-1].split("/")[-1].removesuffix(".git")
    users = [other for other in commands() if other.page == command.page and f"{folder}/" in other.text]
    assert users, f"{command.where}: nothing uses {folder}"
    assert folder in (ROOT / "tests/documentation/project.py").read_text(), f"{folder} is not stood in for"


CHECKS = {
    check.__name__: check
    for check in (
        its_extras_exist,
        its_folder_is_the_makefiles,
        its_options_are_parsed,
        its_program_comes_with_the_project,
        its_target_exists,
        its_tests_and_markers_exist,
        the_folder_that_the_next_commands_use_is_stood_in_for,
    )
}


def pyproject():
    if tomllib is None:
        pytest.skip("reading pyproject.toml needs Python 3.11")
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_commands_are_found_wherever_they_stand(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        "Say `make demo`, or `python a.py\n--b`; `a.py` alone is none.\n\n"
        "```bash\n# a comment\npython c.py --d 'e # f'   # g\nX=1 h.sh \\\n  i\n```\n"
        "    ```console\n    $ pip install j\n    output\n    ```\n"
        "```python\nk = `make l`\n```\n"
    )
    found = [command for block in blocks(page) for command in commands_of(block)] + [*inline_commands(page)]
    assert [(command.line, command.text) for command in found] == [
        (6, "python c.py --d 'e # f'"),
        (7, "X=1 h.sh i"),
        (11, "pip install j"),
        (1, "make demo"),
        (1, "python a.py --b"),
    ]


def test_synopsis_runs_without_its_optional_parts():
    assert in_small("a B [C ...] D ... [--e [F]] [--g]", Rule("")) == "a B D"
    assert in_small("pip install -e '.[lite]'", Rule("")) == "pip install -e '.[lite]'"


def test_placeholders_are_words_of_their_own():
    assert in_small("train CONFIG --resume CHECKPOINT", Rule("", "-x", {"CHECKPOINT": "a.pth"})) == (
        f"train {PLACEHOLDERS['CONFIG']} --resume a.pth -x"
    )
    assert (
        in_small("JOBS a/CONFIG CONFIG.py x8 8", Rule("", "", {"8": "2"})) == "JOBS a/CONFIG CONFIG.py x8 2"
    )


def test_no_command_hides_in_a_block_without_a_language():
    for block in all_blocks():
        if block.language not in SHELLS:
            hidden = re.search(r"(?m)^(\$ |python tools|make |tools/\w+\.sh|pip install)", block.text)
            assert not hidden, f"{block.page}:{block.line}: this block has commands; begin it with ```bash"


def test_rules_are_used():
    texts = [command.text for command in commands()]
    for rule in RULES:
        assert any(re.search(rule.pattern, text) for text in texts), (
            f"no command matches {rule.pattern!r}: take it out"
        )


def test_links_lead_to_files_of_the_project():
    """As a viewer of the files follows them; ``make docs`` holds the site's to the same, anchors included."""
    for page in PAGES:
        for link in re.findall(r"\]\(([^)#:\s]+)(?:#[^)\s]*)?\)|<img src=\"([^\":]+)\"", page.read_text()):
            target = page.parent / (link[0] or link[1])
            assert target.is_file(), f"{page.relative_to(ROOT)}: a link leads to {target}, which is no file"


# -- The listings in YAML ------------------------------------------------------------------------------------------


def suites():
    for block in all_blocks():
        if block.language in ("yaml", "yml") and re.search("(?m)^entries:", block.text):
            yield pytest.param(block, id=f"{block.page}:{block.line}")


@pytest.mark.parametrize("block", suites())
def test_suite_of_the_documentation_can_be_read(block, tmp_path):
    path = tmp_path / "suite.yaml"
    path.write_text(block.text)
    assert load_suite(path).entries


# -- The listings in Python ---------------------------------------------------------------------------------------


def listings():
    for block in all_blocks():
        if block.language == "python":
            # MMDetection's own detectors are big; tests/hooks, tests/evaluation and test_training use the last three.
            slow = re.search(
                "mmdet::|mine_lad|AssignmentVisualizationHook|faster-coco-eval|EMAHook|detector.onnx",
                block.text,
            )
            marks = [pytest.mark.slow] if slow else []
            yield pytest.param(block, id=f"{block.page}:{block.line}", marks=marks)


@pytest.mark.parametrize("block", listings())
def test_listing_in_python_is_right(block, project, monkeypatch):
    """An excerpt of a file is in the file, a program runs, a config is built, and a part of one in its place.

    Of a listing that leaves something open (``student=...``) only the syntax is tested.
    """
    if "import openvino" in block.text:
        pytest.importorskip("openvino")
    monkeypatch.chdir(project.folder)
    monkeypatch.setenv("TORCH_HOME", project.environment["TORCH_HOME"])
    named = re.match(r"# ([\w/.-]+)\n", block.text)
    if named and (ROOT / named[1]).exists():
        check_excerpt(block, ROOT / named[1])
        return
    nodes = list(ast.walk(ast.parse(block.text)))
    if "..." in block.text.replace("checkpoint=...", ""):
        return
    if any(isinstance(node, ast.Import | ast.ImportFrom) for node in nodes):
        run_program(block, project)
    elif "_base_ =" in block.text or re.search(r"model = dict\(\s*type=", block.text):
        build_config(block.text, project)
    else:
        build_parts(block, project)


def check_excerpt(block: Block, file: Path) -> None:
    """Its pieces, with ``...`` between them, are in the file in this order."""
    pieces = re.split(r"(?m)^ *\.\.\.\n", block.text.split("\n", 1)[1])
    text, place = file.read_text(), 0
    for piece in pieces:
        place = text.find(piece.strip("\n"), place)
        assert place >= 0, f"{block.page}:{block.line}: {file.relative_to(ROOT)} does not hold this:\n{piece}"


def run_program(block: Block, project: Project) -> None:
    text = "".join(preamble for pattern, preamble in PREAMBLES.items() if pattern in block.text) + block.text
    for placeholder, word in LISTING_PLACEHOLDERS.items():
        text = re.sub(rf"\b{placeholder}\b", word, text)
    project.prepare_paths(text)
    (project.folder / "listing.py").write_text(text)
    # In a process that knows this package a listing would not miss what it forgets to import.
    fresh = not re.search(r"(?m)^(import|from) lad\b", text)
    done = run("python listing.py", project.folder, project.environment, timeout=900, fresh=fresh)
    assert done.code == 0, f"{block.page}:{block.line}: {done.output[-3000:]}"


def build_config(text: str, project: Project) -> None:
    (project.folder / "listing_config.py").write_text(text)
    model = load_config("listing_config.py").model
    project.make_teachers(model)
    MODELS.build(model)


def build_parts(block: Block, project: Project) -> None:
    """Each statement is put into a config by itself: listings show alternatives."""
    path = next(path for pattern, path in PARTS if pattern in block.text)
    for statement in ast.parse(block.text).body:
        written: dict = {}
        exec(ast.unparse(statement), {}, written)
        parts = written.get("model", written)
        if set(parts) <= set(signature(DistillationDetector).parameters):
            model = load_config(path).model
            model.update(parts)
            project.make_teachers(model)
            MODELS.build(model)
        else:
            train_with(ast.unparse(statement), path, block, project)


def train_with(text: str, path: str, block: Block, project: Project) -> None:
    """Train with a config that a part is added to which is not the model's."""
    (project.folder / "listing_part.py").write_text(f"_base_ = {path!r}\n{text}\n")
    line = f"python tools/train.py listing_part.py {SHORT}"
    project.prepare(line)
    done = run(line, project.folder, project.environment, timeout=900)
    assert done.code == 0, f"{block.page}:{block.line}: {text!r}: {done.output[-3000:]}"
