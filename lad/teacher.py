"""The teacher: built, loaded, verified, frozen, hidden, placed and run here and nowhere else."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from typing import Any

from lad.capture import Outputs, capture, find_module, root_of
from lad.config import detector_config
from lad.errors import CheckpointError, ConfigError, UnsupportedError, listed
from lad.modes import evaluating
from lad.teacher_speed import COMPILED, TeacherSpeed, uncompiled

import torch
from mmdet.models.detectors import DetectionTransformer, SingleStageDetector, TwoStageDetector
from mmdet.registry import MODELS
from mmdet.structures import SampleList
from mmengine.config import ConfigDict
from mmengine.model import ImgDataPreprocessor
from mmengine.runner import CheckpointLoader
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

# Heads that take the features alone.
DENSE_HEADS = ("bbox_head", "rpn_head")
# Ways to features that are backbone, then neck, and nothing else.
PLAIN_FEATURES = (SingleStageDetector.extract_feat, TwoStageDetector.extract_feat)
# Modules whose outputs change meaning with the training flag of the head alone (FCOS multiplies boxes by the
# stride, VFNet and RepPoints return fewer tensors in eval mode).
HEADS = ("bbox_head", "rpn_head", "roi_head", "mask_head", "query_head")


class Renormalisation(nn.Module):
    """Images normalised for the student, as the teacher's own config would normalise them.

    Args:
        student: The student's data preprocessor.
        teacher: The teacher's data preprocessor.
    """

    def __init__(self, student: ImgDataPreprocessor, teacher: ImgDataPreprocessor) -> None:
        super().__init__()
        self.swap_channels = student._channel_conversion != teacher._channel_conversion
        self.pad_value = teacher.pad_value
        student_mean, student_std = _mean_std(student)
        teacher_mean, teacher_std = _mean_std(teacher)
        if self.swap_channels:
            student_mean, student_std = student_mean.flip(0), student_std.flip(0)
        self.register_buffer("scale", student_std / teacher_std, persistent=False)
        self.register_buffer("shift", (student_mean - teacher_mean) / teacher_std, persistent=False)
        self.is_identity = (
            not self.swap_channels
            and student.pad_value == teacher.pad_value
            and torch.equal(student_mean, teacher_mean)
            and torch.equal(student_std, teacher_std)
        )

    def forward(self, inputs: Tensor, data_samples: SampleList) -> Tensor:
        """Images of shape (N, 3, H, W), padding set to the teacher's pad value outside each ``img_shape``."""
        if self.is_identity:
            return inputs
        if self.swap_channels:
            inputs = inputs.flip(1)
        images = inputs * self.scale + self.shift
        shapes = torch.tensor([sample.img_shape[:2] for sample in data_samples])
        height, width = inputs.shape[-2:]
        if bool((shapes == shapes.new_tensor([height, width])).all()):  # sizes live on the host: no wait
            return images
        shapes = shapes.to(inputs.device, non_blocking=True)
        rows = torch.arange(height, device=inputs.device) < shapes[:, :1]
        columns = torch.arange(width, device=inputs.device) < shapes[:, 1:]
        inside = rows[:, None, :, None] & columns[:, None, None, :]
        return torch.where(inside, images, images.new_full((), self.pad_value))


def _mean_std(preprocessor: ImgDataPreprocessor) -> tuple[Tensor, Tensor]:
    if not isinstance(preprocessor, ImgDataPreprocessor):
        raise UnsupportedError(
            f"data preprocessor {type(preprocessor).__name__} is not an ImgDataPreprocessor; "
            "student and teacher need mean and std of images."
        )
    if preprocessor._enable_normalize:
        return preprocessor.mean.clone(), preprocessor.std.clone()
    return torch.zeros(3, 1, 1), torch.ones(3, 1, 1)


def run_dense(model: nn.Module, inputs: Tensor, heads: Iterable[str] = DENSE_HEADS) -> None:
    """Run backbone, neck and those of the dense heads that a detector has, for whoever listens to them.

    The heads are called here: MMDetection's ``_forward`` calls their ``forward`` past the hooks.
    """
    if set(heads) == {"backbone"} and type(model).extract_feat in PLAIN_FEATURES:
        # Nobody listens to the neck.
        model.backbone(inputs)
        return
    features = model.extract_feat(inputs)
    for name in DENSE_HEADS:
        if name in heads and hasattr(model, name):
            getattr(model, name)(features)


