"""MVAE's sub-sampled objective, term by term against torch.distributions, and its product of experts with the prior."""

import math

import pytest
import torch
from test_models import make, sample
from torch import distributions as D

from qmvae.model.gaussian import Gaussian


def fused_by_hand(model, images, names):
    """The product of the experts named and N(0, I): precisions add up, means are weighted with them."""
    experts = [model.shared_encoders[m](images[m]) for m in names]
    precision = 1 + sum((-q.logvar).exp() for q in experts)
    mean = sum(q.mean * (-q.logvar).exp() for q in experts) / precision
    return D.Normal(mean, precision.rsqrt())


@pytest.mark.parametrize("count, subsets", [(2, []), (3, [[1, 1, 0], [0, 1, 1]])])
@pytest.mark.parametrize("progress, beta", [(0.0, 0.0), (0.1, 0.25), (0.4, 1.0), (1.0, 1.0)])
def test_every_term_of_the_objective(monkeypatch, count, subsets, progress, beta):
    # with one sample that is no random number the expectations are plain numbers
    monkeypatch.setattr(Gaussian, "rsample", sample)
    model, images, labels = make("mvae", count, warm_up=0.4, kl=2.0)
    model = model.double()
    images = {m: x.double() for m, x in images.items()}
    monkeypatch.setattr(model, "random_subsets", lambda count, device: torch.tensor(subsets).bool())
    names = list(images)
    for i, m in enumerate(names):
        model.config.likelihood[m].weight = 1.5 + i
    with torch.no_grad():
        terms = {name: value.item() for name, value in model.loss(images, labels, progress).items()}
        members = {"joint": names} | {m: [m] for m in names}
        members |= {f"subset_{j}": [m for m, i in zip(names, row, strict=True) if i] for j, row in enumerate(subsets)}
        total = 0.0
        for key, given in members.items():
            q = fused_by_hand(model, images, given)
            elbo = -2 * beta * D.kl_divergence(q, D.Normal(0.0, 1.0)).sum(dim=1).mean()
            z = q.mean + 2 * q.scale.log()  # `sample` of this posterior
            for m in given:
                log_p = D.Laplace(model.decoders[m](z), 0.75).log_prob(images[m]).sum(dim=(1, 2, 3)).mean()
                elbo += model.config.likelihood[m].weight * log_p
            assert terms[f"elbo_{key}"] == pytest.approx(elbo.item()), key
            total += elbo.item()
    assert terms["loss"] == pytest.approx(-total)


def test_elbos_are_below_the_log_likelihood_that_importance_sampling_finds():
    model, images, labels = make("mvae", 3, test_time="mean")
    images = {m: x[:1] for m, x in images.items()}
    with torch.no_grad():
        runs = [model.loss(images, labels[:1]) for _ in range(300)]
        for key, names in {"joint": ["mnist", "svhn", "third"], "mnist": ["mnist"], "svhn": ["svhn"]}.items():
            elbo = torch.stack([r[f"elbo_{key}"] for r in runs]).mean().item()
            z = torch.randn(10_000, 4)
            log_p = sum(
                D.Laplace(model.decoders[m](z), 0.75).log_prob(images[m]).sum(dim=(1, 2, 3)) for m in names
            )  # fmt: skip
            truth = (log_p.logsumexp(dim=0) - math.log(len(z))).item()
            assert truth - 5 < elbo < truth, key


@pytest.mark.parametrize("names", [["mnist"], ["mnist", "svhn"], ["mnist", "svhn", "third"]])
def test_the_prior_is_an_expert_for_one_modality_too(names):
    model, images, _ = make("mvae", 3)
    q, expected = model.shared({m: images[m] for m in names}), fused_by_hand(model, images, names)
    torch.testing.assert_close(q.mean, expected.mean)
    torch.testing.assert_close(q.logvar, 2 * expected.scale.log())


def test_random_subsets_have_uniform_sizes_and_members():
    model, _, _ = make("mvae", 3, subsets=64)
    drawn = torch.cat([model.random_subsets(4, torch.device("cpu")) for _ in range(200)])  # 12,800 subsets of 4
    sizes = drawn.sum(dim=1)
    assert sizes.min() == 2 and sizes.max() == 3
    assert (sizes == 2).float().mean().item() == pytest.approx(0.5, abs=0.03)
    assert torch.allclose(drawn.float().mean(dim=0), torch.tensor(2.5 / 4), atol=0.03)
    assert len(model.random_subsets(2, torch.device("cpu"))) == 0  # of two modalities there is none


def test_a_modality_left_out_of_a_random_subset_gets_no_gradient_from_it(monkeypatch):
    model, images, labels = make("mvae", 3)
    monkeypatch.setattr(model, "random_subsets", lambda count, device: torch.tensor([[True, False, True]]))
    model.loss(images, labels)["elbo_subset_0"].backward()
    left_out = [*model.shared_encoders["svhn"].parameters(), *model.decoders["svhn"].parameters()]
    assert all(p.grad is None or not p.grad.any() for p in left_out)
    assert all(p.grad.isfinite().all() and p.grad.any() for p in model.decoders["third"].parameters())
