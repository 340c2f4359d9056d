"""explain: the maps against two references, what a call leaves as it was, and what it refuses."""

import gc
import weakref
from functools import partial

import numpy as np
import pytest
import torch
from helpers import models
from pytorch_grad_cam import GradCAM
from pytorch_grad_cam.utils.image import scale_cam_image
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from torch import nn

from recurrent_attention import Explanation, TwoStreamClassifier, TwoStreamFeatures, TwoStreamLoss
from recurrent_attention.ops import crop_patches

KINDS = ["test_resnet", "test_mambaout", "test_vit"]  # NCHW, NHWC and tokens
NAMES = ["001.Great_Auk", "002.Coot", "003.Dodo", "004.Emu", "005.House_Finch"]


make = partial(models.make, patch_size=64)


def inputs(patches=2, batch=2):
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(batch, 3, 64, 64, generator=generator)
    return images, torch.randn(batch, patches, 3, 64, 64, generator=generator)


class OneStep(nn.Module):
    """A network of patches alone, whose output is what one step answers."""

    def __init__(self, model, step):
        super().__init__()
        self.model = model
        self.step = step

    def forward(self, patches):
        found = self.model.attention(self.model.local_backbone(patches))
        return self.model.local_head(found.states[:, self.step])


class GlobalStream(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, images):
        feature_map = self.model.global_backbone(images)
        if self.model.global_convs is not None:
            feature_map = self.model.global_convs(feature_map)
        return self.model.global_head(feature_map.mean((2, 3)))


def grad_cam(network, layer, inputs_, targets):
    """Give pytorch-grad-cam's maps, before and after it scales each to its own maximum."""
    targets = [ClassifierOutputTarget(target) for target in targets]
    with GradCAM(network, [layer]) as cam:
        scaled = cam(inputs_, targets)
        activations = cam.activations_and_grads.activations[0].numpy()
        gradients = cam.activations_and_grads.gradients[0].numpy()
        raw = cam.get_cam_image(inputs_, layer, targets, activations, gradients)
    return np.maximum(raw, 0), scaled


def scaled_as_there(maps, size):
    """Stretch each map (h w) to [0, 1] and resize it; the oracle stretches once more after that."""
    return scale_cam_image(scale_cam_image(maps, (size, size)))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("backbone", "size"),
    [
        *((name, 64) for name in KINDS),
        ("mobilenetv2_100", 64),
        ("swin_tiny_patch4_window7_224", 224),
        ("vit_tiny_patch16_224", 224),
    ],
)
def test_maps_agree_with_pytorch_grad_cam(backbone, size):
    model = make(backbone, image_size=size, patch_size=size)
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(2, 3, size, size, generator=generator)
    patches = torch.randn(2, 3, size, size, generator=generator)
    for targets in ([0, 1], [3, 2]):
        found = model.explain(images, patches=patches, target=targets)
        for step in range(3):
            raw, scaled = grad_cam(OneStep(model, step), model.local_backbone, patches, targets)
            ours = found.step_maps[:, 0, step].numpy()
            assert np.abs(ours - raw).max() <= 1e-4 * raw.max()
            np.testing.assert_allclose(scaled_as_there(ours, size), scaled, rtol=0, atol=1e-4)
        raw, scaled = grad_cam(GlobalStream(model), model.global_backbone, images, targets)
        ours = found.global_map.numpy()
        assert np.abs(ours - raw).max() <= 1e-4 * raw.max()
        np.testing.assert_allclose(scaled_as_there(ours, size), scaled, rtol=0, atol=1e-4)


@pytest.mark.slow
def test_the_oracle_sees_something_to_compare():
    """Maps that are 0 agree with anything."""
    for backbone in KINDS:
        model = make(backbone)
        images, patches = inputs()
        peaks = [model.explain(images, patches=patches, target=k).step_maps.max() for k in range(4)]
        assert max(peaks) > 1e-4


class Rather(ClassifierOutputTarget):
    """The logit of a class minus that of another."""

    def __init__(self, category, other):
        super().__init__(category)
        self.other = other

    def __call__(self, model_output):
        return model_output[self.category] - model_output[self.other]


