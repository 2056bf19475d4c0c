"""The time of imports beside that of `import torch`: each in a fresh process, in turns; see `timing.compared`."""

import subprocess
import sys

import pandas as pd
from timing import compared, markdown, save, seconds

IMPORTS = ["torch", "qmvae", "qmvae.model.qmvae", "qmvae.pipeline.training", "qmvae.evaluate.evaluator"]
IMPORTS += ["qmvae.report.figures"]
ROUNDS = 5


def import_seconds(module: str) -> float:
    return seconds(lambda: subprocess.run([sys.executable, "-c", f"import {module}"], check=True))


def main() -> None:
    for module in IMPORTS:
        import_seconds(module)  # so that the files are in memory
    rounds = pd.DataFrame([{f"import {m}": import_seconds(m) for m in IMPORTS} for _ in range(ROUNDS)])
    save("startup.md", f"Medians of {ROUNDS} rounds.\n\n{markdown(compared(rounds, 'import torch', 'seconds'))}")


if __name__ == "__main__":
    main()
