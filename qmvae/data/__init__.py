"""The images of a run, in pairs of one class, and batches of them.

`python -m qmvae.data` makes artifacts/<preset>/data from the source that the preset names; everything later loads that.
Images stay uint8 and wherever they are put, a GPU too; a batch is gathered and turned into floats there, all at once.
"""

import contextlib
import ctypes
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from qmvae import files
from qmvae.data.checks import DataError, check_form, check_labels
from qmvae.params import Params

__all__ = ["DataError", "Dataset", "Split", "load", "make", "pair", "save"]

MOST_OF_A_CLASS = 10_000  # Shi et al.'s cap


@dataclass(frozen=True, eq=False)
class Split:
    """The training or the test images, and how they are paired."""

    images: dict[str, Tensor]  # by modality: uint8 (N, C, H, W)
    labels: dict[str, Tensor]  # by modality: int64 (N,), 0..9
    pairs: Tensor  # int32 (P, M): an index into the images of each modality, in their order; all of one class

    def batch(self, rows: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """The pairs `rows` (B,), on the images' device: images float32 (B, C, H, W) in [0, 1] and labels int64 (B,)."""
        indices = dict(zip(self.images, self.pairs.index_select(0, rows).unbind(dim=1), strict=True))
        images = {name: self.images[name].index_select(0, index).float().div_(255) for name, index in indices.items()}
        first = next(iter(indices))
        return images, self.labels[first].index_select(0, indices[first])

    def examples(self, name: str, nth: int = 0) -> Tensor:
        """The nth image of each digit, 0 to 9, of one modality: float32 (10, C, H, W) in [0, 1]."""
        rows = [torch.nonzero(self.labels[name] == digit)[nth, 0] for digit in range(10)]
        return self.images[name][torch.stack(rows)].float() / 255


@dataclass(frozen=True, eq=False)
class Dataset:
    """All images of a run. titles: how figures and tables call the images of each modality."""

    train: Split
    test: Split
    titles: dict[str, str]

    @property
    def shapes(self) -> dict[str, tuple[int, int, int]]:
        """(C, H, W) of each modality's images, in the order of the modalities."""
        shapes = {}
        for name, images in self.train.images.items():
            _, channels, height, width = images.shape
            shapes[name] = (channels, height, width)
        return shapes

    def describe(self) -> str:
        """What was trained and tested on, in one line: MNIST 60,000/10,000 + SVHN 73,257/26,032."""
        counts = {n: (len(self.train.images[n]), len(self.test.images[n])) for n in self.titles}
        return " + ".join(f"{title} {counts[n][0]:,}/{counts[n][1]:,}" for n, title in self.titles.items())


def pair(
    labels: Iterable[Tensor] | Mapping[str, Tensor], multiplier: int, generator: torch.Generator, redraw: bool = False
) -> Tensor:
    """Pair images of one class by Shi et al.'s rule, from their labels alone (section 4.1; see the README on 20 or 30).

    labels: for each modality, (N,) classes 0..9. Of each class, every modality gives its first n images, n = what the
    poorest one has, 10,000 at most; `multiplier` times they are shuffled and laid side by side. With `redraw` each of
    these rounds draws its n images anew from all of the class, so that a modality with many more images shows them all.
    Returns int32 (P, M), P = multiplier * the sum of n, class after class.
    """
    labels = list(labels.values() if isinstance(labels, Mapping) else labels)
    rounds = []
    for digit in range(10):
        members = [torch.nonzero(of_modality == digit).squeeze(1) for of_modality in labels]
        n = min(MOST_OF_A_CLASS, *map(len, members))
        kept = members if redraw else [m[:n] for m in members]
        for _ in range(multiplier):
            shuffled = [m[torch.randperm(len(m), generator=generator)[:n]] for m in kept]
            rounds.append(torch.stack(shuffled, dim=1).int())
    return torch.cat(rounds)


def make(params: Params) -> Dataset:
    """Read or draw the images that the preset names, check them, and pair them. Raises DataError."""
    if params.images.source == "builtin":  # imported here: whoever only loads a data set needs none of the three
        from qmvae.data.builtin import read
    elif params.images.source == "archive":
        from qmvae.data.archive import read
    else:
        from qmvae.data.official import read
    found = {name: read(params, name) for name in params.modalities}  # to (what to call it in messages, arrays)
    for name, (where, arrays) in found.items():
        check_form(where, arrays)
        height, width = arrays["train_images"].shape[1:3]
        if params.modalities[name].net == "conv" and (height % 8 or width % 8):
            cure = f"resize them or set modalities.{name}.net to mlp in params.yaml"
            raise DataError(f"{where}: train_images: found {height}x{width}, expected sides divisible by 8; {cure}")
    check_labels(dict(found.values()))
    generator = torch.Generator().manual_seed(params.pairs.seed)
    splits = []
    for part in ("train", "test"):
        images = {name: _channels_first(arrays[f"{part}_images"]) for name, (_, arrays) in found.items()}
        labels = {name: torch.tensor(arrays[f"{part}_labels"].astype(np.int64)) for name, (_, arrays) in found.items()}
        splits.append(Split(images, labels, pair(labels, params.pairs.multiplier, generator, params.pairs.redraw)))
    train, test = splits
    return Dataset(train, test, {name: params.images.titles[name] for name in params.modalities})


def _channels_first(images: np.ndarray) -> Tensor:
    """(N, H, W) or (N, H, W, C) to (N, C, H, W)."""
    images = images[:, None] if images.ndim == 3 else images.transpose(0, 3, 1, 2)
    return torch.tensor(np.ascontiguousarray(images))


def save(dataset: Dataset, params: Params) -> None:
    """Write images.safetensors and pairs.safetensors into artifacts/<preset>/data. Raises FileError."""
    splits = {"train": dataset.train, "test": dataset.test}
    images = {f"{part}.{name}.images": t for part, split in splits.items() for name, t in split.images.items()}
    labels = {f"{part}.{name}.labels": t for part, split in splits.items() for name, t in split.labels.items()}
    titles = json.dumps(dataset.titles, ensure_ascii=False)  # in the modalities' order, which the pairs need
    folder = params.artifacts / "data"
    files.save_tensors(folder / "images.safetensors", images | labels, {"titles": titles})
    files.save_tensors(folder / "pairs.safetensors", {part: split.pairs for part, split in splits.items()})


def keep_memory() -> None:
    """Keep the memory that large tensors leave for the next ones: glibc gives it back to the system each time, and on a
    CPU a fifth of a training step goes into fetching it again."""
    with contextlib.suppress(AttributeError):  # the settings are glibc's alone
        for setting in (-1, -3):  # M_TRIM_THRESHOLD and M_MMAP_THRESHOLD of malloc.h
            ctypes.CDLL(None).mallopt(setting, 2**31 - 1)


def load(params: Params, device="cpu") -> Dataset:
    """The data set that `save` wrote, on `device`. Raises FileError if it's missing, broken, or of other modalities."""
    keep_memory()
    folder = params.artifacts / "data"
    tensors, strings = files.load_tensors(folder / "images.safetensors", device)
    pairs, _ = files.load_tensors(folder / "pairs.safetensors", device)
    try:
        titles = json.loads(strings["titles"])
        splits = []
        for part in ("train", "test"):
            images, labels = ({n: tensors[f"{part}.{n}.{kind}"] for n in titles} for kind in ("images", "labels"))
            splits.append(Split(images, labels, pairs[part]))
            counts = torch.tensor([len(t) for t in images.values()], device=device)
            if pairs[part].shape[1:] != counts.shape or (pairs[part] >= counts).any():
                raise ValueError(f"{part}: the pairs are not of these images")
    except (KeyError, TypeError, ValueError) as error:
        fault = f"not what `python -m qmvae.data` writes: {error}"
        raise files.FileError(f"{folder}: {fault}; delete it and run `dvc repro`") from None
    if set(titles) != set(params.modalities):
        held, wanted = ", ".join(titles), ", ".join(params.modalities)
        raise files.FileError(f"{folder}: has images of {held}, params.yaml asks for {wanted}; run `dvc repro`")
    train, test = splits
    return Dataset(train, test, titles)
