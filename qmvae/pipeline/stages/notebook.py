"""Run one numbered notebook: reports/<preset>/notebooks/<name>.ipynb, and the figures and tables that it writes."""

from qmvae.pipeline import notebooks
from qmvae.pipeline.schema import Params


def run(params: Params, name: str) -> None:
    """Run the notebook with the preset. Raises FileError that names the notebook, the cell and the error."""
    notebooks.execute(params, name)
