"""Whether a timm model works as both streams, and what that costs: asked before any training."""

from collections.abc import Iterator
from typing import Any

import torch

from recurrent_attention._errors import ArgumentError, first_line
from recurrent_attention._settings import Settings
from recurrent_attention.backbone import IMAGE_SIZE, PATCH_SIZE, FeatureBackbone, native_size
from recurrent_attention.backbone.cost import cost_of_step
from recurrent_attention.backbone.report import BackboneReport, StreamReport
from recurrent_attention.network import TwoStreamNetwork

LONGEST_REASON = 300  # characters


def check_backbone(
    name: str,
    *,
    image_size: int | None = None,
    patch_size: int | None = None,
    num_classes: int = 200,
    num_patches: int = 1,
    batch_size: int = 32,
    backbone_kwargs: dict[str, Any] | None = None,
) -> BackboneReport:
    """Check whether a timm model works as both streams, and count what that costs.

    `TwoStreamClassifier` is built on the meta device, and the forward pass of one training step
    runs there: nothing is computed, and it takes neither weights, a network, nor much memory.

    Args:
        name: as for `TwoStreamClassifier`.
        image_size: side of the images in pixels. Default: 448; where the model does not take that,
            twice the side that it was made for; where it does not take that, the side itself.
        patch_size: side of the patches in pixels. Default: 224, or the side it was made for.
        num_classes: k.
        num_patches: patches of each image in the training step.
        batch_size: images in the training step. 32 in the authors' code.
        backbone_kwargs: further arguments of `timm.create_model`.

    Returns:
        `BackboneReport`; with the reason where the model does not work, or timm does not know it.

    Raises:
        ValueError: if a number is smaller than 1.
        OSError: if the description of a model in a folder or on the Hub cannot be had.

    Example:
        >>> report = check_backbone("test_resnet", image_size=128, patch_size=64, batch_size=8)
        >>> report.ok, report.global_stream.map_size, report.local_stream.map_size
        (True, (4, 4), (2, 2))
        >>> check_backbone("test_vit", image_size=65).reason
        "Expected `image_size` to suit 'test_vit', but got 65: Input height (65) should be \
divisible by patch size (16)."
    """
    numbers = {
        "image_size": image_size,
        "patch_size": patch_size,
        "num_classes": num_classes,
        "num_patches": num_patches,
        "batch_size": batch_size,
    }
    for argument, number in numbers.items():
        if number is not None and number < 1:
            raise ValueError(f"Expected `{argument}` to be at least 1, but got {number}.")
    try:
        sizes = list(_sizes(name, image_size, patch_size))
    except ValueError as error:  # timm does not know it
        return BackboneReport(name, str(error))
    refused: list[str] = []
    for image, patch in sizes:
        try:
            report = _report(
                name, num_classes, image, patch, backbone_kwargs, num_patches, batch_size
            )
        except OSError:
            raise
        except Exception as error:  # timm raises whatever a size leads to
            refused.append(_sentence(error, name, image, patch))
        else:
            if refused:
                image, patch = sizes[0]
                return report._replace(size_note=f"not at {image}/{patch}: {refused[0]}")
            return report
    return BackboneReport(name, refused[-1])  # at its own size, where that could be tried


def _sizes(name: str, image_size: int | None, patch_size: int | None) -> Iterator[tuple[int, int]]:
    """List which sides of images and patches to try."""
    native = native_size(name)
    sides = [(IMAGE_SIZE, PATCH_SIZE)]
    if native is not None:
        sides += [(2 * native, native), (native, native)]
    yield from dict.fromkeys((image_size or image, patch_size or patch) for image, patch in sides)


def _report(
    name: str,
    num_classes: int,
    image_size: int,
    patch_size: int,
    backbone_kwargs: dict[str, Any] | None,
    num_patches: int,
    batch_size: int,
) -> BackboneReport:
    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        settings = Settings(
            backbone=name,
            num_classes=num_classes,
            image_size=image_size,
            patch_size=patch_size,
            backbone_kwargs=backbone_kwargs,
        )
        model = TwoStreamNetwork(settings)
    cost = cost_of_step(model, batch_size=batch_size, num_patches=num_patches)
    parameters = list(model.parameters())
    config = model.data_config
    return BackboneReport(
        name=name,
        global_stream=_stream(model.global_backbone, cost.global_macs),
        local_stream=_stream(model.local_backbone, cost.local_macs),
        fixed_size=model.global_backbone.fixed_size or model.local_backbone.fixed_size,
        parameters=sum(parameter.numel() for parameter in parameters),
        trainable=sum(parameter.numel() for parameter in parameters if parameter.requires_grad),
        batch_size=batch_size,
        num_patches=num_patches,
        state_bytes=cost.state_bytes,
        kept_bytes=cost.kept_bytes,
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
        interpolation=config["interpolation"],
    )


def _stream(backbone: FeatureBackbone, macs: int) -> StreamReport:
    return StreamReport(
        backbone.image_size, backbone.map_size, backbone.out_channels, backbone.reduction, macs
    )


def _sentence(error: Exception, name: str, image_size: int, patch_size: int) -> str:
    if isinstance(error, ArgumentError):
        return first_line(error, LONGEST_REASON) + "."
    return (
        f"Expected {name!r} to train at {image_size}/{patch_size} pixels, but got "
        f"{type(error).__name__}: {first_line(error, LONGEST_REASON)}."
    )
