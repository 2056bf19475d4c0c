"""The images of a run as files in artifacts/<preset>/data: images.safetensors, pairs.safetensors and titles.json."""

import contextlib
import ctypes
from collections.abc import Collection
from pathlib import Path

import torch

from qmvae.data.dataset import Dataset, Split
from qmvae.pipeline import files, tensor_files


def save_dataset(dataset: Dataset, folder: Path) -> None:
    """Write the files. Raises FileError."""
    splits = {"train": dataset.train, "test": dataset.test}
    images = {f"{part}.{name}.images": t for part, split in splits.items() for name, t in split.images.items()}
    labels = {f"{part}.{name}.labels": t for part, split in splits.items() for name, t in split.labels.items()}
    tensor_files.save(folder / "images.safetensors", images | labels)
    tensor_files.save(folder / "pairs.safetensors", {part: split.pairs for part, split in splits.items()})
    # in the modalities' order, which the pairs need; a file of its own, since no model depends on a title
    files.save_json(folder / "titles.json", dataset.titles)


def load_dataset(folder: Path, modalities: Collection[str], device: torch.device | str = "cpu") -> Dataset:
    """Return the data set that `save_dataset` wrote, on `device`.

    Raises FileError if a file is missing or broken, or holds other modalities than these.
    """
    keep_freed_memory()
    tensors, _ = tensor_files.load(folder / "images.safetensors", device)
    pairs, _ = tensor_files.load(folder / "pairs.safetensors", device)
    titles, splits = files.load_json(folder / "titles.json"), []
    try:
        if not isinstance(titles, dict):
            raise TypeError("titles.json has no mapping")
        for part in ("train", "test"):
            images, labels = ({n: tensors[f"{part}.{n}.{kind}"] for n in titles} for kind in ("images", "labels"))
            splits.append(Split(images, labels, pairs[part]))
            counts = torch.tensor([len(t) for t in images.values()], device=device)
            if pairs[part].shape[1:] != counts.shape or (pairs[part] >= counts).any():
                raise ValueError(f"{part}: the pairs are not of these images")
            classes = torch.stack([of[pairs[part][:, i].long()] for i, of in enumerate(labels.values())])
            if (classes != classes[0]).any():
                raise ValueError(f"{part}: the images of a pair are of two classes")
    except (KeyError, TypeError, ValueError) as error:
        fault = f"not what `python -m qmvae data` writes: {error}"
        raise files.FileError(f"{folder}: {fault}; delete it and {files.REPRO}") from None
    if set(titles) != set(modalities):
        found, wanted = ", ".join(titles), ", ".join(modalities)
        raise files.FileError(f"{folder}: has images of {found}, params.yaml asks for {wanted}; {files.REPRO}")
    train, test = splits
    return Dataset(train, test, titles)


def keep_freed_memory() -> None:
    """Let glibc keep the memory of freed large tensors for the next ones.

    By default glibc returns it to the system each time. On a CPU a fifth of a training step then goes into page faults.
    """
    with contextlib.suppress(AttributeError):  # only glibc has these settings
        for setting in (-1, -3):  # M_TRIM_THRESHOLD and M_MMAP_THRESHOLD of malloc.h
            ctypes.CDLL(None).mallopt(setting, 2**31 - 1)
