"""Make mnist.npz and svhn.npz of the committed results from the official files. `python tools/svhn_subset.py [folder]`

The official files are found in the folder, or downloaded into it; data/README.md lists them and defines the subset.
SVHN's authors allow non-commercial use only.
"""

import argparse
import hashlib
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from qmvae.data import official
from qmvae.data.checks import DataError
from qmvae.pipeline import files, params

CROPPED, TESTED = 4434, 6000  # the official training digits, and the official test digits, in the training images
USED = 8000  # of the official test digits
SHA256 = {  # of the arrays of the committed results: file, array, first row -> hash of the rows from there on, as bytes
    ("mnist", "train_images", 0): "741c988805d008ac6e4c904b69001ba184c24b2c540a4ef403f4c71b676cf757",
    ("mnist", "train_labels", 0): "1feba77c54802fa5339a11837ea4b2866434b83314ec45192930f1df69120c13",
    ("mnist", "test_images", 0): "6d87418db22cc8025d05968bec9bd5c3932904b23485740db143a061a2c9d161",
    ("mnist", "test_labels", 0): "ddeff807876a9661a1110d45c266c86239a3a1b7d37da0c3716a7a683c852ff5",
    ("svhn", "train_images", CROPPED): "e84600597f44c1f7717ff8e23767e57a6b96b5225758890a2227b7b4cdb5f6b5",
    ("svhn", "train_labels", 0): "da2afc9667816ba8f799c51793df543d2b5f016dbcbb11d0cb36a15a550b760a",
    ("svhn", "test_images", 0): "ad71685dca354b481c3578856f8d52f4a4f6a06e61cf9855d6424e6eb92356c0",
    ("svhn", "test_labels", 0): "bf4261a441477d0bd04c9f9638d75b8928fed24e9e996d20f94f64acd4477720",
}


def subset(mnist: Mapping[str, np.ndarray], svhn: Mapping[str, np.ndarray]) -> dict[str, dict[str, Any]]:
    """Return the arrays of both archives, uint8, from the official arrays of `official.read`."""
    arrays: dict[str, dict[str, Any]] = {"mnist": {k: a.astype(np.uint8) for k, a in mnist.items()}, "svhn": {}}
    for kind in ("images", "labels"):
        train, test = (svhn[f"{part}_{kind}"].astype(np.uint8) for part in ("train", "test"))
        arrays["svhn"][f"train_{kind}"] = np.concatenate([train[:CROPPED], test[:TESTED]])
        arrays["svhn"][f"test_{kind}"] = test[TESTED:USED]
    return arrays


def differing(arrays: Mapping[str, Mapping[str, np.ndarray]]) -> list[str]:
    """Return which arrays differ from those of the committed results, without the CROPPED images."""
    return [
        f"{name}.npz: {key} from row {start:,} on"
        for (name, key, start), expected in SHA256.items()
        if hashlib.sha256(arrays[name][key][start:].tobytes()).hexdigest() != expected
    ]


def make(folder: Path) -> None:
    """Write both archives into the folder, and print what they are.

    Raises DataError where the official files are missing, and, after writing, where an array is not the expected one.
    """
    arrays = subset(*(official.read(folder, name)[1] for name in ("mnist", "svhn")))
    for name, found in arrays.items():
        path, train, test = folder / f"{name}.npz", len(found["train_images"]), len(found["test_images"])
        with files.replacing(path) as partial, open(partial, "wb") as file:
            np.savez_compressed(file, **found)
        print(f"{path}: {train:,} training and {test:,} test images")
    print(
        f"The first {CROPPED:,} training images of svhn.npz differ by about a grey level from those of the committed\n"
        "results, which were cropped from SVHN's full-number images."
    )
    if wrong := differing(arrays):
        raise DataError(f"written, but not as in the committed results: {'; '.join(wrong)}")
    print("All other images and all labels are those of the committed results.")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Make mnist.npz and svhn.npz of the committed results.")
    parser.add_argument("folder", nargs="?", type=Path, help="of all files; that of params.yaml if none is given")
    try:
        make(parser.parse_args().folder or params.load().data)
    except (DataError, params.ParamsError, files.FileError) as error:
        sys.exit(f"svhn_subset: {error}")
