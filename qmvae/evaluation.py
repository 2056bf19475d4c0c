"""The numbers of Tables 1 and 2, and metrics.json.

`python -m qmvae.evaluation MODEL` judges every seed of a trained model; without a model it collects what is judged
into reports/<preset>/metrics.json.
"""

import argparse
import statistics
from itertools import permutations

import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from qmvae import checkpoint, data, files
from qmvae.gaussian import Gaussian
from qmvae.judges import Judge, load_judges
from qmvae.models import MultimodalVAE
from qmvae.params import Params, ParamsError, load
from qmvae.training import TrainingError, device_of

CHUNK = 1000  # images decoded or encoded at a time


def some_rows(count: int, wanted: int | str, seed: int, device) -> Tensor:
    """`wanted` of `count` rows without repetition, all of them for `all`: int64 on the device."""
    if wanted == "all" or wanted >= count:
        return torch.arange(count, device=device)
    return torch.randperm(count, generator=torch.Generator().manual_seed(seed))[:wanted].to(device)


def cross_accuracy(model: MultimodalVAE, judge: Judge, split: data.Split, source: str, target: str, rows: Tensor, seed: int):
    """Table 1: the share of `target` images, generated from the `source` image of each test pair, that the judge reads
    as the condition's digit. The private code is drawn from the prior for each (section 4.2.1)."""
    right = []
    for i, chunk in enumerate(rows.split(CHUNK)):
        images, labels = split.batch(chunk)
        generated = model.cross_generate({source: images[source]}, target, seed=seed * 1_000_003 + i)
        right.append((judge.predict(generated) == labels).sum())
    return (torch.stack(right).sum() / len(rows)).item()


@torch.no_grad()
def encode(model: MultimodalVAE, split: data.Split) -> dict[str, Gaussian]:
    """q(z | x) of every image of the split, once each, by modality: Gaussians over (N, shared)."""
    codes = {}
    for name, images in split.images.items():
        parts = [model.shared({name: chunk.float() / 255}) for chunk in images.split(CHUNK)]
        codes[name] = Gaussian(*(torch.cat(part) for part in zip(*parts, strict=True)))
    return codes


def linear_probe(model: MultimodalVAE, dataset: data.Dataset, rows: Tensor) -> dict[str, float]:
    """Table 2 (section 4.3): one linear layer, fitted on the fused shared codes of training pairs `rows`, then tested on
    the codes of each modality's test images alone and of the test pairs, `both` (for three modalities: all).

    The layer is the optimum of the same cross-entropy that Shi et al. minimise with Adam.
    """
    train, test = encode(model, dataset.train), encode(model, dataset.test)

    def fused(codes: dict[str, Gaussian], pairs: Tensor) -> Tensor:
        columns = pairs.long().unbind(dim=1)
        parts = {m: Gaussian(*(p[c] for p in codes[m])) for m, c in zip(codes, columns, strict=True)}
        return model.fuse(parts).mean

    names = list(dataset.shapes)
    pairs = dataset.train.pairs[rows]
    labels = dataset.train.labels[names[0]][pairs[:, 0].long()]
    layer = LogisticRegression(C=100.0, max_iter=1000).fit(fused(train, pairs).cpu().double(), labels.cpu())

    def score(codes: Tensor, truth: Tensor) -> float:
        return float(layer.score(codes.cpu().double(), truth.cpu()))

    result = {m: score(test[m].mean, dataset.test.labels[m]) for m in names}
    both = dataset.test.labels[names[0]][dataset.test.pairs[:, 0].long()]
    return result | {"both": score(fused(test, dataset.test.pairs), both)}


def evaluate(params: Params, name: str) -> None:
    """Judge every seed of the preset; writes artifacts/<preset>/evaluation/<model>.json."""
    device = device_of(params)
    dataset = data.load(params, device)
    judges, _ = load_judges(params, dataset.shapes, device)
    settings = params.evaluation
    conditions = some_rows(len(dataset.test.pairs), settings.conditions, settings.seed, device)
    probe_pairs = some_rows(len(dataset.train.pairs), settings.probe_pairs, settings.seed, device)
    result: dict = {"conditions": len(conditions), "cross": {}, "linear": {}}
    for seed in params.training.seeds:
        model = checkpoint.load(params.model_folder(name, seed), str(device))
        for source, target in permutations(dataset.shapes, 2):
            value = cross_accuracy(model, judges[target], dataset.test, source, target, conditions, settings.seed)
            result["cross"].setdefault(f"{source}_to_{target}", []).append(value)
        for key, value in linear_probe(model, dataset, probe_pairs).items():
            result["linear"].setdefault(key, []).append(value)
        print(f"{name}, seed {seed}: {shown({k: v[-1] for part in ('cross', 'linear') for k, v in result[part].items()})}")
    files.save_json(params.artifacts / "evaluation" / f"{name}.json", result)


def shown(values: dict[str, float]) -> str:
    return ", ".join(f"{key} {value:.1%}" for key, value in values.items())


def summary(values: list[float]) -> dict:
    """Mean, standard deviation over seeds (n - 1; 0 for one seed) and the values themselves."""
    std = statistics.stdev(values) if len(values) > 1 else 0.0
    return {"mean": statistics.fmean(values), "std": std, "seeds": values}


def collect(params: Params) -> None:
    """Write reports/<preset>/metrics.json from what each model's evaluation left."""
    dataset = data.load(params)
    models = {}
    for name in params.models:
        result = files.load_json(params.artifacts / "evaluation" / f"{name}.json")
        models[name] = {part: {k: summary(v) for k, v in result[part].items()} for part in ("cross", "linear")}
        models[name]["conditions"] = result["conditions"]
    device = device_of(params)
    metrics = {
        "preset": params.preset,
        "images": dataset.describe(),
        "device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
        "torch": torch.__version__,
        "seeds": params.training.seeds,
        "steps": params.training.steps,
        "judges": files.load_json(params.artifacts / "judges" / "accuracy.json"),
        "models": models,
    }
    files.save_json(params.reports / "metrics.json", metrics)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m qmvae.evaluation", description=__doc__)
    parser.add_argument("model", nargs="?", choices=list(checkpoint.MODELS))
    name = parser.parse_args().model
    try:
        params = load()
        evaluate(params, name) if name else collect(params)
    except (ParamsError, TrainingError, files.FileError) as error:
        raise SystemExit(f"evaluation: {error}") from None


if __name__ == "__main__":
    main()
