"""Proof that TwoStreamClassifier(backbone="vgg19", global_head="conv") is the paper's network."""

import pytest
import torch
from helpers.authors_network import AUTHORS_PARAMETERS, AuthorsNetwork

from recurrent_attention import TwoStreamClassifier
from recurrent_attention.hub.names import canonical_names


def make_pair(num_classes, num_steps, size):
    torch.manual_seed(0)
    theirs = AuthorsNetwork(num_classes, num_steps).eval()
    for parameter in theirs.parameters():  # He: signals neither vanish nor explode over 16 layers
        if parameter.ndim == 4:
            torch.nn.init.kaiming_normal_(parameter)
        elif parameter.ndim == 2:
            torch.nn.init.normal_(parameter, std=0.1)
    ours = TwoStreamClassifier(
        "vgg19",
        num_classes,
        global_head="conv",
        num_steps=num_steps,
        image_size=size,
        patch_size=size // 2,
    ).eval()
    return theirs, ours


@pytest.mark.slow
@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.module."])
def test_logits_of_both_streams_equal_the_authors(prefix):
    theirs, ours = make_pair(num_classes=20, num_steps=10, size=64)
    ours.load_state_dict({prefix + name: value for name, value in theirs.state_dict().items()})
    theirs, ours = theirs.double(), ours.double()  # float32 differs by the order of its sums
    images, patches = torch.randn(2, 3, 64, 64).double(), torch.randn(2, 3, 32, 32).double()
    with torch.no_grad():
        global_logits, local_logits = theirs(images, patches)
        output = ours(images, patches)
    assert global_logits.std() > 0.1
    assert local_logits.std() > 0.1
    torch.testing.assert_close(output.global_logits, global_logits, rtol=0, atol=1e-12)
    torch.testing.assert_close(output.local_logits, local_logits, rtol=0, atol=1e-12)
    torch.testing.assert_close(output.logits, global_logits + local_logits, rtol=0, atol=1e-12)


def test_map_and_parameters_at_the_papers_size():
    with torch.device("meta"):
        theirs, ours = AuthorsNetwork(), TwoStreamClassifier("vgg19", 200, global_head="conv")
        maps = ours.encode(torch.zeros(1, 3, 448, 448), torch.zeros(1, 3, 224, 224))
    assert sum(p.numel() for p in theirs.parameters()) == AUTHORS_PARAMETERS
    assert sum(p.numel() for p in ours.parameters()) == AUTHORS_PARAMETERS
    assert maps.global_features.shape == (1, 512, 14, 14)
    assert maps.local_features.shape == (1, 1, 512, 14, 14)


@pytest.mark.slow
def test_initialisation_is_the_authors():
    torch.manual_seed(0)
    model = TwoStreamClassifier(
        "vgg19", 200, global_head="conv", image_size=64, patch_size=32, num_steps=2
    )
    for classifier in (model.global_head, model.local_head):
        assert classifier.weight.std().item() == pytest.approx(0.01, rel=0.02)
        assert classifier.bias.abs().max() == 0
    for conv in (model.global_convs[0], model.global_convs[2]):
        fan_out = conv.out_channels  # times a 1x1 kernel
        assert conv.weight.std().item() == pytest.approx((2 / fan_out) ** 0.5, rel=0.02)


def test_names_that_are_ours_stay():
    model = TwoStreamClassifier("test_resnet", 3, image_size=32, patch_size=32)
    state = model.state_dict()
    assert list(canonical_names(state)) == list(state)
    assert canonical_names({"module.a": 1, "b": 2}) == {"module.a": 1, "b": 2}
