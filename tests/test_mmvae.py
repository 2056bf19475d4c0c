"""MMVAE's bounds against NumPy loops, closed forms and quadrature; its gradient against that of the plain bound."""

import math

import numpy as np
import pytest
import torch
from test_models import make
from torch import distributions as D
from torch import nn

from qmvae.baselines import mmvae
from qmvae.baselines.mmvae import Laplace, Mixture, doubly_reparameterised, importance_weighted


def random_laplace(*shape):
    return Laplace(torch.randn(*shape, dtype=torch.float64), torch.rand(*shape, dtype=torch.float64) + 0.2)


def test_laplace_against_torch_distributions():
    q, z = random_laplace(5, 3), torch.randn(5, 3, dtype=torch.float64)
    expected = D.Laplace(q.mean, q.scale)
    torch.testing.assert_close(q.log_prob(z), expected.log_prob(z).sum(dim=1))
    torch.testing.assert_close(q.logvar, expected.variance.log())
    wide = Laplace(torch.full((200_000, 1), 0.5), torch.full((200_000, 1), 2.0))
    sample = wide.rsample()
    assert sample.mean().item() == pytest.approx(0.5, abs=0.03) and sample.var().item() == pytest.approx(8, abs=0.3)
    assert (sample > 0.5 + 2 * math.log(10)).float().mean().item() == pytest.approx(0.05, abs=0.003)  # the tail's law


def test_mixture_moments_and_samples():
    q = random_laplace(3, 1, 2)
    mixture = Mixture(Laplace(*(part.expand(3, 100_000, 2) for part in q)))
    grid = torch.linspace(-25, 25, 100_001, dtype=torch.float64)
    for d in range(2):
        density = sum(D.Laplace(q.mean[m, 0, d], q.scale[m, 0, d]).log_prob(grid).exp() for m in range(3)) / 3
        mean = torch.trapezoid(density * grid, grid)
        variance = torch.trapezoid(density * (grid - mean) ** 2, grid)
        assert mixture.mean[0, d].item() == pytest.approx(mean.item(), abs=1e-4)
        assert mixture.logvar[0, d].exp().item() == pytest.approx(variance.item(), rel=1e-3)
        sample = mixture.rsample()[:, d]
        assert sample.mean().item() == pytest.approx(mean.item(), abs=0.03)
        assert sample.var().item() == pytest.approx(variance.item(), rel=0.05)
    far = Mixture(Laplace(torch.full((2, 1, 2), 10.0), torch.full((2, 1, 2), 1e-3)))  # in float32 10^2 hides 1e-3^2
    torch.testing.assert_close(far.logvar, torch.full((1, 2), math.log(2e-6)))


def test_scales_add_up_to_the_number_of_dimensions():
    model, images, _ = make("mmvae")
    model.prior_logits.data = torch.randn(4)
    scales = [model.shared({"svhn": images["svhn"]}).scale, model.prior().scale[None]]
    assert all(torch.allclose(s.sum(dim=1), torch.tensor(4.0), atol=1e-4) and (s > 0).all() for s in scales)


@pytest.mark.parametrize("objective", ["dreg", "elbo"])
@pytest.mark.parametrize("count", [2, 3])
def test_bounds_against_a_numpy_loop(monkeypatch, objective, count):
    model, images, labels = make("mmvae", count, objective=objective)
    model, images = model.double(), {m: x[:3].double() for m, x in images.items()}
    model.prior_logits.data = torch.randn(4, dtype=torch.float64)
    for i, m in enumerate(images):
        model.config.likelihood[m].weight = 0.1 + i
    noise = torch.randn(count, 3, 3, 4, dtype=torch.float64)  # M, K, N, D
    monkeypatch.setattr(Laplace, "rsample", lambda q, generator=None: q.mean + q.scale * noise)
    with torch.no_grad():
        terms = {name: value.item() for name, value in model.loss(images, labels[:3]).items()}
        experts = [model.shared_encoders[m](x) for m, x in images.items()]
        prior = model.prior()

    def laplace(z, mean, scale):
        return sum(-abs(z[d] - mean[d]) / scale[d] - np.log(2 * scale[d]) for d in range(len(z)))

    total = 0.0
    for m, name in enumerate(images):
        bound = 0.0
        for n in range(3):
            log_w = []
            for k in range(3):
                z = experts[m].mean[n] + experts[m].scale[n] * noise[m, k, n]
                q = np.mean([np.exp(laplace(z.numpy(), *(part[n].detach().numpy() for part in e))) for e in experts])
                value = laplace(z.numpy(), *(part.detach().numpy() for part in prior)) - np.log(q)
                for i, x in images.items():
                    mean = model.decoders[i](z[None])[0].detach().flatten().numpy()
                    pixels = x[n].flatten().numpy()
                    value += model.config.likelihood[i].weight * laplace(pixels, mean, [0.75] * len(mean))
                log_w.append(value)
            w = np.exp(np.array(log_w) - max(log_w))
            bound += (np.log(w.mean()) + max(log_w) if objective == "dreg" else np.mean(log_w)) / 3
        assert terms[f"bound_{name}"] == pytest.approx(bound)
        total += bound / count
    assert terms["loss"] == pytest.approx(-total)


