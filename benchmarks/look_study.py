"""A study of looks by cross-validation: pictures, folds, proposals and heads. See look_order.py."""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import torch
import torch.nn.functional as F
from einops import einsum, rearrange, reduce, repeat
from torch import Tensor
from torchvision.ops import roi_align
from tqdm import tqdm

from recurrent_attention import TwoStreamClassifier
from recurrent_attention.attention import AnytimeAttention
from recurrent_attention.data import Pictures, TwoStreamDataset
from recurrent_attention.heads import TwoStreamFeatures, TwoStreamOutput
from recurrent_attention.inference.looking import probabilities_after
from recurrent_attention.loss import TwoStreamLoss
from recurrent_attention.ops.proposal import propose_boxes, saliency
from recurrent_attention.training import Recipe, fit_global_head
from recurrent_attention.training.calibration import temperature_of
from recurrent_attention.training.feature_store import FeatureStore, digest_of, key_of
from recurrent_attention.training.features import frozen_features, whole_features
from recurrent_attention.training.optimization import Schedule, build_optimizer
from recurrent_attention.training.processes import Resources
from recurrent_attention.training.reading import WholePictures, fill_store
from recurrent_attention.training.samples import samples_of

FOLDS = 5
CONFIDENCE = 0.9
SHOWN = (0, 1, 2, 3, 5)  # looks, and then all
ASKED = 17  # boxes of a proposal: 12 small, 5 wide; fewer are the first of each
PENALTY = 1e4  # of the regression: the best of 1e2 to 1e5, without the fold that is measured
Order = Callable[[int, int], Tensor]  # seed and fold that is measured to places in a bank (n p)