@torch.no_grad()
def dry_run(model: nn.Module, modules: Iterable[str], size: tuple[int, int] = (128, 128)) -> Outputs:
    """What modules of backbone, neck and dense heads put out for images of zeros, for the sake of the shapes.

    The detector is as before: no statistics of a batch norm, no training flag and no random state change.
    """
    modules = tuple(modules)
    # Two: group norm refuses groups of a single value, which narrow heads have on the coarsest level of one image.
    inputs = next(model.parameters()).new_zeros(2, 3, *size)
    with (
        evaluating(model),
        torch.random.fork_rng(devices=[]),
        capture(model, modules) as outputs,
        uncompiled(),
    ):
        run_dense(model, inputs, set(map(root_of, modules)))
    return outputs


class TeacherView:
    """What the teacher says of one batch; computed at the first question, once, without gradient."""

    #: Whether what it says is combined of what several teachers say.
    is_ensemble: bool = False

    def __init__(
        self,
        teacher: FrozenTeacher,
        inputs: Tensor,
        data_samples: SampleList,
        modules: Iterable[str],
        shared: bool = False,
    ) -> None:
        self._teacher = teacher
        self._inputs = inputs
        self._data_samples = data_samples
        self._modules = tuple(modules)
        self._shared = shared

    @property
    def model(self) -> nn.Module:
        """The teacher itself; for its heads' settings and losses."""
        return self._teacher.model

    @cached_property
    def outputs(self) -> Outputs:
        """The outputs of the modules that the methods listen to."""
        return self._teacher.run(self._inputs, self._data_samples, self._modules)

    def target(self, module: str) -> list[Any]:
        """What a module put out, one an element for each of its calls, as targets that a loss can take.

        Under ``inference_mode`` the teacher's tensors cannot be saved for a backward pass; these can.
        """
        return tree_map_only(Tensor, _ordinary, self.outputs.calls(module))

    def ask(self, function: Callable[..., Any], *args: Any) -> Any:
        """What some of the teacher's modules say of more than the images: of boxes, say.

        Args:
            function: Called with the teacher and :attr:`outputs`, then ``args``; without gradient, and under the
                teacher's speed options.
            args: Its further arguments.

        Returns:
            What the function returns, in tensors that a loss can take.
        """
        outputs = self.outputs
        with self._teacher.speed.running(self._inputs.device):
            answer = function(self.model, outputs, *args)
        return tree_map_only(Tensor, _ordinary, answer)

    def through(self, function: Callable[..., Any], *args: Any) -> Any:
        """What some of the teacher's modules make of the student's own tensors, with the gradient passing through.

        The teacher's parameters want no gradient and get none; what the student handed over does.

        Args:
            function: Called with the teacher, then ``args``, under the teacher's precision.
            args: Tensors of the student's, in any nesting, and whatever else it wants.

        Returns:
            What the function returns.
        """
        with self._teacher.speed.precision(self._inputs.device):
            return function(self.model, *args)

    def outputs_of(self, images: Sequence[int], module: str) -> Any:
        """What one module returns for some images of the batch, by their numbers.

        The teacher runs for these images alone, unless the whole batch is wanted anyway: by this question, or by
        another method that listens. What the module returns must be tensors with the images first.
        """
        if len(images) == len(self._data_samples):
            return self.outputs[module]
        if self._shared or "outputs" in self.__dict__:
            return tree_map_only(Tensor, lambda value: value[list(images)], self.outputs[module])
        samples = [self._data_samples[image] for image in images]
        return self._teacher.run(self._inputs[list(images)], samples, [module])[module]


def _ordinary(tensor: Tensor) -> Tensor:
    return tensor.clone() if tensor.is_inference() else tensor