def on_a_line(count, samples, objective="dreg"):
    """`count` modalities of one pixel, one latent dimension, decoders that hand z on: x_m = z + Laplace noise, scale 1.

    Prior and posterior scales are 1 by construction (the softmax over one dimension).
    """
    model, _, _ = make("mmvae", count, samples=samples, objective=objective, shared=1)
    for likelihood in model.config.likelihood.values():
        likelihood.scale, likelihood.weight = 1.0, 1.0
    names = list(model.decoders)
    model.decoders = nn.ModuleDict({m: nn.Unflatten(1, (1, 1, 1)) for m in names})
    encode = nn.Sequential(nn.Flatten(), nn.Linear(1, 2)).double()
    encode[1].weight.data, encode[1].bias.data = torch.tensor([[0.5], [0.0]]).double(), torch.zeros(2).double()
    for m in names:
        model.shared_encoders[m].net = encode
    return model.double()


def bound_of(model, values, rows=8000):
    pixels = zip(model.decoders, values, strict=True)
    images = {m: torch.full((rows, 1, 1, 1), value, dtype=torch.float64) for m, value in pixels}
    with torch.no_grad():
        return -model.loss(images, torch.zeros(rows))["loss"].item()


@pytest.mark.parametrize("values", [(1.3,), (1.3, -0.4)])
def test_the_bound_rises_with_k_to_the_log_evidence(values):
    if len(values) == 1:  # the sum of two Laplace variables of scale 1 has the density (1 + |x|) exp(-|x|) / 4
        evidence = math.log((1 + values[0]) / 4) - values[0]
    else:
        z = torch.linspace(-40, 40, 400_001, dtype=torch.float64)
        density = 0.5 * (-z.abs()).exp() * 0.25 * (-(values[0] - z).abs() - (values[1] - z).abs()).exp()
        evidence = torch.trapezoid(density, z).log().item()
    elbo = bound_of(on_a_line(len(values), 1, "elbo"), values)
    bounds = [bound_of(on_a_line(len(values), k), values) for k in (1, 3, 10)]
    assert bounds[0] == pytest.approx(elbo, abs=0.03)  # one sample: the ELBO
    assert elbo < bounds[1] - 0.02 and bounds[1] < bounds[2] - 0.005 and bounds[2] < evidence
    assert bound_of(on_a_line(len(values), 300), values, rows=400) == pytest.approx(evidence, abs=0.005)


def test_the_bound_on_a_linear_gaussian_model():
    """z ~ N(0, 1), x ~ N(z, s^2): ln p(x) = ln N(x; 0, 1 + s^2) and the posterior are known."""
    torch.manual_seed(0)
    x, s, zero, one = torch.tensor([0.9, 0.6, 0.0, 1.0], dtype=torch.float64)
    evidence = D.Normal(zero, (1 + s * s).sqrt()).log_prob(x).item()

    def bound(q, samples):
        z = q.sample((1, samples, 50_000))
        log_w = D.Normal(zero, one).log_prob(z) + D.Normal(z, s).log_prob(x) - q.log_prob(z)
        return importance_weighted(log_w)[0]

    posterior = D.Normal(x / (1 + s * s), s / (1 + s * s).sqrt())
    for samples in (1, 4):  # every weight is p(x) then
        torch.testing.assert_close(bound(posterior, samples), torch.full((50_000,), evidence).double())
    other = D.Normal(0.2 * one, 0.8 * one)
    kl = D.kl_divergence(other, posterior).item()
    means = [bound(other, samples).mean().item() for samples in (1, 4, 16)]
    assert means[0] == pytest.approx(evidence - kl, abs=0.02)
    assert means[0] < means[1] < means[2] < evidence


