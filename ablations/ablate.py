"""Train and evaluate Q-MVAE with one part changed and all else unchanged (not in the paper).

`python ablations/ablate.py NAME`, with a name of `ablations.changes` in params.yaml; ablations/dvc.yaml runs them all.
"""

import argparse
from itertools import permutations

import torch

from qmvae.pipeline import artifacts, checkpoint, files, messages, params, tensor_files, training
from qmvae.pipeline.device import resolve_device
from qmvae.pipeline.schema import by_name
from qmvae.pipeline.stages.evaluate import make_evaluator, percentages

SAMPLES = 4  # generated images of each condition


def with_change(run: params.Params, name: str) -> params.Params:
    """Return the run with one change of Q-MVAE, the ablations' steps and their one seed. Raises ParamsError."""
    ablations = run.ablations
    if name not in ablations.changes:
        raise params.ParamsError(f"ablations.changes: no {name!r}; expected one of {', '.join(ablations.changes)}")
    where = f"ablations.changes.{name}"
    section = run.qmvae.changed(where, by_name(where, run.qmvae, ablations.changes[name], run.modalities))
    settings = run.training["qmvae"].model_copy(update={"steps": ablations.steps, "seeds": [ablations.seed]})
    return run.model_copy(update={"qmvae": section, "training": run.training | {"qmvae": settings}})


def ablate(run: params.Params, name: str) -> None:
    """Train one ablation from its last checkpoint on, evaluate it, and write artifacts/<preset>/ablations/<name>.*

    .json: the measures of Evaluator.evaluate. .safetensors: by direction, a test image of each digit as `conditions`,
    uint8 (10, C, H, W), and the images generated from them as `generated`, uint8 (SAMPLES, 10, C, H, W).
    Raises ParamsError, TrainingError and FileError.
    """
    run, device = with_change(run, name), resolve_device(run)
    dataset = artifacts.load_dataset(run, device)
    folder = run.artifacts / "progress" / "ablations" / name
    folder.mkdir(parents=True, exist_ok=True)
    seed = run.ablations.seed
    training.train_seed(run, "qmvae", seed, dataset, folder, training.fingerprint(run, "qmvae", seed))
    model = checkpoint.load_model(folder, device)
    found = make_evaluator(run, dataset, run.evaluation).evaluate(model)
    images: dict[str, torch.Tensor] = {}
    for a, b in permutations(dataset.shapes, 2):
        conditions = dataset.test.examples(a)
        generated = torch.stack([model.cross_generate({a: conditions}, b, seed=i) for i in range(SAMPLES)])
        images |= {f"{a}_to_{b}.conditions": conditions, f"{a}_to_{b}.generated": generated}
    output = run.artifacts / "ablations"
    tensor_files.save(output / f"{name}.safetensors", {key: (255 * value).byte() for key, value in images.items()})
    files.save_json(output / f"{name}.json", found)
    print(f"{name}: {percentages(found['cross'] | found['linear'])}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", help="one of ablations.changes in params.yaml")
    name = parser.parse_args().name
    with messages.one_message(f"ablation {name}", "the same command"):
        ablate(params.load(), name)


if __name__ == "__main__":
    main()
