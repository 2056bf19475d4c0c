"""Q-MVAE's objective (Eqs. 7, 17-20), term by term against a computation in NumPy float64, and its test-time calls."""

import math

import numpy as np
import pytest
import torch
from test_models import NETWORKS, SHAPES, namespace, sample
from torch import distributions as D

from qmvae.model.gaussian import Gaussian
from qmvae.model.qmvae import QMVAE
from qmvae.model.quadruplet import triplet_terms


def make(count=2, **changes):
    names = list(SHAPES)[:count]
    settings = dict(
        objective="weighted", shared=4, private=3, kl_shared=0.7, alpha1=2.0, alpha2=0.8, beta=1500.0, test_time="mean",
        likelihood={m: dict(family="laplace", scale=0.75, weight=1.5 + i) for i, m in enumerate(names)},
        kl_private={m: 5.0 + i for i, m in enumerate(names)},
        negatives=dict(policy="semihard", start=0.5, distinct=False, labels=True),
        quadruplet=["first", "second", "third"], metric="across", prior_expert=True, unimodal_elbos=True,
    )  # fmt: skip
    torch.manual_seed(0)
    model = QMVAE({m: SHAPES[m] for m in names}, NETWORKS, namespace(settings | changes)).double()
    images = {m: torch.rand(12, *SHAPES[m], dtype=torch.float64) for m in names}
    return model, images, torch.arange(12) % 3


def kl_by_hand(q):
    return D.kl_divergence(D.Normal(q.mean, q.logvar.exp().sqrt()), D.Normal(0.0, 1.0)).sum(dim=1).mean().item()


def fused_by_hand(posteriors, prior=1):
    """Eq. 8 with precisions, N(0, I) among the experts or not."""
    precision = prior + sum((-q.logvar).exp() for q in posteriors)
    mean = sum(q.mean * (-q.logvar).exp() for q in posteriors) / precision
    return Gaussian(mean, -precision.log())


@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize(
    "changes",
    [
        {"objective": "weighted"},
        {"objective": "printed"},
        {"quadruplet": ["second", "third"]},
        {"quadruplet": ["first"]},
        {"quadruplet": []},
        {"prior_expert": False},
        {"unimodal_elbos": False},
    ],
    ids=str,
)
def test_every_term_of_the_objective(monkeypatch, count, changes):
    # with one sample that is no random number the expectations of Eqs. 7, 17 and 18 are plain numbers
    monkeypatch.setattr(Gaussian, "rsample", sample)
    model, images, labels = make(count, **changes)
    config, printed = model.config, model.config.objective == "printed"
    # at the very end of training hardest negatives make the quadruplets a function of the means alone
    config.negatives.policy = "hardest"
    terms = {name: value.item() for name, value in model.loss(images, labels, progress=1.0).items()}

    with torch.no_grad():
        shared = {m: model.shared_encoders[m](x) for m, x in images.items()}
        private = {m: model.private_encoders[m](x) for m, x in images.items()}
        joint = fused_by_hand(shared.values(), config.prior_expert)

        def likelihood(m, z):
            p = D.Laplace(model.decoders[m](torch.cat([z, sample(private[m])], dim=1)), 0.75)
            log_p = p.log_prob(images[m]).sum(dim=(1, 2, 3)).mean().item()
            return log_p * (1 if printed else config.likelihood[m].weight)

        def weight(m):
            return 1 if printed else config.kl_private[m]

        kl_shared = 1 if printed else 0.7
        elbo_joint = -kl_shared * kl_by_hand(joint)
        elbo_alone = {}
        for m in images:
            elbo_joint += likelihood(m, sample(joint)) - weight(m) * kl_by_hand(private[m])
            elbo_alone[m] = likelihood(m, sample(shared[m])) - weight(m) * kl_by_hand(private[m])
            elbo_alone[m] -= kl_shared * kl_by_hand(shared[m])

    quad = 0.0
    names = list(images)
    for a in range(count):
        for b in range(a + 1, count):
            x, y = shared[names[a]].mean.numpy(), shared[names[b]].mean.numpy()
            distance = np.linalg.norm(x[:, None] - y[None], axis=-1)
            for i in range(12):
                others = [j for j in range(12) if labels[j] != labels[i]]
                y_negative = min(others, key=lambda j: distance[i, j])
                x_negative = min(others, key=lambda j: distance[j, i])
                hinges = {
                    "first": max(distance[i, i] - distance[i, y_negative] + 2.0, 0),
                    "second": max(distance[i, i] - distance[x_negative, i] + 2.0, 0),
                    "third": max(distance[i, i] - distance[x_negative, y_negative] + 0.8, 0),
                }
                quad += sum(hinges[name] for name in config.quadruplet) / 12

    assert terms["elbo_joint"] == pytest.approx(elbo_joint)  # Eq. 7
    if config.unimodal_elbos:
        for m in images:
            assert terms[f"elbo_{m}"] == pytest.approx(elbo_alone[m])  # Eqs. 17, 18
    else:
        elbo_alone = {}
    assert terms["quad"] == pytest.approx(quad)  # Eq. 19
    assert terms["loss"] == pytest.approx(-(elbo_joint + sum(elbo_alone.values()) - 1500 * quad))  # Eq. 20


