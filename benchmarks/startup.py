"""How long imports take, against `import torch` alone: each in a fresh process, taking turns; medians of the ratios."""

import statistics
import subprocess
import sys
import time

from qmvae import files
from qmvae.params import find_root

WHAT = {"qmvae": "import qmvae", "a model": "import qmvae.models", "a figure": "import qmvae.figures"}
ROUNDS = 5


def seconds(code: str) -> float:
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True)
    return time.perf_counter() - start


def main() -> None:
    seconds("import torch")  # so that its files are in memory
    ratios: dict[str, list[float]] = {name: [] for name in WHAT}
    for _ in range(ROUNDS):
        torch = seconds("import torch")
        for name, code in WHAT.items():
            ratios[name].append(seconds(code) / torch)
    lines = [f"| {name} (`{WHAT[name]}`) | {statistics.median(found):.2f} |" for name, found in ratios.items()]
    text = "\n".join(["| | against `import torch` |", "|:--|--:|", *lines, ""])
    print(text)
    files.save_text(find_root() / "reports" / "bench" / "startup.md", text)


if __name__ == "__main__":
    main()
