"""Write hashes of files that may change or be missing: artifacts/<preset>/inputs.json and optional.json."""

from qmvae.data.sources import files_read
from qmvae.pipeline import files
from qmvae.pipeline.schema import Params

# of reports/<preset>: other commands write them, and notebook 09 reads those that exist
OPTIONAL = "printed.json", "ablations.json"


def run(params: Params) -> None:
    """Write the SHA-256 of each file by its name, on which stages of dvc.yaml depend.

    inputs.json has the image files that the preset reads, for the stage `data`; other files of the data folder have no
    effect, whatever their number and size. optional.json has those of OPTIONAL that exist, for the stage `claims`.
    Raises DataError for a missing image file.
    """
    images = files_read(params.images.source, params.data, params.modalities)
    files.save_json(params.artifacts / "inputs.json", {path.name: files.sha256(path).hex() for path in images})
    results = [path for name in OPTIONAL if (path := params.reports / name).is_file()]
    files.save_json(params.artifacts / "optional.json", {path.name: files.sha256(path).hex() for path in results})
