"""Dense features of the vision models of Hugging Face transformers."""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lad.errors import CheckpointError, ConfigError, UnsupportedError, listed, nearest
from lad.networks.connectors import tokens_to_map
from lad.networks.foreign.dense_features import DenseFeatures, tokens_of_patches
from lad.networks.foreign.packages import require

import torch
from mmdet.registry import MODELS
from torch import Tensor, nn

#: Where models keep the norm behind their last block.
FINAL_NORMS = ("layernorm", "norm", "post_layernorm")
#: Parts of published models that dense features do not need: a file may have them or not.
BESIDE_FEATURES = ("pooler.", "head.", "classifier.", "lm_head.", "text_model.", "text_projection.", "logit_")


@MODELS.register_module(name="transformers")
class TransformersFeatures(DenseFeatures):
    """Dense features of a vision model of Hugging Face transformers, from its hidden states; extra ``foundation``.

    Class and register tokens are dropped. Of models of images and texts it is the vision tower. Of
    transformers' files only safetensors are read, and no code that a repository brings is run.

    Args:
        name: A folder as ``save_pretrained`` writes it, or the name of a repository of the hub, such as
            ``'facebook/dinov2-small'``, whose files are downloaded.
        config: Instead of it, the model's settings, ``dict(model_type='dinov2', hidden_size=384, ...)``; nothing is
            downloaded.
        pretrained: Load the weights that are in the folder or repository.
        revision: Of the repository: a branch, a tag or a commit.
        norm: Apply the final norm of a vision transformer to every layer, as DINOv2 does.
        layers, image_scale: As for :class:`DenseFeatures`. Layers are blocks of a transformer, stages of others.

    Raises:
        ConfigError: there is no such model.
        CheckpointError: its weights cannot be had, or do not fit.
        UnsupportedError: it is no model of images.
    """

    def __init__(
        self,
        name: str | None = None,
        config: dict | None = None,
        pretrained: bool = False,
        revision: str | None = None,
        norm: bool = True,
        layers: Sequence[int] = (-1,),
        image_scale: float = 1.0,
    ) -> None:
        super().__init__(layers, image_scale)
        if (name is None) == (config is None):
            raise ConfigError(
                "FeatureTeacher: a model of transformers needs name='facebook/dinov2-small' (or a folder), or "
                "config=dict(model_type='dinov2', ...), one of both."
            )
        if pretrained and name is None:
            raise ConfigError(
                "FeatureTeacher: pretrained=True goes with name; with config give checkpoint=FILE."
            )
        self.label = name or str(config and config.get("model_type"))
        settings = _settings(name, config, revision)
        self.net = (
            self._loaded(_auto_model(), settings, name, revision=revision)
            if pretrained
            else _without_weights(settings, self.label)
        )
        self._windows = _window_sizes(self.net)
        self._takes = inspect.signature(self.net.forward).parameters
        self._check_takes_images()
        self.norm = norm
        depths = getattr(settings, "depths", None)
        # Patches of a model with stages (Swin) are merged: its maps have other strides.
        self.patch = _side(getattr(settings, "patch_size", None)) if depths is None else None
        self.multiple = self.patch or 32
        count = getattr(settings, "num_hidden_layers", 1) if depths is None else len(depths)
        self._count = count
        self._numbers = self.numbered(count, self.label)
        if name is not None:
            self.mean, self.std = _normalisation(name, revision)

    def _check_takes_images(self) -> None:
        required = [
            parameter.name
            for parameter in self._takes.values()
            if parameter.default is parameter.empty and parameter.kind is parameter.POSITIONAL_OR_KEYWORD
        ]
        if "pixel_values" not in self._takes or set(required) - {"pixel_values"}:
            raise UnsupportedError(
                f"{self.label} ({type(self.net).__name__}) takes {listed(required or self._takes)}, not images alone; "
                "DINOv2, DINOv3, SigLIP, ViT, CLIP, Swin and ConvNeXt do."
            )

    def features(self, images: Tensor) -> list[Tensor]:
        """See :meth:`DenseFeatures.features`."""
        hidden = self._hidden(images)
        return [self._map(hidden[number], images) for number in self._numbers]

    def _hidden(self, images: Tensor) -> Sequence[Tensor]:
        """What comes out of each block or stage."""
        for block, sizes in self._windows:
            # Swin narrows the windows of its blocks to a small image, and keeps them so for the images that follow.
            block.window_size, block.shift_size = sizes
        more = dict(interpolate_pos_encoding=True) if "interpolate_pos_encoding" in self._takes else {}
        outputs = self.net(pixel_values=images, output_hidden_states=True, return_dict=True, **more)
        # Most models begin with what the first one is given, and some (SegFormer, PVTv2) do not.
        return outputs.hidden_states[-self._count :]

    def _map(self, hidden: Tensor, images: Tensor) -> Tensor:
        if hidden.dim() == 4:
            return hidden
        height, width = images.shape[-2:]
        if self.patch is None:
            return tokens_to_map(hidden, (height, width))
        if self.norm:
            norms = (getattr(self.net, name, None) for name in FINAL_NORMS)
            hidden = next((norm for norm in norms if isinstance(norm, nn.Module)), nn.Identity())(hidden)
        return tokens_of_patches(hidden, (height // self.patch, width // self.patch), self.label)

    def load(self, state: Mapping[str, Tensor], source: str) -> None:
        """See :meth:`DenseFeatures.load`; transformers translates the names of its older versions."""
        net: Any = self.net
        self.net = self._loaded(type(net), net.config, None, state_dict=dict(state), source=source)
        self._windows = _window_sizes(self.net)

    def _loaded(
        self, kind: Any, settings: Any, name: str | None, source: str | None = None, **where: Any
    ) -> nn.Module:
        """The model with weights that fit key by key."""
        source = source or f"FeatureTeacher: {name}"
        try:
            net, report = kind.from_pretrained(
                name,
                config=settings,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # so that the report names them
                use_safetensors=True,
                dtype=torch.float32,
                **where,
            )
        except (OSError, ValueError, RuntimeError) as error:
            raise CheckpointError(
                f"{source}: its weights cannot be had ({' '.join(str(error).split())[:200]})."
            ) from error
        problems = {
            "missing": [key for key in report["missing_keys"] if not key.startswith(BESIDE_FEATURES)],
            "unknown": [key for key in report["unexpected_keys"] if not key.startswith(BESIDE_FEATURES)],
            "of another shape": [key for key, *_ in report["mismatched_keys"]],
        }
        found = [
            f"{len(keys)} keys are {what} ({listed(sorted(keys), 2)})"
            for what, keys in problems.items()
            if keys
        ]
        if found:
            raise CheckpointError(
                f"{source} is of another architecture: {' and '.join(found)}; give the model that it was saved from."
            )
        return net


def _settings(name: str | None, config: Mapping[str, Any] | None, revision: str | None) -> Any:
    """transformers' config of the model; of a model of images and texts that of its vision tower."""
    transformers = require("transformers")
    if config is not None:
        own = dict(config)
        kind = own.pop("model_type", None)
        try:
            settings = transformers.AutoConfig.for_model(kind, **own)
        except (ValueError, TypeError) as error:
            known = list(transformers.CONFIG_MAPPING)
            raise ConfigError(
                f"FeatureTeacher: transformers has no model_type {kind!r} with these settings"
                f"{nearest(str(kind), known)} ({' '.join(str(error).split())[:120]})."
            ) from error
    else:
        try:
            settings = transformers.AutoConfig.from_pretrained(
                name, revision=revision, trust_remote_code=False
            )
        except (OSError, ValueError) as error:
            raise ConfigError(
                f"FeatureTeacher: {name!r} is no folder or repository of a model of transformers "
                f"({' '.join(str(error).split())[:200]})."
            ) from error
    return getattr(settings, "vision_config", settings)


def _window_sizes(net: nn.Module) -> list[tuple[Any, tuple[Any, Any]]]:
    """The blocks of a Swin that choose their windows by the image, with the sizes that they begin with."""
    return [
        (block, (block.window_size, block.shift_size))
        for block in net.modules()
        if hasattr(block, "set_shift_and_window_size")
    ]


def _auto_model() -> Any:
    return require("transformers").AutoModel


def _without_weights(settings: Any, label: str) -> nn.Module:
    """The model with random weights."""
    try:
        return _auto_model().from_config(settings)
    except ValueError as error:
        raise UnsupportedError(f"{label} ({type(settings).__name__}) has no model of features.") from error


def _side(patch: Any) -> int | None:
    """The side of a patch in pixels; for sides that differ a number that both divide."""
    if patch is None or isinstance(patch, int):
        return patch
    return math.lcm(*patch)


def _normalisation(name: str, revision: str | None) -> tuple[Any, Any]:
    """Mean and standard deviation in pixel values, from the model's own preprocessor config; None if it has none."""
    if Path(name).is_dir() and not (Path(name) / "preprocessor_config.json").is_file():
        return None, None
    transformers = require("transformers")
    try:
        processor = transformers.AutoImageProcessor.from_pretrained(name, revision=revision)
    except (OSError, ValueError):  # published without one
        return None, None
    unit = 1 / processor.rescale_factor if getattr(processor, "do_rescale", True) else 1.0
    if not getattr(processor, "do_normalize", True):
        return (0.0,) * 3, (unit,) * 3
    return (
        tuple(unit * value for value in processor.image_mean),
        tuple(unit * value for value in processor.image_std),
    )