@dataclass
class Study:
    """The pictures, their folds, and a model with frozen backbones whose heads are trained anew."""

    model: TwoStreamClassifier
    pictures: Pictures
    resources: Resources
    fold: Tensor

    def __post_init__(self) -> None:
        self.labels = torch.tensor(self.pictures.labels)
        self.sizes = torch.tensor([self.pictures.size(i) * 2 for i in range(len(self.labels))])
        store, positions = whole_features(self.model, self.pictures, self.resources)
        self.whole = store.rows(positions[:, 0])

    def proposers(self) -> list[TwoStreamClassifier]:
        """Train the global classifier without each of the folds."""
        found = []
        for held_out in range(FOLDS):
            model = copy.deepcopy(self.model)
            others = self.pictures.subset((self.fold != held_out).nonzero()[:, 0].tolist())
            torch.manual_seed(0)
            model.reset_classifier(model.num_classes)
            fit_global_head(model, others, cache_dir=self.resources.cache_dir)
            model.num_patches = ASKED
            found.append(model.eval())
        return found

    def maps(self, side: int) -> list[Tensor]:
        """Run the global backbone on the whole pictures; keep its maps (c h w) in float16."""
        store = FeatureStore.of(
            f"maps-{digest_of(self.model.global_backbone)}", self.resources.cache_dir
        )
        shown = WholePictures(self.model, self.pictures, side)

        def keys_of(look: list[Any]) -> list[bytes]:
            return [key_of(*look, side)]

        def see(views: Tensor) -> list[Tensor]:
            return [self.model.global_backbone(views).half()]

        with torch.no_grad():
            positions = fill_store(
                store, shown, keys_of, see, self.model, self.resources, f"maps at {side}"
            )
        return [store.rows(position)[0] for position in positions]

    def boxes(self, proposers: list[TwoStreamClassifier], side: int) -> Tensor:
        """Propose boxes (n ASKED 4), as shares of the picture."""
        found = [
            proposers[fold].propose_on_map(map_[None].float(), torch.empty(1, 3, side, side))
            for map_, fold in zip(self.maps(side), self.fold.tolist(), strict=True)
        ]
        return torch.cat(found) / side

    def data(self, boxes: Tensor) -> TwoStreamDataset:
        pixels = boxes * rearrange(self.sizes, "n side -> n 1 side")
        named = dict(zip(self.pictures.names, pixels, strict=True))
        return TwoStreamDataset.for_model(
            self.model, self.pictures, named, num_patches=boxes.shape[1]
        )

    def look(self, boxes: Tensor) -> Tensor:
        """Return the features (n p c) of boxes (n p 4), shares of their pictures."""
        samples = samples_of(self.model, self.data(boxes), "data", stacklevel=1)
        features = frozen_features(self.model, samples, self.resources)
        return torch.stack([features[i].local_features for i in range(len(features))])

    def fitted(self, looks: Tensor, chosen: Tensor, seed: int) -> TwoStreamClassifier:
        """Train both heads on the chosen pictures, by the recipe for frozen backbones."""
        recipe = Recipe.heads_only(seed=seed)
        torch.manual_seed(seed)
        frozen = self.model.global_backbone, self.model.local_backbone
        model = copy.deepcopy(self.model, {id(backbone): backbone for backbone in frozen})
        model.reset_classifier(model.num_classes)
        assert isinstance(model.attention, AnytimeAttention)
        model.attention.scorer.reset_parameters()
        optimizer = build_optimizer(model, recipe)
        members = chosen.nonzero()[:, 0]
        batches = max(1, len(members) // recipe.batch_size)
        schedule = Schedule(optimizer, recipe, batches)
        loss_of = TwoStreamLoss(recipe.local_weight, recipe.label_smoothing)
        for _ in range(recipe.epochs):
            order = members[torch.randperm(len(members))]
            for some in torch.split(order, recipe.batch_size)[:batches]:
                output = model.classify(TwoStreamFeatures(self.whole[some], looks[some]))
                loss_of(output, self.labels[some]).backward()
                optimizer.step()
                schedule.step()
                optimizer.zero_grad()
        return model.eval()

    def answer(self, looks: Tensor, chosen: Tensor, seed: int) -> TwoStreamOutput:
        """Train on the chosen pictures, and answer for all."""
        model = self.fitted(looks, chosen, seed)
        with torch.no_grad():
            return model.classify(TwoStreamFeatures(self.whole, looks))

    def cross_validate(self, bank: Tensor, order: Order, seed: int) -> Tensor:
        """Return the logits of both streams after 0, 1, ... p looks (n p+1 k), each held out."""
        found = []
        for held_out in range(FOLDS):
            places = repeat(order(seed, held_out), "n p -> n p c", c=bank.shape[2])
            output = self.answer(bank.gather(1, places), self.fold != held_out, seed)
            assert output.prefix_logits is not None
            found.append(torch.cat([output.global_logits[:, None], output.prefix_logits], dim=1))
        return torch.stack(found)[self.fold, torch.arange(len(self.fold))]

    def zoomed(self, looks: Tensor, boxes: Tensor) -> Tensor:
        """Find the half of each box (n p 4) that the local stream's map of it is salient in."""
        found = torch.empty_like(boxes)
        data = self.data(boxes)
        for held_out in range(FOLDS):
            model = self.fitted(looks, self.fold != held_out, 0)
            for i in tqdm((self.fold == held_out).nonzero()[:, 0].tolist(), desc="zoom"):
                _, parts = data.fixed_views(i)
                with torch.no_grad():
                    cells = self.model.local_backbone(parts)
                    cell_logits = model.local_head(rearrange(cells, "p c h w -> p h w c"))
                inner = propose_boxes(
                    saliency(rearrange(cell_logits, "p h w k -> p k h w")), 1, num_boxes=1,
                    cell_offset=model.local_cell_offset, window_sides=(0.5,),
                )  # fmt: skip
                sides = (boxes[i, :, 2:] - boxes[i, :, :2]).repeat(1, 2)
                found[i] = boxes[i][:, [0, 1, 0, 1]] + inner[:, 0] * sides
        return found

    def gains(self, looks: Tensor, seed: int) -> Tensor:
        """Return by how much a look at each box alone lowers the loss, (FOLDS n p).

        The first axis is the fold that is measured. The heads saw neither that nor the picture's
        own fold; of pictures of the measured fold, where there is a choice, the mean is taken.
        """
        found = torch.zeros(FOLDS, *looks.shape[:2])
        targets = repeat(self.labels, "n -> n p", p=looks.shape[1])
        for one, other in combinations(range(FOLDS), 2):
            seen = (self.fold != one) & (self.fold != other)
            output = self.answer(looks, seen, seed)
            before = rearrange(output.global_logits, "n k -> n k 1")
            single = rearrange(output.step_logits, "n p 1 k -> n k p")
            after = before + self.model.fusion_weight * single
            gain = F.cross_entropy(before, targets[:, :1], reduction="none")
            gain = gain - F.cross_entropy(after, targets, reduction="none")
            for measured, own in ((one, other), (other, one)):
                found[measured, self.fold == own] = gain[self.fold == own]
                mine = self.fold == measured
                found[measured, mine] += gain[mine] / (FOLDS - 1)
        return found

    def expected(self, about: Tensor, gains: Tensor, measured: int) -> Tensor:
        """Predict the gains (n p) from what is known of the boxes (n p d), by a ridge regression.

        It learns differences within a picture, and saw neither the picture's own fold nor the one
        that is measured.
        """
        x = about - reduce(about, "n p d -> n 1 d", "mean")
        y = gains - reduce(gains, "n p -> n 1", "mean")
        folds = [self.fold == g for g in range(FOLDS)]
        products = [
            (einsum(x[f], x[f], "n p d, n p e -> d e"), einsum(x[f], y[f], "n p d, n p -> d"))
            for f in folds
        ]
        found = torch.empty_like(y)
        for own, members in enumerate(folds):
            known = [products[g] for g in range(FOLDS) if g not in (own, measured)]
            gram, moment = (torch.stack(parts).sum(0) for parts in zip(*known, strict=True))
            weights = torch.linalg.solve(gram + PENALTY * torch.eye(len(gram)), moment)
            found[members] = x[members] @ weights
        return found

    def about(self, boxes: Tensor, side: int) -> Tensor:
        """Return what the global stream's map has in each box, and the box's sides: (n p c+2)."""
        offset = self.model.cell_offset
        pooled = []
        for map_, own in zip(self.maps(side), boxes, strict=True):
            cells = own * map_.shape[-1] - offset
            inside = roi_align(map_[None].float(), [cells], 1, aligned=True)
            pooled.append(rearrange(inside, "p c 1 1 -> p c"))
        about = torch.cat([torch.stack(pooled), boxes[:, :, 2:] - boxes[:, :, :2]], dim=2)
        return about / about.flatten(0, 1).std(0).clamp(min=1e-6)

    def measure(self, logits: Tensor) -> Tensor:
        """Return what is shown of each picture, (n 10).

        Whether it is right after each number of looks in `SHOWN`, after all, on average over one to
        ten, and when it stops; how many looks that takes, and whether it takes any. Temperatures of
        a fold are fitted on the held-out answers of the others.
        """
        right = (logits.argmax(2) == self.labels[:, None]).double()
        odds = torch.empty_like(right)
        for held_out in range(FOLDS):
            others, out = self.fold != held_out, self.fold == held_out
            heats = [
                temperature_of(some[others].double(), self.labels[others])
                for some in (logits[:, :1], logits[:, 1:])
            ]
            odds[out] = probabilities_after(logits[out].double(), heats).amax(2)
        sure = odds >= CONFIDENCE
        sure[:, -1] = True
        looks = sure.int().argmax(1)
        stopped = right.gather(1, looks[:, None])[:, 0]
        shown = [right[:, n] for n in (*SHOWN, -1)]
        return torch.stack([*shown, right[:, 1:11].mean(1), stopped, looks, looks > 0], dim=1)


def folds_of(labels: Tensor) -> Tensor:
    """Deal the pictures of each class out to the folds."""
    fold = torch.zeros(len(labels), dtype=torch.long)
    generator = torch.Generator().manual_seed(0)
    for label in range(int(labels.max()) + 1):
        members = (labels == label).nonzero()[:, 0]
        members = members[torch.randperm(len(members), generator=generator)]
        fold[members] = torch.arange(len(members)) % FOLDS
    return fold
