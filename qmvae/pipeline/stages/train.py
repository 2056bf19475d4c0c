"""Train models with every one of their seeds: artifacts/<preset>/models/<model>/seed-<k>."""

import shutil

from qmvae.pipeline.device import resolve_device
from qmvae.pipeline.jobs import side_by_side
from qmvae.pipeline.schema import Params
from qmvae.pipeline.training import KEPT, fingerprint, is_trained, progress_folder, train_one


def run(params: Params, models: list[str], seed: int | None = None) -> None:
    """Train every seed of the models, side by side on a CPU, or one seed in this process.

    A killed run continues from its last checkpoint. The output folders are filled at the end, with finished seeds only.
    Raises TrainingError or JobError.
    """
    if seed is not None:
        return train_one(params, models[0], seed)
    open_seeds = []
    for name in models:
        for own in params.training[name].seeds:
            if is_trained(progress_folder(params, name, own), fingerprint(params, name, own)):
                print(f"{name}, seed {own}: {KEPT}", flush=True)
            else:
                open_seeds.append((name, own))
    if len(open_seeds) > 1 and resolve_device(params).type == "cpu":
        side_by_side([["train", name, "--seed", str(seed)] for name, seed in open_seeds])
    else:
        for name, seed in open_seeds:
            train_one(params, name, seed)
    unfinished = shutil.ignore_patterns("checkpoint.safetensors")  # of a run with other parameters
    for name in models:
        output = params.artifacts / "models" / name
        shutil.rmtree(output, ignore_errors=True)
        for seed in params.training[name].seeds:
            shutil.copytree(progress_folder(params, name, seed), output / f"seed-{seed}", ignore=unfinished)
    return None