@pytest.mark.slow
@pytest.mark.parametrize("backbone", KINDS)
def test_maps_against_another_class_agree_with_pytorch_grad_cam(backbone):
    model = make(backbone)
    images, patches = inputs(patches=1)
    found = model.explain(images, patches=patches, target=[2, 0], against=[4, 3])
    assert found.against.tolist() == [4, 3]

    def uncut(network, layer, views):
        targets = [Rather(2, 4), Rather(0, 3)]
        with GradCAM(network, [layer]) as cam:
            cam(views, targets)
            kept = cam.activations_and_grads
            activations, gradients = (
                part[0].numpy() for part in (kept.activations, kept.gradients)
            )
            return torch.from_numpy(
                cam.get_cam_image(views, layer, targets, activations, gradients)
            )

    wanted = uncut(GlobalStream(model), model.global_backbone, images)
    assert wanted.abs().max() > 1e-4
    torch.testing.assert_close(found.global_map, wanted, rtol=1e-4, atol=1e-7)
    for step in range(3):
        wanted = uncut(OneStep(model, step), model.local_backbone, patches[:, 0])
        torch.testing.assert_close(found.step_maps[:, 0, step], wanted, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("weighting", ["equal", "linear", "anytime"])
def test_maps_against_a_class_are_the_opposite_of_those_for_it(weighting):
    """Of uncut maps of single classes they are the difference, so that three go in a circle."""
    model = make(patch_weighting=weighting, class_names=NAMES).double()
    images, patches = (views.double() for views in inputs())

    def maps(target, against):
        found = model.explain(images, patches=patches, target=target, against=against)
        return torch.cat([found.step_maps.flatten(), found.global_map.flatten()])

    one, two, three = maps(0, "002.Coot"), maps("Coot", [2, 2]), maps(2, 0)
    assert one.abs().max() > 1e-4
    torch.testing.assert_close(maps(1, 0), -one)
    torch.testing.assert_close(one + two + three, torch.zeros_like(one))


def test_a_class_against_itself_is_refused():
    model = make(class_names=NAMES)
    images, patches = inputs()
    answered = model.explain(images, patches=patches).target
    for target, against, said in (
        ([1, 2], [0, 2], "'Dodo' for images[1]"),
        (None, answered, f"{NAMES[answered[0]][4:].replace('_', ' ')!r} for images[0]"),
    ):
        with pytest.raises(ValueError) as caught:
            model.explain(images, patches=patches, target=target, against=against)
        assert str(caught.value) == (
            "Expected `against` to be another class than the one that is explained, but both are "
            f"{said}. Name the class to explain as `target`."
        )
    with pytest.raises(ValueError, match="^Expected `against` to be one of the model's 5 class na"):
        model.explain(images, patches=patches, against="Walrus")


@pytest.mark.parametrize("global_head", ["linear", "conv"])
def test_maps_agree_with_finite_differences(global_head):
    model = make(global_head=global_head).double()
    images, patches = (views.double() for views in inputs(patches=2, batch=1))
    with torch.no_grad():
        maps = model.encode(images, patches)
    explanations = [model.explain(images, patches=patches, target=k) for k in range(5)]
    assert explanations[0].step_maps.dtype == torch.float64

    def close(ours, expected):
        torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-9)

    def slopes(feature_map, logits_of):
        """Differentiate by moving one cell of the map (c h w) at a time, up and down."""
        step = 1e-5
        moves = step * torch.eye(feature_map.numel(), dtype=torch.float64)
        moves = moves.view(-1, *feature_map.shape)
        with torch.no_grad():
            return (logits_of(feature_map + moves) - logits_of(feature_map - moves)) / (2 * step)

    def cam(feature_map, gradient):
        """Follow the formula of the paper with plain loops."""
        channels, height, width = feature_map.shape
        out = torch.zeros(height, width, dtype=torch.float64)
        for c in range(channels):
            alpha = gradient[c].sum() / (height * width)
            for i in range(height):
                for j in range(width):
                    out[i, j] += alpha * feature_map[c, i, j]
        return out.clamp(min=0)

    for patch in range(2):
        feature_map = maps.local_features[0, patch]

        def step_logits_of(moved):
            features = maps.global_features.expand(len(moved), -1, -1, -1)
            return model.classify(TwoStreamFeatures(features, moved[:, None])).step_logits[:, 0]

        gradients = slopes(feature_map, step_logits_of)
        for target, found in enumerate(explanations):
            for step in range(3):
                expected = cam(feature_map, gradients[:, step, target].view_as(feature_map))
                close(found.step_maps[0, patch, step], expected)

    def global_logits_of(moved):
        local = maps.local_features.expand(len(moved), -1, -1, -1, -1)
        return model.classify(TwoStreamFeatures(moved, local)).global_logits

    feature_map = maps.global_features[0]
    gradients = slopes(feature_map, global_logits_of)
    for target, found in enumerate(explanations):
        close(found.global_map[0], cam(feature_map, gradients[:, target].view_as(feature_map)))
    assert max(found.global_map.max() for found in explanations) > 1e-4  # 0 agrees with anything
    assert max(found.step_maps.max() for found in explanations) > 1e-4


