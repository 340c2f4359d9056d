"""Any timm model as a function from images to the feature map that its own classifier pools."""

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from typing import Any

import timm
import timm.models
import torch
from einops import rearrange
from timm.data.model_config import resolve_input_data_config
from torch import Tensor, nn

from recurrent_attention.backbone.layout import (
    LAST_INTERMEDIATE,
    TOKENS_LAST,
    closing_pools,
    find_layout,
    head_norm,
    to_map,
)
from recurrent_attention.backbone.probe import (
    blank_images,
    freeze,
    on_meta,
    prune,
    replace,
    tensors_in,
    trace,
)

PROBE_BATCH = 2  # batch normalisation in training mode refuses one image with one cell
# What timm's factories take themselves (which weights, from where, what to do with them); all else
# is an argument of the architecture.
FACTORY_ARGUMENTS = frozenset(
    name
    for factory in (timm.create_model, timm.models.build_model_with_cfg)
    for name in inspect.signature(factory).parameters
)


class FeatureBackbone(nn.Module):
    """Turn images into the feature map that a timm model's own classifier pools.

    The map is what `forward_features` returns, brought to (b c h w): tokens lose their prefix (the
    class token and its like) and get their grid back. Of several maps the last is taken. The
    classifier, and whatever else does not reach the map, is taken out, so that every parameter that
    requires a gradient gets one. A norm with which the model's own head begins (ConvNeXt, ViTs with
    `fc_norm`) is applied to every cell instead of to the mean, as detection backbones do.

    Args:
        name: a timm model, with or without a tag ("vgg19", "vgg19.tv_in1k"), "hf-hub:..." or
            "local-dir:...".
        pretrained: load timm's pretrained weights.
        img_size: side of the images, in pixels. Models with positions are built for it.
        in_chans: channels of the images.
        final_pool: False leaves out a pooling layer with which the features end, as in VGG.
        **create_model_kwargs: further arguments of `timm.create_model`.

    Attributes:
        model: the timm model, without what does not reach the map.
        norm: the norm of the model's own head, nn.Identity if it has none.
        out_channels: c of the map.
        map_size: (h, w) of the map for images of `img_size`.
        fixed_size: whether images of `img_size` only are taken.
        reduction: how many pixels wide a cell of the map is, rounded.
        data_config: how images have to be prepared: `mean`, `std`, `interpolation`, `crop_pct`,
            `input_size`.

    Raises:
        ValueError: if timm does not know the model, or `img_size` does not fit it.

    Example:
        >>> backbone = FeatureBackbone("test_resnet", img_size=64)
        >>> backbone(torch.randn(2, 3, 64, 64)).shape, backbone.out_channels, backbone.reduction
        (torch.Size([2, 96, 2, 2]), 96, 32)
    """

    model: Any  # nn.Module with timm's methods
    norm: Any

    def __init__(
        self,
        name: str,
        *,
        pretrained: bool = False,
        img_size: int = 224,
        in_chans: int = 3,
        final_pool: bool = True,
        **create_model_kwargs: Any,
    ) -> None:
        super().__init__()
        if img_size < 1:
            raise ValueError(f"Expected `img_size` to be at least 1, but got {img_size}.")
        _check_name(name)
        self.name = name
        self.img_size = img_size
        self.in_chans = in_chans
        with _blaming_size(name, img_size):
            self.model = _create(
                name, img_size, pretrained=pretrained, in_chans=in_chans, **create_model_kwargs
            )
        traits = timm.models.get_model_input_config(self.model)
        self.fixed_size: bool = traits["fixed_input_size"]
        # Which layers reach the map is asked of autograd; the caller may have switched it off.
        with torch.inference_mode(False), torch.enable_grad():
            self._adapt(final_pool)
        self.data_config: dict[str, Any] = resolve_input_data_config(
            self.model, {"input_size": (in_chans, img_size, img_size)}
        )

    def _adapt(self, final_pool: bool) -> None:
        """Find out where the model keeps its map, and take out what does not reach it.

        Everything is tried on copies without weights, so that nothing of the model but the parts
        taken out changes: no mode, no counter, no random state.
        """
        images = blank_images(PROBE_BATCH, self.in_chans, self.img_size, self.img_size)
        model: Any = on_meta(self.model)
        with _blaming_size(self.name, self.img_size, RuntimeError):
            features, calls = trace(model, lambda: model.forward_features(images))
        layout = find_layout(model, features, images)
        if layout is None:
            shapes = [tuple(tensor.shape) for tensor in tensors_in(features)]
            raise ValueError(
                f"Expected `name` to be a model with a feature map, but the features of "
                f"{self.name!r} have shape {shapes}."
            )
        self._layout = layout
        self.fixed_size |= layout.pattern == TOKENS_LAST  # these name no grid for another size
        norm_name, self._norm_takes_maps = head_norm(model, features, layout)
        self.norm = replace(self.model, norm_name, nn.Identity()) if norm_name else nn.Identity()
        if not final_pool:
            for name in closing_pools(model, calls):
                replace(self.model, name, nn.Identity())

        skeleton = on_meta(self)
        pruned = prune(skeleton, lambda: skeleton(images))
        for name, stand_in in pruned.taken_out.items():
            replace(self, name, stand_in)
        for name in pruned.kept:
            freeze(self, name)
        _, self.out_channels, height, width = pruned.output_shape
        self.map_size = (height, width)
        self.reduction = round(self.img_size / height)

    def architecture(self) -> tuple[str, dict[str, Any]]:
        """Tell how to build this model again without the folder or repository it came from.

        Returns:
            The name of the architecture, and what such a folder ("local-dir:...") or repository
            ("hf-hub:...") says about it, as further arguments of `timm.create_model`.
        """
        if ":" not in self.name:
            return self.name, {}
        config = self.model.pretrained_cfg
        own = {"num_classes", "img_size", "in_chans", *FACTORY_ARGUMENTS}
        arguments = {k: v for k, v in self.model.pretrained_model_args.items() if k not in own}
        # Of a plain architecture timm would take its own word for it.
        overlay = {"fixed_input_size": bool(config.get("fixed_input_size", False))}
        return config["architecture"], arguments | {"pretrained_cfg_overlay": overlay}

    def forward(self, images: Tensor) -> Tensor:
        """Compute the feature map of images.

        Args:
            images: (b 3 h w) floating point, normalised as `data_config` says; with another
                `in_chans` that many channels.

        Returns:
            The feature map (b c h w).

        Raises:
            ValueError: if the shape does not fit, or the model was built for another size.
            TypeError: if `images` is not floating point.
        """
        self.check(images)
        if self._layout.source == "intermediates":
            features = self.model.forward_intermediates(images, **LAST_INTERMEDIATE)
        else:
            features = self.model.forward_features(images)
        # Cells are rounded up: a model that accepts a size which is no multiple pads it.
        height, width = (
            -(-side * count // self.img_size)
            for side, count in zip(images.shape[2:], self._layout.grid, strict=True)
        )
        feature_map = to_map(features, self._layout.pattern, height, width)
        if isinstance(self.norm, nn.Identity):
            return feature_map
        if self._norm_takes_maps:
            normed: Tensor = self.norm(feature_map)
            return normed
        _, _, height, width = feature_map.shape
        cells: Tensor = self.norm(rearrange(feature_map, "b c h w -> (b h w) c"))
        return rearrange(cells, "(b h w) c -> b c h w", h=height, w=width)

    def check(self, images: Tensor, *, name: str = "images") -> None:
        """Refuse what `forward` cannot take.

        Args:
            images: (b 3 h w) as in `forward`.
            name: what the caller's user calls them, for the message.

        Raises:
            ValueError: if the shape does not fit.
            TypeError: if `images` is not floating point.
        """
        shape = tuple(images.shape)
        if images.ndim != 4:
            hint = f" Add a batch axis: {name}[None]." if images.ndim == 3 else ""
            raise ValueError(
                f"Expected `{name}` to have shape (b, {self.in_chans}, h, w), but got {shape}."
                + hint
            )
        if shape[1] != self.in_chans:
            raise ValueError(
                f"Expected `{name}` to have {self.in_chans} channels, but got {shape[1]} in shape "
                f"{shape}. Build the backbone with in_chans={shape[1]}."
            )
        if not images.is_floating_point():
            raise TypeError(
                f"Expected `{name}` to be floating point, but got {images.dtype}. Convert and "
                f"normalise them: ({name} / 255 - mean) / std, with the numbers in `data_config`."
            )
        if self.fixed_size and shape[2:] != (self.img_size, self.img_size):
            raise ValueError(
                f"Expected `{name}` of {self.img_size} x {self.img_size} pixels, the size that "
                f"{self.name!r} was built for, but got shape {shape}. Resize them, or build the "
                "backbone with another `img_size`."
            )


def native_size(name: str) -> int | None:
    """Tell for which side of pictures a timm model was made, as timm describes it.

    Args:
        name: as for `FeatureBackbone`.

    Returns:
        The side in pixels, the longer one if there are two; None of a model in a folder or on the
        Hub, and of one that timm does not describe.

    Raises:
        ValueError: if timm does not know the model.
    """
    _check_name(name)
    config = None if ":" in name else timm.models.get_pretrained_cfg(name)
    return max(config.input_size[1:]) if config else None


def _create(name: str, img_size: int, **kwargs: Any) -> nn.Module:
    """Build the model for `img_size` if its architecture takes one, else for any size."""
    model: nn.Module
    try:
        model = timm.create_model(name, num_classes=0, img_size=img_size, **kwargs)
    except TypeError as error:  # raised by the signature, before anything is initialised
        if "img_size" not in str(error):
            raise
        model = timm.create_model(name, num_classes=0, **kwargs)
    return model


@contextmanager
def _blaming_size(name: str, img_size: int, *more_errors: type[Exception]) -> Iterator[None]:
    """Turn timm's failures about a size into one sentence."""
    errors: tuple[type[Exception], ...] = (ArithmeticError, AssertionError, IndexError, ValueError)
    try:
        yield
    except errors + more_errors as error:
        if isinstance(error, OSError):  # a download failed; some of those are ValueErrors too
            raise
        message = str(error).partition("\n")[0]
        reason = f"{img_size}: {message}" if message else f"{img_size}."
        raise ValueError(f"Expected `img_size` to suit {name!r}, but got {reason}") from error


def _check_name(name: str) -> None:
    if ":" in name:  # "hf-hub:" and "local-dir:" are looked up by timm
        return
    known, cutoff = timm.list_models(), 0.6  # difflib's own default
    if timm.is_model(name):
        try:
            timm.models.get_pretrained_cfg(name)
        except RuntimeError:  # the tag is unknown; there are few, so any of them is near
            known, cutoff = timm.list_models(name.partition(".")[0], include_tags=True), 0.0
        else:
            return
    near = [repr(match) for match in get_close_matches(name, known, n=3, cutoff=cutoff)]
    hint = f"Did you mean {', '.join(near)}?" if near else "timm.list_models() names them all."
    raise ValueError(f"Expected `name` to be a timm model, but got {name!r}. {hint}")
