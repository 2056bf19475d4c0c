"""Write a hash of each file that the preset reads: artifacts/<preset>/inputs.json."""

import hashlib

from qmvae.data.sources import files_read
from qmvae.pipeline import files
from qmvae.pipeline.schema import Params


def run(params: Params) -> None:
    """Write the SHA-256 of each file by its name; DVC's stage `data` depends on it. Raises DataError for a missing one.

    Other files of the data folder have no effect, whatever their number and size.
    """
    hashes = {}
    for path in files_read(params.images.source, params.data, params.modalities):
        with open(path, "rb") as file:
            hashes[path.name] = hashlib.file_digest(file, "sha256").hexdigest()
    files.save_json(params.artifacts / "inputs.json", hashes)
