"""On real birds, with the authors' patches and a real ImageNet backbone."""

import pytest
import torch
from PIL import Image

from recurrent_attention import FeatureBackbone, TwoStreamClassifier
from recurrent_attention.data import CUB200, TwoStreamDataset, read_patch_file
from recurrent_attention.ops.cell_offset import measure_cell_offset
from recurrent_attention.ops.proposal import propose_boxes, saliency
from recurrent_attention.training import Recipe, evaluate, fit

pytestmark = pytest.mark.data


@pytest.fixture(scope="module")
def splits(real_data):
    root = real_data / "CUB_200_2011_first50"
    return CUB200(root, "train"), CUB200(root, "test")


@pytest.fixture(scope="module")
def patch_boxes(real_data, splits):
    folder = real_data / "patches"
    return [
        read_patch_file(folder / f"{name}_patches.npy", split)
        for name, split in zip(("train", "test"), splits, strict=True)
    ]


def mobilenet(real_data):
    weights = {"file": str(real_data / "weights" / "mobilenetv2_100.safetensors")}
    return {"pretrained": True, "pretrained_cfg_overlay": weights}


def test_the_official_split(splits):
    train, test = splits
    assert (len(train), len(test), len(train.class_names)) == (1500, 1389, 50)
    assert set(train.labels) == set(test.labels) == set(range(50))
    assert not set(train.names) & set(test.names)
    assert len(train.bounding_boxes) == len(train.parts) == 2889


def head_share(split, boxes):
    """The share of pictures whose first box holds a visible part of the head."""
    head = ("beak", "crown", "forehead", "left eye", "right eye")
    found = []
    for name in split.names:
        x0, y0, x1, y1 = boxes[name][0].tolist()
        points = [split.parts[name][part] for part in head if part in split.parts.get(name, {})]
        if points:
            found.append(any(x0 <= x <= x1 and y0 <= y <= y1 for x, y in points))
    return sum(found) / len(found)


@pytest.mark.slow
def test_patches_meet_their_own_pictures(splits, patch_boxes):
    """In the right order the first box holds a part of the head in 71 % of the test pictures."""
    test, boxes = splits[1], patch_boxes[1]
    assert head_share(test, boxes) == pytest.approx(0.71, abs=0.01)
    names = list(test.names)
    moved = {}  # each picture gets the boxes of another one of its class
    for label in range(50):
        members = [n for n, own in zip(names, test.labels, strict=True) if own == label]
        moved.update(zip(members, [boxes[n] for n in members[1:] + members[:1]], strict=True))
    assert head_share(test, moved) < 0.5


def test_the_wrong_split_is_refused(real_data, splits):
    path = real_data / "patches" / "test_patches.npy"
    with pytest.raises(ValueError, match="for the 1500 pictures of this split, but got 1389"):
        read_patch_file(path, splits[0])


