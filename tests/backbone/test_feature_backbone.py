"""FeatureBackbone against timm itself: the same numbers, minus what never reaches the map."""

import copy
import re

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from recurrent_attention import FeatureBackbone, TwoStreamClassifier
from recurrent_attention.backbone.layout import _projected_tokens
from recurrent_attention.backbone.probe import blank_images, on_meta, prune
from recurrent_attention.training.feature_store import digest_of

SIZE = 64
# One model for every way of giving a map, small enough for seconds.
MODELS = {
    "test_resnet": "channels first",
    "test_byobnet": "channels first",
    "test_efficientnet": "channels first",
    "test_nfnet": "channels first",
    "test_convnext": "norm on maps in the head",
    "test_mambaout": "channels last, norm on vectors and more layers in the head",
    "test_coatnet": "built for one size",
    "test_vit": "tokens with a class token",
    "test_vit_relpos": "tokens without a class token, norm on vectors in the head",
    "mobilenetv3_small_050": "a convolution after the pooling",
    "cait_xxs24_224": "layers for the class token at the end",
    "pit_ti_224": "only the class token comes back",
    "efficientvim_m1": "cells last",
}


def image_size(name: str) -> int:
    return 96 if name == "efficientvim_m1" else SIZE


def in_pairs(name: str, **kwargs: object) -> tuple[FeatureBackbone, nn.Module]:
    """A backbone and timm's own model with the same weights, none of them zero, in eval mode."""
    size = image_size(name)
    torch.manual_seed(0)
    backbone = FeatureBackbone(name, image_size=size, **kwargs)
    torch.manual_seed(0)
    model = timm_model(name, size, **kwargs)
    randomise(model)
    own = dict(model.named_parameters()) | dict(model.named_buffers())
    with torch.no_grad():
        for key, tensor in [*backbone.model.named_parameters(), *backbone.model.named_buffers()]:
            tensor.copy_(own[key])
    return backbone.double().eval(), model.double().eval()  # float32 differs by the order of sums


def timm_model(name: str, size: int, **kwargs: object) -> nn.Module:
    try:
        return timm.create_model(name, num_classes=0, img_size=size, **kwargs)
    except TypeError:
        return timm.create_model(name, num_classes=0, **kwargs)


def randomise(model: nn.Module) -> None:
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.05 * torch.randn(parameter.shape, generator=generator)


def images_for(backbone: FeatureBackbone, batch: int = 2) -> Tensor:
    generator = torch.Generator().manual_seed(2)
    shape = (batch, backbone.in_chans, backbone.image_size, backbone.image_size)
    return torch.randn(shape, generator=generator).to(next(backbone.parameters()).dtype)


def mean_over_cells(feature_map: Tensor) -> Tensor:
    return feature_map.flatten(2).mean(2)


# --- the map ---


@pytest.mark.parametrize(
    "name", ["test_resnet", "test_byobnet", "test_efficientnet", "test_nfnet", "test_coatnet"]
)
def test_the_mean_of_the_map_is_what_timm_classifies(name):
    backbone, model = in_pairs(name)
    images = images_for(backbone)
    expected = model.forward_head(model.forward_features(images), pre_logits=True)
    torch.testing.assert_close(mean_over_cells(backbone(images)), expected)


@pytest.mark.slow
def test_mobilenetv2_has_the_1280_channels_of_its_classifier():
    backbone, model = in_pairs("mobilenetv2_100")
    images = images_for(backbone)
    expected = model.forward_head(model.forward_features(images), pre_logits=True)
    assert backbone.out_channels == expected.shape[1] == 1280
    torch.testing.assert_close(mean_over_cells(backbone(images)), expected)


@pytest.mark.parametrize("prefix", [0, 1, 5])
def test_cells_of_a_vit_are_its_normalised_tokens(prefix):
    kwargs = {"class_token": prefix > 0, "reg_tokens": max(prefix - 1, 0)}
    kwargs |= {} if prefix else {"global_pool": "avg", "fc_norm": False}
    backbone, model = in_pairs("test_vit", **kwargs)
    images = images_for(backbone)
    tokens = model.forward_features(images)
    feature_map = backbone(images)
    assert tokens.shape[1] == prefix + 4 * 4
    for row in range(4):
        for column in range(4):
            torch.testing.assert_close(
                feature_map[:, :, row, column], tokens[:, prefix + 4 * row + column]
            )


