"""All measures of one trained model: the numbers that metrics.json has for it."""

from itertools import permutations
from statistics import fmean
from typing import Any

import torch

from qmvae.data.dataset import Dataset
from qmvae.evaluate.cross_generation import accuracy, cross_generation, joint_coherence, sample_indices, with_test_time
from qmvae.evaluate.disentanglement import active_dimensions, probe_codes, translation
from qmvae.evaluate.linear_probe import linear_probe
from qmvae.model.base import MultimodalVAE


class Evaluator:
    """The measures of a model on one data set, by the same classifiers and on the same pairs for every model.

    classifiers, strong: Shi et al.'s and the stronger classifier of each modality, in eval mode.
    conditions: how many test pairs each direction of Table 1 has. probe_pairs: how many training pairs Table 2's linear
    layer is fitted to. Either may be `all`. seed: of the choice of both, and of all samples.
    """

    def __init__(
        self,
        dataset: Dataset,
        classifiers: dict[str, Any],
        strong: dict[str, Any],
        conditions: int | str,
        probe_pairs: int | str,
        seed: int,
    ):
        self.dataset, self.classifiers, self.strong, self.seed = dataset, classifiers, strong, seed
        device = dataset.train.pairs.device
        self.conditions = sample_indices(len(dataset.test.pairs), conditions, seed, device)
        self.probe_pairs = sample_indices(len(dataset.train.pairs), probe_pairs, seed, device)

    def evaluate(self, model: MultimodalVAE) -> dict[str, dict[str, float]]:
        """Return the measures by part, then by key. Accuracies and errors are fractions of 1.

        By direction, <source>_to_<target>: cross, cross_strong and frechet (see CrossGeneration); cross_mean and
        cross_sample, which are `cross` with the mean and with a sample of the shared code; translated and
        translated_strong (see Translation). By modality: contrast, a mean over the directions to it; linear and
        calibration, these two also for `both`. By <modality>_<measure>: style, a mean over the directions to it.
        By <modality>_<code>_<what>: probes. By <modality>_<code>: active and nats. coherence has the key `joint`.
        A model without private codes has no style, translated and translated_strong.
        A model without a shared code (`has_shared` is False) has no keys in linear, calibration, probes, active, nats
        and coherence, and the tables show n/a.
        """
        dataset, seed = self.dataset, self.seed
        for network in (model, *self.classifiers.values(), *self.strong.values()):
            network.to(memory_format=torch.channels_last)  # twice as fast
        found: dict[str, dict[str, float]] = {
            part: {} for part in ("cross", "cross_strong", "cross_mean", "cross_sample", "frechet")
        }
        contrast: dict[str, list[float]] = {}
        style: dict[str, list[float]] = {}
        for a, b in permutations(dataset.shapes, 2):
            key, classifiers = f"{a}_to_{b}", (self.classifiers[b], self.strong[b])
            cross = cross_generation(model, *classifiers, dataset, a, b, self.conditions, seed)
            found["cross"][key], found["cross_strong"][key], found["frechet"][key], ratio = cross
            contrast.setdefault(b, []).append(ratio)
            for how in ("mean", "sample"):
                if how == model.config.test_time:
                    found[f"cross_{how}"][key] = cross.accuracy
                else:
                    other = with_test_time(model, how)
                    found[f"cross_{how}"][key] = accuracy(other, classifiers[0], dataset, a, b, self.conditions, seed)
            if model.sizes["private"]:
                result = translation(model, *classifiers, dataset, a, b, seed)
                found.setdefault("translated", {})[key] = result.accuracy
                found.setdefault("translated_strong", {})[key] = result.strong
                for what, value in result.style.items():
                    style.setdefault(f"{b}_{what}", []).append(value)
        found["contrast"] = {name: fmean(values) for name, values in contrast.items()}
        if style:
            found["style"] = {name: fmean(values) for name, values in style.items()}
        found |= {part: {} for part in ("linear", "calibration", "probes", "active", "nats", "coherence")}
        if model.has_shared:
            found["linear"], found["calibration"] = linear_probe(model, dataset, self.probe_pairs)
            found["probes"] = probe_codes(model, dataset)
            found["active"], found["nats"] = active_dimensions(model, dataset.test)
            found["coherence"] = {"joint": joint_coherence(model, self.classifiers, len(self.conditions), seed)}
        return found
