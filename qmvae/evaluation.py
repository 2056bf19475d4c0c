"""The numbers of Tables 1 and 2 and those beside them, and metrics.json.

`python -m qmvae.evaluation MODEL` judges every seed of a trained model; without a model it collects what is judged
into reports/<preset>/metrics.json.
"""

import argparse
import math
import statistics
from itertools import permutations
from typing import Any, NamedTuple

import torch
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from qmvae import checkpoint, data, files, probes
from qmvae.judges import load_judges
from qmvae.models import MultimodalVAE
from qmvae.params import Params, ParamsError, load
from qmvae.training import TrainingError, device_of

PARTS = ("cross", "cross_strong", "linear", "calibration", "probes", "frechet", "coherence")
STRONG = 10_000  # about as many conditions of a direction are shown to the strong judge, who costs 30 times the other
SAMPLES = 8  # of each posterior, for the calibration
CHUNK = 1000  # images decoded or encoded at a time


def some_rows(count: int, wanted: int | str, seed: int, device) -> Tensor:
    """`wanted` of `count` rows without repetition, all of them for `all`: int64 on the device."""
    if isinstance(wanted, str) or wanted >= count:
        return torch.arange(count, device=device)
    return torch.randperm(count, generator=torch.Generator().manual_seed(seed))[:wanted].to(device)


class CrossGeneration(NamedTuple):
    """One direction of Table 1, and what the paper does not have: how a stronger judge reads the images, and the
    Frechet distance of the first judge's features of them to those of the real test images."""

    accuracy: float
    strong: float
    frechet: float


@torch.no_grad()
def cross_generation(
    model: MultimodalVAE, judge, strong, split: data.Split, source: str, target: str, rows: Tensor, seed: int
) -> CrossGeneration:
    """Table 1 for one direction, with the private code drawn from the prior for each test pair `rows` (section 4.2.1).

    The accuracy is the share of generated `target` images that the judge reads as the `source` image's digit.
    """
    stride = math.ceil(len(rows) / STRONG)
    right, right_strong, features = [], [], []
    for i, chunk in enumerate(rows.split(CHUNK)):
        images, labels = split.batch(chunk)
        generated = model.cross_generate({source: images[source]}, target, seed=seed * 1_000_003 + i)
        features.append(judge.features(generated))
        right.append(judge.classes(features[-1]).argmax(dim=1) == labels)
        right_strong.append(strong.predict(generated[::stride]) == labels[::stride])
    real = [judge.features(chunk.float() / 255) for chunk in split.images[target].split(CHUNK)]
    accuracy, accuracy_strong = (torch.cat(hits).double().mean().item() for hits in (right, right_strong))
    return CrossGeneration(accuracy, accuracy_strong, frechet_distance(torch.cat(features), torch.cat(real)))


def frechet_distance(a: Tensor, b: Tensor) -> float:
    """Between Gaussians fitted to features (N, F) and (M, F): |mean a - mean b|^2 + tr(A + B - 2 (A B)^(1/2)).

    With a judge's 50 hidden units for features it needs no downloaded network; it compares models judged by the same
    judge, and is no FID.
    """
    a, b = a.double().cpu(), b.double().cpu()
    cov_a, cov_b = torch.cov(a.T), torch.cov(b.T)
    values, vectors = torch.linalg.eigh(cov_a)
    root = vectors * values.clamp(min=0).sqrt() @ vectors.T
    cross = torch.linalg.eigvalsh(root @ cov_b @ root).clamp(min=0).sqrt().sum()  # tr (A B)^(1/2)
    return ((a.mean(0) - b.mean(0)).square().sum() + cov_a.trace() + cov_b.trace() - 2 * cross).item()


def joint_coherence(model: MultimodalVAE, judges: dict, count: int, seed: int) -> float:
    """The share of `count` draws from the priors in which the judges of all modalities read the same digit."""
    agree = []
    for i, chunk in enumerate(torch.arange(count).split(CHUNK)):
        drawn = model.generate(len(chunk), seed=seed * 1_000_003 + i)
        read = torch.stack([judges[name].predict(images) for name, images in drawn.items()])
        agree.append((read == read[0]).all(dim=0).float())
    return torch.cat(agree).mean().item()