def gradients_of_mu(gap, kind, samples=5, rows=60_000):
    """(2, rows) samples of the estimator of d L / d mean, for two Gaussian experts whose means differ by `gap`."""
    mean = torch.tensor([[-gap / 2], [gap / 2]]).double().repeat(1, rows).requires_grad_()
    scale = torch.tensor([0.7, 1.1]).double()
    noise = torch.randn(2, samples, rows, dtype=torch.float64)
    codes = (mean[:, None] + scale[:, None, None] * noise)[..., None]  # (M, K, N, 1)
    z = codes.squeeze(-1)
    q = mean if kind == "iwae" else mean.detach()
    log_q = torch.stack([D.Normal(q[r], scale[r]).log_prob(z) for r in range(2)])
    log_w = D.Normal(0.0, 1.0).log_prob(z) + D.Laplace(z, 0.5).log_prob(torch.tensor(0.8).double())
    log_w = log_w - (log_q.logsumexp(dim=0) - math.log(2))
    bounds = importance_weighted(log_w)
    if kind != "iwae":
        own = torch.stack([D.Normal(mean[m], scale[m]).log_prob(z[m].detach()) for m in range(2)])
        extra = doubly_reparameterised(codes, log_w, log_q, own)
        assert not extra.any()  # the bound's value stays as it is
        bounds = bounds + (0 * extra if kind == "squares" else extra)
    bounds.mean(dim=0).sum().backward()
    return mean.grad


@pytest.mark.parametrize("gap", [0.0, 1.0, 2.0, 6.0])
@pytest.mark.parametrize("samples", [1, 2, 5])
def test_doubly_reparameterised_and_plain_gradients_agree_in_expectation(gap, samples):
    torch.manual_seed(0)  # one seed of 24 misses the bound of the variances
    plain, dreg = (gradients_of_mu(gap, kind, samples) for kind in ("iwae", "dreg"))
    error = (plain.var(dim=1) / plain.shape[1] + dreg.var(dim=1) / dreg.shape[1]).sqrt()
    assert ((plain.mean(dim=1) - dreg.mean(dim=1)).abs() < 4.5 * error).all()
    if 0 < gap <= 2:
        assert (dreg.var(dim=1) < 0.8 * plain.var(dim=1)).all()  # what it is for


def test_the_squared_weights_alone_would_be_biased_where_experts_overlap():
    plain, squares = (gradients_of_mu(2.0, kind) for kind in ("iwae", "squares"))
    error = (plain.var(dim=1) / plain.shape[1] + squares.var(dim=1) / squares.shape[1]).sqrt()
    assert ((plain.mean(dim=1) - squares.mean(dim=1)).abs() > 15 * error).all()


