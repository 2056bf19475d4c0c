"""Claims of the notebooks about committed results. They must hold for these images and settings, and only for them."""

import hashlib
import json
from typing import Any

COMMITTED = {  # the SHA-256 of all images, labels and pairs -> the preset whose committed results are about them
    "764930dedd3cb84920859c958699afe1811d3119b66d84fca0c831e9972adfcb": "quick",
    "e246eef6cf260fb67ddf5a22e1cc4616539ddf663eef970774654dc61e21ba74": "subset",
}
SETTINGS = {  # by preset: `settings` of the run with the committed results
    "quick": "71d2356d5dd97e09dafb4692bcfa37885d3a0d911dc953c52c4fe7eec624a83d",
    "subset": "02572a04e84e1a8f06a380d72bd4c3e92133cecfa94ba191d4878fba34b5ff49",
}


class Claims:
    """The claims of a notebook about a run.

    preset: the preset whose committed results are about exactly these images, pairs and settings; None for all others.
    The committed models, preset `published`, have the settings of `subset`, whatever params.yaml says.
    dataset: a Dataset. run: the Params.
    """

    def __init__(self, dataset: Any, run: Any):
        preset = COMMITTED.get(checksum(dataset))
        self.preset = preset if run.preset == "published" or SETTINGS.get(preset or "") == settings(run) else None

    def check(self, text: str, holds: bool) -> None:
        """Print whether a claim holds. Raises AssertionError if it does not, of committed results only."""
        print(f"{text}: {'holds' if holds else 'does not hold'}")
        assert holds or self.preset is None, text


def settings(run: Any) -> str:
    """Return the SHA-256, in hexadecimal, of the settings of a run, the Params, that its results depend on.

    These are all but places, names, and the choices of models and of the device.
    """
    other = {"root", "data", "preset", "device", "models", "ablations", "images"}
    return hashlib.sha256(json.dumps(run.model_dump(mode="json", exclude=other)).encode()).hexdigest()


def checksum(dataset: Any) -> str:
    """Return the SHA-256, in hexadecimal, of the images, labels and pairs of both splits, in the modalities' order."""
    digest = hashlib.sha256()
    for split in (dataset.train, dataset.test):
        for tensor in (*split.images.values(), *split.labels.values(), split.pairs):
            digest.update(tensor.cpu().contiguous().numpy())
    return digest.hexdigest()