def test_channels_last_becomes_channels_first():
    backbone, model = in_pairs("swin_tiny_patch4_window7_224", depths=(1, 1, 1, 1), embed_dim=24)
    images = images_for(backbone)
    expected = model.forward_features(images)
    assert expected.shape == (2, 2, 2, 192)
    torch.testing.assert_close(backbone(images), expected.permute(0, 3, 1, 2))


def test_the_class_token_and_its_layers_are_left_out():
    backbone, model = in_pairs("cait_xxs24_224", depth=2)
    images = images_for(backbone)
    expected = model.forward_features(images)[:, 1:].transpose(1, 2).reshape(2, 192, 4, 4)
    torch.testing.assert_close(backbone(images), expected)
    gone = model.state_dict().keys() - backbone.model.state_dict().keys()
    assert {key.split(".")[0] for key in gone} == {"cls_token", "blocks_token_only"}


@pytest.mark.slow
def test_of_several_maps_the_last_is_taken():
    backbone, model = in_pairs("coat_tiny", parallel_depth=1)
    images = images_for(backbone)
    expected = model.forward_features(images)[-1][:, 1:].transpose(1, 2).reshape(2, 152, 2, 2)
    feature_map = backbone(images)
    torch.testing.assert_close(feature_map, expected)
    # What only the other maps need, but cannot be taken out, is frozen.
    frozen = {key for key, p in backbone.named_parameters() if not p.requires_grad}
    assert frozen
    feature_map.square().sum().backward()
    assert {key for key, p in backbone.named_parameters() if p.grad is None} == frozen


def test_a_model_that_returns_the_class_token_only_gives_its_last_map():
    backbone, model = in_pairs("pit_ti_224")
    images = images_for(backbone)
    expected = model.forward_intermediates(images, intermediates_only=True)[-1]
    torch.testing.assert_close(backbone(images), expected)


@pytest.mark.slow
def test_cells_on_the_last_axis_become_a_map():
    backbone, model = in_pairs("efficientvim_m1")
    images = images_for(backbone)
    expected = model.forward_features(images)[-1]
    torch.testing.assert_close(backbone(images).flatten(2), expected)


