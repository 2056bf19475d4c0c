"""The time and memory of each stage of the pipeline from scratch, in a temporary copy of this checkout.

Each stage runs alone, by `dvc repro --single-item`, in the order of dvc.yaml. `--whole` adds `python -m qmvae repro`,
the command of `make repro`, from scratch in another copy. params.yaml changes in the copies only. Writes stages.md.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

import pandas as pd
import torch
from timing import describe, markdown, save

from qmvae.pipeline import params


@contextmanager
def checkout(root: Path, preset: str):
    """Yield a folder with the files of `root` that git has or would add, without results."""
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listed, cwd=root, check=True, capture_output=True, text=True).stdout.split("\0")
    with tempfile.TemporaryDirectory() as folder:
        for name in filter(None, names):
            if (root / name).is_file() and not name.startswith("reports/") and Path(name).name != "dvc.lock":
                (Path(folder) / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(root / name, Path(folder) / name)
        subprocess.run(["git", "init", "--quiet"], cwd=folder, check=True)  # DVC asks for it
        params.switch(Path(folder), preset=preset)
        yield Path(folder)


def measure(folder: Path, *arguments: str) -> dict[str, str]:
    """Run `python -m ...` in a folder; return its seconds and the most memory that one of its processes held."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = os.environ | {"PATH": path, "PYTHONPATH": str(folder), "DVC_NO_ANALYTICS": "1"}
    start = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-m", *arguments], cwd=folder, env=environment, stdout=sys.stderr)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"stages: python -m {' '.join(arguments)} failed")
    return {
        "seconds": f"{time.perf_counter() - start:.1f}",
        "processor seconds": f"{usage.ru_utime + usage.ru_stime:.1f}",
        "memory of the largest process, MiB": f"{usage.ru_maxrss / 1024:,.0f}",
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--preset", default="quick", help="(default: %(default)s)")
    parser.add_argument("--stages", nargs="+", help="these stages only, such as data@quick; the first ones come first")
    parser.add_argument("--whole", action="store_true", help="measure `python -m qmvae repro` from scratch too")
    arguments = parser.parse_args()
    root, rows = params.find_root(), []
    with checkout(root, arguments.preset) as folder:
        list_stages = [sys.executable, "-m", "dvc", "stage", "list", "--name-only"]
        found = subprocess.run(list_stages, cwd=folder, check=True, capture_output=True, text=True).stdout.split()
        for stage in arguments.stages or found:
            rows.append({"stage": stage} | measure(folder, "dvc", "repro", "--single-item", "--force", stage))
            print(rows[-1], flush=True)
    total = pd.DataFrame(rows)[["seconds", "processor seconds"]].astype(float).sum()
    rows.append({"stage": "sum of the stages"} | total.map("{:.1f}".format).to_dict())
    if arguments.whole:
        with checkout(root, arguments.preset) as folder:
            rows.append({"stage": "`python -m qmvae repro`, from scratch"} | measure(folder, "qmvae", "repro"))
    table = markdown(pd.DataFrame(rows).fillna(""), index=False)
    save("stages.md", f"{describe(torch.device('cpu'))}, preset `{arguments.preset}`\n\n{table}")


if __name__ == "__main__":
    main()
