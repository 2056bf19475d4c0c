"""The related models that are off by default: each objective against a computation of its own, gradients, images."""

import math
from itertools import combinations, permutations
from types import SimpleNamespace

import pytest
import test_evaluation
import torch
from test_models import NETWORKS, SHAPES, check_that_adam_lowers_the_loss
from torch import distributions as D

from qmvae.baselines import mmvae
from qmvae.baselines.cvae import CVAE
from qmvae.baselines.jmvae import JMVAE, gaussian_kl
from qmvae.baselines.mmvae import Laplace, importance_weighted, stack
from qmvae.baselines.mmvaeplus import MMVAEPLUS
from qmvae.baselines.mopoe import MOPOE
from qmvae.baselines.vcca import VCCA
from qmvae.evaluate.evaluator import Evaluator
from qmvae.model.gaussian import Gaussian
from qmvae.report import tables

MODELS = {"jmvae": JMVAE, "mopoe": MOPOE, "cvae": CVAE, "vcca": VCCA, "mmvaeplus": MMVAEPLUS}
LIKELIHOOD = {
    "mnist": {"family": "laplace", "scale": 0.75, "weight": 3.92},
    "svhn": {"family": "gaussian", "scale": 0.5, "weight": 1.0},
    "third": {"family": "laplace", "scale": 0.3, "weight": 2.0},
}
SECTIONS = {
    "jmvae": {"features": 6, "alpha": 0.1, "kl": 1.0, "warm_up": 0.0},
    "mopoe": {"kl": 2.5, "prior_expert": True},
    "cvae": {"features": 6, "kl": 1.0, "warm_up": 0.0},
    "vcca": {"private": 3, "kl_shared": 2.0, "kl_private": {"mnist": 1.5, "svhn": 2.5, "third": 0.5}, "dropout": 0.0},
    "mmvaeplus": {"private": 3, "objective": "dreg", "samples": 3, "epsilon": 1e-6, "kl": 2.5},
}


def make(name, count=2, rows=12, **changes):
    """A small model in float64 for the first `count` modalities, and a batch for it."""
    modalities = list(SHAPES)[:count]
    config = SECTIONS[name] | {"shared": 4, "test_time": "sample"} | changes
    config["likelihood"] = {m: SimpleNamespace(**LIKELIHOOD[m]) for m in modalities}
    torch.manual_seed(0)
    model = MODELS[name]({m: SHAPES[m] for m in modalities}, NETWORKS, SimpleNamespace(**config)).double()
    images = {m: torch.rand(rows, *SHAPES[m], dtype=torch.float64) for m in modalities}
    return model, images, torch.arange(rows) % 3


def gaussian(q):
    return D.Independent(D.Normal(q.mean, (0.5 * q.logvar).exp()), 1)


def laplace(q):
    return D.Independent(D.Laplace(q.mean, q.scale), 1)


def weighted_log_p(model, name, mean, x):
    """lambda ln p(x|.) by torch.distributions, (N,)."""
    like = model.config.likelihood[name]
    family = {"laplace": D.Laplace, "gaussian": D.Normal}[like.family]
    return like.weight * family(mean, like.scale).log_prob(x).flatten(1).sum(dim=1)


@pytest.fixture
def recorded(monkeypatch):
    """Every sample that a model takes, in order."""
    samples = []
    for kind in (Gaussian, Laplace):
        real = kind.rsample
        monkeypatch.setattr(kind, "rsample", lambda q, generator=None, real=real: keep(samples, real(q, generator)))
    return samples


def keep(samples, sample):
    samples.append(sample.detach())
    return sample


def gradients(model, images, labels, seed=0, objective=None):
    torch.manual_seed(seed)
    model.zero_grad()
    terms = (objective or model.objective)(images, labels, **model.schedule(1.0))
    terms["loss"].backward()
    return terms, {name: p.grad.clone() for name, p in model.named_parameters()}


every = pytest.mark.parametrize("name", list(MODELS))


# What the interface promises


@every
@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize("rows", [1, 12])
def test_terms_are_finite_scalars_and_each_parameter_gets_a_gradient(name, count, rows):
    model, images, labels = make(name, count, rows, **{"warm_up": 0.5} if "warm_up" in SECTIONS[name] else {})
    names = None
    for progress in (0.0, 0.25, 1.0):
        terms = model.loss(images, labels, progress)
        assert all(value.shape == () and value.isfinite() for value in terms.values())
        assert names in (None, list(terms))
        names = list(terms)
        model.zero_grad()
        terms["loss"].backward()
        assert all(p.grad.isfinite().all() for p in model.parameters())
    if rows > 1:
        still = [key for key, p in model.named_parameters() if not p.grad.any()]
        assert not still