def test_the_map_is_what_the_pretrained_classifier_pools(real_data, splits):
    import timm

    picture = TwoStreamDataset(
        splits[1],
        {name: torch.tensor([[0.0, 0, 1, 1]]) for name in splits[1].names},
        image_size=224,
    )[0].image[None]
    ours = FeatureBackbone("mobilenetv2_100", **mobilenet(real_data)).eval()
    theirs = timm.create_model("mobilenetv2_100", **mobilenet(real_data)).eval()
    with torch.no_grad():
        feature_map = ours(picture)
        pooled = theirs.forward_head(theirs.forward_features(picture), pre_logits=True)
    assert feature_map.shape == (1, 1280, 7, 7)
    torch.testing.assert_close(feature_map.mean((2, 3)), pooled, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_frozen_heads_learn_birds(real_data, splits, patch_boxes, tmp_path):
    """Three classes, frozen MobileNetV2, six epochs of heads: far above the chance of 33 %."""
    parts = []
    for split, boxes in zip(splits, patch_boxes, strict=True):
        chosen = [i for i, label in enumerate(split.labels) if label in (2, 12, 46)]
        pictures = split.subset(chosen)
        pictures.labels = tuple((2, 12, 46).index(label) for label in pictures.labels)
        pictures.class_names = tuple(split.class_names[label] for label in (2, 12, 46))
        parts.append((pictures, {name: boxes[name][:2] for name in pictures.names}))
    torch.manual_seed(0)
    options = mobilenet(real_data)
    model = TwoStreamClassifier(
        "mobilenetv2_100", 3, pretrained=True, image_size=96, patch_size=96,
        backbone_kwargs={"pretrained_cfg_overlay": options["pretrained_cfg_overlay"]},
    )  # fmt: skip
    sizes = {"image_size": 96, "patch_size": 96}
    train = TwoStreamDataset(*parts[0], train=True, flip=False, **sizes)
    test = TwoStreamDataset(*parts[1], num_patches=2, **sizes)
    quiet = {"device": "cpu", "progress": False, "cache_dir": tmp_path}
    fit(model, train, recipe=Recipe(epochs=6, batch_size=16, freeze=True), **quiet)
    found = evaluate(model, test, frozen=True, **quiet)
    assert found.num_images == len(parts[1][0])
    assert found.global_top1 > 0.8
    assert found.fused_top1 > 0.8


@pytest.mark.slow
def test_predict_sees_what_the_data_set_gives(real_data, splits, patch_boxes, tmp_path):
    """Photographs by path, one of them gray, through a model that was saved and loaded."""
    test, boxes = splits[1], patch_boxes[1]
    chosen = test.subset([*range(0, 1389, 300), 193])
    assert Image.open(chosen.path(5)).mode == "L"
    torch.manual_seed(0)
    options = mobilenet(real_data)
    model = TwoStreamClassifier(
        "mobilenetv2_100", 50, pretrained=True, image_size=128, patch_size=96,
        backbone_kwargs={"pretrained_cfg_overlay": options["pretrained_cfg_overlay"]},
        class_names=test.class_names,
    ).eval()  # fmt: skip
    with torch.no_grad():
        for head in (model.global_head, model.local_head):
            head.weight.mul_(30)  # as initialised, every class gets about 2 %
    model.save_pretrained(tmp_path)
    look = {name: model.data_config[name] for name in ("mean", "std", "interpolation")}
    data = TwoStreamDataset(chosen, boxes, image_size=128, patch_size=96, num_patches=10, **look)
    predictions = TwoStreamClassifier.from_pretrained(tmp_path).predict(
        [chosen.path(i) for i in range(6)], boxes=[boxes[name] for name in chosen.names]
    )
    for sample, prediction in zip(data, predictions, strict=True):
        with torch.no_grad():
            logits = model(sample.image[None], sample.patches[None]).logits[0]
        best = logits.double().softmax(0).sort(descending=True)
        assert prediction.indices == tuple(best.indices[:5].tolist())
        assert prediction.probabilities == pytest.approx(best.values[:5].tolist(), abs=1e-5)
        assert prediction.class_names[0] == test.class_names[best.indices[0]]
    assert len({prediction.probabilities for prediction in predictions}) == 6


@pytest.mark.slow
def test_boxes_without_labels_find_the_heads(real_data, splits):
    """Four classes at 320 pixels, each class's mean feature for a classifier: quick, and enough."""
    backbone = FeatureBackbone("mobilenetv2_100", image_size=320, **mobilenet(real_data)).eval()
    offset = measure_cell_offset(backbone, 320)
    assert offset == -0.5
    whole = {name: torch.tensor([[0.0, 0, 1, 1]]) for split in splits for name in split.names}
    maps, labels, names = [], [], []
    for split in splits:
        chosen = [i for i, label in enumerate(split.labels) if label in (2, 12, 17, 46)][::3]
        data = TwoStreamDataset(split, whole, image_size=320, patch_size=8)
        with torch.no_grad():
            maps.append(torch.cat([backbone(data[i].image[None]) for i in chosen]))
        labels.append(torch.tensor([split.labels[i] for i in chosen]))
        names.append([split.names[i] for i in chosen])
    pooled = maps[0].mean((2, 3))
    weight = torch.stack([pooled[labels[0] == label].mean(0) for label in labels[0].unique()])
    cell_logits = torch.einsum("kc,bchw->bkhw", weight, maps[1])
    test = splits[1].subset([splits[1].names.index(name) for name in names[1]])
    found = {}
    for shift in (offset, -offset):  # the wrong way round it must be worse
        shares = propose_boxes(saliency(cell_logits), 1, num_boxes=1, cell_offset=shift)
        sizes = torch.tensor([test.size(index) for index in range(len(test))])
        boxes = shares * sizes.repeat(1, 2)[:, None]
        found[shift] = head_share(test, dict(zip(test.names, boxes, strict=True)))
    assert found[offset] > 0.7
    assert found[-offset] < found[offset] - 0.2
