"""The two streams: a global classifier, and a local one that looks at parts of the picture."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import torch
from einops import rearrange, reduce
from huggingface_hub import PyTorchModelHubMixin
from torch import Tensor, nn

from recurrent_attention import proposal
from recurrent_attention._arguments import (
    names_of_classes,
    one_of,
    real_number,
    whole_number,
)
from recurrent_attention.attention import RecurrentRefinedAttention
from recurrent_attention.backbone import fitting_backbone
from recurrent_attention.backbone.timm_calls import TimmCalls
from recurrent_attention.heads import (
    GLOBAL_CONV_CHANNELS,
    LinearAttention,
    classifier,
    conv_pair,
    look_repeatedly,
    weigh_patches,
)
from recurrent_attention.hub import card as model_card
from recurrent_attention.hub import loading
from recurrent_attention.hub import mixin as sharing
from recurrent_attention.hub.names import canonical_names, unwrapped
from recurrent_attention.inference import prediction
from recurrent_attention.inference.checks import check_patches
from recurrent_attention.inference.explain import explain
from recurrent_attention.ops.proposal import crop_patches
from recurrent_attention.outputs import TwoStreamFeatures, TwoStreamOutput


class TwoStreamClassifier(
    nn.Module,
    TimmCalls,
    PyTorchModelHubMixin,
    library_name="recurrent-attention",
    tags=["image-classification", "fine-grained"],
    license="mit",
    pipeline_tag="image-classification",
    paper_url="https://arxiv.org/abs/2005.10979",
    model_card_template=model_card.TEMPLATE,
):
    """Classify an image by all of it and by some of its parts, on any timm backbone.

    The global stream pools the backbone's map of the whole image into a linear classifier. The
    local stream runs each patch through a backbone of its own (same architecture, own weights),
    looks at the pooled result for `num_steps` steps (`RecurrentRefinedAttention`) and classifies
    what it found; its logits are averaged over the patches. Both are summed:

        logits = global_logits + fusion_weight * local_logits

    Args:
        backbone: a timm model name, for both streams.
        num_classes: k.
        pretrained: load timm's pretrained weights into both backbones.
        local_backbone: another timm name for the local stream; default: the same.
        backbone_kwargs: further arguments of `timm.create_model`, for both streams.
        local_backbone_kwargs: the same for the local stream alone; default: `backbone_kwargs`.
        image_size: side of the square images, in pixels. Default: 448 as in the paper; where the
            backbone does not take that, twice the side that it was made for, or that side itself.
        patch_size: side of the square patches, in pixels. Default: 224 as in the paper, or the side
            that the backbone was made for.
        num_patches: patches per image that the model proposes where none are given. 1 in the paper.
        hidden_size: d of the recurrence. 512 in the authors' code.
        num_steps: T, looks at each patch. 10 in the paper.
        num_layers: stacked LSTM layers. 2 in the authors' code.
        patch_weighting: how several patches count. "equal" as in the paper: each is looked at for
            `num_steps` steps, and the logits are averaged over the patches. "linear" or
            "recurrent": each is looked at once, and its features are classified, weighted by a
            learned attention over the patches (`heads.weigh_patches`) that scores them one by one,
            or with the LSTM, for which the patches are the steps. Both want different patches,
            best first; "linear" was as good and needs a sixth of the time (docs/lab/trials.md).
        global_head: "linear" as in the paper, or "conv" for the pair of 1x1 convolutions to 1024
            channels that the authors' code has before the pooling.
        fusion_weight: of the local logits in the sum. 1 in the paper.
        drop_rate: dropout before both classifiers. 0 in the paper.
        in_chans: channels of images and patches.
        class_names: k names, kept with the model.

    Raises:
        ValueError: if the backbone is unknown, or a number or a size does not fit.
        TypeError: if an argument is of another type.

    Example:
        >>> import torch
        >>> model = TwoStreamClassifier("test_resnet", num_classes=7, image_size=64, patch_size=32)
        >>> output = model(torch.randn(2, 3, 64, 64), torch.randn(2, 5, 3, 32, 32))
        >>> output.logits.shape, output.step_logits.shape
        (torch.Size([2, 7]), torch.Size([2, 5, 10, 7]))

    Differences from the paper:
        Local logits are averaged over several patches where several are given; the paper classifies
        one. `fusion_weight` and the loss weight are two numbers; the authors' code has one.

    References:
        Shroff et al., "Focus Longer to See Better", CVPRW 2020, arXiv:2005.10979.
    """

    def __init__(
        self,
        backbone: str = "vgg19",
        num_classes: int = 200,
        *,
        pretrained: bool = False,
        local_backbone: str | None = None,
        backbone_kwargs: dict[str, Any] | None = None,
        local_backbone_kwargs: dict[str, Any] | None = None,
        image_size: int | None = None,
        patch_size: int | None = None,
        num_patches: int = 1,
        hidden_size: int = 512,
        num_steps: int = 10,
        num_layers: int = 2,
        patch_weighting: Literal["equal", "linear", "recurrent"] = "equal",
        global_head: Literal["linear", "conv"] = "linear",
        fusion_weight: float = 1.0,
        drop_rate: float = 0.0,
        in_chans: int = 3,
        class_names: Sequence[str] | None = None,
    ) -> None:
        super().__init__()
        num_classes = whole_number(num_classes, "num_classes")
        num_patches = whole_number(num_patches, "num_patches")
        names = names_of_classes(class_names, num_classes)
        one_of(global_head, "global_head", ("linear", "conv"))
        one_of(patch_weighting, "patch_weighting", ("equal", "linear", "recurrent"))
        real_number(fusion_weight, "fusion_weight")
        real_number(drop_rate, "drop_rate", 0, 1)
        for argument, value in (
            ("backbone_kwargs", backbone_kwargs),
            ("local_backbone_kwargs", local_backbone_kwargs),
        ):
            if value is not None and not isinstance(value, Mapping):
                raise TypeError(
                    f"Expected `{argument}` to be a dictionary of arguments of timm.create_model, "
                    f"but got {value!r:.200}."
                )
        kwargs = backbone_kwargs or {}
        local_kwargs = kwargs if local_backbone_kwargs is None else local_backbone_kwargs
        always: dict[str, Any] = {"pretrained": pretrained, "in_chans": in_chans}
        self.global_backbone = fitting_backbone(
            backbone, "image_size", image_size, **(dict(kwargs) | always)
        )
        self.local_backbone = fitting_backbone(
            backbone if local_backbone is None else local_backbone,
            "patch_size",
            patch_size,
            final_pool=False,
            **(dict(local_kwargs) | always),
        )
        image_size, patch_size = self.global_backbone.img_size, self.local_backbone.img_size
        self._config = {
            **sharing.portable_backbones(self, kwargs, local_kwargs),
            "num_classes": num_classes,
            "image_size": image_size,
            "patch_size": patch_size,
            "num_patches": num_patches,
            "hidden_size": hidden_size,
            "num_steps": num_steps,
            "num_layers": num_layers,
            "patch_weighting": patch_weighting,
            "global_head": global_head,
            "fusion_weight": fusion_weight,
            "drop_rate": drop_rate,
            "in_chans": in_chans,
            "class_names": None if names is None else list(names),
        }
        self.measured_offsets = proposal.MeasuredOffsets()
        self.num_classes = num_classes
        self.image_size = image_size
        self.patch_size = patch_size
        self.num_patches = num_patches
        self.fusion_weight = fusion_weight
        self.patch_weighting = patch_weighting
        self.class_names = names

        channels = self.global_backbone.out_channels
        self.global_convs = conv_pair(channels) if global_head == "conv" else None
        self.drop = nn.Dropout(drop_rate)
        self.global_head = classifier(
            GLOBAL_CONV_CHANNELS if global_head == "conv" else channels, num_classes
        )
        channels = self.local_backbone.out_channels
        self.attention: nn.Module
        if patch_weighting == "linear":
            self.attention = LinearAttention(channels)
        else:
            self.attention = RecurrentRefinedAttention(
                channels, hidden_size, num_steps=num_steps, num_layers=num_layers
            )
        self.local_head = classifier(
            hidden_size if patch_weighting == "equal" else channels, num_classes
        )

    def forward(self, images: Tensor, patches: Tensor | None = None) -> TwoStreamOutput:
        """Classify images and their patches.

        Args:
            images: (b 3 h w) floating point, normalised as the backbone wants it (`data_config`).
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
        boxes = proposal.boxes_of_map(self, global_map, images)
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
        if patches.ndim == 4:
            patches = rearrange(patches, "b c h w -> b 1 c h w")
        check_patches(images, patches)
        self.local_backbone.check(patches.flatten(0, 1), name="patches")
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
        """
        global_features, local_features = features
        global_logits = self.classify_global(global_features)
        look = look_repeatedly if self.patch_weighting == "equal" else weigh_patches
        looks = look(self.attention, lambda seen: self.local_head(self.drop(seen)), local_features)
        local_logits = looks.logits()
        fused = global_logits + self.fusion_weight * local_logits
        output = TwoStreamOutput(fused, global_logits, local_logits, *looks, boxes)
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

    propose = proposal.propose  # where to look, from the global stream's own map
    predict = prediction.predict  # pictures in, class names out
    explain = explain  # where both streams look, step by step
    config = property(sharing.current_config)
    save_pretrained = sharing.save_pretrained
    push_to_hub = sharing.push_to_hub
    generate_model_card = model_card.generate_model_card
    if not TYPE_CHECKING:  # for type checkers the mixin's signature holds: it returns cls
        from_pretrained = classmethod(loading.from_pretrained)
    proposal_size = property(proposal.proposal_size)
    cell_offset = property(proposal.cell_offset)
    constant_cell_offset = proposal.constant_cell_offset
    local_cell_offset = property(proposal.local_cell_offset)

    def extra_repr(self) -> str:
        """Say for which sizes the streams are."""
        return f"image_size={self.image_size}, patch_size={self.patch_size}"

    def reset_classifier(self, num_classes: int, class_names: Sequence[str] | None = None) -> None:
        """Put new classifiers into both streams, initialised as those of a new model.

        Args:
            num_classes: k.
            class_names: k names, kept with the model; None forgets the old ones.

        Raises:
            ValueError: if a number does not fit.
            TypeError: if an argument is of another type.
        """
        num_classes = whole_number(num_classes, "num_classes")
        names = names_of_classes(class_names, num_classes)
        for name in ("global_head", "local_head"):
            old = getattr(self, name)
            new = classifier(old.in_features, num_classes).to(old.weight)
            setattr(self, name, new.train(old.training))
        self.num_classes, self.class_names = num_classes, names
        self._config |= {"num_classes": num_classes}

    @property
    def data_config(self) -> dict[str, Any]:
        """How the backbone wants its input: `mean`, `std`, `interpolation` and more, as in timm."""
        return self.global_backbone.data_config

    def load_state_dict(
        self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False
    ) -> Any:
        """Load weights saved from this class, or from the authors' network, wrapped or not.

        Args:
            state_dict: names may carry `module.`, `_orig_mod.` or the name of the attribute that
                the model was, or be the authors' (for `backbone="vgg19", global_head="conv"`).
            strict: as in `torch.nn.Module.load_state_dict`.
            assign: as in `torch.nn.Module.load_state_dict`.

        Returns:
            The missing and unexpected names, as torch does.
        """
        weights = unwrapped(canonical_names(state_dict), self.state_dict())
        return super().load_state_dict(weights, strict=strict, assign=assign)