@every
def test_a_few_steps_of_adam_lower_the_loss(name, one_thread):
    check_that_adam_lowers_the_loss(*make(name))


@every
@pytest.mark.parametrize("test_time", ["mean", "sample"])
def test_images_of_each_direction_depend_on_the_seed_only(name, test_time):
    model, images, _ = make(name, 3, test_time=test_time)
    for source, target in permutations(images, 2):
        first, again, other = (model.cross_generate({source: images[source]}, target, seed=s) for s in (3, 3, 4))
        assert first.shape == (12, *SHAPES[target]) and 0 <= first.min() and first.max() <= 1
        assert torch.equal(first, again)
        assert torch.equal(first, other) == (test_time == "mean" and not model.sizes["private"])
        translated = model.translate({source: images[source]}, target, images[target], seed=0)
        assert translated.shape == first.shape
    with pytest.raises(ValueError, match="mnist: expected images of shape"):
        model.cross_generate({"mnist": images["svhn"]}, "svhn")
    with pytest.raises(ValueError, match="unknown"):
        model.cross_generate({"mnist": images["mnist"]}, "text")


@pytest.mark.parametrize("name", [name for name in MODELS if name != "cvae"])
def test_codes_have_the_promised_shapes(name):
    model, images, _ = make(name, 3)
    for given in (["mnist"], ["svhn", "third"], list(images)):
        q = model.shared({m: images[m] for m in given})
        assert q.mean.shape == q.logvar.shape == q.rsample().shape == (12, 4)
    assert model.private("svhn", images["svhn"]).mean.shape == (12, model.sizes["private"])
    assert {m: tuple(x.shape) for m, x in model.generate(5, seed=0).items()} == {m: (5, *s) for m, s in SHAPES.items()}
    with pytest.raises(ValueError, match="no modality given"):
        model.shared({})


# JMVAE


@pytest.mark.parametrize("count", [2, 3])
def test_jmvae_objective(recorded, count):
    model, images, labels = make("jmvae", count, alpha=0.3)
    terms = model.objective(images, labels, beta=0.7)
    [z] = recorded
    joint = gaussian(model.joint_encoder(images))
    expected = 0.7 * D.kl_divergence(joint, gaussian(Gaussian(torch.zeros_like(z), torch.zeros_like(z))))
    for m, x in images.items():
        expected = expected + 0.3 * D.kl_divergence(joint, gaussian(model.shared_encoders[m](x)))
        expected = expected - weighted_log_p(model, m, model.decoders[m](z), x)
    torch.testing.assert_close(terms["loss"], expected.mean())


def test_jmvae_uses_the_joint_encoder_if_all_modalities_are_given():
    model, images, _ = make("jmvae", 3)
    torch.testing.assert_close(model.shared(images), model.joint_encoder(images))
    torch.testing.assert_close(model.shared(dict(reversed(images.items()))), model.joint_encoder(images))
    a, b = (model.shared_encoders[m](images[m]) for m in ("mnist", "third"))
    q = model.shared({m: images[m] for m in ("mnist", "third")})
    precision = torch.exp(-a.logvar) + torch.exp(-b.logvar)  # without the prior's
    torch.testing.assert_close(q.logvar, -precision.log())
    torch.testing.assert_close(q.mean, (a.mean * torch.exp(-a.logvar) + b.mean * torch.exp(-b.logvar)) / precision)
    torch.testing.assert_close(model.shared({"mnist": images["mnist"]}), a)


def test_kl_of_two_gaussians():
    q, p = (Gaussian(*torch.randn(2, 5, 3, dtype=torch.float64)) for _ in range(2))
    torch.testing.assert_close(gaussian_kl(q, p), D.kl_divergence(gaussian(q), gaussian(p)))
    torch.testing.assert_close(gaussian_kl(q, Gaussian(torch.zeros_like(q.mean), torch.zeros_like(q.mean))), q.kl())


# MoPoE-VAE


def by_hand(experts, prior):
    precision, weighted = (1.0, 0.0) if prior else (0.0, 0.0)
    for q in experts:
        precision, weighted = precision + torch.exp(-q.logvar), weighted + q.mean * torch.exp(-q.logvar)
    return D.Independent(D.Normal(weighted / precision, precision**-0.5), 1)