@pytest.mark.parametrize("epsilon", [0.0, 1e-6])
@pytest.mark.parametrize("names", [["mnist"], ["mnist", "third"]])
def test_the_gradient_of_the_loss_is_that_of_the_iwae_bound_in_expectation(names, epsilon):
    """Every parameter of the model: encoders, decoders and prior, averaged over many copies of one pair."""
    model, images, _ = make("mmvae", 3, samples=4, shared=2, epsilon=epsilon)
    images, count = {m: images[m] for m in names}, len(names)
    model = mmvae.MMVAE({m: model.shapes[m] for m in names}, {m: "mlp" for m in names}, model.config)
    for i, m in enumerate(images):
        model.config.likelihood[m].scale, model.config.likelihood[m].weight = 4.0, 1.0
        model.shared_encoders[m].net[-1].bias.data[:2] += 0.7 * (-1) ** i  # experts that overlap in part
    images = {m: x[:1].expand(1000, -1, -1, -1) for m, x in images.items()}

    def plain_loss():
        q = [D.Laplace(*model.shared_encoders[m](x)) for m, x in images.items()]
        prior, bounds = D.Laplace(*model.prior()), []
        for expert in q:
            z = expert.rsample((4,))
            log_w = prior.log_prob(z).sum(dim=-1) + math.log(count)
            log_w = log_w - torch.stack([e.log_prob(z).sum(dim=-1) for e in q]).logsumexp(dim=0)
            for m, x in images.items():
                mean = model.decoders[m](z.flatten(0, 1)).unflatten(0, z.shape[:2])
                log_w = log_w + D.Laplace(mean, 4.0).log_prob(x).sum(dim=(2, 3, 4))
            bounds.append((log_w.logsumexp(dim=0) - math.log(4)).mean())
        return -sum(bounds) / count

    def draws(loss):
        rows, parameters = [], list(model.parameters())
        for _ in range(20):  # the prior's gradient and those of the encoders' last biases, and a projection of each
            gradients = torch.autograd.grad(loss(), parameters)
            projections = torch.stack([(g * p).sum() for g, p in zip(gradients, parameters, strict=True)])
            rows.append(torch.cat([projections, *(g for g in gradients if g.shape in ((2,), (4,)))]))
        return torch.stack(rows).double()

    plain, dreg = draws(plain_loss), draws(lambda: model.loss(images, torch.zeros(1000))["loss"])
    error = (plain.var(dim=0) / len(plain) + dreg.var(dim=0) / len(dreg)).sqrt()
    assert ((plain.mean(dim=0) - dreg.mean(dim=0)).abs() < 5 * error + 1e-7).all()


def test_generation_draws_from_the_learned_prior(monkeypatch):
    model, _, _ = make("mmvae")
    model.prior_logits.data = torch.tensor([4.0, 0.0, 0.0, 0.0])
    seen = []
    monkeypatch.setattr(model, "decode", lambda name, z, h: seen.append(z))
    model.generate(50_000, seed=0)
    expected = (2 * model.prior().scale.square()).detach()
    torch.testing.assert_close(seen[0].var(dim=0), expected, rtol=0.1, atol=0)
    assert torch.equal(seen[0], seen[1])  # one shared code a row


def test_tables_are_told_that_there_is_no_fused_code():
    assert not mmvae.MMVAE.is_fused


def pointed(epsilon, dtype=torch.float64, samples=8, **changes):
    """A model whose samples have weights of very different sizes, as after training, and a batch for it."""
    model, images, labels = make("mmvae", 3, samples=samples, epsilon=epsilon, **changes)
    model.prior_logits.data = torch.tensor([0.5, -0.5, 0.2, 0.0])
    for i, likelihood in enumerate(model.config.likelihood.values()):
        likelihood.scale, likelihood.weight = 0.1, 1.0 + i / 2
    for net in model.decoders.values():  # with the default weights all images are alike
        for parameter in net.parameters():
            parameter.data *= 3
    return model.to(dtype), {m: x.to(dtype) for m, x in images.items()}, labels


def terms_and_gradients(model, images, labels, autocast=False, objective=None):
    torch.manual_seed(3)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        terms = (objective or model.objective)(images, labels)
    model.zero_grad()
    terms["loss"].backward()
    return {k: v.detach() for k, v in terms.items()}, {k: p.grad.clone() for k, p in model.named_parameters()}


def difference(found, expected):
    return max(((found[k] - expected[k]).norm() / expected[k].norm()).item() for k in expected)


@pytest.mark.parametrize(
    "dtype, autocast, epsilon, tolerance",
    [
        (torch.float64, False, 1e-14, 1e-9),
        (torch.float64, False, 1e-6, 1e-5),
        (torch.float32, False, 1e-6, 1e-3),
        (torch.float32, True, 1e-6, 2e-2),
    ],
)
@pytest.mark.parametrize("at_once", [mmvae.AT_ONCE, 0])
def test_two_passes_against_one(monkeypatch, at_once, dtype, autocast, epsilon, tolerance):
    monkeypatch.setattr(mmvae, "CHUNK", 50)  # of 288 samples: the last chunk is smaller
    monkeypatch.setattr(mmvae, "AT_ONCE", at_once)
    monkeypatch.setattr(mmvae, "GRADIENT_CHUNK", 7)
    terms, gradients = terms_and_gradients(*pointed(0, dtype), autocast)
    found, found_gradients = terms_and_gradients(*pointed(epsilon, dtype), autocast)
    assert 1 < terms["effective_samples"] < 4
    for name, value in terms.items():
        torch.testing.assert_close(
            found[name], value, rtol=2e-3 if autocast else 1e-6 if dtype == torch.float32 else 1e-12, atol=0
        )
    assert difference(found_gradients, gradients) < tolerance
    assert all(gradient.any() for gradient in found_gradients.values())