class FrozenTeacher:
    """A trained detector that is asked and never changed.

    Not an ``nn.Module``, so that the module that owns it does not register it: it appears in no parameter list,
    optimizer, checkpoint, EMA copy or DDP bucket. The owner forwards ``_apply`` to :meth:`move` so that the
    teacher follows ``.to()`` and ``.cuda()``. Copies (EMA) share the network, which is read-only, and do not move it.

    Args:
        model: The detector with its weights loaded.
        renormalisation: From the student's images to the teacher's.
        classes: The class names its checkpoint records, if any.
        config: The model config it was built from, for telling teachers apart.
        speed: How to make it cheaper.
    """

    def __init__(
        self,
        model: nn.Module,
        renormalisation: Renormalisation,
        classes: tuple[str, ...] | None = None,
        config: dict | None = None,
        speed: TeacherSpeed | None = None,
    ) -> None:
        self._is_copy = False
        self.config = config
        self.speed = speed or TeacherSpeed()
        self.model = self.speed.prepare(model.requires_grad_(False).eval())
        self.renormalisation = renormalisation
        self.classes = classes
        # Modules stay in eval mode (batch norm statistics, dropout); the flag of the detector and its heads alone
        # makes them return what a training student's heads return.
        self.model.training = True
        for name in HEADS:
            if isinstance(getattr(model, name, None), nn.Module):
                getattr(model, name).training = True

    def __deepcopy__(self, memo: dict) -> FrozenTeacher:
        twin = copy.copy(self)
        twin._is_copy = True
        return twin

    def move(self, function: Callable[[Tensor], Tensor]) -> None:
        """Apply what the owner's ``_apply`` applies: a device or dtype change.

        A copy does not move the network that it shares: an EMA model kept on the CPU would take it along.
        """
        if self._is_copy:
            return
        self.model._apply(function)
        self.renormalisation._apply(function)

    def look(
        self, inputs: Tensor, data_samples: SampleList, modules: Iterable[str], shared: bool = False
    ) -> TeacherView:
        """A lazy view of one batch.

        Args:
            inputs: Images normalised for the student.
            data_samples: Their metadata.
            modules: Names of the modules whose outputs are wanted.
            shared: Whether several methods will ask.
        """
        return TeacherView(self, inputs, data_samples, modules, shared)

    def run(self, inputs: Tensor, data_samples: SampleList, modules: Iterable[str]) -> Outputs:
        """Run no further than the named modules need and return their outputs; without gradient."""
        modules = tuple(modules)
        if not modules:
            return Outputs()
        with self.speed.running(inputs.device):
            return self._run(inputs, data_samples, modules)

    def _run(self, inputs: Tensor, data_samples: SampleList, modules: tuple[str, ...]) -> Outputs:
        inputs = self.renormalisation(inputs, data_samples)
        if self.speed.channels_last:
            inputs = inputs.contiguous(memory_format=torch.channels_last)
        roots = set(map(root_of, modules))
        with capture(self.model, modules) as outputs:
            if roots <= {"backbone", "neck", *DENSE_HEADS}:
                run_dense(self.model, inputs, roots)
            else:
                self.model._forward(inputs, data_samples)
        return outputs

    def dry_run(self, modules: Iterable[str]) -> Outputs:
        """What modules put out for images of zeros, for the sake of the shapes; see :func:`dry_run`.

        Raises:
            UnsupportedError: nobody can listen to one of the modules.
        """
        self._check_audible(modules := tuple(modules))
        return dry_run(self.model, modules)

    def _check_audible(self, modules: Sequence[str]) -> None:
        """Refuse modules inside of compiled ones: what is compiled does not ask again who listens."""
        for name in modules if self.speed.compile else ():
            if "." in name and root_of(name) in COMPILED:
                raise UnsupportedError(
                    f"speed=dict(compile=True): {name!r} is inside of what is compiled, where nobody can listen: name "
                    f"{root_of(name)!r} itself, or leave out compile."
                )

    def check_modules(self, modules: Iterable[str]) -> None:
        """Refuse names that the teacher does not have, and what its later layers overwrite.

        Raises:
            ConfigError: names the module.
            UnsupportedError: nobody can listen to one of them.
        """
        modules = tuple(modules)
        for name in modules:
            find_module(self.model, name)
        self._check_audible(modules)
        if self.speed.inference_mode:
            # Its tensors do not count what is written to them: those of a dry run do.
            heads = () if isinstance(self.model, DetectionTransformer) else DENSE_HEADS
            inner = [
                name for name in modules if "." in name and root_of(name) in ("backbone", "neck", *heads)
            ]
            if inner:
                outputs = self.dry_run(inner)
                for name in inner:
                    outputs.calls(name)


