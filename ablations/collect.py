"""Collect the ablations: reports/<preset>/ablations.json, and the figure `leak` of the objective as printed.

`python ablations/collect.py`, after ablations/ablate.py has run for every name of `ablations.changes` in params.yaml.
"""

from itertools import permutations

from qmvae.pipeline import artifacts, files, messages, params, tensor_files
from qmvae.report import figures


def collect(run: params.Params) -> None:
    """Write the measures of all ablations with their settings, and the figure. Raises FileError."""
    folder, ablations = run.artifacts / "ablations", run.ablations
    report = {
        "preset": run.preset,
        "images": artifacts.load_dataset(run).describe(),
        "seed": ablations.seed,
        "steps": ablations.steps,
        "batch_size": run.training["qmvae"].batch_size,
        "changes": ablations.changes,
        "spread": spread(run),
        "ablations": {name: files.load_json(folder / f"{name}.json") for name in ablations.changes},
    }
    files.save_json(run.reports / "ablations.json", report)
    pictures, titles = {}, run.images.titles
    for name, title in (("printed_objective", "Eq. 20 as printed"), ("as_it_is", "KL terms weighted")):
        images, _ = tensor_files.load(folder / f"{name}.safetensors")
        for a, b in permutations(run.modalities, 2):
            conditions, generated = (images[f"{a}_to_{b}.{part}"].numpy() / 255 for part in ("conditions", "generated"))
            pictures[f"{title}: {titles[a]} to {titles[b]}"] = figures.under_conditions(conditions, generated)
    artifacts.save_figure(run, figures.panels(pictures, columns=2), "leak")


def spread(run: params.Params) -> dict[str, dict[str, float]]:
    """Return the standard deviations of Q-MVAE's seeds in Tables 1 and 2: fractions of 1, 0 for one seed.

    They show how large a difference of two runs must be to mean something. Raises FileError.
    """
    found = artifacts.metrics(run)["models"]["qmvae"]
    return {part: {key: entry["std"] for key, entry in found[part].items()} for part in ("cross", "linear")}


def main() -> None:
    with messages.one_message("ablations", "the same command"):
        collect(params.load())


if __name__ == "__main__":
    main()
