"""Each benchmark runs through with tiny durations. Their times are never asserted, and nothing else runs their code."""

import os
import shutil
import subprocess
import sys

import pytest
from tiny import ROOT, environment

pytestmark = pytest.mark.faults

COMMANDS = {  # by the file that each writes below reports/bench
    "startup.md": "startup.py",
    "throughput-cpu.md": "throughput.py --seconds 0.1 --rounds 1",
    "compile.md": "compile.py --presets quick --seconds 0.1 --rounds 1",
    "contention.md": "contention.py --seconds 0.1 --rounds 1",
    "scaling-cpu.csv": "scaling.py --seconds 0.1 --models mvae",
    "rehearsal-cpu.md": "rehearsal.py --steps 2 --models qmvae",
}


@pytest.mark.parametrize("output", COMMANDS)
def test_a_benchmark_runs_through_and_writes_its_table(tmp_path, output):
    name, *words = COMMANDS[output].split()
    if name == "throughput.py" and not (ROOT / ".bench" / "multivae").is_dir():
        pytest.skip("MultiVae is not installed in .bench; see `make bench`")
    shutil.copy(ROOT / "params.yaml", tmp_path)
    paths = os.pathsep.join([str(ROOT), str(ROOT / ".bench")])
    command = [sys.executable, str(ROOT / "benchmarks" / name), *words]
    done = subprocess.run(command, cwd=tmp_path, env=environment(PYTHONPATH=paths), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert (tmp_path / "reports" / "bench" / output).stat().st_size
