"""Claims of the notebooks about committed results. They must hold on the images of these results, and only there."""

import hashlib
from typing import Any

COMMITTED = {  # the SHA-256 of all images, labels and pairs -> the preset whose committed results are about them
    "764930dedd3cb84920859c958699afe1811d3119b66d84fca0c831e9972adfcb": "quick",
    "e246eef6cf260fb67ddf5a22e1cc4616539ddf663eef970774654dc61e21ba74": "subset",
}


class Claims:
    """The claims of a notebook about a data set.

    preset: the preset whose committed results are about exactly these images and pairs; None for all others.
    dataset: a Dataset.
    """

    def __init__(self, dataset: Any):
        self.preset = COMMITTED.get(checksum(dataset))

    def check(self, text: str, holds: bool) -> None:
        """Print whether a claim holds. Raises AssertionError if it does not, on images of committed results only."""
        print(f"{text}: {'holds' if holds else 'does not hold'}")
        assert holds or self.preset is None, text


def checksum(dataset: Any) -> str:
    """Return the SHA-256, in hexadecimal, of the images, labels and pairs of both splits, in the modalities' order."""
    digest = hashlib.sha256()
    for split in (dataset.train, dataset.test):
        for tensor in (*split.images.values(), *split.labels.values(), split.pairs):
            digest.update(tensor.cpu().contiguous().numpy())
    return digest.hexdigest()