def test_gradients_of_two_passes_against_their_definition():
    """Each kind of parameter has its own sum over the samples; here all are written out, without hooks."""
    model, images, labels = pointed(1e-14)
    _, found = terms_and_gradients(model, images, labels)
    torch.manual_seed(3)
    experts = Laplace(
        *(torch.stack(p) for p in zip(*(model.shared_encoders[m](x) for m, x in images.items()), strict=True))
    )
    z = Laplace(*(part[:, None].expand(-1, 8, -1, -1) for part in experts)).rsample()

    def log_w(z):
        log_q = Laplace(*(part.detach()[:, None, None] for part in experts)).log_prob(z)
        value = model.prior().log_prob(z) - log_q.logsumexp(dim=0) + math.log(3)
        for m, x in images.items():
            p = D.Laplace(model.decoders[m](z.flatten(0, 2)).unflatten(0, z.shape[:3]), 0.1)
            value = value + model.config.likelihood[m].weight * p.log_prob(x).sum(dim=(3, 4, 5))
        return value, log_q

    value, log_q = (each.detach() for each in log_w(z))
    weights = value.softmax(dim=1)
    decoders_and_prior = [k for k in found if not k.startswith("shared")]
    bound = (weights * log_w(z.detach())[0]).sum(dim=1).mean()
    expected = torch.autograd.grad(-bound, [model.get_parameter(k) for k in decoders_and_prior])
    for k, gradient in zip(decoders_and_prior, expected, strict=True):
        torch.testing.assert_close(found[k], gradient, msg=k)

    correction = torch.zeros_like(weights)  # [m, k, n]
    responsibilities = log_q.softmax(dim=0)
    for m in range(3):
        for r in range(3):
            for k in range(8):
                others = torch.cat([value[r, :k], value[r, k + 1 :]]).logsumexp(dim=0)
                a = (value[m, k] - torch.logaddexp(value[m, k], others)).exp()
                correction[m, k] += responsibilities[r, m, k] * (a - weights[m, k])
    own = Laplace(*(part[:, None] for part in experts)).log_prob(z.detach())
    bound = ((weights.square() * log_w(z)[0]).sum(dim=1) - (correction * own).sum(dim=1)).mean()
    encoders = [k for k in found if k.startswith("shared")]
    expected = torch.autograd.grad(-bound, [model.get_parameter(k) for k in encoders])
    for k, gradient in zip(encoders, expected, strict=True):
        torch.testing.assert_close(found[k], gradient, msg=k)


def decoded(monkeypatch, model):
    """A list to which each call of a decoder appends the number of its samples and whether it has gradients."""
    seen, real = [], model.decode
    monkeypatch.setattr(model, "decode", lambda name, z, h: (
        seen.append((len(z), torch.is_grad_enabled())), real(name, z, h))[1])  # fmt: skip
    return seen


@pytest.mark.parametrize("epsilon", [1e-12, 1e-3, 0.1])
def test_the_second_pass_decodes_only_samples_above_epsilon(monkeypatch, epsilon):
    monkeypatch.setattr(mmvae, "CHUNK", 100)
    model, images, labels = pointed(epsilon)
    seen, weights = decoded(monkeypatch, model), []
    real = mmvae.importance_weighted
    monkeypatch.setattr(
        mmvae, "importance_weighted", lambda log_w: (weights.append(log_w.softmax(dim=1)), real(log_w))[1]
    )
    terms_and_gradients(model, images, labels)
    kept = int((weights[0] > epsilon).sum())
    assert 0 < kept < 288
    assert seen == [(size, False) for size in (100, 100, 88) for _ in range(3)] + [(kept, True)] * 3


