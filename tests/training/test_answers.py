"""The answers of an evaluation, against loops over the model's outputs picture by picture."""

import pytest
import torch
from helpers.models import photo
from helpers.runs import QUIET
from torch.utils.data import ConcatDataset, Subset

from recurrent_attention import TwoStreamClassifier
from recurrent_attention.data import Pictures, TwoStreamDataset
from recurrent_attention.heads import TwoStreamOutput
from recurrent_attention.images.views import IMAGENET_MEAN, IMAGENET_STD
from recurrent_attention.loss import TwoStreamLoss
from recurrent_attention.training import evaluate
from recurrent_attention.training.answers import Answers
from recurrent_attention.training.ranking import best_classes
from recurrent_attention.training.scores import Scores

CLASSES = ("auk", "bunting", "crow", "dove", "egret", "finch", "gull")
COUNT = 10
STREAMS = ("global", "local", "fused")
LOOK = {"mean": IMAGENET_MEAN, "std": IMAGENET_STD, "interpolation": "bicubic"}


def make_model(num_classes=7):
    torch.manual_seed(1)
    return TwoStreamClassifier(
        "test_resnet", num_classes, image_size=32, patch_size=32, hidden_size=8, num_steps=2,
        backbone_kwargs={"pretrained_cfg_overlay": LOOK},
    ).eval()  # fmt: skip


@pytest.fixture
def data(tmp_path):
    """Ten pictures of six of seven classes; two boxes each, of which one is shown."""
    names, boxes = [f"{n}.png" for n in range(COUNT)], {}
    for number, name in enumerate(names):
        photo(number, (50, 40)).save(tmp_path / name)
        boxes[name] = torch.tensor([[number, 2.0, number + 20, 30.0], [0, 0, 9, 9]])
    labels = [0, 3, 1, 1, 6, 2, 3, 3, 0, 5]
    pictures = Pictures(tmp_path, names, labels, list(CLASSES))
    return TwoStreamDataset(pictures, boxes, image_size=32, patch_size=32)


def outputs_of(model, data):
    """Softmax in float64, (n 3 k), of one picture at a time."""
    rows = []
    with torch.no_grad():
        for image, patches, *_ in (data[i] for i in range(len(data))):
            output = model(image[None], patches[None])
            logits = [output.global_logits, output.local_logits, output.logits]
            rows.append(torch.cat(logits).double().softmax(-1))
    return torch.stack(rows)


def parts_of(data):
    return Subset(data, [7, 2, 5]), ConcatDataset([Subset(data, [9, 0]), Subset(data, [4])])


@pytest.mark.parametrize(
    ("batch_size", "frozen", "part"), [(10, False, 0), (3, False, 0), (4, True, 0), (2, False, 1)]
)
def test_answers_are_those_to_each_picture_in_the_order_of_the_data(data, batch_size, frozen, part):
    shown = (data, ConcatDataset(parts_of(data)))[part]
    places = (list(range(COUNT)), [7, 2, 5, 9, 0, 4])[part]
    model = make_model()
    answers = evaluate(model, shown, batch_size=batch_size, frozen=frozen, **QUIET).answers
    probabilities = outputs_of(model, data)
    assert answers.names == tuple(data.pictures.names[place] for place in places)
    assert answers.class_names == CLASSES
    assert len(answers) == len(places)
    for number, place in enumerate(places):
        answer = answers[number]
        assert answer.name == f"{place}.png"
        assert answer.label == CLASSES[data.pictures.labels[place]]
        assert answer.boxes.tolist() == data.boxes[answer.name][:1].tolist()
        found = (answer.global_stream, answer.local_stream, answer.fused)
        for row, ranking in zip(probabilities[place].tolist(), found, strict=True):
            assert [name for name, _ in ranking] == [
                CLASSES[k] for k in sorted(range(7), key=lambda k: -row[k])[:5]
            ]
            assert [p for _, p in ranking] == pytest.approx(sorted(row)[::-1][:5], abs=1e-6)


def test_figures_equal_loops_over_the_predictions(data):
    model = make_model()
    found = evaluate(model, data, batch_size=4, **QUIET)
    probabilities, labels = outputs_of(model, data).tolist(), data.pictures.labels
    numbers = found.numbers()
    for place, stream in enumerate(STREAMS):
        ranked = [sorted(range(7), key=lambda k: -rows[place][k]) for rows in probabilities]
        confusion = [[0] * 7 for _ in range(7)]
        for label, order in zip(labels, ranked, strict=True):
            confusion[label][order[0]] += 1
        assert found.answers.confusion(stream).tolist() == confusion
        for count in (1, 2, 5):
            hits = sum(label in order[:count] for label, order in zip(labels, ranked, strict=True))
            assert found.answers.top(count)[stream] == pytest.approx(hits / COUNT)
        assert numbers[f"{stream}_top1"] == pytest.approx(found.answers.top(1)[stream])
        assert numbers[f"{stream}_top5"] == found.answers.top(5)[stream]
        shares = [row[k] / sum(row) for k, row in enumerate(confusion) if sum(row)]
        of_classes = found.answers.per_class()[stream]
        assert of_classes.isnan().tolist() == [sum(row) == 0 for row in confusion]
        assert of_classes[~of_classes.isnan()].tolist() == pytest.approx(shares)
        assert numbers[f"{stream}_mean_per_class"] == pytest.approx(sum(shares) / len(shares))
    assert len(shares) == 6
    assert set(numbers) == {
        "loss", "num_images", "images_per_second", "calibration_error",
        *(f"{s}_{what}" for s in STREAMS for what in ("top1", "top5", "mean_per_class")),
    }  # fmt: skip
    wrong = {}
    for index, (label, rows) in enumerate(zip(labels, probabilities, strict=True)):
        best = max(range(7), key=lambda k: rows[2][k])
        if best != label:
            wrong.setdefault((label, best), []).append(index)
    pairs = sorted(((a, b, where) for (a, b), where in wrong.items()), key=lambda p: -len(p[2]))
    listed = found.answers.confused_pairs(most=100)
    assert sorted(listed) == sorted(pairs)
    assert [len(where) for *_, where in listed] == [len(where) for *_, where in pairs]
    assert listed == sorted(listed, key=lambda p: (-len(p[2]), p[0], p[1]))
    assert found.answers.confused_pairs(most=2) == listed[:2]


