"""Run the code of docs/guides/loops.md: every loop learns, and LoRA changes no other weight."""

from pathlib import Path

import pytest
import torch
from helpers.models import photo
from helpers.pages import run, sections_of
from PIL import Image
from safetensors.torch import load_file
from torch.utils.data import DataLoader

from recurrent_attention import TwoStreamClassifier, TwoStreamLoss, load_checkpoint
from recurrent_attention.data import PictureFolder

pytestmark = pytest.mark.slow
PAGE = Path(__file__).parents[1] / "docs" / "guides" / "loops.md"
SECTIONS = sections_of(PAGE)
NEEDS = {  # beside torch; the first two sections are run before each of the others
    "What all loops share": (),
    "Plain PyTorch": (),
    "PyTorch Lightning": ("lightning",),
    "Hugging Face Trainer": ("transformers",),
    "LoRA on both backbones": ("peft",),
    "Pictures from elsewhere": ("datasets",),
}


def draw(root):
    """Pictures of two classes: noise in the shades of one colour, or of the other."""
    for number in range(32):
        picture = photo(number, (48, 40)).convert("L")
        name, none = ("red", "blue")[number % 2], Image.new("L", picture.size)
        bands = (picture, none, none) if name == "red" else (none, none, picture)
        (root / name).mkdir(parents=True, exist_ok=True)
        Image.merge("RGB", bands).save(root / name / f"{number:02d}.png")


def run_section(title, names):
    for number, block in enumerate(SECTIONS[title]):
        run(block, f"loops.md, {title}, block {number}", names)


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    """A working directory with `pictures`, and no way to a hub."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("page")
        draw(folder / "pictures")
        patch.chdir(folder)
        patch.setenv("HF_HUB_OFFLINE", "1")
        yield folder


@pytest.fixture(scope="module")
def begun(here):
    """The names that the first two sections leave."""
    names = {"__name__": "page"}
    torch.manual_seed(0)
    run_section("What all loops share", names)
    run_section("Plain PyTorch", names)
    return names


@pytest.fixture
def section(begun, capsys):
    """Run a section after the first two, where its libraries are; get its names and its words."""

    def do(title):
        for library in NEEDS[title]:
            pytest.importorskip(library, reason=f"{library} is not installed")
        names = dict(begun)
        torch.manual_seed(0)
        run_section(title, names)
        return names, capsys.readouterr().out

    return do


@torch.no_grad()
def found(model, data):
    """Loss and top-1 in eval mode, on all of the data at once, whatever trained the model."""
    model.eval()
    (batch,) = DataLoader(data, batch_size=len(data))
    output = model(batch.image, batch.patches)
    right = output.logits.argmax(1) == batch.label
    return TwoStreamLoss()(output, batch.label).item(), right.float().mean().item()


def check_learned(names, model, *, backbone="test_resnet"):
    """Against a model that was not trained, on pictures that training did not see."""
    torch.manual_seed(0)
    fresh = TwoStreamClassifier(backbone, len(names["names"]), **names["settings"])
    before, _ = found(fresh, names["validation_data"])
    after, top1 = found(model, names["validation_data"])
    print(f"loss {before:.3f} -> {after:.3f}, top-1 {top1:.2f}")
    assert after < before / 2
    assert top1 == 1


def check_same(model, other):
    state = other.state_dict()
    assert list(state) == list(model.state_dict())
    for name, value in model.state_dict().items():
        assert torch.equal(value, state[name]), name


def test_every_section_is_tested():
    assert list(SECTIONS) == list(NEEDS)
    assert all(SECTIONS.values())


def test_the_plain_loop_learns(begun):
    check_learned(begun, begun["plain"])


def test_lightning_learns_and_its_checkpoint_is_read(section):
    names, _ = section("PyTorch Lightning")
    check_learned(names, names["module"].model)
    check_same(names["from_lightning"], names["module"].model)
    assert names["trainer"].callback_metrics["top1"] == 1


def test_the_trainer_learns_and_what_it_saves_is_read(section):
    names, _ = section("Hugging Face Trainer")
    model = names["wrapped"].model
    check_learned(names, model)
    assert names["hf_trainer"].evaluate()["eval_top1"] == 1
    check_same(TwoStreamClassifier.from_pretrained("from-trainer"), model)
    (checkpoint,) = Path("trainer").glob("checkpoint-*/model.safetensors")
    other = TwoStreamClassifier("test_resnet", 2, **names["settings"])
    load_checkpoint(other, checkpoint)
    check_same(other, model)


def test_lora_learns_and_leaves_the_base_as_it_was(section):
    names, said = section("LoRA on both backbones")
    lora, base = names["lora"], TwoStreamClassifier.from_pretrained("base").state_dict()
    check_learned(names, lora, backbone="test_vit")
    kept, ours, heads = {}, {}, {}
    for name, value in lora.base_model.model.state_dict().items():
        if "lora_" in name:
            ours[name] = value
        elif "modules_to_save" in name:
            heads[name] = value
        else:
            kept[name.replace(".base_layer", "").replace(".original_module", "")] = value
    assert set(kept) == set(base)
    for name, value in base.items():
        assert torch.equal(kept[name], value), name
    for name, value in ours.items():
        assert name.startswith(("global_backbone.", "local_backbone."))
        assert value.abs().max() > 0, name  # B begins with zeros
    blocks = {name.split(".lora_")[0] for name in ours}
    assert len([name for name in blocks if name.startswith("global")]) == len(blocks) / 2 > 8
    for name, value in heads.items():
        old = base[name.replace(".modules_to_save.default", "")]
        assert not torch.equal(value, old), name
    trained = sum(value.numel() for value in (*ours.values(), *heads.values()))
    every = trained + sum(value.numel() for value in base.values())
    assert f"{trained:,} of {every:,} parameters are trained, {trained / every:.0%}" in said
    check_saved_lora(names)


def check_saved_lora(names):
    """On disk lies what was trained; read back, and merged into the base, it answers the same."""
    saved = load_file("lora/adapter_model.safetensors")
    assert sum(value.numel() for value in saved.values()) == names["trained"]
    (batch,) = DataLoader(names["validation_data"], batch_size=len(names["validation_data"]))
    merged = TwoStreamClassifier.from_pretrained("merged")
    check_same(merged, names["merged"])
    with torch.no_grad():
        right = names["lora"].eval()(batch.image, batch.patches).logits
        found = merged.eval()(batch.image, batch.patches).logits
    torch.testing.assert_close(found, right, rtol=1e-4, atol=1e-4)


def test_pictures_from_elsewhere_are_those_of_the_folder(section, tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets", reason="datasets is not installed")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    names, _ = section("Pictures from elsewhere")
    folder = PictureFolder("pictures")
    for pictures in (names["from_table"], names["from_folder"], names["from_shards"]):
        assert (pictures.labels, pictures.class_names) == (folder.labels, folder.class_names)
        for index in range(len(folder)):
            assert torch.equal(pictures.pixels(index), folder.pixels(index))
    for box, name in zip(names["table_boxes"].values(), folder.names, strict=True):
        assert torch.equal(box, names["boxes"][name])
    torch.manual_seed(0)
    model = TwoStreamClassifier("test_resnet", 2, **names["settings"])
    names["train_plainly"](model, names["table_data"])
    check_learned(names, model)
