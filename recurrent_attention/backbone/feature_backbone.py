"""Any timm model as a function from images to the feature map that its own classifier pools."""

from typing import Any

import timm.models
import torch
from einops import rearrange
from timm.data.model_config import resolve_input_data_config
from torch import Tensor, nn

from recurrent_attention._arguments import side, whole_number
from recurrent_attention.backbone.creation import (
    FACTORY_ARGUMENTS,
    blaming_size,
    create_model,
)
from recurrent_attention.backbone.layout import (
    LAST_INTERMEDIATE,
    TOKENS_LAST,
    closing_pools,
    find_layout,
    head_norm,
    to_map,
)
from recurrent_attention.backbone.normalisation import Renormalise
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
        image_size: side of the images, in pixels. Models with positions are built for it.
        in_chans: channels of the images.
        final_pool: False leaves out a pooling layer with which the features end, as in VGG.
        **create_model_kwargs: further arguments of `timm.create_model`.

    Attributes:
        model: the timm model, without what does not reach the map.
        norm: the norm of the model's own head, nn.Identity if it has none.
        out_channels: c of the map.
        map_size: (h, w) of the map for images of `image_size`.
        fixed_size: whether images of `image_size` only are taken.
        reduction: how many pixels wide a cell of the map is, rounded.
        channels_last: whether the weights lie so that convolutions run over (b h w c), which is
            faster, on CPUs up to 1.3 times; images may lie as they like.
        data_config: how images have to be prepared: `mean`, `std`, `interpolation`, `crop_pct`,
            `input_size`. For other channels than the model was made for, each has the average of
            its means and of its deviations, as timm resolves them.

    Raises:
        ValueError: if timm does not know the model, or `image_size` does not fit it.

    Example:
        >>> backbone = FeatureBackbone("test_resnet", image_size=64)
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
        image_size: int = 224,
        in_chans: int = 3,
        final_pool: bool = True,
        **create_model_kwargs: Any,
    ) -> None:
        super().__init__()
        image_size, in_chans = side(image_size, "image_size"), whole_number(in_chans, "in_chans")
        self.name = name
        self.image_size = image_size
        self.in_chans = in_chans
        self.renormalise: Renormalise | None = None  # where images are prepared for another one
        self.model = create_model(
            name, image_size, pretrained=pretrained, in_chans=in_chans, **create_model_kwargs
        )
        traits = timm.models.get_model_input_config(self.model)
        self.fixed_size: bool = traits["fixed_input_size"]
        self.channels_last = not any(map(_damages_memory, self.model.modules()))
        # Which layers reach the map is asked of autograd; the caller may have switched it off.
        with torch.inference_mode(False), torch.enable_grad():
            self._adapt(final_pool)
        self.data_config: dict[str, Any] = resolve_input_data_config(
            self.model, {"input_size": (in_chans, image_size, image_size)}
        )
        for parameter in self.parameters() if self.channels_last else ():
            if parameter.ndim == 4:  # Module.to would refuse others, such as Conv3d's
                parameter.data = parameter.data.to(memory_format=torch.channels_last)

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Switch timm's gradient checkpointing on or off.

        Args:
            enable: whether to.

        Raises:
            ValueError: if timm's model has none.
        """
        try:
            self.model.set_grad_checkpointing(enable)
        except (AttributeError, AssertionError) as error:
            if enable:
                raise ValueError(
                    f"Expected a timm model with gradient checkpointing, but {self.name!r} has "
                    "none."
                ) from error

    def layers_below_head(self, coarse: bool = False) -> dict[str, int]:
        """Return how far each parameter's layer is below the head: -1 right below it.

        Args:
            coarse: stages instead of blocks, as in timm.

        Returns:
            Names of parameters to numbers below 0; what belongs to the head in timm is not in it.
        """
        if not hasattr(self.model, "group_matcher"):
            return dict.fromkeys((name for name, _ in self.model.named_parameters("model")), -1)
        matcher = self.model.group_matcher(coarse=coarse)
        layers = timm.models.group_parameters(self.model, matcher, reverse=True)
        bare = [name for name, _ in self.model.named_parameters()]
        top = max((layers[name] for name in bare), default=0) + 1
        return {f"model.{name}": layers[name] - top for name in bare}

    def no_weight_decay(self) -> set[str]:
        """Return the names of the parameters that timm's model wants no weight decay for."""
        names: set[str] = getattr(self.model, "no_weight_decay", set)()
        return {f"model.{name}" for name in names}

    def _adapt(self, final_pool: bool) -> None:
        """Find out where the model keeps its map, and take out what does not reach it.

        Everything is tried on copies without weights, so that nothing of the model but the parts
        taken out changes: no mode, no counter, no random state.
        """
        images = blank_images(PROBE_BATCH, self.in_chans, self.image_size, self.image_size)
        model: Any = on_meta(self.model)
        with blaming_size(self.name, self.image_size, RuntimeError):
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
        self.reduction = round(self.image_size / height)

    def architecture(self) -> tuple[str, dict[str, Any]]:
        """Return the arguments that build this model without the folder or repository it came from.

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
        if self.renormalise is not None:
            images = self.renormalise(images)
        if not self.channels_last:
            images = images.contiguous()
        if self._layout.source == "intermediates":
            features = self.model.forward_intermediates(images, **LAST_INTERMEDIATE)
        else:
            features = self.model.forward_features(images)
        feature_map = to_map(features, self._layout, images.shape[2:], self.image_size)
        if isinstance(self.norm, nn.Identity):
            return feature_map
        if self._norm_takes_maps:
            normed: Tensor = self.norm(feature_map)
            return normed
        _, _, height, width = feature_map.shape
        cells: Tensor = self.norm(rearrange(feature_map, "b c h w -> (b h w) c"))
        return rearrange(cells, "(b h w) c -> b c h w", h=height, w=width)

    def check(
        self, images: Any, *, name: str = "images", given: tuple[int, ...] | None = None
    ) -> None:
        """Refuse what `forward` cannot take.

        Args:
            images: (b 3 h w) as in `forward`.
            name: of the caller's argument, for the message.
            given: its shape, where that is another.

        Raises:
            ValueError: if the shape does not fit.
            TypeError: if `images` is no floating-point tensor.
        """
        if not isinstance(images, Tensor):
            raise TypeError(
                f"Expected `{name}` to be a tensor (b {self.in_chans} h w), but got "
                f"{type(images).__name__}. `predict` takes pictures."
            )
        shape = tuple(images.shape) if given is None else given
        if images.ndim != 4:
            hint = f" Add a batch axis: {name}[None]." if images.ndim == 3 else ""
            raise ValueError(
                f"Expected `{name}` to have shape (b, {self.in_chans}, h, w), but got {shape}."
                + hint
            )
        if shape[-3] != self.in_chans:
            hint = f"Build the backbone with in_chans={shape[-3]}."
            if shape[-1] == self.in_chans:
                *axes, height, width, channels = range(len(shape))
                order = ", ".join(map(str, (*axes, channels, height, width)))
                hint = f"Put the channels before height and width: {name}.permute({order})."
            raise ValueError(
                f"Expected `{name}` to have {self.in_chans} channels, but got {shape[-3]} in shape "
                f"{shape}. {hint}"
            )
        if not images.is_floating_point():
            raise TypeError(
                f"Expected `{name}` to be floating point, but got {images.dtype}. Convert and "
                f"normalise them: ({name} / 255 - mean) / std, with the numbers in `data_config`."
            )
        if self.fixed_size and shape[-2:] != (self.image_size, self.image_size):
            raise ValueError(
                f"Expected `{name}` of {self.image_size} x {self.image_size} pixels, the size that "
                f"{self.name!r} was built for, but got shape {shape}. Resize them, or build the "
                "backbone with another `image_size`."
            )


def _damages_memory(layer: nn.Module) -> bool:
    """Return whether the backward pass of a layer over (b h w c) writes outside its memory.

    oneDNN 3.12 in torch 2.14 does, on a CPU with AVX-512, for pointwise convolutions with a stride
    and fewer than 16 channels, as the stems of FastViT and MobileOne have them.
    """
    return (
        isinstance(layer, nn.Conv2d)
        and layer.kernel_size == (1, 1)
        and layer.stride != (1, 1)
        and layer.in_channels < 16
    )
