"""What both streams answered to each picture of an evaluation, and what that adds up to."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from recurrent_attention.heads import TwoStreamOutput

STREAMS = ("global", "local", "fused")
KEPT = 5  # best classes of each stream
Ranking = tuple[tuple[str, float], ...]


class Answer(NamedTuple):
    """What both streams answered to one picture.

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


@dataclass(frozen=True, eq=False)
class Answers:
    """The answers to n pictures; indexing gives an `Answer`.

    Attributes:
        names: n file names.
        class_names: k names.
        labels: (n) class indices in [0, k).
        classes: (n 3 m) indices of the best m = min(5, k) classes, best first, of the global, the
            local and both streams; of equal classes the first comes first.
        probabilities: (n 3 m) in [0, 1], of a softmax over all k classes.
        boxes: n tensors (p 4), xyxy in pixels of the picture.
    """

    names: tuple[str, ...]
    class_names: tuple[str, ...]
    labels: Tensor
    classes: Tensor
    probabilities: Tensor
    boxes: tuple[Tensor, ...]

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
        """Return the share of pictures whose class is among the best ones of each stream.

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

    def mean_per_class(self) -> dict[str, float]:
        """Return each stream's top-1 as a mean over the classes that have pictures.

        Returns:
            "global", "local" and "fused" to a share in [0, 1].
        """
        found = {}
        for stream in STREAMS:
            confusion = self.confusion(stream).double()
            count = confusion.sum(1)
            occurs = count > 0
            found[stream] = float((confusion.diagonal()[occurs] / count[occurs]).mean())
        return found

    def confusion(self, stream: str = "fused") -> Tensor:
        """Count how often each class was answered for each class.

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

    def _ranking(self, index: int, place: int) -> Ranking:
        classes = [self.class_names[i] for i in self.classes[index, place].tolist()]
        return tuple(zip(classes, self.probabilities[index, place].tolist(), strict=True))


def best_classes(output: TwoStreamOutput) -> tuple[Tensor, Tensor]:
    """Return the best classes of each stream and their probabilities, both (b 3 m), on the CPU."""
    logits = torch.stack([output.global_logits, output.local_logits, output.logits], 1).float()
    order = logits.sort(dim=-1, descending=True, stable=True).indices[..., :KEPT]
    return order.cpu(), logits.softmax(-1).gather(-1, order).cpu()