def build_teacher(spec: dict, student_preprocessor: nn.Module, role: str = "teacher") -> FrozenTeacher:
    """Build the teacher of a distillation config.

    Args:
        spec: ``dict(config=PATH, checkpoint=PATH_OR_URL)`` or a model dict with ``checkpoint``; ``speed`` holds
            options of :class:`TeacherSpeed`, further keys override the config's ``model``.
        student_preprocessor: What normalises the images that the teacher will be shown.
        role: What to call it in messages.

    Raises:
        ConfigError: no checkpoint is named, or the config is not a detector's.
        CheckpointError: the checkpoint is missing, unsafe, or of another architecture.
    """
    if not isinstance(spec, dict) or not spec.get("checkpoint"):
        raise ConfigError(f"{role} needs a checkpoint: {role}=dict(config=PATH, checkpoint=PATH_OR_URL).")
    spec = dict(spec)
    checkpoint = spec.pop("checkpoint")
    speed = TeacherSpeed.from_config(spec.pop("speed", None))
    name = spec.get("config") or spec.get("type")
    config = detector_config(spec, role)
    # The weights come from the checkpoint alone: a random or ImageNet initialisation would be thrown away, and the
    # random state it consumed would change the student's own initialisation.
    with torch.random.fork_rng(devices=[]):
        model = MODELS.build(without_pretraining(config))
    meta = load_verified(model, checkpoint, owner=f"{role} {name}")
    classes = (meta.get("dataset_meta") or {}).get("classes") or meta.get("CLASSES")
    renormalisation = Renormalisation(student_preprocessor, model.data_preprocessor)
    return FrozenTeacher(model, renormalisation, tuple(classes) if classes else None, config, speed)


def without_pretraining(config: Any) -> Any:
    """A copy of a model config without ``Pretrained`` initialisations and ``pretrained`` paths, at any depth."""
    if isinstance(config, dict):
        kept = {
            key: without_pretraining(value)
            for key, value in config.items()
            if not (key == "pretrained" and isinstance(value, str))
            and not (key == "init_cfg" and isinstance(value, dict) and value.get("type") == "Pretrained")
        }
        return ConfigDict(kept)
    if isinstance(config, (list, tuple)):
        return type(config)(without_pretraining(value) for value in config)
    return config


def load_verified(model: nn.Module, path: str, owner: str) -> dict:
    """Load a checkpoint that must fit the model key by key; returns its ``meta``.

    Keys of a distillation (``distillation.``) and of MMDetection 2's EMA (``ema_``) are not the detector's and
    are passed over; ``num_batches_tracked`` may be missing, as for MMEngine.

    Raises:
        CheckpointError: missing, unexpected or mismatched keys; an unreadable file.
    """
    try:
        checkpoint = CheckpointLoader.load_checkpoint(path, map_location="cpu", logger=None)
    except FileNotFoundError as error:
        raise CheckpointError(f"{owner}: there is no checkpoint {path!r}; give its path or URL.") from error
    if not isinstance(checkpoint, dict):
        raise CheckpointError(f"{owner}: {path} holds no state_dict.")
    loaded = checkpoint.get("state_dict", checkpoint)
    state = type(loaded)()
    for key, value in loaded.items():
        if not key.startswith(("distillation.", "ema_")):
            state[key.removeprefix("module.")] = value
    if hasattr(loaded, "_metadata"):
        state._metadata = loaded._metadata

    own = model.state_dict()
    advice = "give the config that this checkpoint was trained with."
    wrong = [key for key, value in state.items() if key in own and own[key].shape != value.shape]
    if wrong:
        shapes = ", ".join(
            f"{key} {tuple(state[key].shape)} for {tuple(own[key].shape)}" for key in wrong[:2]
        )
        more = f" and {len(wrong) - 2} more" if len(wrong) > 2 else ""
        raise CheckpointError(
            f"{owner}: checkpoint {path} is of another architecture or number of classes: {shapes}{more}; {advice}"
        )
    result = model.load_state_dict(state, strict=False)
    missing = [key for key in result.missing_keys if not key.endswith("num_batches_tracked")]
    problems = []
    if missing:
        problems.append(f"{len(missing)} keys are missing ({listed(missing, 2)})")
    if result.unexpected_keys:
        problems.append(f"{len(result.unexpected_keys)} are unknown ({listed(result.unexpected_keys, 2)})")
    if problems:
        raise CheckpointError(
            f"{owner}: checkpoint {path} is of another architecture: {' and '.join(problems)}; {advice}"
        )
    return checkpoint.get("meta") or {}