@pytest.mark.parametrize("count, rows", [(2, 12), (2, 13), (3, 16), (3, 5)])
@pytest.mark.parametrize("prior", [True, False])
def test_mopoe_objective(recorded, count, rows, prior):
    model, images, labels = make("mopoe", count, rows, prior_expert=prior)
    terms = model.objective(images, labels)
    [z] = recorded
    experts = {m: model.shared_encoders[m](x) for m, x in images.items()}
    subsets = [s for size in range(1, count + 1) for s in combinations(experts, size)]
    components = [by_hand([experts[m] for m in s], prior and len(s) == count) for s in subsets]
    assert len(components) == 2**count - 1
    standard = D.Independent(D.Normal(torch.zeros_like(z), 1.0), 1)
    kl = sum(D.kl_divergence(q, standard) for q in components) / len(components)
    log_p = sum(weighted_log_p(model, m, model.decoders[m](z), x) for m, x in images.items())
    torch.testing.assert_close(terms["loss"], (2.5 * kl - log_p).mean())
    torch.testing.assert_close(terms["kl_joint"], D.kl_divergence(components[-1], standard).mean())


def test_mopoe_samples_each_component_for_an_equal_share_of_the_batch(recorded, monkeypatch):
    for rows in (12, 13, 128):
        model, images, labels = make("mopoe", 2, rows)
        seen = []
        monkeypatch.setattr(Gaussian, "rsample", lambda q, generator=None, seen=seen: keep(seen, q.mean))
        model.objective(images, labels)
        experts = {m: model.shared_encoders[m](x) for m, x in images.items()}
        products = [model.fuse({m: experts[m] for m in s}).mean for s in (["mnist"], ["svhn"], ["mnist", "svhn"])]
        shares = [int(torch.isclose(seen[0], mean).all(dim=1).sum()) for mean in products]
        assert sum(shares) == rows and max(shares) - min(shares) <= 1


def test_mopoe_bounds_the_divergence_of_the_mixture_from_above():
    model, images, labels = make("mopoe", 2, 3)
    experts = {m: model.shared_encoders[m](x) for m, x in images.items()}
    components = [gaussian(model.fuse({m: experts[m] for m in s})) for s in (["mnist"], ["svhn"], ["mnist", "svhn"])]
    z = torch.stack([q.sample((20_000,)) for q in components])  # (S, 20000, N, D)
    log_q = torch.stack([q.log_prob(z) for q in components]).logsumexp(dim=0) - math.log(3)
    mixture = (log_q - D.Normal(0.0, 1.0).log_prob(z).sum(dim=3)).mean()
    assert 0 < mixture < model.objective(images, labels)["kl_mixture"]


# CVAE


@pytest.mark.parametrize("count", [2, 3])
def test_cvae_objective(recorded, count):
    model, images, labels = make("cvae", count)
    terms = model.objective(images, labels, beta=0.7)
    expected = 0.0
    for z, (x, y) in zip(recorded, permutations(images, 2), strict=True):
        part = model.directions[f"{x}_to_{y}"]
        posterior, prior = gaussian(part.recognition({x: images[x], y: images[y]})), gaussian(part.prior(images[x]))
        mean = part.decoder(torch.cat([z, part.condition(images[x])], dim=1))
        elbo = weighted_log_p(model, y, mean, images[y]) - 0.7 * D.kl_divergence(posterior, prior)
        torch.testing.assert_close(terms[f"elbo_{x}_to_{y}"], elbo.mean())
        expected = expected - elbo.mean()
    torch.testing.assert_close(terms["loss"], expected)


def test_cvae_bounds_the_conditional_likelihood_from_below():
    """ln p(y|x) by 20,000 samples of the prior network; the likelihood is made wide, so that they suffice."""
    model, images, labels = make("cvae", 2, 3)
    model.config.likelihood["svhn"] = SimpleNamespace(family="gaussian", scale=3.0, weight=1.0)
    part, x, y = model.directions["mnist_to_svhn"], images["mnist"], images["svhn"]
    truth = 0.0
    for i in range(3):
        z = gaussian(part.prior(x[i : i + 1])).sample((20_000,)).squeeze(1)
        log_p = weighted_log_p(model, "svhn", part.decode(x[i : i + 1].expand(20_000, -1, -1, -1), z), y[i : i + 1])
        truth = truth + (log_p.logsumexp(dim=0) - math.log(20_000)) / 3
    elbo = sum(model.objective(images, labels, beta=1.0)["elbo_mnist_to_svhn"] for _ in range(200)) / 200
    assert elbo < truth < elbo + 10


