"""The images of a run from one of three sources: `builtin`, `archive` and `torchvision` (see official.py)."""

from collections.abc import Collection
from pathlib import Path

import numpy as np

from qmvae.data.checks import DataError, check_form, check_labels, check_values

MNIST_SVHN = {"builtin": "the built-in images", "torchvision": "torchvision's images"}  # the sources without others


def read(source: str, folder: Path, names: Collection[str], seed: int) -> dict[str, tuple[str, dict[str, np.ndarray]]]:
    """Return the checked images of each modality: where they are from, for messages, and the arrays of checks.ARRAYS.

    source: `builtin`, `archive` or `torchvision`. folder: where archives and official files lie. seed: of the built-in
    images. Raises DataError.
    """
    _check_source(source, names)
    if source == "builtin":
        from qmvae.data import builtin

        found = {name: builtin.read(name, seed) for name in names}
    elif source == "archive":
        from qmvae.data import archive

        found = {name: archive.read(folder, name) for name in names}
    else:
        from qmvae.data import official

        found = {name: official.read(folder, name) for name in names}
    for where, arrays in found.values():
        check_form(where, arrays)
    check_labels(found.values())
    for where, arrays in found.values():
        check_values(where, arrays)
    return found


def _check_source(source: str, names: Collection[str]) -> None:
    if source in MNIST_SVHN and (unknown := [name for name in names if name not in ("mnist", "svhn")]):
        text = f"{MNIST_SVHN[source]} are mnist and svhn; for others use a preset with source: archive"
        raise DataError(f"modality {unknown[0]!r}: {text}")


def files_read(source: str, folder: Path, names: Collection[str]) -> list[Path]:
    """Return the files that `read` uses whatever their content: archives. Raises DataError if one is missing.

    Built-in images need no files, and official files are used only if they have their official checksums. Raises
    DataError as well if the source has no such modality.
    """
    _check_source(source, names)
    if source != "archive":
        return []
    from qmvae.data import archive

    return [archive.find(folder, name) for name in names]
