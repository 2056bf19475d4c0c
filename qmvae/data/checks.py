"""Checks of the images of a run, whatever their source. Each fault is one message, which also says what to do."""

import sys
from collections.abc import Iterable, Mapping

import numpy as np

ARRAYS = ("train_images", "train_labels", "test_images", "test_labels")
SIDES = range(16, 1025)  # the convolutions of the classifiers need 16 pixels
MOST_CLASSES = 100
FEW_LEVELS = 16  # images without a value above this one are almost black


class DataError(ValueError):
    """Images or labels are not usable; the message names the file and array, what was found, and what to do."""


def check_form(where: str, arrays: Mapping[str, np.ndarray]) -> None:
    """Check the types and shapes of one modality's four arrays. Raises DataError.

    Expected: images uint8 (N, H, W) or (N, H, W, 1 or 3), labels of any integer type (N,).
    """
    for part in ("train", "test"):
        images, labels = arrays[f"{part}_images"], arrays[f"{part}_labels"]
        shape, form = images.shape, f"shape {images.shape}"
        for right, key, found, expected in (
            (images.dtype == np.uint8, "images", f"type {images.dtype}", f"uint8, 0 to 255; {conversion(images)}"),
            (len(shape) in (3, 4), "images", form, "(N, height, width) or (N, height, width, channels)"),
            (shape[3:] in ((), (1,), (3,)), "images", form, f"1 or 3 channels as the last size; {channels(shape)}"),
            (shape[:1] != (0,), "images", "no image", "at least one of each class; save the array with its images"),
            (all(side in SIDES for side in shape[1:3]), "images", form, "sides of 16 to 1024 pixels; resize them"),
            (labels.dtype.kind in "iu", "labels", f"type {labels.dtype}", "integers; number the classes, save again"),
            (labels.ndim == 1, "labels", f"shape {labels.shape}", "(N,), one class number an image"),
        ):
            if not right:
                raise DataError(f"{where}: {part}_{key}: found {found}, expected {expected}")
        if len(labels) != len(images):
            text = f"found {len(labels):,} labels for {len(images):,} images, expected one an image, in its order"
            raise DataError(f"{where}: {part}_labels: {text}")
    train, test = (arrays[key].shape[1:] for key in ("train_images", "test_images"))
    if train != test:
        cure = "resize them" if train[2:] == test[2:] else "save both with the same channels, or both without"
        raise DataError(f"{where}: test_images: found images of {test}, expected {train} as for training; {cure}")


def conversion(images: np.ndarray) -> str:
    """Return how to save images of another type as uint8. A cast of values outside 0 to 255 would wrap around."""
    if images.dtype == np.uint8:
        return ""
    if images.dtype == bool:
        return "save `images * np.uint8(255)`"
    if images.dtype.kind not in "iuf" or not images.size:
        return "save numbers"
    low, high = float(images.min()), float(images.max())
    if not np.isfinite([low, high]).all():
        return "found NaN or infinity; replace these values first"
    if low >= 0 and high <= 1:
        return "save `(images * 255).round().astype('uint8')`"
    if low >= 0 and high <= 255:
        return "save `images.round().astype('uint8')`"
    scale = "`((images - a) * (255.0 / (b - a))).round().astype('uint8')`"
    return f"their values are {low:g} to {high:g}: save {scale}, where a is black and b white, the same in all arrays"


def channels(shape: tuple[int, ...]) -> str:
    """Return what to do about images of a shape (N, ...) whose last size is no number of channels."""
    if len(shape) != 4:
        return ""
    if shape[3] in (2, 4):  # grey or colour with alpha
        return f"if the last channel is alpha, save `images[..., :{shape[3] - 1}]`"
    if shape[2] in (1, 3) and shape[1] not in range(1, 5):  # as in SVHN's own files
        return "if the images are the last size, save `images.transpose(3, 0, 1, 2)`"
    drop = f"[:, :{shape[1] - 1}]" if shape[1] in (2, 4) else ""
    return f"if they are the second, save `images{drop}.transpose(0, 2, 3, 1)`"


