"""The arguments of a model: their defaults and checks, written once, as config.json keeps them."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from recurrent_attention._arguments import names_of_classes, one_of, real_number, whole_number

PatchWeighting = Literal["equal", "linear", "recurrent", "anytime"]
GlobalHead = Literal["linear", "conv"]
CHOICES = {"patch_weighting": get_args(PatchWeighting), "global_head": get_args(GlobalHead)}
TEMPERATURES = (0.01, 100.0)  # the least and the most
BACKBONE_KWARGS = ("backbone_kwargs", "local_backbone_kwargs")


@dataclass(kw_only=True)
class Settings:
    """What a model is built from; `TwoStreamClassifier` says what each argument means.

    Numbers of the attention and sizes of pictures are checked by the attention and the backbones,
    which take them.

    Raises:
        ValueError: if a number is out of its range, or a word is not known.
        TypeError: if an argument is of another type.
    """

    backbone: str = "vgg19"
    num_classes: int = 200
    local_backbone: str | None = None
    backbone_kwargs: Mapping[str, Any] | None = None
    local_backbone_kwargs: Mapping[str, Any] | None = None
    image_size: int | None = None
    patch_size: int | None = None
    num_patches: int = 1
    hidden_size: int = 512
    num_steps: int = 10
    num_layers: int = 2
    patch_weighting: PatchWeighting = "equal"
    global_head: GlobalHead = "linear"
    fusion_weight: float = 1.0
    drop_rate: float = 0.0
    in_chans: int = 3
    class_names: Sequence[str] | None = None  # a tuple, once it was checked
    temperatures: Sequence[float] | None = None  # a tuple, once it was checked

    def __post_init__(self) -> None:
        self.num_classes = whole_number(self.num_classes, "num_classes")
        self.num_patches = whole_number(self.num_patches, "num_patches")
        self.class_names = names_of_classes(self.class_names, self.num_classes)
        one_of(self.global_head, "global_head", CHOICES["global_head"])
        one_of(self.patch_weighting, "patch_weighting", CHOICES["patch_weighting"])
        # Numbers of NumPy become Python's, which config.json can hold.
        self.fusion_weight = real_number(self.fusion_weight, "fusion_weight")
        self.drop_rate = real_number(self.drop_rate, "drop_rate", 0, 1)
        for name in ("hidden_size", "num_steps", "num_layers", "in_chans"):
            setattr(self, name, whole_number(getattr(self, name), name))
        if self.temperatures is not None:
            self.temperatures = tuple(
                real_number(value, "temperatures", TEMPERATURES[0], TEMPERATURES[1])
                for value in self.temperatures
            )
            if not self.temperatures:
                raise ValueError(
                    "Expected `temperatures` to hold a number at least, or to be None, but got an "
                    "empty sequence."
                )
        for name in BACKBONE_KWARGS:
            value = getattr(self, name)
            if value is not None and not isinstance(value, Mapping):
                raise TypeError(
                    f"Expected `{name}` to be a dictionary of arguments of timm.create_model, "
                    f"but got {value!r:.200}."
                )
            for argument in ("pretrained", "in_chans", "image_size", "final_pool"):
                if value is not None and argument in value:
                    hint = "Leave it out." if argument == "final_pool" else "Pass it by itself."
                    raise TypeError(
                        f"Expected `{name}` to hold arguments of timm.create_model alone, but got "
                        f"{argument!r}, which the classifier sets. {hint}"
                    )
            setattr(self, name, copy.deepcopy(value))  # the caller may change it later

    def arguments_of(self, stream: Literal["global", "local"]) -> dict[str, Any]:
        """Return what `timm.create_model` gets for the backbone of a stream, beside its name."""
        own = self.local_backbone_kwargs if stream == "local" else None
        return dict((self.backbone_kwargs if own is None else own) or {})
