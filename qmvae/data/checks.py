"""What the images of a run must be like, whichever source they come from. Each fault is one message with its cure."""

from collections.abc import Mapping

import numpy as np

ARRAYS = ("train_images", "train_labels", "test_images", "test_labels")
SIDES = range(16, 1025)  # the judges' convolutions need 16 pixels; above 1024 it's no digit


class DataError(ValueError):
    """Images or labels that can't be used; the message names file and array, what was found, what to do."""


def check_form(where: str, arrays: Mapping) -> None:
    """Check names, types and shapes of one modality's arrays, or of mere headers: anything with .shape and .dtype.

    Expected: images uint8 (N, H, W) or (N, H, W, 1 or 3), labels integers (N,). Raises DataError.
    """
    for key in ARRAYS:
        if key not in arrays:
            raise DataError(f"{where}: {key}: not in it, found {', '.join(arrays) or 'nothing'}; add this array")
    for part in ("train", "test"):
        images, labels = arrays[f"{part}_images"], arrays[f"{part}_labels"]
        shape = tuple(images.shape)

        def expect(right: bool, key: str, found, expected: str):
            if not right:
                raise DataError(f"{where}: {part}_{key}: found {found}, expected {expected}")

        expect(images.dtype == np.uint8, "images", f"type {images.dtype}", "uint8, 0..255; convert and save again")
        expect(len(shape) in (3, 4), "images", f"shape {shape}", "(N, height, width) or (N, height, width, channels)")
        expect(len(shape) == 3 or shape[3] in (1, 3), "images", f"shape {shape}", "1 or 3 channels, as the last size")
        expect(shape[0] > 0, "images", "no image", "at least one of each class; save the array with its images")
        sides = shape[1] in SIDES and shape[2] in SIDES
        expect(sides, "images", f"shape {shape}", "sides of 16 to 1024 pixels; resize them")
        expect(labels.dtype.kind in "iu", "labels", f"type {labels.dtype}", "integers 0..9; convert and save again")
        expect(len(labels.shape) == 1, "labels", f"shape {tuple(labels.shape)}", "(N,), one class number an image")
        count = labels.shape[0]
        expect(count == shape[0], "labels", f"{count:,} labels for {shape[0]:,} images", "one an image, in its order")
    train, test = (tuple(arrays[key].shape[1:]) for key in ("train_images", "test_images"))
    if train != test:
        raise DataError(f"{where}: test_images: found images of {test}, expected {train} as for training; resize them")


def check_labels(found: Mapping[str, Mapping[str, np.ndarray]]) -> None:
    """Check the labels of all modalities, {where: arrays}: 0..9, and each of them everywhere. Raises DataError."""
    for where, arrays in found.items():
        for key in ("train_labels", "test_labels"):
            low, high = arrays[key].min(), arrays[key].max()
            if low < 0 or high > 9:
                raise DataError(f"{where}: {key}: found labels {low} to {high}, expected 0..9; number them so")
            if missing := sorted(set(range(10)) - set(arrays[key].tolist())):
                raise DataError(
                    f"{where}: {key}: found no image of class {', '.join(map(str, missing))}, expected some of each "
                    "class, 0..9, since pairs are of one class and figures show all ten; add such images"
                )
