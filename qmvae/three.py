"""Q-MVAE with a third modality, to see that its equations carry over (not in the paper): the built-in handwriting joins
the two of the preset. Eq. 8 then has one more expert, and Eq. 19 is summed over three pairs of modalities.

`python -m qmvae.three` trains and examines it and writes reports/<preset>/three.json: the digit that each set of the
other modalities gives to a drawing, and the one that a linear layer reads from their fused codes.
"""

import math
import shutil
from itertools import combinations

import torch

from qmvae import checkpoint, data, files, training
from qmvae.data import builtin
from qmvae.evaluation import CHUNK, STRONG, linear_probe, shown, some_rows
from qmvae.judges import KINDS, accuracy, fit, load_judges
from qmvae.params import Modality, Params, ParamsError, load

THIRD = "handwriting"


def widened(params: Params) -> Params:
    """The same run with the third modality, set as the first fully connected one is, under artifacts/<preset>/three."""
    like = next((name for name, modality in params.modalities.items() if modality.net == "mlp"), None)
    if like is None or THIRD in params.modalities:
        found = ", ".join(f"{name}: {modality.net}" for name, modality in params.modalities.items())
        raise ParamsError(
            f"modalities: found {found}; three modalities need one with `net: mlp`, and none named {THIRD}"
        )
    qmvae, images, settings = params.qmvae, params.images, params.training["qmvae"]
    weights = {key: getattr(qmvae, key) for key in ("likelihood", "kl_private")}
    return params.model_copy(
        update={
            "preset": f"{params.preset}/three",
            "modalities": params.modalities | {THIRD: Modality(net="mlp")},
            "images": images.model_copy(update={"titles": images.titles | {THIRD: "built-in handwriting"}}),
            "seeds": [params.ablations.seed],
            "training": {"qmvae": settings.model_copy(update={"steps": params.ablations.steps})},
            "qmvae": qmvae.model_copy(update={key: value | {THIRD: value[like]} for key, value in weights.items()}),
        }
    )


def with_handwriting(dataset: data.Dataset, params: Params) -> data.Dataset:
    """The images of the run and the third modality's, paired anew."""
    arrays, splits = builtin.handwriting(params.images.seed), {}
    generator = torch.Generator().manual_seed(params.pairs.seed)
    for part, split in (("train", dataset.train), ("test", dataset.test)):
        images = split.images | {THIRD: torch.tensor(arrays[f"{part}_images"])[:, None]}
        labels = split.labels | {THIRD: torch.tensor(arrays[f"{part}_labels"])}
        splits[part] = data.Split(
            images, labels, data.pair(labels, params.pairs.multiplier, generator, params.pairs.redraw)
        )
    return data.Dataset(**splits, titles=params.images.titles)


def judge(params: Params, wide: Params, dataset: data.Dataset) -> None:
    """The preset's judges, and two more that are trained on the third modality as those were on theirs."""
    folder, settings = wide.artifacts / "judges", params.judges
    shutil.copytree(params.artifacts / "judges", folder, dirs_exist_ok=True)
    scores = files.load_json(folder / "accuracy.json")
    images, labels = dataset.train.images[THIRD], dataset.train.labels[THIRD]
    steps = {
        "judge": (settings.epochs * len(images) // settings.batch_size, 0.0),
        "strong": (settings.strong_steps, 1.0),
    }
    for kind, (count, cooldown) in steps.items():
        torch.manual_seed(settings.seed)
        network = KINDS[kind](dataset.shapes[THIRD]).to(images.device).to(memory_format=torch.channels_last)
        fit(network, images, labels, settings, count, f"{kind} of {THIRD}", cooldown)
        scores[kind][THIRD] = accuracy(network, dataset.test.images[THIRD], dataset.test.labels[THIRD])
        files.save_tensors(folder / f"{THIRD}-{kind}.safetensors", network.state_dict())
    files.save_json(folder / "accuracy.json", scores)


@torch.no_grad()
def cross(model, dataset: data.Dataset, params: Params) -> dict[str, dict[str, float]]:
    """Table 1 for every modality drawn from every set of the others, as `cross` and, judged by the stronger judges,
    `cross_strong`: the share of drawings read as the given digit, under <given>+<given>_to_<drawn>."""
    settings, device = params.evaluation, dataset.test.pairs.device
    rows = some_rows(len(dataset.test.pairs), settings.conditions, settings.seed, device)
    judges = [load_judges(params, dataset.shapes, device, kind)[0] for kind in KINDS]
    strides = 1, math.ceil(len(rows) / STRONG)
    hits: dict[str, tuple[list, list]] = {}
    for i, chunk in enumerate(rows.split(CHUNK)):
        images, labels = dataset.test.batch(chunk)
        for target in images:
            others = [name for name in images if name != target]
            for given in (set_ for size in range(1, len(images)) for set_ in combinations(others, size)):
                drawn = model.cross_generate({m: images[m] for m in given}, target, settings.seed * 1_000_003 + i)
                found = hits.setdefault(f"{'+'.join(given)}_to_{target}", ([], []))
                for right, reader, stride in zip(found, judges, strides, strict=True):
                    right.append(reader[target].predict(drawn[::stride]) == labels[::stride])
    shares = {key: [torch.cat(right).double().mean().item() for right in found] for key, found in hits.items()}
    return {part: {key: pair[i] for key, pair in shares.items()} for i, part in enumerate(("cross", "cross_strong"))}


def run(params: Params) -> None:
    """Make the images and judges of three modalities, train, going on from the last checkpoint, write the report."""
    wide, device = widened(params), training.device_of(params)
    data.save(with_handwriting(data.load(params), wide), wide)
    dataset = data.load(wide, device)
    judge(params, wide, dataset)
    training.run(wide, "qmvae")
    model = checkpoint.load(wide.model_folder("qmvae", params.ablations.seed), str(device))
    rows = some_rows(len(dataset.train.pairs), params.evaluation.probe_pairs, params.evaluation.seed, device)
    linear, _ = linear_probe(model, dataset, rows)
    about = {"preset": params.preset, "images": dataset.describe(), "seed": params.ablations.seed}
    about |= {"steps": params.ablations.steps, "batch_size": params.training["qmvae"].batch_size}
    about |= {"judges": files.load_json(wide.artifacts / "judges" / "accuracy.json")}
    found = cross(model, dataset, wide) | {
        "linear": {"all" if name == "both" else name: v for name, v in linear.items()}
    }
    files.save_json(params.reports / "three.json", about | found)
    print(f"three modalities: {shown(found['cross'] | found['linear'])}", flush=True)


def main() -> None:
    try:
        run(load())
    except (ParamsError, training.TrainingError, files.FileError) as error:
        raise SystemExit(f"three modalities: {error}") from None


if __name__ == "__main__":
    main()