def test_cvae_says_what_it_has_not():
    model, images, _ = make("cvae")
    assert not model.has_shared
    code = torch.zeros(2, 4, dtype=torch.float64)
    for call in (lambda: model.shared(images), lambda: model.generate(3), lambda: model.decode("svhn", code, code),
                 lambda: model.fuse({})):  # fmt: skip
        with pytest.raises(NotImplementedError, match="CVAE has no shared code"):
            call()
    with pytest.raises(ValueError, match="no modality given"):
        model.cross_generate({}, "svhn")
    with pytest.raises(ValueError, match="expected images by modality"):
        model.cross_generate(images["mnist"], "svhn")
    for given in (images, {"svhn": images["svhn"]}):
        with pytest.raises(ValueError, match="expected one modality other than svhn, got"):
            model.cross_generate(given, "svhn")


def evaluated(name):
    """A small model for two modalities of flat images, and all its measures."""
    names = ("mnist", "svhn")
    dataset = test_evaluation.flat_dataset(3, names)
    config = SimpleNamespace(**SECTIONS[name] | {"shared": 4, "test_time": "sample"})
    config.likelihood = {m: SimpleNamespace(**LIKELIHOOD[m]) for m in names}
    model = MODELS[name](dataset.shapes, dict.fromkeys(names, "mlp"), config)
    networks = [{m: kind(3) for m in names} for kind in (test_evaluation.Reader, test_evaluation.Off)]
    return model, Evaluator(dataset, *networks, 40, "all", seed=0).evaluate(model)


def test_mmvaeplus_weights_the_gradient_of_an_experts_own_codes_only():
    """DReG: the codes of the expert that they are drawn from get the gradient of the bound times their weight."""
    model, images, labels = make("mmvaeplus", 2, 3, samples=4, epsilon=0.0, objective="dreg")
    for likelihood in model.config.likelihood.values():
        likelihood.weight = 0.01  # so that several samples have a weight
    parameters = [*model.private_encoders.parameters(), *model.shared_encoders.parameters(), model.auxiliary_logits]
    torch.manual_seed(1)
    found = torch.autograd.grad(model.objective(images, labels)["loss"], parameters)
    torch.manual_seed(1)
    experts = stack({m: model.joint_expert(m, x) for m, x in images.items()})
    codes, own = model.sample_codes(experts)
    leaf = codes.detach().requires_grad_()
    log_ratio = model.log_densities(Laplace(*(part.detach() for part in experts)), leaf)[1]
    log_w = model.log_weights(log_ratio, leaf, images, None)
    [grad] = torch.autograd.grad(-importance_weighted(log_w).mean(), leaf)
    weights = log_w.detach().softmax(dim=1)[..., None]
    expected = torch.autograd.grad(codes, parameters, torch.where(own, grad * weights, grad))
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("name", [name for name in MODELS if name != "cvae"])
def test_the_evaluator_measures_each_model(name):
    """JMVAE's codes of both images wanted a gradient, so its evaluation failed after the training."""
    model, found = evaluated(name)
    assert found["linear"].keys() == {"mnist", "svhn", *(["both"] if model.is_fused else [])}
    assert found["coherence"] and found["probes"] and ("style" in found) == bool(model.sizes["private"])


def test_the_evaluator_skips_what_cvae_has_not():
    names, (_, found) = ("mnist", "svhn"), evaluated("cvae")
    for part in ("cross", "cross_strong", "frechet"):
        assert found[part].keys() == {"mnist_to_svhn", "svhn_to_mnist"} and found["contrast"].keys() == set(names)
    assert not any(found[part] for part in ("linear", "calibration", "probes", "active", "nats", "coherence"))
    assert not {"style", "translated"} & found.keys()
    entry = {"mean": 0.5, "std": 0.0, "seeds": {"0": 0.5}}
    numbers = {part: {key: entry for key in values} for part, values in found.items()}
    full = numbers | {"linear": {"mnist": entry, "svhn": entry, "both": entry}}
    metrics = {"modalities": list(names), "models": {"qmvae": full, "cvae": numbers}}
    titles = {"mnist": "MNIST", "svhn": "SVHN"}
    assert tables.readable(tables.table(metrics, "cross"), titles).loc["CVAE", "MNIST → SVHN (ours)"] == "50.0"
    assert set(tables.readable(tables.table(metrics, "linear"), titles).loc["CVAE"]) == {"n/a"}