def test_elbos_are_below_the_log_likelihood_that_importance_sampling_finds():
    """Eqs. 5 and 13: with every weight 1 the bounds hold, whatever the weights of the networks."""
    model, images, labels = make(objective="printed")
    images = {m: x[:1] for m, x in images.items()}
    with torch.no_grad():
        runs = [model.loss(images, labels[:1]) for _ in range(400)]
        elbo = {k: torch.stack([r[k] for r in runs]).mean().item() for k in ("elbo_joint", "elbo_mnist", "elbo_svhn")}

        def log_likelihood(names, draws=10_000):
            prior = D.Normal(0.0, 1.0)
            z = torch.randn(draws, 4, dtype=torch.float64)  # from the prior: p(x) = E_p(z,h)[p(x | z, h)]
            log_p = 0.0
            for m in names:
                h = prior.sample((draws, 3)).double()
                p = D.Laplace(model.decoders[m](torch.cat([z, h], dim=1)), 0.75)
                log_p = log_p + p.log_prob(images[m]).sum(dim=(1, 2, 3))
            return (torch.logsumexp(log_p, dim=0) - math.log(draws)).item()

        # the encoders are untrained, so the bound is loose, but not by much: q is near the prior there
        for key, names in {"elbo_joint": ("mnist", "svhn"), "elbo_mnist": ("mnist",), "elbo_svhn": ("svhn",)}.items():
            truth = log_likelihood(names)
            assert truth - 5 < elbo[key] < truth, key


def test_negatives_are_random_before_start_and_screened_after(monkeypatch):
    import qmvae.model.qmvae as module

    seen, real = [], module.select_negatives
    monkeypatch.setattr(module, "select_negatives", lambda x, y, labels, policy, distinct: (
        seen.append(policy), real(x, y, labels, policy, distinct))[1])  # fmt: skip
    model, images, labels = make()
    for progress in (0.0, 0.49, 0.5, 1.0):
        model.loss(images, labels, progress)
    assert seen == ["random", "random", "semihard", "semihard"]


def test_without_labels_any_other_pair_is_a_negative(monkeypatch):
    import qmvae.model.qmvae as module

    seen, real = [], module.select_negatives
    monkeypatch.setattr(module, "select_negatives", lambda x, y, labels, *rest: (
        seen.append(labels), real(x, y, labels, *rest))[1])  # fmt: skip
    for asked in (True, False):
        model, images, labels = make(negatives=dict(policy="random", start=0.0, distinct=False, labels=asked))
        model.loss(images, labels)
    assert seen[0].tolist() == labels.tolist() and seen[1].tolist() == list(range(12))


@pytest.mark.parametrize("batch, classes", [(1, 1), (8, 1), (8, 2)])
def test_batches_without_negatives_give_finite_losses_and_gradients(batch, classes):
    model, images, _ = make(negatives=dict(policy="hardest", start=0.0, distinct=True, labels=True))
    images = {m: x[:batch] for m, x in images.items()}
    terms = model.loss(images, torch.arange(batch) % classes)
    terms["loss"].backward()
    assert all(torch.isfinite(value) for value in terms.values())
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)
    assert terms["quad"].item() == 0


def test_shared_and_private_encoders_are_separate_networks():
    model, images, _ = make()
    shared = {id(p) for p in model.shared_encoders.parameters()}
    assert not shared & {id(p) for p in model.private_encoders.parameters()}
    model.private("svhn", images["svhn"]).mean.sum().backward()
    assert all(p.grad is None for p in model.shared_encoders.parameters())


