"""gaussian.py against torch.distributions, a NumPy loop and numerical integration; never against itself."""

import numpy as np
import pytest
import torch
from torch import distributions as D

from qmvae.model.gaussian import Gaussian, log_likelihood, product_of_experts


def random_gaussian(rows=5, size=3, dtype=torch.float64):
    return Gaussian(torch.randn(rows, size, dtype=dtype), torch.randn(rows, size, dtype=dtype))


def normal(q):
    return D.Normal(q.mean, (0.5 * q.logvar).exp())


def test_kl_against_torch_distributions():
    q = random_gaussian()
    expected = D.kl_divergence(normal(q), D.Normal(0.0, 1.0)).sum(dim=1)
    torch.testing.assert_close(q.kl(), expected)


def test_kl_against_monte_carlo():
    q = Gaussian(torch.tensor([[0.7, -1.2]]), torch.tensor([[0.4, -0.9]]))
    z = normal(q).sample((400_000,))
    estimate = (normal(q).log_prob(z) - D.Normal(0.0, 1.0).log_prob(z)).sum(dim=-1).mean(dim=0)
    torch.testing.assert_close(q.kl(), estimate, atol=0.02, rtol=0)


def test_rsample_has_the_moments_and_the_gradients():
    mean = torch.full((200_000, 1), 0.5, dtype=torch.float64, requires_grad=True)
    logvar = torch.full((200_000, 1), -1.0, dtype=torch.float64, requires_grad=True)
    z = Gaussian(mean, logvar).rsample()
    assert z.mean().item() == pytest.approx(0.5, abs=0.01)
    assert z.var().item() == pytest.approx(np.exp(-1.0), abs=0.01)
    z.sum().backward()
    torch.testing.assert_close(mean.grad, torch.ones_like(mean))  # dz/dmean = 1
    torch.testing.assert_close(logvar.grad, 0.5 * (z - mean).detach())  # dz/dlogvar = sigma * epsilon / 2


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("prior", [True, False])
def test_product_of_experts_against_the_normalised_product_of_densities(count, prior):
    experts = [Gaussian(torch.randn(1, 1).double(), 0.5 * torch.randn(1, 1).double()) for _ in range(count)]
    fused = product_of_experts(experts, prior=prior)
    grid = torch.linspace(-15, 15, 60_001, dtype=torch.float64)
    log_density = sum(normal(q).log_prob(grid).squeeze() for q in experts)
    if prior:
        log_density = log_density + D.Normal(0.0, 1.0).log_prob(grid)
    density = log_density.exp() / log_density.exp().sum()
    mean = (density * grid).sum()
    variance = (density * (grid - mean) ** 2).sum()
    assert fused.mean.item() == pytest.approx(mean.item(), abs=1e-6)
    assert fused.logvar.exp().item() == pytest.approx(variance.item(), abs=1e-6)


def test_product_of_experts_against_a_numpy_loop():
    experts = [random_gaussian() for _ in range(3)]
    fused = product_of_experts(experts)
    for i in range(5):
        for d in range(3):
            precision, weighted = 1.0, 0.0  # the prior expert
            for q in experts:
                p = np.exp(-q.logvar[i, d].item())
                precision, weighted = precision + p, weighted + p * q.mean[i, d].item()
            assert fused.mean[i, d].item() == pytest.approx(weighted / precision)
            assert fused.logvar[i, d].item() == pytest.approx(-np.log(precision))


@pytest.mark.parametrize("a, b", [(50.0, 50.0), (-50.0, -50.0), (50.0, -50.0)])
def test_extreme_log_variances_stay_finite(a, b):
    parts = [torch.full((2, 3), value, requires_grad=True) for value in (1.0, a, -1.0, b)]
    fused = product_of_experts([Gaussian(parts[0], parts[1]), Gaussian(parts[2], parts[3])])
    (fused.kl().sum() + fused.rsample().sum()).backward()
    assert all(torch.isfinite(x).all() for x in (*fused, *(part.grad for part in parts)))


def test_log_likelihoods_against_torch_distributions():
    images, mean = torch.rand(4, 3, 2, 2).double(), torch.rand(4, 3, 2, 2).double()
    for family, expected in {
        "laplace": D.Laplace(mean, 0.75).log_prob(images),
        "gaussian": D.Normal(mean, 0.75).log_prob(images),
        "bernoulli": D.ContinuousBernoulli(probs=mean).log_prob(images)
        - D.ContinuousBernoulli(probs=mean)._cont_bern_log_norm(),
    }.items():
        torch.testing.assert_close(log_likelihood(family, 0.75, mean, images), expected.sum(dim=(1, 2, 3)))
    with pytest.raises(ValueError, match="poisson.*expected laplace"):
        log_likelihood("poisson", 1.0, mean, images)


@pytest.mark.parametrize("shape", [(1, 3, 1, 2, 2), (3, 1, 1, 1), (3, 1, 2, 1)])
def test_means_that_would_be_broadcast_to_the_images_are_refused(shape):
    with pytest.raises(ValueError, match=r"expected means of the images' shape \(3, 1, 2, 2\), got"):
        log_likelihood("laplace", 0.75, torch.zeros(shape), torch.zeros(3, 1, 2, 2))


@pytest.mark.parametrize("family", ["laplace", "gaussian", "bernoulli"])
def test_likelihoods_of_a_bfloat16_network_are_float32(family):
    mean, images = torch.rand(2, 5, 1, 4, 4).clamp(0.05, 0.95).unbind()
    with torch.autocast("cpu", torch.bfloat16):
        found = log_likelihood(family, 0.75, mean.bfloat16(), images)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, log_likelihood(family, 0.75, mean.bfloat16().float(), images))