# VCCA-private


@pytest.mark.parametrize("count", [2, 3])
def test_vcca_objective(recorded, count):
    model, images, labels = make("vcca", count)
    terms = model.objective(images, labels)
    z, h = recorded[:count], dict(zip(images, recorded[count:], strict=True))
    for j, m in enumerate(images):
        bound = -2.0 * model.shared_encoders[m](images[m]).kl()
        for i, x in images.items():
            own = h[i].chunk(count)[j]  # each bound has samples of its own
            bound = bound - model.config.kl_private[i] * model.private_encoders[i](x).kl()
            bound = bound + weighted_log_p(model, i, model.decoders[i](torch.cat([z[j], own], dim=1)), x)
        torch.testing.assert_close(terms[f"bound_{m}"], bound.mean())
    mean = sum(terms[f"bound_{m}"] for m in images) / count
    torch.testing.assert_close(terms["loss"], -mean)


def test_vcca_dropout_of_the_samples():
    """In training, half of the entries that the decoder receives are 0; in evaluation, none is."""
    model, images, labels = make("vcca", rows=500, dropout=0.5)
    seen = []
    model.decode = lambda m, z, h: seen.append((z, h)) or torch.full((len(z), *SHAPES[m]), 0.5, dtype=z.dtype)
    model.objective(images, labels)
    for code in (code for codes in seen for code in codes):
        assert 0.45 < (code == 0).double().mean() < 0.55
    seen.clear()
    model.eval().objective(images, labels)
    assert all((code != 0).all() for codes in seen for code in codes)


def test_vcca_mixture_of_several_modalities():
    model, images, _ = make("vcca", 3)
    mixture = model.shared({m: x[:1].expand(200_000, -1, -1, -1)[:1] for m, x in images.items()})
    wide = type(mixture)(Gaussian(*(part.expand(-1, 200_000, -1) for part in mixture.experts)))
    sample = wide.rsample()
    torch.testing.assert_close(sample.mean(dim=0), mixture.mean[0], atol=0.02, rtol=0)
    torch.testing.assert_close(sample.var(dim=0), mixture.logvar[0].exp(), atol=0, rtol=0.03)


# MMVAE+


def weights_by_hand(model, images, sample, others):
    """ln w of MMVAE+, (M, K, N), with loops. sample: [z, h] of each expert; others: samples of r_i(h)."""
    names, beta = list(images), model.config.kl
    q_z = [laplace(model.shared_encoders[m](images[m])) for m in names]
    q_h = [laplace(model.private_encoders[m](images[m])) for m in names]
    standard = D.Laplace(0.0, 1.0)
    result = []
    for j in range(len(names)):
        z, own = sample[j, ..., :4], sample[j, ..., 4:]  # (K, N, D), (K, N, P)
        log_q = torch.stack([q.log_prob(z) for q in q_z]).exp().mean(dim=0).log() + q_h[j].log_prob(own)
        log_w = beta * (standard.log_prob(z).sum(dim=2) + standard.log_prob(own).sum(dim=2) - log_q)
        for k in range(model.config.samples):
            for i, m in enumerate(names):
                code = torch.cat([z[k], own[k] if i == j else others[j, k, :, i]], dim=1)
                log_w = log_w.index_put(
                    (torch.tensor(k),), log_w[k] + weighted_log_p(model, m, model.decoders[m](code), images[m])
                )
        result.append(log_w)
    return torch.stack(result)


@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize("objective", ["iwae", "dreg"])
@pytest.mark.parametrize("changes", [{"epsilon": 0}, {"epsilon": 1e-6}, {"samples": 1}], ids=str)
def test_mmvaeplus_bounds(recorded, count, objective, changes):
    model, images, labels = make("mmvaeplus", count, 5, objective=objective, **changes)
    model.auxiliary_logits.data = torch.randn(count, 3, dtype=torch.float64)
    terms = model.objective(images, labels)
    sample, others = recorded
    log_w = weights_by_hand(model, images, sample, others)
    bounds = (log_w.logsumexp(dim=1) - math.log(log_w.shape[1])).mean(dim=1)
    torch.testing.assert_close(torch.stack([terms[f"bound_{m}"] for m in images]), bounds)
    torch.testing.assert_close(terms["loss"], -bounds.mean())


