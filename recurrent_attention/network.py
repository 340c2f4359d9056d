"""The two streams as a network: images and patches in, logits out; no file, no hub."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from einops import rearrange, reduce
from torch import Tensor, nn

from recurrent_attention._arguments import whole_number
from recurrent_attention._modes import eval_view
from recurrent_attention._settings import Settings
from recurrent_attention.attention import AnytimeAttention, RecurrentRefinedAttention
from recurrent_attention.backbone import fitting_backbone
from recurrent_attention.backbone.normalisation import renormalise_for
from recurrent_attention.backbone.timm_calls import TimmCalls
from recurrent_attention.heads import (
    GLOBAL_CONV_CHANNELS,
    Looks,
    TwoStreamFeatures,
    TwoStreamOutput,
    add_up_patches,
    check_features_of_streams,
    classifier,
    conv_pair,
    fuse,
    look_repeatedly,
    weigh_patches,
)
from recurrent_attention.ops._shapes import check_is_tensor, check_patches
from recurrent_attention.ops.cell_offset import MeasuredOffsets
from recurrent_attention.ops.crops import crop_patches
from recurrent_attention.ops.proposal import propose_mixed_boxes, saliency

CELLS_TO_PROPOSE = 14  # a side: boxes of MobileNetV2 at 448 were measured, from a head of 224


class TwoStreamNetwork(nn.Module, TimmCalls):
    """The two streams: what `TwoStreamClassifier` computes, without its files and pictures.

    Args:
        settings: what to build.
        pretrained: load timm's pretrained weights into both backbones.

    Raises:
        ValueError: if a backbone is unknown, or a number or a size does not fit.
        TypeError: if an argument is of another type.
    """

    def __init__(self, settings: Settings, *, pretrained: bool = False) -> None:
        super().__init__()
        always: dict[str, Any] = {"pretrained": pretrained, "in_chans": settings.in_chans}
        self.global_backbone = fitting_backbone(
            settings.backbone,
            "image_size",
            settings.image_size,
            **(settings.arguments_of("global") | always),
        )
        local_name = settings.local_backbone
        self.local_backbone = fitting_backbone(
            settings.backbone if local_name is None else local_name,
            "patch_size",
            settings.patch_size,
            final_pool=False,
            **(settings.arguments_of("local") | always),
        )
        renormalise_for(self.local_backbone, given=self.data_config)
        self.image_size = self.global_backbone.image_size
        self.patch_size = self.local_backbone.image_size
        self.settings = replace(settings, image_size=self.image_size, patch_size=self.patch_size)
        self.num_classes = settings.num_classes
        self.num_patches = settings.num_patches
        self.fusion_weight = settings.fusion_weight
        self.patch_weighting = settings.patch_weighting
        heat = settings.temperatures
        self.temperatures: tuple[float, ...] | None = None if heat is None else tuple(heat)
        names = settings.class_names
        self.class_names: tuple[str, ...] | None = None if names is None else tuple(names)
        self.measured_offsets = MeasuredOffsets()
        channels = self.global_backbone.out_channels
        self.global_convs = conv_pair(channels) if settings.global_head == "conv" else None
        self.drop = nn.Dropout(settings.drop_rate)
        self.global_head = classifier(
            GLOBAL_CONV_CHANNELS if settings.global_head == "conv" else channels, self.num_classes
        )
        channels = self.local_backbone.out_channels
        self.attention: nn.Module
        if settings.patch_weighting in ("linear", "anytime"):
            self.attention = AnytimeAttention(channels)
        else:
            self.attention = RecurrentRefinedAttention(
                channels,
                settings.hidden_size,
                num_steps=settings.num_steps,
                num_layers=settings.num_layers,
            )
        self.local_head = classifier(
            settings.hidden_size if settings.patch_weighting == "equal" else channels,
            self.num_classes,
        )

    def forward(self, images: Tensor, patches: Tensor | None = None) -> TwoStreamOutput:
        """Classify images and their patches.

        Args:
            images: (b 3 h w) floating point, normalised as the backbone wants it (`data_config`).
                Any height and width that the backbone takes, not only `image_size`; backbones with
                a `fixed_size` take no other.
            patches: (b 3 h w), or (b p 3 h w) for p patches per image, normalised likewise. None:
                the model proposes `num_patches` boxes by itself and cuts them out of `images`.

        Returns:
            `TwoStreamOutput` with the logits of both streams, fused and by step, and the boxes that
            were proposed.

        Raises:
            ValueError: if a shape does not fit, or the two batch sizes differ.
            TypeError: if one of the two is not floating point.
        """
        if patches is not None:
            return self.classify(self.encode(images, patches))
        global_map = self.global_backbone(images)
        boxes = self.propose_on_map(global_map, images)
        local_maps = self._local_maps(crop_patches(images, boxes, size=self.patch_size))
        return self.classify(TwoStreamFeatures(global_map, local_maps), boxes=boxes)

    def encode(self, images: Tensor, patches: Tensor) -> TwoStreamFeatures:
        """Run the two backbones and leave the heads out.

        Args:
            images: as in `forward`.
            patches: as in `forward`.

        Returns:
            `TwoStreamFeatures` with the maps (b c h w) and (b p c h w).
        """
        self.global_backbone.check(images)
        check_is_tensor("patches", patches)
        given = tuple(patches.shape)
        if patches.ndim == 4:
            patches = rearrange(patches, "b c h w -> b 1 c h w")
        check_patches(images, patches)
        self.local_backbone.check(patches.flatten(0, 1), name="patches", given=given)
        return TwoStreamFeatures(self.global_backbone(images), self._local_maps(patches))

    def classify(
        self, features: TwoStreamFeatures, *, boxes: Tensor | None = None
    ) -> TwoStreamOutput:
        """Run the heads of both streams on what the backbones saw.

        Args:
            features: of `encode`, or their means over h w, which answer the same; only with
                `global_head="conv"` the global map is needed whole.
            boxes: (b p 4) that are handed on.

        Returns:
            `TwoStreamOutput`.

        Raises:
            ValueError: if a shape does not fit.
            TypeError: if it is not the features of both streams.
        """
        check_features_of_streams(features)
        global_features, local_features = features
        global_logits = self.classify_global(global_features)
        look: Callable[..., Looks] = {"equal": look_repeatedly, "anytime": add_up_patches}.get(
            self.patch_weighting, weigh_patches
        )
        looks = look(self.attention, lambda seen: self.local_head(self.drop(seen)), local_features)
        output = fuse(global_logits, looks, self.fusion_weight, boxes)
        # A trace knows no None: it gives the other fields, as a plain tuple.
        tracing: Any = torch._C._get_tracing_state()
        return output if tracing is None else tuple(f for f in output if f is not None)  # type: ignore[return-value]

    def classify_global(self, features: Tensor) -> Tensor:
        """Run the global stream's head alone.

        Args:
            features: (b c h w), or its means (b c) where `classify` takes them.

        Returns:
            Its logits (b k).
        """
        if self.global_convs is not None:
            features = self.global_convs(features)
        if features.ndim == 4:
            features = reduce(features, "b c h w -> b c", "mean")
        logits: Tensor = self.global_head(self.drop(features))
        return logits

    def _local_maps(self, patches: Tensor) -> Tensor:
        maps: Tensor = self.local_backbone(rearrange(patches, "b p c h w -> (b p) c h w"))
        return rearrange(maps, "(b p) c h w -> b p c h w", p=patches.shape[1])

    def propose(self, images: Tensor) -> Tensor:
        """Propose where to look, from the global stream's own map: no labels, no gradient.

        The network answers as in eval mode, and its modes stay as they are.

        Args:
            images: (b 3 h w) as in `forward`. `proposal_size` is the side at which the map is fine
                enough.

        Returns:
            (b p 4) xyxy in pixels of `images`, best first, for p = `num_patches`.
        """
        with torch.no_grad(), eval_view(self) as network:
            return network.propose_on_map(network.global_backbone(images), images)

    @torch.no_grad()
    def propose_on_map(self, global_map: Tensor, images: Tensor) -> Tensor:
        """Propose boxes where the global stream's classes differ most.

        Args:
            global_map: (b c h w) of the global backbone.
            images: (b 3 h w) that it is of.

        Returns:
            (b p 4) xyxy in pixels of `images`, best first.
        """
        cells = global_map if self.global_convs is None else self.global_convs(global_map)
        cell_logits: Tensor = self.global_head(rearrange(cells, "b c h w -> b h w c"))
        if not torch.compiler.is_compiling():  # before torch 2.10 autocast kept casts of this pass
            torch.clear_autocast_cache()  # for the next one, where they should have a gradient
        return propose_mixed_boxes(
            saliency(rearrange(cell_logits, "b h w k -> b k h w")),
            (images.shape[2], images.shape[3]),
            whole_number(self.num_patches, "num_patches"),  # an attribute that users set
            float(self.constant_cell_offset(id(self))),
        )

    @property
    def proposal_size(self) -> int:
        """Side of an image, in pixels, at which the map is fine enough to propose boxes.

        The side with `CELLS_TO_PROPOSE` cells, but at least the image size, at most twice that, and
        just that where the backbone takes no other.
        """
        if self.global_backbone.fixed_size:
            return self.image_size
        fine = CELLS_TO_PROPOSE * self.global_backbone.reduction
        return max(self.image_size, min(2 * self.image_size, fine))

    @property
    def cell_offset(self) -> float:
        """How far off the middle of its tile a cell of the global map looks, in tiles; measured."""
        return self.measured_offsets.of(self.global_backbone, self.image_size)

    @property
    def local_cell_offset(self) -> float:
        """How far off the middle of its tile a cell of a patch's map looks, in tiles; measured."""
        if self.local_backbone.name == self.global_backbone.name:
            return self.cell_offset
        return self.measured_offsets.of(self.local_backbone, self.patch_size)

    @torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
    def constant_cell_offset(self, identity: int) -> str:
        """Return `cell_offset` to a graph: `torch.compile` calls this and does not look into it.

        Args:
            identity: id(self). Asking for it keeps the graph, with its constant, to this network;
                `torch.compile` would use it for every network of the same layers.

        Returns:
            `cell_offset` as text: torch 2.6 takes no number for a constant.
        """
        return str(self.cell_offset)

    @property
    def data_config(self) -> dict[str, Any]:
        """How the backbone wants its input: `mean`, `std`, `interpolation` and more, as in timm."""
        return self.global_backbone.data_config

    def reset_classifier(self, num_classes: int, class_names: Sequence[str] | None = None) -> None:
        """Put new classifiers into both streams, initialised as those of a new model.

        The temperatures of the old ones are forgotten.

        Args:
            num_classes: k.
            class_names: k names, kept with the model; None forgets the old ones.

        Raises:
            ValueError: if a number does not fit.
            TypeError: if an argument is of another type.
        """
        self.settings = replace(self.settings, num_classes=num_classes, class_names=class_names)
        for name in ("global_head", "local_head"):
            old = getattr(self, name)
            new = classifier(old.in_features, self.settings.num_classes).to(old.weight)
            setattr(self, name, new.train(old.training))
        self.num_classes = self.settings.num_classes
        names = self.settings.class_names
        self.class_names = None if names is None else tuple(names)
        self.temperatures = None

    def extra_repr(self) -> str:
        """Say for which sizes the streams are."""
        return f"image_size={self.image_size}, patch_size={self.patch_size}"