@pytest.mark.parametrize("factor", [1, 2])
def test_projected_and_merged_tokens_keep_their_places(factor):
    """Each block of factor x factor tokens becomes one cell, at the block's place."""
    kwargs = {"depth": 1, "embed_dim": 96, "num_heads": 4, "out_features": 24}
    backbone, model = in_pairs("qwen3_vit_88m_merge", merge_size=factor, **kwargs)
    images = images_for(backbone)
    tokens = model.encoder.forward_features(images)  # (2 4 4 96)
    feature_map = backbone(images)
    assert feature_map.shape == (2, 24, 4 // factor, 4 // factor)
    for row in range(4 // factor):
        for column in range(4 // factor):
            block = tokens[:, row * factor :, column * factor :][:, :factor, :factor]
            cell = backbone.norm(model.encoder.merger(block)[:, 0])
            torch.testing.assert_close(feature_map[:, :, row, column], cell)


def test_tokens_that_fill_no_grid_are_no_map():
    assert _projected_tokens(9, 24, (4, 4)) is None
    assert _projected_tokens(0, 24, (4, 4)) is None
    assert _projected_tokens(8, 24, (4, 4)) is None
    assert _projected_tokens(4, 24, (1, 16)) is None
    assert _projected_tokens(6, 24, (4, 6)).grid == (2, 3)


# --- the norm of the head ---


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("test_convnext", "head.norm"),
        ("test_mambaout", "head.norm"),
        ("test_vit_relpos", "fc_norm"),
    ],
)
def test_the_norm_of_the_head_is_applied_to_every_cell(name, key):
    backbone, model = in_pairs(name)
    norm = model.get_submodule(key)
    backbone.norm.load_state_dict(norm.state_dict())
    images = images_for(backbone)
    features = model.forward_features(images)
    if features.ndim == 3:
        features = features.transpose(1, 2).reshape(2, -1, *backbone.map_size)
    elif backbone.out_channels == features.shape[3]:
        features = features.permute(0, 3, 1, 2)
    feature_map = backbone(images)
    for row in range(backbone.map_size[0]):
        for column in range(backbone.map_size[1]):
            cell = features[:, :, row, column]
            centred = cell - cell.mean(1, keepdim=True)
            expected = centred / (cell.var(1, correction=0, keepdim=True) + norm.eps).sqrt()
            torch.testing.assert_close(
                feature_map[:, :, row, column],
                expected * norm.weight + norm.bias,
                rtol=1e-4,
                atol=1e-5,
            )


def test_the_pretrained_numbers_of_the_norm_are_kept(tmp_path):
    source = timm.create_model("test_convnext")
    randomise(source)
    save_file(source.state_dict(), tmp_path / "weights.safetensors")
    overlay = {"file": str(tmp_path / "weights.safetensors")}
    backbone = FeatureBackbone(
        "test_convnext", pretrained=True, image_size=SIZE, pretrained_cfg_overlay=overlay
    )
    expected = source.state_dict()
    assert torch.equal(backbone.norm.weight, expected["head.norm.weight"])
    for key, tensor in backbone.model.state_dict().items():
        assert torch.equal(tensor, expected[key]), key


def test_a_file_of_another_model_is_refused(tmp_path):
    """timm would leave the weights that the file lacks as they were drawn."""

    def load(name, **held):
        torch.save(held, tmp_path / "weights.pth")
        overlay = {"file": str(tmp_path / "weights.pth")}
        with pytest.raises(ValueError) as caught:
            FeatureBackbone(name, pretrained=True, image_size=SIZE, pretrained_cfg_overlay=overlay)
        start = f"Expected {tmp_path / 'weights.pth'} to hold the weights of {name!r}, but "
        assert str(caught.value).startswith(start)
        assert str(caught.value).endswith(" Is it another model's?")
        return str(caught.value).removeprefix(start).removesuffix(". Is it another model's?")

    own = timm.create_model("test_resnet").state_dict()
    other = timm.create_model("test_vit").state_dict()
    assert load("test_resnet", **other) == "15 are missing, such as conv1.0.weight"
    assert load("test_vit", **own).endswith(" are missing, such as cls_token")
    own["layer1.0.conv1.weight"] = own["layer1.0.conv1.weight"][:1]
    assert load("test_resnet", **own).startswith("got: size mismatch for layer1.0.conv1.weight: ")
    del own["layer1.0.conv1.weight"]
    assert load("test_resnet", **own) == "1 are missing, such as layer1.0.conv1.weight"


def test_a_model_without_such_a_norm_has_none():
    assert isinstance(FeatureBackbone("test_resnet", image_size=SIZE).norm, nn.Identity)


# --- what is taken out ---


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_every_parameter_gets_a_gradient(name):
    backbone = FeatureBackbone(name, image_size=image_size(name))
    randomise(backbone)
    feature_map = backbone(images_for(backbone))
    weights = torch.randn(feature_map.shape, generator=torch.Generator().manual_seed(3))
    (feature_map * weights).sum().backward()
    for key, parameter in backbone.named_parameters():
        assert parameter.requires_grad, key
        assert parameter.grad is not None, key
        assert parameter.grad.abs().max() > 0, key


def test_layers_after_the_pooling_are_taken_out():
    with torch.device("meta"):
        vgg = FeatureBackbone("vgg19", image_size=448)
        mobilenet = FeatureBackbone("mobilenetv3_small_050", image_size=SIZE)
    assert sum(parameter.numel() for parameter in vgg.parameters()) == 20_024_384
    assert {key.split(".")[1] for key in vgg.state_dict()} == {"features"}
    assert not any("conv_head" in key for key in mobilenet.state_dict())


def test_a_pooling_with_weights_is_taken_out():
    backbone, model = in_pairs("test_vit", global_pool="map")
    assert any("attn_pool" in key for key in model.state_dict())
    assert not any("attn_pool" in key for key in backbone.state_dict())
    images = images_for(backbone)
    expected = model.forward_features(images)[:, 1:].transpose(1, 2).reshape(2, 64, 4, 4)
    torch.testing.assert_close(backbone(images), expected)


class Doubling(nn.Module):
    """Matters to the output, though its parameter does not."""

    def __init__(self) -> None:
        super().__init__()
        self.spare = nn.Parameter(torch.ones(3))

    def forward(self, x: Tensor) -> Tensor:
        return 2 * x


class Toy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Conv2d(3, 4, 1)
        self.doubling = Doubling()
        self.ruler = nn.Conv2d(4, 4, 1, stride=2)
        self.idle = nn.Linear(2, 2)

    def forward(self, images: Tensor) -> Tensor:
        x = self.doubling(self.body(images))
        return x[..., : self.ruler(x).shape[-1]]  # only the size of what the ruler gives matters


def test_what_the_output_needs_is_not_taken_out():
    skeleton = on_meta(Toy())
    images = blank_images(1, 3, 8, 8)
    pruned = prune(skeleton, lambda: skeleton(images))
    assert {name: type(new) for name, new in pruned.taken_out.items()} == {
        "idle": nn.Identity,
        "doubling.spare": type(None),
    }
    assert pruned.kept == ["ruler"]
    assert pruned.output_shape == (1, 4, 8, 4)


# --- the last pooling ---


def test_final_pool_false_leaves_out_the_last_pooling_of_vgg():
    with torch.device("meta"):  # the classifier of 120 million parameters is never filled
        whole = FeatureBackbone("vgg11", image_size=SIZE)
        without = FeatureBackbone("vgg11", image_size=SIZE, final_pool=False)
    for backbone in (whole, without):
        backbone.to_empty(device="cpu").eval()
        for parameter in backbone.parameters():
            nn.init.constant_(parameter, 0.0)
    randomise(whole)
    without.load_state_dict(whole.state_dict())  # the names are the same
    images = images_for(whole)
    features = whole.model.features
    assert isinstance(features[-1], nn.MaxPool2d)
    torch.testing.assert_close(without(images), features[:-1](images))
    torch.testing.assert_close(whole(images), features(images))
    assert (whole.map_size, whole.reduction) == ((2, 2), 32)
    assert (without.map_size, without.reduction) == ((4, 4), 16)


@pytest.mark.parametrize("name", ["vgg19", "vgg11_bn"])
def test_vgg_gives_the_papers_maps(name):
    with torch.device("meta"):
        global_stream = FeatureBackbone(name, image_size=448)
        local_stream = FeatureBackbone(name, image_size=224, final_pool=False)
    for stream in (global_stream, local_stream):
        assert (stream.out_channels, *stream.map_size) == (512, 14, 14)
        shape = (1, 3, stream.image_size, stream.image_size)
        assert stream(torch.empty(shape, device="meta")).shape == (1, 512, 14, 14)


@pytest.mark.parametrize("name", ["test_resnet", "test_efficientnet", "test_mambaout", "test_vit"])
def test_final_pool_false_changes_nothing_elsewhere(name):
    with torch.device("meta"):
        whole = FeatureBackbone(name, image_size=SIZE)
        without = FeatureBackbone(name, image_size=SIZE, final_pool=False)
    assert str(whole) == str(without)


# --- what a call leaves alone ---


@pytest.mark.parametrize("name", ["test_resnet", "test_vit", "test_convnext"])
def test_construction_is_timms_own_but_for_what_is_taken_out(name):
    kwargs = {"drop_rate": 0.1, "drop_path_rate": 0.1}
    torch.manual_seed(3)
    backbone = FeatureBackbone(name, image_size=SIZE, **kwargs)
    state = torch.get_rng_state()
    torch.manual_seed(3)
    model = timm_model(name, SIZE, **kwargs)
    assert torch.equal(state, torch.get_rng_state())
    expected = model.state_dict()
    for key, tensor in backbone.model.state_dict().items():  # BatchNorm's counters among them
        assert torch.equal(tensor, expected[key]), key
    assert all(module.training for module in backbone.modules())
    assert not any(module._forward_hooks for module in backbone.modules())
    assert all(parameter.grad is None for parameter in backbone.parameters())


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_construction_works_where_gradients_are_off(context):
    with context():
        backbone = FeatureBackbone("test_convnext", image_size=SIZE)
    assert (backbone.out_channels, *backbone.map_size) == (64, 2, 2)
    assert all(parameter.requires_grad for parameter in backbone.parameters())
    assert not any("head" in key for key in backbone.state_dict())


def test_construction_on_meta_has_the_same_names_and_shapes():
    real = FeatureBackbone("test_mambaout", image_size=SIZE)
    with torch.device("meta"):
        empty = FeatureBackbone("test_mambaout", image_size=SIZE)
    assert {key: tensor.shape for key, tensor in real.state_dict().items()} == {
        key: tensor.shape for key, tensor in empty.state_dict().items()
    }
    assert all(tensor.is_meta for tensor in empty.state_dict().values())


@pytest.mark.slow
@pytest.mark.parametrize("name", ["test_vit_relpos", "pit_ti_224"])
def test_the_backbone_compiles_without_a_break_and_exports(name):
    backbone, _ = in_pairs(name, **({"depth": (1, 1, 1)} if name == "pit_ti_224" else {}))
    images = images_for(backbone)
    expected = backbone(images)
    compiled = torch.compile(copy.deepcopy(backbone), fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(images), expected)
    exported = torch.export.export(backbone, (images,)).module()
    torch.testing.assert_close(exported(images), expected)


# --- sizes, channels, preparation ---


def test_a_convolutional_model_takes_any_size():
    backbone = FeatureBackbone("test_resnet", image_size=SIZE)
    assert backbone(torch.randn(2, 3, 96, 160)).shape == (2, 96, 3, 5)


def test_dynamic_img_size_takes_any_size():
    backbone, model = in_pairs("test_vit", dynamic_img_size=True, dynamic_img_pad=True)
    images = torch.randn(1, 3, 90, 33).double()
    expected = model.forward_features(images)[:, 1:].transpose(1, 2).reshape(1, 64, 6, 3)
    torch.testing.assert_close(backbone(images), expected)


@pytest.mark.parametrize("side", [100, 200, 90, 160])
def test_a_padded_picture_has_the_grid_of_its_patches(side):
    """At 100 pixels 7 cells of 16 are needed, at 200 not 14 but 13."""
    padding = {"dynamic_img_size": True, "dynamic_img_pad": True}
    backbone = FeatureBackbone("test_vit", image_size=100, **padding).eval()
    images = torch.randn(1, 3, side, side - 20)
    cells = (-(-side // 16), -(-(side - 20) // 16))
    with torch.no_grad():
        tokens = backbone.model.forward_features(images)[:, 1:]
        found = backbone(images)
    assert found.shape[2:] == cells
    torch.testing.assert_close(found.flatten(2).transpose(1, 2), backbone.norm(tokens))


def test_in_chans_and_data_config():
    backbone = FeatureBackbone("test_vit", image_size=SIZE, in_chans=1)
    assert backbone(torch.randn(2, 1, SIZE, SIZE)).shape == (2, 64, 4, 4)
    assert backbone.data_config["input_size"] == (1, SIZE, SIZE)
    assert len(backbone.data_config["mean"]) == len(backbone.data_config["std"]) == 1
    vgg_like = FeatureBackbone("test_resnet", image_size=SIZE).data_config
    assert {"mean", "std", "interpolation", "crop_pct", "input_size"} <= vgg_like.keys()


# --- errors ---


def raises_sentence(error: type[Exception], sentence: str) -> object:
    return pytest.raises(error, match=f"^{re.escape(sentence)}$")


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("vg19", "got 'vg19'. Did you mean 'vgg19', 'vgg19_bn', 'vgg16'?"),
        ("vgg19.imagenet", "got 'vgg19.imagenet'. Did you mean 'vgg19.tv_in1k'?"),
        ("qqqqqqqq", "got 'qqqqqqqq'. timm.list_models() names them all."),
    ],
)
def test_an_unknown_name(name, sentence):
    with raises_sentence(ValueError, f"Expected `name` to be a timm model, but {sentence}"):
        FeatureBackbone(name)


def test_a_known_tag_is_accepted():
    with torch.device("meta"):
        assert FeatureBackbone("test_resnet.r160_in1k", image_size=SIZE).out_channels == 96


@pytest.mark.parametrize(
    ("shape", "sentence"),
    [
        (
            (3, SIZE, SIZE),
            "Expected `images` to have shape (b, 3, h, w), but got (3, 64, 64). "
            "Add a batch axis: images[None].",
        ),
        ((SIZE, SIZE), "Expected `images` to have shape (b, 3, h, w), but got (64, 64)."),
        (
            (2, 1, SIZE, SIZE),
            "Expected `images` to have 3 channels, but got 1 in shape (2, 1, 64, 64). "
            "Build the backbone with in_chans=1.",
        ),
        (
            (2, 3, 96, SIZE),
            "Expected `images` of 64 x 64 pixels, the size that 'test_coatnet' was built for, but "
            "got shape (2, 3, 96, 64). Resize them, or build the backbone with another "
            "`image_size`.",
        ),
    ],
)
def test_images_of_the_wrong_shape(shape, sentence):
    with torch.device("meta"):
        backbone = FeatureBackbone("test_coatnet", image_size=SIZE)
    with raises_sentence(ValueError, sentence):
        backbone(torch.zeros(shape, device="meta"))


def test_weights_that_cannot_be_downloaded_are_asked_for_as_a_file(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with raises_sentence(
        ConnectionError,
        "Expected to download the weights of 'resnet10t', but the Hugging Face Hub cannot be "
        "reached, and they are not in its cache. Give them as a file: --weights FILE, or "
        "backbone_kwargs={'pretrained_cfg_overlay': {'file': FILE}}; or begin without: --weights "
        "none, or pretrained=False.",
    ):
        FeatureBackbone("resnet10t", pretrained=True, image_size=SIZE)


def test_images_of_bytes():
    with torch.device("meta"):
        backbone = FeatureBackbone("test_resnet", image_size=SIZE)
    with raises_sentence(
        TypeError,
        "Expected `images` to be floating point, but got torch.uint8. Convert and normalise them: "
        "(images / 255 - mean) / std, with the numbers in `data_config`.",
    ):
        backbone(torch.zeros(2, 3, SIZE, SIZE, dtype=torch.uint8, device="meta"))


@pytest.mark.parametrize(
    ("name", "size", "sentence"),
    [
        ("test_vit", 0, "Expected `image_size` to be at least 1, but got 0."),
        (
            "test_vit",
            65,
            "Expected `image_size` to suit 'test_vit', but got 65: "
            "Input height (65) should be divisible by patch size (16).",
        ),
        ("halonet_h1", 100, "Expected `image_size` to suit 'halonet_h1', but got 100."),
    ],
)
def test_a_size_that_does_not_fit(name, size, sentence):
    with torch.device("meta"), raises_sentence(ValueError, sentence):
        FeatureBackbone(name, image_size=size)


def test_a_model_whose_features_are_no_map():
    with raises_sentence(
        ValueError,
        "Expected `name` to be a model with a feature map, but the features of 'test_vit' have "
        "shape [(2, 9, 64)].",
    ):
        FeatureBackbone("test_vit", image_size=SIZE, patch_drop_rate=0.5)


def test_an_unknown_argument_is_timms_to_refuse():
    with pytest.raises(TypeError, match="'bogus'"):
        FeatureBackbone("test_resnet", image_size=SIZE, bogus=1)


# --- layout in memory ---


def lies_channels_last(backbone: FeatureBackbone) -> bool:
    """Whether the weights that can lie in two ways lie so that channels are innermost."""
    weights = [w for w in backbone.parameters() if w.ndim == 4 and w.shape[2] > 1 < w.shape[1]]
    return all(w.is_contiguous(memory_format=torch.channels_last) for w in weights)


def test_convolutions_run_over_channels_last(tmp_path):
    backbone = FeatureBackbone("test_resnet", image_size=64)
    assert lies_channels_last(backbone)
    plain = copy.deepcopy(backbone).to(memory_format=torch.contiguous_format)
    images = images_for(backbone)
    torch.testing.assert_close(backbone.double()(images.double()), plain.double()(images.double()))
    assert backbone(images.double()).is_contiguous(memory_format=torch.channels_last)
    TwoStreamClassifier("test_resnet", 2, image_size=64, patch_size=64).save_pretrained(tmp_path)
    loaded = TwoStreamClassifier.from_pretrained(tmp_path)
    assert lies_channels_last(loaded.global_backbone)


@pytest.mark.slow
def test_a_stem_whose_backward_pass_damages_memory_stays_as_it_is():
    """In the other layout, this ends the process (with AVX-512, at 224 pixels)."""
    backbone = FeatureBackbone("fastvit_t8", image_size=224)
    assert not backbone.channels_last
    assert not lies_channels_last(backbone)
    images = images_for(backbone).to(memory_format=torch.channels_last)
    for _ in range(3):
        backbone(images).mean().backward()
    assert all(bool(weight.grad.isfinite().all()) for weight in backbone.parameters())


def test_weights_of_five_axes_stay_as_they_are():
    backbone = FeatureBackbone("lambda_resnet26t", image_size=64)
    assert any(weight.ndim == 5 for weight in backbone.parameters())
    assert lies_channels_last(backbone)


def test_timms_name_of_the_size_is_refused_in_one_sentence():
    with pytest.raises(TypeError) as caught:
        FeatureBackbone("test_resnet", img_size=64)
    assert str(caught.value) == (
        "Expected `image_size` as in all of this package, but got timm's `img_size`. Pass "
        "image_size=64."
    )


# Two backbones that were trained on pictures of another normalisation

FIRST = {"mean": (0.5, 0.4, 0.3), "std": (0.2, 0.3, 0.4)}
SECOND = {"mean": (0.5, 0.5, 0.5), "std": (0.25, 0.25, 0.2)}


def two_looks(first, second, **kwargs):
    torch.manual_seed(0)
    return TwoStreamClassifier(
        "test_resnet", 3, local_backbone="test_vit", image_size=64, patch_size=32, hidden_size=8,
        backbone_kwargs={"pretrained_cfg_overlay": first},
        local_backbone_kwargs={"pretrained_cfg_overlay": second}, **kwargs,
    ).eval()  # fmt: skip


def test_patches_are_brought_to_the_normalisation_of_their_backbone(tmp_path):
    model = two_looks(FIRST, SECOND)
    pixels = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))

    def normalised(look):
        mean, std = (torch.tensor(look[key]).view(3, 1, 1) for key in ("mean", "std"))
        return (pixels - mean) / std

    with torch.no_grad():
        seen = model.local_backbone(normalised(FIRST))
        bare = two_looks(SECOND, SECOND).local_backbone
        assert bare.renormalise is None
        torch.testing.assert_close(seen, bare(normalised(SECOND)))
        assert (seen - bare(normalised(FIRST))).abs().max() > 0.01
        torch.testing.assert_close(
            model.global_backbone(normalised(FIRST)),
            two_looks(FIRST, FIRST).global_backbone(normalised(FIRST)),
        )
    model.save_pretrained(tmp_path)
    again = TwoStreamClassifier.from_pretrained(tmp_path).eval()
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        assert torch.equal(again(images).logits, model(images).logits)
    assert digest_of(again.local_backbone) == digest_of(model.local_backbone)
    assert digest_of(again.local_backbone) != digest_of(bare)  # features are kept apart