def test_unit_is_logits():
    """Before it is cut at 0, a map sums to gradient times features; uncut maps have to."""
    model = make().double()
    images, patches = (views.double() for views in inputs())
    with torch.no_grad():
        features = model.encode(images, patches).global_features
        # With positive weights and features nothing is cut.
        model.global_backbone.norm = nn.ReLU()
        model.global_head.weight.abs_()
        found = model.explain(images, patches=patches, target=1)
    bias = model.global_head.bias[1]
    torch.testing.assert_close(found.global_map.sum((1, 2)), found.global_logits[:, 1] - bias)
    assert features.shape[2:] == found.global_map.shape[1:]


@pytest.mark.slow
@pytest.mark.parametrize("backbone", KINDS)
@pytest.mark.parametrize("global_head", ["linear", "conv"])
def test_answers_are_those_of_the_model(backbone, global_head):
    model = make(backbone, global_head=global_head, fusion_weight=0.5)
    images, patches = inputs()
    boxes = torch.rand(2, 2, 4)
    found = model.explain(images, patches=patches, boxes=boxes)
    assert isinstance(found, Explanation)
    with torch.no_grad():
        output = model(images, patches)
    for name in ("logits", "global_logits", "local_logits", "step_logits", "step_weights"):
        torch.testing.assert_close(getattr(found, name), getattr(output, name))
    assert torch.equal(found.target, output.logits.argmax(1))
    assert found.step_maps.shape[:3] == (2, 2, 3)
    assert found.global_map.shape == (2, *model.global_backbone.map_size)
    assert found.boxes is boxes
    assert found.class_names is None
    for value in vars(found).values():
        assert not (isinstance(value, torch.Tensor) and value.requires_grad)


def test_each_image_and_patch_is_explained_by_itself():
    model = make(class_names=NAMES)
    images, patches = inputs(patches=3, batch=3)
    together = model.explain(images, patches=patches, target=[4, 0, 2])
    for b, target in enumerate([4, 0, 2]):
        for p in range(3):
            alone = model.explain(images[[b]], patches=patches[[b], p], target=target)
            torch.testing.assert_close(alone.step_maps[0, 0], together.step_maps[b, p])
            torch.testing.assert_close(alone.global_map[0], together.global_map[b])


@pytest.mark.parametrize(
    "target",
    [1, "002.Coot", [1, 1], ["002.Coot", 1], torch.tensor([1, 1]), torch.tensor(1), np.int64(1)],
)
def test_ways_to_name_a_class(target):
    model = make(class_names=NAMES)
    images, patches = inputs()
    found = model.explain(images, patches=patches, target=target)
    assert found.target.tolist() == [1, 1]
    assert torch.equal(found.step_maps, model.explain(images, patches=patches, target=1).step_maps)


def state_of(model):
    hooks = [
        (len(m._forward_hooks), len(m._forward_pre_hooks), len(m._backward_hooks))
        for m in model.modules()
    ]
    return {
        "modes": [module.training for module in model.modules()],
        "requires_grad": [parameter.requires_grad for parameter in model.parameters()],
        "grad": [parameter.grad for parameter in model.parameters()],
        "grad_values": [None if p.grad is None else p.grad.clone() for p in model.parameters()],
        "hooks": hooks,
        "tensors": {name: value.clone() for name, value in model.state_dict().items()},
        "random": torch.get_rng_state(),
        "modes_of_torch": (
            torch.is_grad_enabled(),
            torch.is_inference_mode_enabled(),
            torch.is_autocast_enabled("cpu"),
            torch.is_autocast_cache_enabled(),
        ),
    }


def assert_same_state(before, after):
    for name in ("modes", "requires_grad", "hooks", "modes_of_torch"):
        assert before[name] == after[name], name
    assert all(a is b for a, b in zip(before["grad"], after["grad"], strict=True))
    for a, b in zip(before["grad_values"], after["grad_values"], strict=True):
        assert (a is None and b is None) or torch.equal(a, b)
    for name, value in before["tensors"].items():
        assert torch.equal(value, after["tensors"][name]), name
    assert torch.equal(before["random"], after["random"])


