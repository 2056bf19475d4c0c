"""Which parts of Q-MVAE carry its result: one of them changed at a time, the rest left as it is (not in the paper).

`python -m qmvae.ablations NAME` trains and examines the one of that name in params.yaml; without a name it collects
them into reports/<preset>/ablations.json, and draws the leak of the printed objective.
"""

import argparse
from itertools import permutations

import torch

from qmvae import checkpoint, data, figures, files, training
from qmvae.evaluation import Examiner, shown
from qmvae.params import Params, ParamsError, load


def changed(params: Params, name: str) -> Params:
    """The same run with Q-MVAE changed as the ablation says, and its own number of steps. Raises ParamsError."""
    ablations = params.ablations
    if name not in ablations.changes:
        raise ParamsError(f"ablations.changes: no {name!r}; there are {', '.join(ablations.changes)}")
    section = params.qmvae.changed(f"ablations.changes.{name}", ablations.changes[name])
    settings = params.training["qmvae"].model_copy(update={"steps": ablations.steps, "seeds": [ablations.seed]})
    return params.model_copy(update={"qmvae": section, "training": params.training | {"qmvae": settings}})


def run(params: Params, name: str) -> None:
    """Train one ablation, going on from its last checkpoint, and write artifacts/<preset>/ablations/<name>: its numbers
    as metrics.json has them, and for each direction test images of the ten digits with four drawings of each."""
    params = changed(params, name)
    device = training.device_of(params)
    dataset = data.load(params, device)
    folder = params.artifacts / "progress" / "ablations" / name
    folder.mkdir(parents=True, exist_ok=True)
    folders = {params.ablations.seed: folder}
    training.train(params, "qmvae", folders, dataset, training.fingerprint_of(params, "qmvae"))
    model = checkpoint.load(folder, str(device))
    found = Examiner(params, dataset).examine(model)
    pictures: dict[str, torch.Tensor] = {}
    for a, b in permutations(dataset.shapes, 2):
        given = dataset.test.examples(a)
        drawn = torch.stack([model.cross_generate({a: given}, b, seed=i) for i in range(4)])
        pictures |= {f"{a}_to_{b}.given": given, f"{a}_to_{b}.drawn": drawn}
    output = params.artifacts / "ablations"
    files.save_tensors(output / f"{name}.safetensors", {k: (255 * v).byte().cpu() for k, v in pictures.items()})
    files.save_json(output / f"{name}.json", found)
    print(f"{name}: {shown(found['cross'] | found['linear'])}", flush=True)


def collect(params: Params) -> None:
    """Write reports/<preset>/ablations.json, and the figure `leak`, the printed objective beside the weighted one."""
    folder, settings = params.artifacts / "ablations", params.training["qmvae"]
    numbers = {name: files.load_json(folder / f"{name}.json") for name in params.ablations.changes}
    about = {"preset": params.preset, "images": data.load(params).describe(), "seed": params.ablations.seed}
    about |= {"steps": params.ablations.steps, "batch_size": settings.batch_size}
    about["changes"] = params.ablations.changes
    files.save_json(params.reports / "ablations.json", about | {"ablations": numbers})
    panels, titles = {}, params.images.titles
    for name, title in (("printed_objective", "Eq. 20 as printed"), ("as_it_is", "KL terms weighted")):
        pictures, _ = files.load_tensors(folder / f"{name}.safetensors")
        for a, b in permutations(params.modalities, 2):
            given, drawn = (pictures[f"{a}_to_{b}.{part}"].numpy() / 255 for part in ("given", "drawn"))
            panels[f"{title}: {titles[a]} to {titles[b]}"] = figures.under_conditions(given, drawn)
    figures.save(figures.panels(panels, columns=2), params.reports / "figures", "leak")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m qmvae.ablations", description=__doc__)
    parser.add_argument("name", nargs="?", help="one of ablations.changes in params.yaml")
    name = parser.parse_args().name
    try:
        params = load()
        run(params, name) if name else collect(params)
    except (ParamsError, training.TrainingError, files.FileError) as error:
        raise SystemExit(f"ablations: {error}") from None


if __name__ == "__main__":
    main()