@torch.no_grad()
def encode(model: MultimodalVAE, split: data.Split) -> dict[str, Any]:
    """q(z | x) of every image of the split, by modality, as the model's own kind of posterior over (N, shared)."""
    codes = {}
    for name, images in split.images.items():
        parts = [model.shared({name: chunk.float() / 255}) for chunk in images.split(CHUNK)]
        codes[name] = type(parts[0])(*(torch.cat(part) for part in zip(*parts, strict=True)))
    return codes


def linear_probe(model: MultimodalVAE, dataset: data.Dataset, rows: Tensor) -> tuple[dict, dict]:
    """Table 2 (section 4.3): one linear layer, fitted on the fused shared codes of training pairs `rows`, then tested
    on the codes of each modality's test images alone and of the test pairs, `both` (with three modalities: all three).

    The layer (on standardised codes) is the optimum of the cross-entropy that Shi et al. minimise with Adam. A model
    that has no fused code is fitted on the codes of all modalities side by side, and has no `both`.

    Returns the accuracies, and how far confidence and accuracy lie apart (not in the paper): the expected calibration
    error of the layer's probabilities, averaged over SAMPLES samples of each posterior.
    """
    train, test = encode(model, dataset.train), encode(model, dataset.test)

    def singles(codes: dict, pairs: Tensor) -> dict:
        """The posterior of each modality's image in each pair."""
        columns = zip(codes.items(), pairs.long().unbind(dim=1), strict=True)
        return {m: type(q)(*(part[column] for part in q)) for (m, q), column in columns}

    names = list(dataset.shapes)
    pairs = dataset.train.pairs[rows]
    labels = dataset.train.labels[names[0]][pairs[:, 0].long()]
    posteriors = singles(train, pairs)
    if model.fused:
        codes = model.fuse(posteriors).mean
    else:
        codes, labels = torch.cat([q.mean for q in posteriors.values()]), labels.repeat(len(names))
    layer = make_pipeline(StandardScaler(), LogisticRegression(C=100.0, max_iter=1000))
    layer.fit(codes.cpu().double(), labels.cpu())

    accuracies, calibration = {}, {}

    def score(name: str, posterior, truth: Tensor) -> None:
        accuracies[name] = float(layer.score(posterior.mean.cpu().double(), truth.cpu()))
        generator = torch.Generator(posterior.mean.device).manual_seed(0)
        samples = (posterior.rsample(generator).cpu().double() for _ in range(SAMPLES))
        confidence, column = torch.tensor(sum(layer.predict_proba(z) for z in samples) / SAMPLES).max(dim=1)
        calibration[name] = calibration_error(confidence, torch.tensor(layer.classes_)[column] == truth.cpu())

    for m in names:
        score(m, test[m], dataset.test.labels[m])
    if model.fused:
        truth = dataset.test.labels[names[0]][dataset.test.pairs[:, 0].long()]
        score("both", model.fuse(singles(test, dataset.test.pairs)), truth)
    return accuracies, calibration


def calibration_error(confidence: Tensor, right: Tensor, bins: int = 15) -> float:
    """Expected calibration error (Guo et al. 2017) of N answers: |accuracy - confidence| in equal bins of confidence,
    weighted by their share. confidence: (N,) in [0, 1]. right: (N,) bool."""
    which = (confidence * bins).long().clamp(max=bins - 1)
    gaps = torch.zeros(bins, dtype=confidence.dtype).index_add(0, which, right.to(confidence) - confidence)
    return (gaps.abs().sum() / len(right)).item()