def mixed_model(backbone="test_resnet"):
    """A model in the middle of its training: mixed modes, some gradients, some frozen."""
    model = make(backbone, drop_rate=0.5, class_names=NAMES).train()
    images, patches = inputs()
    TwoStreamLoss()(model(images, patches), torch.tensor([0, 1])).backward()
    model.global_backbone.eval()
    model.drop.eval()
    list(model.local_backbone.modules())[3].eval()
    model.local_backbone.requires_grad_(False)
    model.local_head.weight.grad = None
    model.attention.register_forward_hook(lambda *_: None)
    return model


@pytest.mark.slow
@pytest.mark.parametrize("backbone", KINDS)
def test_a_call_changes_nothing(backbone):
    model = mixed_model(backbone)
    images, patches = inputs()
    copies = images.clone(), patches.clone()
    before = state_of(model)
    model.explain(images, patches=patches, target="003.Dodo")
    assert_same_state(before, state_of(model))
    assert torch.equal(images, copies[0])
    assert torch.equal(patches, copies[1])
    assert images.grad is None
    assert not images.requires_grad


@pytest.mark.slow
@pytest.mark.parametrize("part", ["global_backbone", "local_backbone", "attention", "local_head"])
@pytest.mark.parametrize("context", [torch.enable_grad, torch.inference_mode])
def test_a_call_that_fails_changes_nothing(part, context):
    model = mixed_model()

    def fail(*_):
        raise RuntimeError("out of feathers")

    model.get_submodule(part).register_forward_hook(fail)
    images, patches = inputs()
    with context():
        before = state_of(model)
        with pytest.raises(RuntimeError, match="out of feathers"):
            model.explain(images, patches=patches)
        assert_same_state(before, state_of(model))


@pytest.mark.slow
@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("train", [False, True])
def test_frozen_and_without_gradient_the_maps_are_the_same(context, train):
    model = make(drop_rate=0.5)
    images, patches = inputs()
    expected = model.explain(images, patches=patches)
    model.train(train).requires_grad_(False)
    with context():
        found = model.explain(images.clone(), patches=patches.clone())
    assert torch.equal(found.step_maps, expected.step_maps)
    assert torch.equal(found.global_map, expected.global_map)
    assert model.training is train


def test_a_model_built_in_inference_mode_is_explained():
    images, patches = inputs()
    expected = make().explain(images, patches=patches)
    with torch.inference_mode():
        found = make().explain(images.clone(), patches=patches.clone())
    assert torch.equal(found.step_maps, expected.step_maps)


def test_under_autocast():
    model = make()
    images, patches = inputs()
    expected = model.explain(images, patches=patches, target=1)
    with torch.autocast("cpu", torch.bfloat16):
        with torch.inference_mode():
            model(images, patches)  # fills autocast's cache with weights that autograd refuses
        found = model.explain(images, patches=patches, target=1)
    with torch.autocast("cpu", torch.bfloat16):
        output = model(images, patches)
    assert found.step_maps.dtype == found.logits.dtype == torch.float32
    for name in ("step_maps", "global_map"):
        ours, theirs = getattr(found, name), getattr(expected, name)
        assert (ours - theirs).abs().max() < 0.1 * theirs.max()  # bfloat16 keeps 8 bits
    torch.testing.assert_close(found.logits, output.logits.float(), atol=0.01, rtol=0.02)


def test_training_goes_on_in_the_same_autocast_region():
    model = make()
    images, patches = inputs()
    with torch.autocast("cpu", torch.bfloat16):
        model.explain(images, patches=patches)
        loss = TwoStreamLoss()(model(images, patches), torch.tensor([0, 1]))
    loss.backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []


@pytest.mark.slow
def test_two_hundred_calls_leak_nothing():
    model = make(num_steps=2)
    images, patches = inputs(patches=1, batch=1)

    def live():
        gc.collect()
        return [thing for thing in gc.get_objects() if issubclass(type(thing), torch.Tensor)]

    model.explain(images, patches=patches)
    before = live()  # held, so that nothing of other tests' goes meanwhile
    for _ in range(200):
        model.explain(images, patches=patches)
    assert len(live()) == len(before)


@pytest.mark.slow
def test_what_is_kept_holds_no_graph():
    """The backbone's map is gone once the explanation is there: only small tensors are held."""
    model = make()
    held = []
    model.local_backbone.register_forward_hook(lambda *a: held.append(weakref.ref(a[-1])))
    images, patches = inputs()
    found = model.explain(images, patches=patches)
    gc.collect()
    assert len(held) == 1
    assert held[0]() is None
    assert found.step_maps.shape[0] == 2