def test_a_model_may_have_more_classes_than_the_data_name(data):
    model = make_model(num_classes=9)
    with torch.no_grad():
        model.global_head.bias[8] = 50.0
        model.local_head.bias[8] = 50.0
    found = evaluate(model, data, **QUIET)
    assert found.answers.class_names == (*CLASSES, "7", "8")
    assert tuple(found.answers.confusion().shape) == (9, 9)
    assert int(found.answers.confusion()[:, 8].sum()) == COUNT
    assert found.answers[0].fused[0][0] == "8"
    assert found.numbers()["fused_top1"] == 0


def test_of_equal_classes_the_first_comes_first():
    logits = torch.tensor([[1.0, 2, 2, 1, 2, 0]])
    output = TwoStreamOutput(logits, logits, logits, logits.view(1, 1, 1, 6), torch.ones(1, 1, 1))
    classes, probabilities = best_classes(output)
    assert classes.tolist() == [[[1, 2, 4, 0, 3]] * 3]
    expected = logits[0].double().softmax(-1)[[1, 2, 4, 0, 3]]
    torch.testing.assert_close(probabilities[0, 0].double(), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("classes", [2, 5, 6, 40])
def test_the_best_are_those_of_a_stable_sort(classes):
    generator = torch.Generator().manual_seed(classes)
    # Few different values, so that rows with equals are many, and rows without some.
    logits = torch.randint(0, 3 * classes, (60, classes), generator=generator).float()
    output = TwoStreamOutput(
        logits, logits, -logits, logits.view(60, 1, 1, classes), torch.ones(60, 1, 1)
    )
    found, shares = best_classes(output)
    for place, (given, order) in enumerate(((logits, found), (-logits, found), (logits, found))):
        wanted = given.sort(dim=-1, descending=True, stable=True).indices[:, :5]
        assert torch.equal(order[:, place], wanted)
        expected = given.double().softmax(-1).gather(-1, wanted)
        torch.testing.assert_close(shares[:, place].double(), expected, rtol=0, atol=1e-6)


def test_what_is_kept_of_a_picture_does_not_grow_with_the_classes():
    logits = torch.randn(4, 3000, generator=torch.Generator().manual_seed(0))
    output = TwoStreamOutput(
        logits, logits, logits, logits.view(4, 1, 1, 3000), torch.ones(4, 1, 1)
    )
    by_looks = output._replace(prefix_logits=logits[:, None])
    for kept in best_classes(by_looks):
        assert kept.untyped_storage().nbytes() == kept.numel() * kept.element_size()


def test_bad_questions():
    none = torch.zeros(1, 3, 2, dtype=torch.long)
    answers = Answers(
        ("a",), ("x", "y"), torch.tensor([1]), none, none.float(), (torch.ones(1, 4),)
    )
    with pytest.raises(ValueError) as caught:
        answers.top(6)
    assert str(caught.value) == "Expected `count` to be in [1, 5], but got 6."
    with pytest.raises(ValueError) as caught:
        answers.confusion("both")
    assert str(caught.value) == (
        "Expected `stream` to be one of global, local, fused, but got 'both'."
    )
    assert repr(answers) == "<Answers to 1 pictures of 2 classes>"


@pytest.mark.parametrize("sizes", [[7], [2, 5], [1] * 7])
def test_a_weighted_loss_is_the_same_in_batches_of_any_size(sizes):
    """On data in the order of their classes a batch has one class, and its weight cancels out."""
    torch.manual_seed(0)
    weight, labels = [0.5, 2.0, 0.0], torch.tensor([0, 0, 0, 0, 1, 1, 2])
    logits, other = torch.randn(7, 3), torch.randn(7, 3)
    ones = torch.ones(7, 1, 1)
    output = TwoStreamOutput(logits + other, logits, other, other[:, None, None], ones)
    scores, loss_of = Scores(3, torch.device("cpu")), TwoStreamLoss(0.5, weight=weight)
    start = 0
    for size in sizes:
        part = slice(start, start + size)
        some = TwoStreamOutput._make(t if t is None else t[part] for t in output)
        scores.update(some, labels[part], loss_of)
        start += size
    total = whole = 0.0
    for row, label in enumerate(labels.tolist()):
        for share, found in ((1, logits), (0.5, other)):
            entropy = -float(found[row].double().log_softmax(0)[label])
            total += weight[label] * share * entropy
        whole += weight[label]
    assert scores.compute()["loss"] == pytest.approx(total / whole, rel=1e-5)
    assert scores.num_images == 7
