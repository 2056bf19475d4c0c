"""DMVAE's terms against NumPy loops in float64, and which gradient reaches which network."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from test_models import make, sample
from torch import distributions as D

from qmvae.baselines.dmvae import Discriminator, density_ratio, leaky_mlp, nt_xent
from qmvae.data.dataset import Split
from qmvae.model.gaussian import Gaussian
from qmvae.train import make_optimizer, training_steps


def nt_xent_by_hand(a, b, temperature):
    codes = np.concatenate([a, b])
    codes = codes / np.linalg.norm(codes, axis=1, keepdims=True)
    total = 0.0
    for i in range(len(codes)):
        partner = (i + len(a)) % len(codes)
        others = [np.exp(codes[i] @ codes[j] / temperature) for j in range(len(codes)) if j != i]
        total -= np.log(np.exp(codes[i] @ codes[partner] / temperature) / sum(others))
    return total / len(codes)


@pytest.mark.parametrize("temperature", [0.2, 1.0])
@pytest.mark.parametrize("rows", [1, 2, 9])
def test_nt_xent_against_a_numpy_loop(rows, temperature):
    a, b = torch.randn(rows, 4, dtype=torch.float64), torch.randn(rows, 4, dtype=torch.float64)
    assert nt_xent(a, b, temperature).item() == pytest.approx(nt_xent_by_hand(a.numpy(), b.numpy(), temperature))


def test_nt_xent_of_codes_that_all_agree_is_that_of_a_guess():
    code = torch.ones(8, 3)
    assert nt_xent(code, code, 1.0).item() == pytest.approx(math.log(15))  # 1 of 2N - 1
    assert nt_xent(10 * torch.eye(8), torch.eye(8), 0.01).item() == pytest.approx(0, abs=1e-6)


def fused_by_hand(posteriors, members):
    """Row by row, the product of the experts that are members, without the prior."""
    mean, logvar = np.zeros((2, *next(iter(posteriors.values())).mean.shape))
    for n in range(len(mean)):
        precision, weighted = 0.0, 0.0
        for q, member in zip(posteriors.values(), members, strict=True):
            if member[n]:
                p = np.exp(-q.logvar[n].numpy())
                precision, weighted = precision + p, weighted + p * q.mean[n].numpy()
        mean[n], logvar[n] = weighted / precision, -np.log(precision)
    return Gaussian(torch.from_numpy(mean), torch.from_numpy(logvar))


def double(count, **changes):
    model, images, labels = make("dmvae", count, **changes)
    return model.double(), {m: x.double() for m, x in images.items()}, labels


@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize("progress, warm", [(0.0, 0.0), (0.05, 0.5), (0.5, 1.0)])
def test_every_term_of_the_objective(monkeypatch, count, progress, warm):
    # the only draws are then the subset, the split and the permutations
    monkeypatch.setattr(Gaussian, "rsample", sample)
    model, images, labels = double(count, temperature=0.5, warm_up=0.1)
    for i, m in enumerate(images):
        model.config.kl_private[m], model.config.delta[m] = 100.0 + i, 500.0 - i
        model.config.likelihood[m].weight = 1.5 + i
    torch.manual_seed(5)
    terms = {name: value.item() for name, value in model.loss(images, labels, progress).items()}

    torch.manual_seed(5)  # the same draws in the same order
    subset = torch.rand(count) < 0.5
    one_member = torch.randint(count, (1,)).item()
    if not subset.any():
        subset[one_member] = True
    side = torch.rand(count, 12) < 0.5
    with torch.no_grad():
        shared = {m: model.shared_encoders[m](x) for m, x in images.items()}
        everything = torch.ones(count, 12, dtype=torch.bool)
        both, partial = fused_by_hand(shared, everything), fused_by_hand(shared, subset[:, None].expand(-1, 12))
        contrastive = nt_xent_by_hand(sample(both).numpy(), sample(partial).numpy(), 0.5)
        assert terms["contrastive"] == pytest.approx(contrastive)
        total = 1000 * contrastive
        for i, (m, x) in enumerate(images.items()):
            c = fused_by_hand(shared, side == side[i])
            q = model.private_encoders[m](x)
            h = sample(q)
            log_p = D.Laplace(model.decoders[m](torch.cat([c.mean, h], dim=1)), 0.1).log_prob(x)
            log_p = (1.5 + i) * log_p.sum(dim=(1, 2, 3)).mean().item()
            kl = D.kl_divergence(D.Normal(q.mean, (0.5 * q.logvar).exp()), D.Normal(0.0, 1.0)).sum(dim=1).mean().item()
            paired = model.discriminators[m](sample(c), h)
            independent = model.discriminators[m](sample(c), h[torch.randperm(12)])
            guess = torch.cat([paired, independent]).sigmoid()
            truth = torch.cat([torch.ones(12), torch.zeros(12)]).double()
            cross_entropy = torch.nn.functional.binary_cross_entropy(guess, truth).item()
            assert terms[f"log_p_{m}"] == pytest.approx(log_p)
            assert terms[f"kl_private_{m}"] == pytest.approx(kl)
            assert terms[f"information_{m}"] == pytest.approx(paired.mean().item())
            assert terms[f"discriminator_{m}"] == pytest.approx(cross_entropy)
            total += -2 * log_p + warm * (100 + i) * kl + (500 - i) * paired.mean().item() + cross_entropy
    assert terms["loss"] == pytest.approx(total)


def test_the_random_subset_is_never_empty_and_fair(monkeypatch):
    model, images, labels = make("dmvae")
    seen, real = [], model.fuse_members
    monkeypatch.setattr(model, "fuse_members", lambda q, members: (seen.append(members), real(q, members))[1])
    with torch.no_grad():
        for _ in range(300):
            model.loss({m: x[:2] for m, x in images.items()}, labels[:2])
    subsets = torch.stack(seen[::3]).float()  # then one split for each modality
    assert (subsets.sum(dim=1) > 0).all()
    assert subsets.prod(dim=1).mean().item() == pytest.approx(1 / 4, abs=0.1)  # both; each alone 3/8
    splits = torch.stack([members for i, members in enumerate(seen) if i % 3 == 1])
    assert splits[:, 0].all()  # a part holds the modality that is drawn from it
    assert splits[:, 1].float().mean().item() == pytest.approx(1 / 2, abs=0.06)


def touched(module):
    return any(p.grad is not None and p.grad.any() for p in module.parameters())


def test_only_the_contrastive_term_reaches_the_shared_encoders():
    model, images, labels = make("dmvae")
    terms = model.loss(images, labels)
    (terms["loss"] - model.config.gamma * terms["contrastive"]).backward(retain_graph=True)
    assert all(torch.allclose(p.grad, torch.zeros(()), atol=1e-3) for p in model.shared_encoders.parameters())
    model.zero_grad()
    for name, term in terms.items():
        if name not in ("loss", "contrastive"):
            term.backward(retain_graph=True)
    assert not touched(model.shared_encoders)
    assert touched(model.private_encoders) and touched(model.decoders)
    model.zero_grad()
    terms["contrastive"].backward()
    assert touched(model.shared_encoders) and not touched(model.private_encoders) and not touched(model.decoders)


def test_the_two_halves_of_the_game_keep_to_their_own_side():
    model, images, labels = make("dmvae")
    terms = model.loss(images, labels)
    terms["discriminator_svhn"].backward(retain_graph=True)
    assert touched(model.discriminators["svhn"]) and not touched(model.discriminators["mnist"])
    assert not touched(model.shared_encoders) and not touched(model.private_encoders)
    model.zero_grad()
    terms["information_svhn"].backward()
    assert touched(model.private_encoders["svhn"]) and not touched(model.private_encoders["mnist"])
    assert not touched(model.discriminators) and not touched(model.shared_encoders)


@pytest.mark.parametrize("correlation", [0.0, 0.8])
def test_the_density_ratio_finds_the_mutual_information_of_gaussians(correlation):
    """Of two Gaussians of correlation r it is -ln(1 - r^2) / 2 nats."""
    torch.manual_seed(0)
    discriminator = Discriminator(2, 2, 32)
    optimizer = torch.optim.Adam(discriminator.parameters(), lr=0.003)
    estimates = []
    for step in range(500):
        z, noise = torch.randn(256, 2), torch.randn(256, 2)
        h = torch.cat([correlation * z[:, :1] + math.sqrt(1 - correlation**2) * noise[:, :1], noise[:, 1:]], dim=1)
        information, loss = density_ratio(discriminator, z, h)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step >= 300:
            estimates.append(information.item())
    truth = -0.5 * math.log(1 - correlation**2)
    assert np.mean(estimates) == pytest.approx(truth, abs=0.1)


def test_discriminators_have_a_learning_rate_of_their_own_and_share_the_cooldown():
    model, images, labels = make("dmvae", discriminator_lr=0.02)
    rest, own = (optimizer := make_optimizer(model, 0.01)).param_groups
    assert (rest["lr"], rest["betas"], own["lr"], own["betas"]) == (0.01, (0.9, 0.999), 0.02, (0.5, 0.9))
    assert {*map(id, own["params"])} == {*map(id, model.discriminators.parameters())}
    pixels = {m: x.mul(255).byte() for m, x in images.items()}
    split = Split(pixels, dict.fromkeys(images, labels), torch.arange(12)[:, None].expand(-1, 2).int())
    settings = SimpleNamespace(steps=4, batch_size=12, cooldown=0.5, precision="float32", compile="off")
    rates = [g["lr"] for _ in training_steps(model, optimizer, split, settings, 0) for g in optimizer.param_groups]
    assert rates == pytest.approx([0.01, 0.02] * 3 + [0.005, 0.01])


def test_products_are_without_the_prior():
    model, images, _ = double(3)
    with torch.no_grad():
        posteriors = {m: model.shared_encoders[m](x) for m, x in images.items()}
        alone = model.shared({"svhn": images["svhn"]})
        torch.testing.assert_close(alone, posteriors["svhn"])
        torch.testing.assert_close(model.shared(images), fused_by_hand(posteriors, torch.ones(3, 12).bool()))
        members = torch.rand(3, 12) < 0.5
        members[0] |= ~members.any(dim=0)
        torch.testing.assert_close(
            model.fuse_members(posteriors, members[..., None]), fused_by_hand(posteriors, members)
        )


def test_nt_xent_is_exact_under_autocast():
    torch.manual_seed(0)
    a, b = torch.randn(2, 64, 8).unbind()
    with torch.autocast("cpu", torch.bfloat16):
        found = nt_xent(a, b, 0.05)
    torch.testing.assert_close(found, nt_xent(a, b, 0.05))


def test_the_slope_of_the_discriminators_layers():
    layers = leaky_mlp(1, 1, 1)
    for parameter in layers.parameters():
        torch.nn.init.constant_(parameter, float(parameter.ndim == 2))
    assert layers(torch.tensor([[-1.0], [3.0]])).flatten().tolist() == pytest.approx([-0.04, 3.0])
