"""The user's model: the two streams, and all that is done with pictures and files."""

from collections.abc import Iterable, Mapping, Sequence
from os import PathLike
from typing import IO, Any, overload

from PIL import Image

from recurrent_attention._settings import GlobalHead, PatchWeighting, Settings
from recurrent_attention.hub.hub_network import HubNetwork
from recurrent_attention.inference.explanation import Explanation, explain
from recurrent_attention.inference.inputs import Picture
from recurrent_attention.inference.prediction import Prediction, predict
from recurrent_attention.inference.target_class import Target


class TwoStreamClassifier(HubNetwork):
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
        hidden_size: d of the recurrence, with "equal" and "recurrent". 512 in the authors' code.
        num_steps: T, looks at each patch, with "equal"; the others look once. 10 in the paper.
        num_layers: stacked LSTM layers, with "equal" and "recurrent". 2 in the authors' code.
        patch_weighting: how several patches count. "equal" as in the paper: each is looked at for
            `num_steps` steps, and the logits are averaged over the patches. "linear" or
            "recurrent": each is looked at once, and its features are classified, weighted by a
            learned attention over the patches (`heads.weigh_patches`) that scores them one by one,
            or with the LSTM, for which the patches are the steps. "anytime" is "linear", trained
            to answer after each patch (`AnytimeAttention`), so that `predict` can stop when it is
            sure. All three want different patches, best first.
        global_head: "linear" as in the paper, or "conv" for the pair of 1x1 convolutions to 1024
            channels that the authors' code has before the pooling.
        fusion_weight: of the local logits in the sum. 1 in the paper.
        drop_rate: dropout before both classifiers. 0 in the paper.
        in_chans: channels of images and patches.
        class_names: k names, kept with the model.
        temperatures: what `predict` divides the logits by after 0, 1, 2, ... patches, so that
            probabilities mean what they say; `training.calibrate` fits them. The last covers
            further patches. None leaves the logits as they are.

    Attributes:
        global_backbone: of the whole image, a `FeatureBackbone`.
        local_backbone: of the patches.
        attention: `RecurrentRefinedAttention` or `AnytimeAttention`, on the local backbone.
        global_head: the classifier of the global stream, a `Linear`.
        local_head: that of the local stream.

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
        backbone_kwargs: Mapping[str, Any] | None = None,
        local_backbone_kwargs: Mapping[str, Any] | None = None,
        image_size: int | None = None,
        patch_size: int | None = None,
        num_patches: int = 1,
        hidden_size: int = 512,
        num_steps: int = 10,
        num_layers: int = 2,
        patch_weighting: PatchWeighting = "equal",
        global_head: GlobalHead = "linear",
        fusion_weight: float = 1.0,
        drop_rate: float = 0.0,
        in_chans: int = 3,
        class_names: Sequence[str] | None = None,
        temperatures: Sequence[float] | None = None,
    ) -> None:
        settings = Settings(
            backbone=backbone,
            num_classes=num_classes,
            local_backbone=local_backbone,
            backbone_kwargs=backbone_kwargs,
            local_backbone_kwargs=local_backbone_kwargs,
            image_size=image_size,
            patch_size=patch_size,
            num_patches=num_patches,
            hidden_size=hidden_size,
            num_steps=num_steps,
            num_layers=num_layers,
            patch_weighting=patch_weighting,
            global_head=global_head,
            fusion_weight=fusion_weight,
            drop_rate=drop_rate,
            in_chans=in_chans,
            class_names=class_names,
            temperatures=temperatures,
        )
        super().__init__(settings, pretrained=pretrained)

    @overload
    def predict(
        self,
        images: str | PathLike[str] | IO[bytes] | Image.Image,
        *,
        boxes: Any = None,
        patches: Any = None,
        top_k: int = 5,
        looks: int | None = None,
        confidence: float | None = None,
    ) -> Prediction: ...
    @overload
    def predict(
        self,
        images: list[Any] | tuple[Any, ...],
        *,
        boxes: Any = None,
        patches: Any = None,
        top_k: int = 5,
        looks: int | None = None,
        confidence: float | None = None,
    ) -> list[Prediction]: ...
    @overload
    def predict(
        self,
        images: Picture | Iterable[Picture],
        *,
        boxes: Any = None,
        patches: Any = None,
        top_k: int = 5,
        looks: int | None = None,
        confidence: float | None = None,
    ) -> Prediction | list[Prediction]: ...
    def predict(
        self,
        images: Picture | Iterable[Picture],
        *,
        boxes: Any = None,
        patches: Any = None,
        top_k: int = 5,
        looks: int | None = None,
        confidence: float | None = None,
    ) -> Prediction | list[Prediction]:
        """Name what is on one image, or on each of several, as in eval mode.

        Args:
            images: one image: a path, a PIL image, an open binary file, an array (h w) or (h w c)
                of uint8, or a tensor (c h w) of either uint8 pixels in [0, 255] or floating-point
                values that are normalised as `data_config` says, and taken in the size they have.
                Several: any iterable of these that has an order (a list, `folder.glob("*.jpg")`, a
                generator), an array (b h w c) or a tensor (b c h w). Files are read as gray, RGB or
                RGBA for a model of one, three or four channels.
            boxes: where to look: for one image (p 4), xyxy in pixels of the upright image; for
                several a list of these, or a tensor (b p 4). None lets the model propose its own.
            patches: ready patches instead of boxes: for one image (p 3 h w), normalised; for
                several a list of these, or a tensor (b p 3 h w).
            top_k: how many classes to name, at least 1; all of them where the model has fewer.
            looks: look at no more than the first `looks` boxes; None looks at all.
            confidence: in [0, 1]: look at one more box only in pictures whose best class has a
                lower probability than this; if the global stream alone is sure, take no look. Needs
                `patch_weighting="anytime"`. None takes all looks at once.

        Returns:
            A `Prediction` for one image; for several a list in their order, empty for none.

        Raises:
            FileNotFoundError: if there is no such file.
            ValueError: if a file is no picture, a shape, a number or a box does not fit, both boxes
                and patches are given, or the answer is not finite.
            TypeError: if something has a type that is not taken.

        Example:
            >>> names = ["auk", "emu"]
            >>> model = TwoStreamClassifier("test_resnet", 2, image_size=64, class_names=names)
            >>> prediction = model.predict(Image.new("RGB", (80, 60)))
            >>> sorted(prediction.class_names), len(prediction.boxes)
            (['auk', 'emu'], 1)
            >>> len(model.predict([Image.new("L", (9, 9)), Image.new("P", (7, 5))], top_k=1))
            2
        """
        return predict(
            self,
            images,
            boxes=boxes,
            patches=patches,
            top_k=top_k,
            looks=looks,
            confidence=confidence,
        )

    def explain(
        self,
        images: Picture | Iterable[Picture],
        *,
        boxes: Any = None,
        patches: Any = None,
        target: Target = None,
        against: Target = None,
    ) -> Explanation:
        """Show what in images and their patches speaks for a class, step by step, as in eval mode.

        Args:
            images: what `predict` takes.
            boxes: as in `predict`. With a normalised batch (b c h w) and ready patches: where these
                lie, for the figure.
            patches: as in `predict`; for a normalised batch with one patch an image also (b 3 h w).
            target: the class to explain: an index in [0, k), a name of `class_names`, or one for
                each image; None for the class that both streams together answer.
            against: another class, named likewise. Values of the maps above 0 then speak for the
                target rather than for this class, values below 0 the other way round.

        Returns:
            `Explanation` of all images, on the model's device. Its maps are those of Grad-CAM, one
            for each look (`inference.gradients`).

        Raises:
            FileNotFoundError: if there is no such file.
            ValueError: if a file is no picture, a shape, a number or a box does not fit, there is
                no such class, `against` is the target, the images differ in their number of
                patches, or the answer is not finite.
            TypeError: if something has a type that is not taken.

        Example:
            >>> model = TwoStreamClassifier("test_resnet", 7, image_size=64, patch_size=64)
            >>> model.explain(Image.new("RGB", (90, 60)), target=3)
            Explanation(step_maps=(1 1 10 2 2), target=[3])
        """
        return explain(self, images, boxes=boxes, patches=patches, target=target, against=against)