def test_one_modality_is_its_encoder_alone_and_several_are_a_product_with_the_prior():
    model, images, _ = make(3)
    alone = model.shared({"svhn": images["svhn"]})
    torch.testing.assert_close(alone.mean, model.shared_encoders["svhn"](images["svhn"]).mean)  # section 3.4
    parts = {m: images[m] for m in ("mnist", "third")}
    expected = fused_by_hand([model.shared_encoders[m](x) for m, x in parts.items()])
    torch.testing.assert_close(model.shared(parts), expected)


def test_cross_generation_takes_the_shared_code_from_the_condition_and_the_private_one_from_the_prior():
    model, images, _ = make()
    model.eval()
    first = model.cross_generate({"mnist": images["mnist"]}, "svhn", seed=3)
    assert first.shape == (12, 3, 8, 8)
    torch.testing.assert_close(first, model.cross_generate({"mnist": images["mnist"]}, "svhn", seed=3))
    assert not torch.equal(first, model.cross_generate({"mnist": images["mnist"]}, "svhn", seed=4))
    h = torch.randn(12, 3, dtype=torch.float64)
    z = model.shared_encoders["mnist"](images["mnist"]).mean
    expected = model.decoders["svhn"](torch.cat([z, h], dim=1))
    torch.testing.assert_close(model.cross_generate({"mnist": images["mnist"]}, "svhn", private=h), expected)


def test_translation_takes_the_private_code_from_the_reference():
    model, images, _ = make()
    z = model.shared_encoders["svhn"](images["svhn"]).mean
    h = model.private_encoders["mnist"](images["mnist"]).mean
    expected = model.decoders["mnist"](torch.cat([z, h], dim=1))
    torch.testing.assert_close(model.translate({"svhn": images["svhn"]}, "mnist", images["mnist"]), expected)


def test_generation_from_the_prior_uses_one_shared_code_a_row(monkeypatch):
    model, seen = make(3)[0], []
    monkeypatch.setattr(model, "decode", lambda name, z, h: seen.append((z, h)))
    model.generate(20_000, seed=0)
    z, h = zip(*seen, strict=True)
    assert torch.equal(z[0], z[1]) and torch.equal(z[0], z[2]) and not torch.equal(h[0], h[1])
    for code in (z[0], *h):  # N(0, I)
        assert code.mean(dim=0).abs().max() < 0.04 and (code.std(dim=0) - 1).abs().max() < 0.04


def test_within_sums_the_triplet_losses_of_all_modalities():
    negatives = dict(policy="hardest", start=0.0, distinct=False, labels=True)
    model, images, _ = make(3, metric="within", negatives=negatives)
    labels = torch.arange(12) % 6  # one positive each, so that none is chosen at random
    found = [triplet_terms(model.shared_encoders[m](x).mean, labels, "hardest", 2.0) for m, x in images.items()]
    terms = model.loss(images, labels)
    for name, values in zip(("quad", "distance_positive", "distance_negative"), zip(*found, strict=True), strict=True):
        torch.testing.assert_close(terms[name], sum(values))


@pytest.mark.parametrize(
    "images, message",
    [
        (
            {"mnist": torch.full((2, 1, 4, 4), 255, dtype=torch.uint8)},
            "mnist: .*got torch.uint8; divide 8-bit",
        ),
        ({"mnist": -torch.ones(2, 1, 4, 4)}, r"got values from -1 to -1; rescale .*: \(x \+ 1\) / 2"),
        ({"mnist": torch.full((2, 1, 4, 4), torch.nan)}, "got values from nan to nan; replace NaN"),
        ({"mnist": torch.zeros(2, 4, 4)}, r"\(N, 1, 4, 4\)"),
        ({"audio": torch.zeros(2, 4, 4)}, "'audio': unknown; this model has mnist, svhn"),
        ({}, "no modality given"),
    ],
)
def test_wrong_images(images, message):
    with pytest.raises(ValueError, match=message):
        make()[0].shared(images)


@pytest.mark.parametrize(("height", "width"), [(28, 28), (28, 32), (32, 28)])
def test_conv_needs_sides_divisible_by_8(height, width):
    with pytest.raises(ValueError, match=f"svhn: conv needs sides divisible by 8, not {height}x{width}"):
        QMVAE({"svhn": (3, height, width)}, NETWORKS, make()[0].config)
