#!/bin/bash
# Everything that is still to be measured on a GPU, in the order of its worth: benchmarks/gpu.sh FOLDER
#
# FOLDER gets each result when it is there, so that a machine that is taken away loses one step at most. MINUTES (default
# 8) limits a step. The steps need torch and the packages of pyproject.toml, and no network. MultiVae is measured beside
# ours where PYTHONPATH has it (see `make bench`); ARCHIVES, a folder with mnist.npz and svhn.npz, adds the runs on them.
# Eight processes share the runs of ablations/tuning.yaml that have no row yet.
set -u
folder=${1:?"usage: benchmarks/gpu.sh FOLDER"}
mkdir -p "$folder"

step() { # NAME COMMAND...: run a command, keep its output, and the tables and trained models that it wrote
    local name=$1
    shift
    touch "$folder/started"
    timeout "$((60 * ${MINUTES:-8}))" "$@" >"$folder/$name.txt" 2>&1
    echo "exit status $?: $*" | tee -a "$folder/$name.txt"
    find reports/bench reports/subset artifacts/subset/progress -type f -newer "$folder/started" -exec cp --parents {} "$folder" \; 2>/dev/null
}

step tests python -m pytest -q -k gpu tests
step compile python benchmarks/compile.py
step throughput python benchmarks/throughput.py
if [ -n "${ARCHIVES:-}" ]; then
    step plan python -m qmvae plan --preset subset --data "$ARCHIVES"
    step data python -m qmvae data
    step classifiers python -m qmvae classifiers
    step tuning bash -c 'for _ in 1 2 3 4 5 6 7 8; do OMP_NUM_THREADS=1 python ablations/tune.py & done; wait'
    for model in $(python -c 'from qmvae.pipeline import params; print(*params.load("subset").models)'); do
        step "train-$model" python -m qmvae train "$model" --seed 0
    done
    step speedrun python benchmarks/speedrun.py
fi
step scaling python benchmarks/scaling.py