def test_of_larger_images_fewer_are_decoded_at_a_time(monkeypatch):
    model, images, labels = pointed(1e-12)
    model.shapes = dict.fromkeys(model.shapes, (1, 64, 64))  # four times the pixels of 32x32
    seen = decoded(monkeypatch, model)
    terms_and_gradients(model, images, labels)
    assert {size for size, gradients in seen if not gradients} == {mmvae.CHUNK // 4, 288 % (mmvae.CHUNK // 4)}
    assert {size for size, gradients in seen if gradients} == {mmvae.GRADIENT_CHUNK // 4}


@pytest.mark.parametrize("changes", [{"epsilon": 0}, {"samples": 1}, {"objective": "elbo"}], ids=str)
def test_one_pass_where_two_would_save_nothing(monkeypatch, changes):
    model, images, labels = pointed(**{"epsilon": 1e-6} | changes)
    seen = decoded(monkeypatch, model)
    terms_and_gradients(model, images, labels)
    assert seen == [(3 * model.config.samples * 12, True)] * 3


def test_epsilon_cuts_the_gradient_through_the_decoders_and_nothing_else():
    """With no sample above epsilon, the bound and the prior's gradient still have all K samples."""
    results = []
    for epsilon in (0, 0.99):
        model, images, labels = pointed(epsilon)
        for likelihood in model.config.likelihood.values():
            likelihood.weight = 1e-3  # so that no sample has all of the weight
        results.append(terms_and_gradients(model, images, labels))
    (terms, gradients), (found, cut) = results
    assert found["loss"].item() == pytest.approx(terms["loss"].item())
    torch.testing.assert_close(cut["prior_logits"], gradients["prior_logits"])
    assert not any(gradient.any() for name, gradient in cut.items() if name.startswith("decoders"))
    assert all(gradient.isfinite().all() for gradient in cut.values())


def test_broken_images_give_a_loss_that_shows_it():
    model, images, labels = pointed(1e-6)
    images["mnist"][:] = torch.nan
    assert model.objective(images, labels)["loss"].isnan()


def test_the_second_pass_holds_one_chunk_of_activations(monkeypatch):
    """In the first steps nearly all samples count. All at once, their activations took 5 GB with K = 30."""
    monkeypatch.setattr(mmvae, "AT_ONCE", 0)
    monkeypatch.setattr(mmvae, "GRADIENT_CHUNK", 7)
    model, images, labels = pointed(1e-14)
    decode, calls = model.decode, []

    def decoded(name, z, h):
        if torch.is_grad_enabled():
            calls.append(len(z))
        return decode(name, z, h)

    monkeypatch.setattr(model, "decode", decoded)
    loss = model.objective(images, labels)["loss"]
    forward = sum(calls)
    loss.backward()
    assert max(calls) == 7 and sum(calls) == 2 * forward > 0  # the backward pass decodes them again


@pytest.mark.parametrize("epsilon, at_once", [(0, mmvae.AT_ONCE), (1e-6, mmvae.AT_ONCE), (1e-6, 0)])
def test_a_compiled_objective_has_the_same_gradients(monkeypatch, epsilon, at_once):
    """The first pass breaks the graph; a hook on z registered after the break must still see all of its gradient."""
    monkeypatch.setattr(mmvae, "AT_ONCE", at_once)
    model, images, labels = pointed(epsilon)
    compiled = torch.compile(model.objective, backend="aot_eager")
    terms, gradients = terms_and_gradients(model, images, labels)
    found, found_gradients = terms_and_gradients(model, images, labels, objective=compiled)
    torch._dynamo.reset()
    assert found["loss"].item() == pytest.approx(terms["loss"].item())
    assert difference(found_gradients, gradients) < 1e-9


def test_scales_stay_above_zero():
    encoder = mmvae.LaplaceEncoder("mlp", (1, 4, 4), 3)
    for parameter in encoder.parameters():
        torch.nn.init.zeros_(parameter)
    list(encoder.parameters())[-1].data[3] = 300.0  # the softmax of the others is 0 in float32
    q = encoder(torch.rand(2, 1, 4, 4))
    assert (q.scale > 0).all() and q.log_prob(q.mean).isfinite().all()