def test_each_backbone_and_the_head_run_once():
    model = make(num_steps=10)
    calls = []
    for name in ("global_backbone", "local_backbone", "attention", "global_head", "local_head"):
        model.get_submodule(name).register_forward_hook(lambda *_, n=name: calls.append(n))
    model.explain(*inputs()[:1], patches=inputs()[1])
    assert sorted(calls) == sorted(set(calls))
    assert len(calls) == 5


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("backbone", KINDS)
def test_eval_mode_on_cuda(backbone):
    model = make(backbone, num_steps=10)
    images, patches = inputs()
    expected = model.explain(images, patches=patches, target=1)
    model.cuda()
    found = model.explain(images.cuda(), patches=patches.cuda(), target=1)
    assert found.step_maps.is_cuda
    assert found.target.is_cuda
    torch.testing.assert_close(found.step_maps.cpu(), expected.step_maps, atol=1e-5, rtol=1e-3)
    with torch.autocast("cuda", torch.float16), torch.inference_mode():
        half = model.explain(images.cuda(), patches=patches.cuda(), target=1)
    difference = (half.step_maps.cpu() - expected.step_maps).abs().max()
    assert difference < 0.1 * expected.step_maps.max()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("target", "error", "message"),
    [
        (5, ValueError, "Expected `target` to be a class index in [0, 5), but got 5."),
        (-1, ValueError, "Expected `target` to be a class index in [0, 5), but got -1."),
        (
            "Coots",
            ValueError,
            "Expected `target` to be one of the model's 5 class names, but got 'Coots'. Did you "
            "mean '002.Coot'?",
        ),
        (
            "a walrus",
            ValueError,
            "Expected `target` to be one of the model's 5 class names, but got 'a walrus'. "
            "`model.class_names` lists them.",
        ),
        (
            [1, 2, 3],
            ValueError,
            "Expected `target` to name one class, or one for each of the 2 images, but got 3.",
        ),
        (
            torch.zeros(2, 5),
            ValueError,
            "Expected `target` to have shape (b,), but got (2, 5). Of logits pass the largest: "
            "target.argmax(1).",
        ),
        (
            torch.tensor([0.0, 1.0]),
            TypeError,
            "Expected `target` to be a class index or name, but got 0.0.",
        ),
        (True, TypeError, "Expected `target` to be a class index or name, but got True."),
        ([None, 1], TypeError, "Expected `target` to be a class index or name, but got None."),
    ],
)
def test_bad_targets(target, error, message):
    images, patches = inputs()
    with pytest.raises(error) as caught:
        make(class_names=NAMES).explain(images, patches=patches, target=target)
    assert str(caught.value) == message


def test_a_name_without_names():
    images, patches = inputs()
    with pytest.raises(ValueError) as caught:
        make().explain(images, patches=patches, target="Coot")
    assert str(caught.value) == (
        "Expected `target` to be a class index, but got the name 'Coot', and the model knows no "
        "names. Build it with `class_names`."
    )


@pytest.mark.parametrize(
    ("images", "patches", "boxes", "message"),
    [
        (
            torch.zeros(2, 3, 64, 64),
            torch.zeros(3, 64, 64),
            torch.zeros(2, 1, 4),
            "Expected `patches` to have shape (b, 3, h, w) or (b, p, 3, h, w), but got "
            "(3, 64, 64).",
        ),
        (
            torch.zeros(2, 3, 64, 64),
            torch.zeros(2, 2, 3, 64, 64),
            torch.zeros(2, 4),
            "Expected `boxes` to have shape (2, 2, 4), one box for each patch, but got (2, 4).",
        ),
    ],
)
def test_bad_shapes(images, patches, boxes, message):
    with pytest.raises(ValueError) as caught:
        make().explain(images, patches=patches, boxes=boxes)
    assert str(caught.value) == message


def test_without_patches_the_models_own_are_explained():
    torch.manual_seed(0)
    model = TwoStreamClassifier("test_resnet", 3, image_size=64, patch_size=64, num_patches=2)
    images = torch.randn(2, 3, 64, 64)
    found = model.explain(images)
    boxes = model.propose(images)
    given = model.explain(images, patches=crop_patches(images, boxes, size=64), boxes=boxes)
    torch.testing.assert_close(found.boxes, boxes)
    torch.testing.assert_close(found.step_maps, given.step_maps)
    other = torch.tensor([[[0.0, 0.0, 32.0, 32.0]]] * 2)
    assert torch.equal(model.explain(images, boxes=other).boxes, other)