def test_mmvaeplus_takes_the_private_codes_of_other_modalities_from_the_auxiliary_priors(recorded):
    model, images, labels = make("mmvaeplus", 2, 2000, samples=1)
    model.auxiliary_logits.data[1] = torch.tensor([2.0, 0.0, -2.0])
    codes, own = model.sample_codes(mmvae.stack({m: model.joint_expert(m, x) for m, x in images.items()}))
    sample, _ = recorded
    torch.testing.assert_close(codes[0, ..., 4:7], sample[0, ..., 4:])  # h_1 of expert 1 is its own
    torch.testing.assert_close(codes[1, ..., 7:], sample[1, ..., 4:])
    scale = codes[0, 0, :, 7:].abs().mean(dim=0)  # h_2 of expert 1 is a sample of r_2, whose E|h| is its scale
    torch.testing.assert_close(scale, model.auxiliary_priors().scale[1].detach(), atol=0, rtol=0.1)
    assert own.shape == (2, 1, 1, 10) and own[0, 0, 0].tolist() == [True] * 7 + [False] * 3


@pytest.mark.parametrize("at_once", [mmvae.AT_ONCE, 0])
@pytest.mark.parametrize("objective", ["iwae", "dreg"])
def test_mmvaeplus_gradient_in_two_passes_is_that_in_one(monkeypatch, objective, at_once):
    monkeypatch.setattr(mmvae, "CHUNK", 50)
    monkeypatch.setattr(mmvae, "AT_ONCE", at_once)
    found = []
    for epsilon in (0, 1e-9):
        model, images, labels = make("mmvaeplus", 3, objective=objective, epsilon=epsilon, samples=8)
        found.append(gradients(model, images, labels))
    (terms, one), (other, two) = found
    torch.testing.assert_close(terms["loss"], other["loss"])
    for key in one:
        torch.testing.assert_close(two[key], one[key], atol=1e-5, rtol=1e-5)


def test_mmvaeplus_estimators_have_one_expectation_for_a_single_sample(one_thread):
    """The direct gradient of the densities, which `dreg` omits, has mean 0 for K = 1, even where experts overlap."""
    model, images, labels = make("mmvaeplus", 2, 2, samples=1, kl=2.5)
    for x in images.values():
        x[:] = x[:1]
    wide = {m: x[:1].expand(4_000, -1, -1, -1) for m, x in images.items()}
    found = []
    for objective in ("iwae", "dreg"):
        model.config.objective = objective
        found.append(gradients(model, wide, labels)[1])
    keys = [key for key in found[0] if key.startswith(("shared_encoders", "private_encoders")) and key.endswith("bias")]
    iwae, dreg = (torch.cat([gradient[key].flatten() for key in keys]) for gradient in found)
    assert 0 < (iwae - dreg).norm() < 0.15 * iwae.norm()  # noise: 0.09 here, and 0.05 with twice as many samples


@pytest.mark.parametrize("changes", [{"epsilon": 1e-9}, {"samples": 1}], ids=str)
def test_mmvaeplus_compiled_has_the_same_gradients(changes):
    """The hook on the codes must see all of their gradient after the graph break of the first pass."""
    model, images, labels = make("mmvaeplus", 2, **changes)
    terms, expected = gradients(model, images, labels)
    compiled = torch.compile(model.objective, backend="aot_eager")
    other, found = gradients(model, images, labels, objective=compiled)
    torch._dynamo.reset()
    torch.testing.assert_close(other["loss"], terms["loss"])
    for key in expected:
        torch.testing.assert_close(found[key], expected[key])


def test_mmvaeplus_generates_with_the_fixed_priors(recorded):
    model, _, _ = make("mmvaeplus", 2)
    model.auxiliary_logits.data[:] = torch.tensor([4.0, 0.0, -4.0])
    assert model.private_prior(20_000).abs().mean(dim=0).tolist() == pytest.approx([1, 1, 1], abs=0.05)
    first, again, other = (model.generate(3, seed=s)["svhn"] for s in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)


@pytest.mark.parametrize("name", ["jmvae", "cvae"])
def test_the_kl_weight_rises_during_the_warm_up(name):
    model, _, _ = make(name, kl=2.0, warm_up=0.4)
    assert [model.schedule(progress)["beta"] for progress in (0.0, 0.1, 0.4, 1.0)] == [0.0, 0.5, 2.0, 2.0]
