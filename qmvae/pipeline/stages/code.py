"""Write a hash of the code of each stage into artifacts/code."""

import shutil
from pathlib import Path

from qmvae.pipeline import code


def run(root: Path) -> None:
    """Write artifacts/code/<stage> for each stage of code.stage_sources; DVC's stages depend on these files."""
    folder = root / "artifacts" / "code"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for stage, sources in code.stage_sources(root).items():
        (folder / stage).write_text(code.code_hash(root, sources) + "\n", encoding="utf-8")
