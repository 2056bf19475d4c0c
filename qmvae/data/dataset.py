"""Images paired by class, and batches of such pairs. A pair is one image of each modality, all of one class.

Images stay uint8 on their device, CPU or GPU. `Split.batch` gathers them and converts them to floats there.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

MOST_OF_A_CLASS = 10_000  # the most images of a class that a modality contributes to the pairs (Shi et al. 2019)
# modality -> (the name of the source, for messages; the arrays named in checks.ARRAYS)
Found = Mapping[str, tuple[str, Mapping[str, np.ndarray]]]


@dataclass(frozen=True, eq=False)
class Split:
    """The training or the test images of M modalities, and P pairs of them. N, C, H, W depend on the modality."""

    images: dict[str, Tensor]  # by modality: uint8 (N, C, H, W)
    labels: dict[str, Tensor]  # by modality: int64 (N,)
    pairs: Tensor  # int32 (P, M): column m has indices into the images of the m-th modality; a row is of one class

    @property
    def pair_labels(self) -> Tensor:
        """The class of each pair, int64 (P,)."""
        first = next(iter(self.labels))
        return self.labels[first][self.pairs[:, 0].long()]

    def batch(self, indices: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """Return B pairs: the images by modality, float32 (B, C, H, W) in [0, 1], and the labels, int64 (B,).

        indices: into `pairs`, integers (B,), on the device of the images.
        """
        columns = self.pairs.index_select(0, indices).unbind(dim=1)
        rows = dict(zip(self.images, columns, strict=True))
        images = {name: self.images[name].index_select(0, row).float().div_(255) for name, row in rows.items()}
        first = next(iter(rows))
        return images, self.labels[first].index_select(0, rows[first])

    def examples(self, name: str, nth: int = 0) -> Tensor:
        """Return image number `nth`, from 0, of each class of a modality: float32 (K, C, H, W) in [0, 1].

        The K classes are in ascending order. For a class of n images, `nth` is taken modulo n.
        """
        labels = self.labels[name]
        members = [torch.nonzero(labels == label)[:, 0] for label in labels.unique()]
        return self.images[name][torch.stack([rows[nth % len(rows)] for rows in members])].float() / 255


@dataclass(frozen=True, eq=False)
class Dataset:
    """All images of a run. titles: by modality, the name of its images in figures and tables."""

    train: Split
    test: Split
    titles: dict[str, str]

    @property
    def shapes(self) -> dict[str, tuple[int, int, int]]:
        """The shape (C, H, W) of each modality's images, in the order of the modalities."""
        return {name: (t.shape[1], t.shape[2], t.shape[3]) for name, t in self.train.images.items()}

    @property
    def classes(self) -> Tensor:
        """The K classes, int64 (K,), in ascending order; `checks.check_labels` requires the same of all modalities."""
        return next(iter(self.train.labels.values())).unique()

    def describe(self) -> str:
        """Return the numbers of training/test images in one line: MNIST 60,000/10,000 + SVHN 73,257/26,032."""
        counts = {n: (len(self.train.images[n]), len(self.test.images[n])) for n in self.titles}
        return " + ".join(f"{title} {counts[n][0]:,}/{counts[n][1]:,}" for n, title in self.titles.items())


def pair_by_class(
    labels: Iterable[Tensor] | Mapping[str, Tensor], multiplier: int, generator: torch.Generator, redraw: bool = False
) -> Tensor:
    """Return pairs of images of one class, by the rule of Shi et al. (2019): int32 (P, M), as in `Split.pairs`.

    Of each class, every modality contributes its first n images. n is the smallest number of images of the class in
    any modality, at most MOST_OF_A_CLASS. In each of `multiplier` rounds, the n images of every modality are shuffled.
    Image i of one modality is then paired with image i of the others. So P = multiplier * sum of n over the classes.
    The rows are in the order of the classes. The counts in section 4.1 of the paper need 30 rounds (docs/design.md).

    labels: integers (N,) of each modality. generator: for the shuffles, on the CPU.
    redraw: whether each round samples n images from all images of the class, instead of shuffling the first n.
    """
    labels = list(labels.values() if isinstance(labels, Mapping) else labels)
    rounds = []
    for label in torch.cat(labels).unique():
        members = [torch.nonzero(of_modality == label).squeeze(1) for of_modality in labels]
        n = min(MOST_OF_A_CLASS, *map(len, members))
        kept = members if redraw else [m[:n] for m in members]
        for _ in range(multiplier):
            shuffled = [m[torch.randperm(len(m), generator=generator)[:n]] for m in kept]
            rounds.append(torch.stack(shuffled, dim=1).int())
    return torch.cat(rounds)


def build(found: Found, titles: Mapping[str, str], multiplier: int, seed: int, redraw: bool) -> Dataset:
    """Return the data set of the images that `sources.read` returned, paired by class.

    titles: as in Dataset. multiplier, redraw: as in `pair_by_class`. seed: of the shuffles of the pairs.
    """
    generator = torch.Generator().manual_seed(seed)
    splits = []
    for part in ("train", "test"):
        images = {name: _channels_first(arrays[f"{part}_images"]) for name, (_, arrays) in found.items()}
        labels = {name: torch.tensor(arrays[f"{part}_labels"].astype(np.int64)) for name, (_, arrays) in found.items()}
        splits.append(Split(images, labels, pair_by_class(labels, multiplier, generator, redraw)))
    train, test = splits
    return Dataset(train, test, {name: titles[name] for name in found})


def hold_out(dataset: Dataset, part: float, multiplier: int, seed: int, redraw: bool) -> Dataset:
    """Return a data set of the training images only: of each class and modality, a random part is its test split.

    The test images of `dataset` are not in it, so settings can be chosen without them.

    part: the fraction of images that is held out, at least one image of each class and modality.
    multiplier, redraw: as in `pair_by_class`, for both splits. seed: of the choice of images and of the pairs.
    """
    generator = torch.Generator().manual_seed(seed)
    kept, held = {}, {}
    for name, labels in dataset.train.labels.items():
        shuffled = torch.randperm(len(labels), generator=generator)
        members = [shuffled[labels.cpu()[shuffled] == label] for label in labels.unique().cpu()]
        counts = [max(1, round(part * len(rows))) for rows in members]
        held[name] = torch.cat([rows[:n] for rows, n in zip(members, counts, strict=True)]).sort().values
        kept[name] = torch.cat([rows[n:] for rows, n in zip(members, counts, strict=True)]).sort().values
    splits = []
    for rows in (kept, held):
        images, classes = (
            {name: whole[name][chosen] for name, chosen in rows.items()}
            for whole in (dataset.train.images, dataset.train.labels)
        )
        splits.append(Split(images, classes, pair_by_class(classes, multiplier, generator, redraw)))
    train, test = splits
    return Dataset(train, test, dataset.titles)


def _channels_first(images: np.ndarray) -> Tensor:
    """Return images (N, H, W) or (N, H, W, C) as a tensor (N, C, H, W) of the same dtype."""
    images = images[:, None] if images.ndim == 3 else images.transpose(0, 3, 1, 2)
    return torch.tensor(np.ascontiguousarray(images))