class Examiner:
    """All that is asked of a trained model, on one preset's images, judges and evaluation settings."""

    def __init__(self, params: Params, dataset: data.Dataset):
        device = dataset.train.pairs.device
        self.dataset, self.settings = dataset, params.evaluation
        self.judges, _ = load_judges(params, dataset.shapes, device)
        self.strong, _ = load_judges(params, dataset.shapes, device, "strong")
        for judge in (*self.judges.values(), *self.strong.values()):
            judge.to(memory_format=torch.channels_last)  # they read, and the model draws, twice as fast in it
        wanted, seed = self.settings.conditions, self.settings.seed
        self.conditions = some_rows(len(dataset.test.pairs), wanted, seed, device)
        self.probe_pairs = some_rows(len(dataset.train.pairs), self.settings.probe_pairs, seed, device)

    def examine(self, model: MultimodalVAE) -> dict[str, dict[str, float]]:
        """The numbers of metrics.json for one model: fractions of 1 by PARTS, then by direction, modality or probe."""
        model.to(memory_format=torch.channels_last)
        dataset, seed = self.dataset, self.settings.seed
        found: dict[str, dict[str, float]] = {"cross": {}, "cross_strong": {}, "frechet": {}}
        for a, b in permutations(dataset.shapes, 2):
            judges = self.judges[b], self.strong[b]
            scores = cross_generation(model, *judges, dataset.test, a, b, self.conditions, seed)
            for part, score in zip(("cross", "cross_strong", "frechet"), scores, strict=True):
                found[part][f"{a}_to_{b}"] = score
        found["linear"], found["calibration"] = linear_probe(model, dataset, self.probe_pairs)
        found["probes"] = probes.probe(model, dataset)
        found["coherence"] = {"joint": joint_coherence(model, self.judges, len(self.conditions), seed)}
        return found


def evaluate(params: Params, name: str) -> None:
    """Judge every seed of the preset; writes artifacts/<preset>/evaluation/<model>.json."""
    device = device_of(params)
    examiner = Examiner(params, data.load(params, device))
    result: dict[str, dict[str, list[float]]] = {part: {} for part in PARTS}
    for seed in params.seeds:
        model = checkpoint.load(params.model_folder(name, seed), str(device))
        found = examiner.examine(model)
        for part, values in found.items():
            for key, value in values.items():
                result[part].setdefault(key, []).append(value)
        print(f"{name}, seed {seed}: {shown(found['cross'] | found['linear'] | found['coherence'])}", flush=True)
    training = params.training[name]
    about: dict = {"conditions": len(examiner.conditions), "codes": model.sizes}
    about |= {"steps": training.steps, "batch_size": training.batch_size}
    files.save_json(params.artifacts / "evaluation" / f"{name}.json", about | result)


def shown(values: dict[str, float]) -> str:
    return ", ".join(f"{key} {value:.1%}" for key, value in values.items())


def summary(values: list[float]) -> dict:
    """Mean, standard deviation over seeds (n - 1; 0 for one seed) and the values themselves."""
    std = statistics.stdev(values) if len(values) > 1 else 0.0
    return {"mean": statistics.fmean(values), "std": std, "seeds": values}


def collect(params: Params) -> None:
    """Write reports/<preset>/metrics.json from what each model's evaluation left, and scores.json, the means of Tables
    1 and 2 in per cent: what `dvc metrics show` and `dvc exp show` have room for."""
    dataset = data.load(params)
    models = {}
    for name in params.models:
        result = files.load_json(params.artifacts / "evaluation" / f"{name}.json")
        parts = {part: {k: summary(v) for k, v in values.items()} for part, values in result.items() if part in PARTS}
        models[name] = {key: value for key, value in result.items() if key not in PARTS} | parts
    device, read = device_of(params), files.load_json(params.artifacts / "judges" / "accuracy.json")
    metrics = {
        "preset": params.preset,
        "images": dataset.describe(),
        "device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
        "torch": torch.__version__,
        "seeds": params.seeds,
        "steps": params.training["qmvae"].steps,
        "judges": read["judge"],
        "strong_judges": read["strong"],
        "twins": read["twin"],  # the encoders of the models, trained as classifiers: the ceiling
        "models": models,
    }
    files.save_json(params.reports / "metrics.json", metrics)
    scores = {
        name: {key: round(100 * value["mean"], 1) for part in ("cross", "linear") for key, value in model[part].items()}
        for name, model in models.items()
    }
    files.save_json(params.reports / "scores.json", scores)


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