def check_sides(where: str, arrays: Mapping, name: str) -> None:
    """Check that sides are divisible by 8, which the network `conv` of modality `name` needs. Raises DataError."""
    height, width = arrays["train_images"].shape[1:3]
    if height % 8 or width % 8:
        cure = f"resize the images or set modalities.{name}.net to mlp in params.yaml"
        raise DataError(f"{where}: train_images: found {height}x{width}, expected sides divisible by 8; {cure}")


def check_enough(where: str, found: int, batch_size: int, setting: str) -> None:
    """Check that training can fill a batch. setting: the name of the batch size in params.yaml. Raises DataError."""
    if found < batch_size:
        expected = f"expected {batch_size:,} at least; add images or make {setting} smaller"
        raise DataError(f"{where}: found {found:,}, {expected}")


def check_values(where: str, arrays: Mapping[str, np.ndarray]) -> None:
    """Raise DataError on images with no value above 1, and print a warning for others with none above FEW_LEVELS.

    Images with values 0 and 1 only are nearly always a mistake: floats in [0, 1] that were cut off.
    """
    for key in ("train_images", "test_images"):
        largest = int(arrays[key].max())
        fault = f"{where}: {key}: found no value above {largest}, expected 0 (black) to 255"
        if largest <= 1:
            raise DataError(f"{fault}; save `images * 255`, with floats before they are converted to uint8")
        if int(arrays[key].min()) == largest:
            raise DataError(
                f"{where}: {key}: found the value {largest} only, expected 0 (black) to 255; save them again"
            )
        if largest <= FEW_LEVELS:  # not warnings.warn, which prints a place in this file, too
            print(f"warning: {fault}; if {largest} is white, save `images * {255 // largest}`", file=sys.stderr)


def check_labels(found: Iterable[tuple[str, Mapping[str, np.ndarray]]]) -> None:
    """Check that all modalities, as (where, arrays), have the same 2 to 100 classes in training and test.

    One image of a class is enough. Raises DataError.
    """
    present: dict[tuple[str, str], set[int]] = {}
    for where, arrays in found:
        for key in ("train_labels", "test_labels"):
            classes = present[where, key] = set(np.unique(arrays[key]).tolist())
            if len(classes) > MOST_CLASSES or max(classes) >= 2**63:
                text = f"found {len(classes):,} classes, {min(classes)} to {max(classes)}"
                raise DataError(f"{where}: {key}: {text}, expected at most {MOST_CLASSES}, below 2**63; renumber them")
    every = set().union(*present.values())
    if len(every) < 2:
        text = f"found class {every.pop()} only, expected 2 to {MOST_CLASSES} classes; add images of others"
        raise DataError(f"{': '.join(next(iter(present)))}: {text}")
    lacking: dict[tuple[str, str], list[str]] = {}  # to keys from (where, the classes that are missing there)
    for (where, key), classes in present.items():
        if classes != every:
            lacking.setdefault((where, ", ".join(map(str, sorted(every - classes)))), []).append(key)
    if lacking:
        faults = [f"{w}: {' and '.join(keys)}: found no image of class {c}" for (w, c), keys in lacking.items()]
        cure = "see that equal labels mean the same; then add such images, or take this class out of all arrays"
        if len({frozenset(c - min(classes) for c in classes) for classes in present.values()}) == 1:
            cure = "if the numbers of the same classes begin elsewhere, save `labels - labels.min()` in every array"
        if {"0", "10"} <= {classes for _, classes in lacking}:  # SVHN's authors give the digit 0 the label 10
            cure = "if 10 stands for the digit 0, save `labels % 10`"
        raise DataError(f"{'; '.join(faults)}, expected each class in training and test of every modality; {cure}")
