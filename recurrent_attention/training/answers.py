"""What both streams answered to each picture of an evaluation, and what that adds up to."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torchmetrics.functional.classification import binary_calibration_error

STREAMS = ("global", "local", "fused")
KEPT = 5  # best classes of each stream
CALIBRATION_BINS = 15
CONFIDENCES = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95)  # at which stopping is reported
Ranking = tuple[tuple[str, float], ...]


class Answer(NamedTuple):
    """The answers of both streams to one picture.

    Attributes:
        name: of its file, as in the data.
        label: name of its class.
        fused: names and probabilities of the best five classes of both streams together, best
            first.
        global_stream: the same for the whole picture.
        local_stream: the same for the patches.
        boxes: (p 4) xyxy in pixels of the picture, where the patches were.
    """

    name: str
    label: str
    fused: Ranking
    global_stream: Ranking
    local_stream: Ranking
    boxes: Tensor


class Stopping(NamedTuple):
    """Accuracy and number of looks if a model looks until it is sure.

    Attributes:
        confidence: that was enough.
        top1: share of right answers, in [0, 1].
        mean_looks: looks that a picture took, on average.
        looks: (n) of each picture.
    """

    confidence: float
    top1: float
    mean_looks: float
    looks: Tensor


@dataclass(frozen=True, eq=False)
class Answers:
    """The answers to n pictures; indexing returns an `Answer`.

    Attributes:
        names: n file names.
        class_names: k names.
        labels: (n) class indices in [0, k).
        classes: (n 3 m) indices of the best m = min(5, k) classes, best first, of the global, the
            local and both streams; of equal classes the first comes first.
        probabilities: (n 3 m) in [0, 1], of a softmax over all k classes.
        boxes: n tensors (p 4), xyxy in pixels of the picture; a sequence.
        classes_after: (n p + 1) the best class of both streams after 0, 1, ... p looks, where the
            model answers after each (`patch_weighting="anytime"`); else None.
        probabilities_after: (n p + 1) their probabilities.
    """

    names: tuple[str, ...]
    class_names: tuple[str, ...]
    labels: Tensor
    classes: Tensor
    probabilities: Tensor
    boxes: Sequence[Tensor]
    classes_after: Tensor | None = None
    probabilities_after: Tensor | None = None

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> Answer:
        rankings = [self._ranking(index, place) for place in range(len(STREAMS))]
        label = self.class_names[int(self.labels[index])]
        whole, parts, both = rankings
        return Answer(self.names[index], label, both, whole, parts, self.boxes[index])

    def __repr__(self) -> str:
        return f"<Answers to {len(self)} pictures of {len(self.class_names)} classes>"

    def top(self, count: int) -> dict[str, float]:
        """Return the share of pictures whose class is among the `count` best of a stream.

        Args:
            count: of classes, in [1, 5].

        Returns:
            "global", "local" and "fused" to a share in [0, 1].

        Raises:
            ValueError: if more classes are asked for than are kept.
        """
        if not 1 <= count <= KEPT:
            raise ValueError(f"Expected `count` to be in [1, {KEPT}], but got {count}.")
        hits = (self.classes[..., :count] == self.labels[:, None, None]).any(-1)
        return dict(zip(STREAMS, hits.double().mean(0).tolist(), strict=True))

    def per_class(self) -> dict[str, Tensor]:
        """Return the share of right answers among the pictures of each class.

        Returns:
            "global", "local" and "fused" to (k) shares in [0, 1], float64; NaN for a class without
            pictures.
        """
        count = len(self.class_names)
        pictures = torch.bincount(self.labels, minlength=count).double()
        right = self.classes[:, :, 0] == self.labels[:, None]
        return {
            stream: torch.bincount(self.labels[right[:, place]], minlength=count) / pictures
            for place, stream in enumerate(STREAMS)
        }

    def mean_per_class(self) -> dict[str, float]:
        """Return each stream's top-1 as a mean over the classes that have pictures.

        Returns:
            "global", "local" and "fused" to a share in [0, 1].
        """
        return {stream: float(shares.nanmean()) for stream, shares in self.per_class().items()}

    def confusion(self, stream: str = "fused") -> Tensor:
        """Count pictures by their class and the class answered.

        Args:
            stream: "global", "local" or "fused".

        Returns:
            (k k) int64: rows are the classes of the pictures, columns those answered.

        Raises:
            ValueError: if there is no such stream.
        """
        if stream not in STREAMS:
            raise ValueError(
                f"Expected `stream` to be one of {', '.join(STREAMS)}, but got {stream!r}."
            )
        count = len(self.class_names)
        best = self.classes[:, STREAMS.index(stream), 0]
        return torch.bincount(self.labels * count + best, minlength=count**2).view(count, count)

    def top1_after(self) -> list[float]:
        """Return the share of right answers of both streams after 0, 1, ... p looks.

        Returns:
            p + 1 shares in [0, 1].

        Raises:
            ValueError: if the model does not answer after each look.
        """
        return self._hits_after().double().mean(0).tolist()

    def stopping(self, confidence: float) -> "Stopping":
        """Return the accuracy and the looks if each picture is looked at until its answer is sure.

        Args:
            confidence: in [0, 1], as in `TwoStreamClassifier.predict`.

        Returns:
            `Stopping`.

        Raises:
            ValueError: if the model does not answer after each look.
        """
        hits = self._hits_after()
        assert self.probabilities_after is not None
        sure = self.probabilities_after >= confidence
        sure[:, -1] = True
        looks = sure.int().argmax(1)  # the first of them
        right = hits.gather(1, looks[:, None])[:, 0]
        return Stopping(
            confidence, float(right.double().mean()), float(looks.double().mean()), looks
        )

    def by_looks(self) -> dict[str, Any]:
        """Return the accuracy by number of looks, as `result.json` keeps it.

        Returns:
            `fused_top1_after`: shares after 0, 1, ... p looks; and `stopping`: top-1, mean looks
            and the share of pictures that got one, at each of `CONFIDENCES`. Empty for a model that
            does not answer after each look.
        """
        if self.classes_after is None:
            return {}
        stopped = [self.stopping(confidence) for confidence in CONFIDENCES]
        return {
            "fused_top1_after": self.top1_after(),
            "stopping": [
                {
                    "confidence": one.confidence,
                    "top1": one.top1,
                    "mean_looks": one.mean_looks,
                    "looked_into": float((one.looks > 0).double().mean()),
                }
                for one in stopped
            ],
        }

    def calibration_error(self) -> float:
        """Return how far the probability of an answer is from how often such answers are right.

        It is the expected calibration error of both streams' answers, over 15 equal ranges of
        probability (Guo et al., 2017), in [0, 1].
        """
        shares = self.probabilities[:, STREAMS.index("fused"), 0].double()
        right = (self.classes[:, STREAMS.index("fused"), 0] == self.labels).int()
        return _calibration_error(shares, right)

    def confused_pairs(self, most: int = 10) -> list[tuple[int, int, list[int]]]:
        """List which classes are taken for which most often, by both streams together.

        Args:
            most: pairs to list.

        Returns:
            The class of the pictures, the class that was answered, and the indices of the pictures;
            the most frequent first, of equals the first in class order.
        """
        of_pairs: dict[tuple[int, int], list[int]] = {}
        answered = self.classes[:, STREAMS.index("fused"), 0]
        for index, pair in enumerate(zip(self.labels.tolist(), answered.tolist(), strict=True)):
            if pair[0] != pair[1]:
                of_pairs.setdefault(pair, []).append(index)
        ordered = sorted(of_pairs.items(), key=lambda item: (-len(item[1]), item[0]))
        return [(*pair, pictures) for pair, pictures in ordered[:most]]

    def _hits_after(self) -> Tensor:
        if self.classes_after is None:
            raise ValueError(
                "Expected answers of a model with patch_weighting='anytime', which answers after "
                "each look, but this one answers once."
            )
        return self.classes_after == self.labels[:, None]

    def _ranking(self, index: int, place: int) -> Ranking:
        classes = [self.class_names[i] for i in self.classes[index, place].tolist()]
        return tuple(zip(classes, self.probabilities[index, place].tolist(), strict=True))


def _calibration_error(shares: Tensor, right: Tensor) -> float:
    """Return the expected calibration error of answers: their probabilities (n), and if right."""
    return float(binary_calibration_error(shares, right, n_bins=CALIBRATION_BINS, norm="l1"))
