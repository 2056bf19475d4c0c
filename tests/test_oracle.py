"""Our objectives and gradients against those of MultiVae 1.0.3, which nobody here wrote.

Both implementations get the same networks, weights, images and noise, in float64. `make bench` installs MultiVae into
.bench; without it these tests are skipped.
"""

import math
import sys
from itertools import permutations
from pathlib import Path

import pytest
import test_models
import test_related
import torch
from test_related import LIKELIHOOD, laplace, weights_by_hand

from qmvae.baselines.mmvae import Laplace, stack
from qmvae.model.gaussian import Gaussian
from qmvae.model.networks import Encoder

BENCH = Path(__file__).parents[1] / ".bench"
RELATIVE = 1e-6

pytestmark = pytest.mark.faults


@pytest.fixture(scope="module", autouse=True)
def multivae():
    """MultiVae, imported from .bench, with float64 for the tensors that it makes itself."""
    before = torch.get_default_dtype()
    sys.path.append(str(BENCH))
    try:
        pytest.importorskip("multivae", reason="MultiVae is not installed in .bench; see `make bench`")
        torch.set_default_dtype(torch.float64)
        yield
    finally:
        torch.set_default_dtype(before)
        sys.path.remove(str(BENCH))


@pytest.fixture
def noise(monkeypatch):
    """A function that sets the standard noise of all following samples, of both implementations, in order."""
    waiting = []

    def sample(mean, scale, size=()):
        epsilon = waiting.pop(0)
        assert epsilon.shape == torch.Size([*size, *mean.shape])
        return mean + scale * epsilon

    monkeypatch.setattr(Gaussian, "rsample", lambda q, generator=None: sample(q.mean, (0.5 * q.logvar).exp()))
    monkeypatch.setattr(Laplace, "rsample", lambda q, generator=None: sample(q.mean, q.scale))
    for kind in (torch.distributions.Normal, torch.distributions.Laplace):
        monkeypatch.setattr(kind, "rsample", lambda q, size=(): sample(q.loc, q.scale, size))

    def set_noise(tensors):
        assert not waiting, "some noise was not used"
        waiting.extend(tensors)

    yield set_noise
    assert not waiting


def random(*shape):
    return torch.randn(*shape, dtype=torch.float64)


def paper_model(name, count, **changes):
    """A small model of tests/test_models.py in float64, with the likelihoods of test_related, and a batch for it."""
    model, images, labels = test_models.make(name, count, **changes)
    model.config.likelihood = {m: test_related.SimpleNamespace(**LIKELIHOOD[m]) for m in images}
    return model.double(), {m: x.double() for m, x in images.items()}, labels


def output(**values):
    from pythae.models.base.base_utils import ModelOutput

    return ModelOutput(**values)


def module(base, forward, **attributes):
    """Their base class of a network around a function. It holds none of our weights, so that none counts twice."""

    class Wrapped(base):
        def __init__(self):
            super().__init__()
            self.__dict__.update(attributes)

        def forward(self, *inputs):
            return forward(*inputs)

    return Wrapped()


def their_encoder(network, size, private=None):
    """Our encoder of the shared code, and of the private code if there is one, as theirs. It returns plain outputs."""
    from multivae.models.nn.base_architectures import BaseEncoder, BaseMultilatentEncoder

    def forward(x):
        found = dict(zip(("embedding", "log_covariance"), Encoder.forward(network, x), strict=True))
        if private is not None:
            found |= dict(zip(("style_embedding", "style_log_covariance"), Encoder.forward(private, x), strict=True))
        return output(**found)

    if private is None:
        return module(BaseEncoder, forward, latent_dim=size)
    return module(BaseMultilatentEncoder, forward, latent_dim=size, style_dim=3)


def their_joint_encoder(network, size):
    from multivae.models.nn.base_architectures import BaseJointEncoder

    def forward(images):
        q = network(images)
        return output(embedding=q.mean, log_covariance=q.logvar)

    return module(BaseJointEncoder, forward, latent_dim=size)


def theirs(kind, model, **settings):
    """MultiVae's model of this name with the networks and the likelihoods of ours."""
    from multivae import models
    from multivae.models.nn.base_architectures import BaseDecoder

    joint = settings.pop("joint_encoder", None)
    size, private = model.sizes["shared"], dict(model.private_encoders) or dict.fromkeys(model.shapes)
    families = {"laplace": "laplace", "gaussian": "normal"}
    config = getattr(models, f"{kind}Config")(
        n_modalities=len(model.shapes),
        latent_dim=size,
        input_dims=dict(model.shapes),
        decoders_dist={m: families[like.family] for m, like in model.config.likelihood.items()},
        decoder_dist_params={m: {"scale": like.scale} for m, like in model.config.likelihood.items()},
        uses_likelihood_rescaling=True,
        rescale_factors={m: like.weight for m, like in model.config.likelihood.items()},
        **settings,
    )
    return getattr(models, kind)(
        config,
        encoders={m: their_encoder(network, size, private[m]) for m, network in model.shared_encoders.items()},
        decoders={
            m: module(BaseDecoder, lambda z, network=network: output(reconstruction=network(z)), latent_dim=size)
            for m, network in model.decoders.items()
        },
        **({"joint_encoder": joint} if joint else {}),
    )


def their_loss(other, images, **arguments):
    """Their loss, divided by the number of pairs if they sum over the batch."""
    from multivae.data.datasets import MultimodalBaseDataset

    return other(MultimodalBaseDataset(images), **arguments).loss


def gradients(model, loss):
    """The gradient of each of our parameters, by name; zero where the loss does not depend on it."""
    names, parameters = zip(*model.named_parameters(), strict=True)
    found = torch.autograd.grad(loss, parameters, allow_unused=True)
    return {name: torch.zeros_like(p) if g is None else g for name, p, g in zip(names, parameters, found, strict=True)}


def compare(found, expected):
    """Compare two values, or the gradients of all parameters by their norm."""
    if not isinstance(found, dict):
        assert found.item() == pytest.approx(expected.item(), rel=RELATIVE)
        return
    assert set(found) == set(expected)
    size = math.sqrt(sum(g.square().sum().item() for g in expected.values()))
    gap = math.sqrt(sum((found[key] - expected[key]).square().sum().item() for key in expected))
    assert size > 0 and gap < RELATIVE * size, f"relative difference of the gradients {gap / size:.2g}"


def compare_with_gradients(model, ours, loss):
    """Compare two values of the objective, and their gradients to all parameters of the model."""
    compare(ours, loss)
    compare(gradients(model, ours), gradients(model, loss))


@pytest.mark.parametrize("count", [2, 3])
def test_mvae(noise, monkeypatch, count):
    model, images, labels = paper_model("mvae", count)
    other = theirs("MVAE", model, warmup=1, k=1).train()
    if count == 3:  # both choose at random one of the sets of two modalities; here it is the second
        monkeypatch.setattr("multivae.models.mvae.mvae_model.choice", lambda *_, **__: [1])
        monkeypatch.setattr(model, "random_subsets", lambda *_: torch.tensor([[True, False, True]]))
    epsilon = [random(12, 4) for _ in range({2: 3, 3: 5}[count])]  # joint, unimodal, and with three a random set
    noise(epsilon)
    ours = model.objective(images, labels, beta=1.0)["loss"]
    noise(epsilon)
    loss = their_loss(other, images, epoch=1)
    compare_with_gradients(model, ours, loss)


@pytest.mark.parametrize("count", [2, 3])
def test_jmvae(noise, count):
    model, images, labels = test_related.make("jmvae", count, alpha=0.3)
    joint = their_joint_encoder(model.joint_encoder, 4)
    other = theirs("JMVAE", model, alpha=0.3, warmup=1, beta=0.7, joint_encoder=joint)
    epsilon = [random(12, 4)]
    noise(epsilon)
    ours = model.objective(images, labels, beta=0.7)["loss"]
    noise(epsilon)
    loss = their_loss(other, images, epoch=1)
    compare_with_gradients(model, ours, loss)


def test_jmvae_during_warm_up(noise):
    """They anneal the terms with alpha, too; the paper's equation and its authors' code do not."""
    model, images, labels = test_related.make("jmvae", alpha=0.3)
    other = theirs("JMVAE", model, alpha=0.3, warmup=4, joint_encoder=their_joint_encoder(model.joint_encoder, 4))
    epsilon = [random(12, 4)]
    noise(epsilon)
    terms = model.objective(images, labels, beta=0.25)
    noise(epsilon)
    loss = their_loss(other, images, epoch=1)
    compare(terms["loss"] - 0.75 * 0.3 * sum(terms[f"kl_to_{m}"] for m in images), loss)


@pytest.mark.parametrize("count, rows", [(2, 12), (3, 14)])
def test_mopoe(noise, count, rows):
    model, images, labels = test_related.make("mopoe", count, rows)
    other = theirs("MoPoE", model, beta=2.5)
    epsilon = [random(rows, 4)]
    noise(epsilon)
    ours = model.objective(images, labels)["loss"]
    noise(epsilon)
    loss = their_loss(other, images)
    compare_with_gradients(model, ours, loss)


def test_mopoe_without_the_prior_as_an_expert(noise):
    """They follow the authors' code; the paper's products have no prior. The difference is in the full product only."""
    model, images, labels = test_related.make("mopoe", prior_expert=False)
    other = theirs("MoPoE", model, beta=2.5)
    epsilon = [random(12, 4)]
    noise(epsilon)
    terms = model.objective(images, labels)
    noise(epsilon)
    from multivae.data.datasets import MultimodalBaseDataset

    found = other(MultimodalBaseDataset(images)).metrics
    a, b = (model.shared_encoders[m](x) for m, x in images.items())
    precision = torch.exp(-a.logvar) + torch.exp(-b.logvar)
    mean = (a.mean * torch.exp(-a.logvar) + b.mean * torch.exp(-b.logvar)) / precision
    with_prior = Gaussian(mean * precision / (precision + 1), -(precision + 1).log()).kl().mean()
    without = Gaussian(mean, -precision.log()).kl().mean()
    compare(terms["kl_mixture"] + (with_prior - without) / 3, found["joint_divergence"])


@pytest.mark.parametrize("weight", [0.5, 1.0])
def test_cvae(noise, weight):
    from multivae.data.datasets import MultimodalBaseDataset
    from multivae.models import CVAE, CVAEConfig
    from multivae.models.nn.base_architectures import BaseConditionalDecoder

    model, images, labels = test_related.make("cvae", 2)
    for like in model.config.likelihood.values():
        like.weight = 1.0  # theirs has no weight
    epsilon = [random(12, 4) for _ in range(2)]
    noise(epsilon)
    terms = model.objective(images, labels, beta=weight)
    total = 0.0
    for (x, y), own in zip(permutations(images, 2), epsilon, strict=True):
        part, like = model.directions[f"{x}_to_{y}"], model.config.likelihood[y]

        def decode(z, given, part=part, x=x):
            return output(reconstruction=part.decode(given[x], z))

        other = CVAE(
            CVAEConfig(
                conditioning_modalities=[x], main_modality=y, latent_dim=4, beta=weight,
                decoder_dist={"laplace": "laplace", "gaussian": "normal"}[like.family],
                decoder_dist_params={"scale": like.scale},
            ),
            encoder=their_joint_encoder(part.recognition, 4),
            decoder=module(BaseConditionalDecoder, decode, latent_dim=4),
            prior_network=their_joint_encoder(lambda given, part=part, x=x: part.prior(given[x]), 4),
        )  # fmt: skip
        noise([own])
        loss = other(MultimodalBaseDataset(images)).loss
        compare(-terms[f"elbo_{x}_to_{y}"], loss)
        total = total + loss
    compare(terms["loss"], total)
    compare(gradients(model, terms["loss"]), gradients(model, total))


def laplace_noise(*shape):
    a, b = torch.empty(2, *shape).exponential_()
    return a - b


def renamed(found, pairs):
    """Gradients by our names, with those of their own parameters added to ours, in our shape."""
    return {key: found[key] if key not in pairs else pairs[key].view_as(found[key]) for key in found}


def without_offset(other, name, monkeypatch):
    """Remove the 1e-6 that they add to the scales of the priors, which the authors' codes and ours do not add.

    With it, the gradients differ by up to 4.4e-6 of their norm. The same offset of the encoders' scales stays, as ours.
    """

    def scale(logits):
        offset = 0.0 if isinstance(logits, torch.nn.Parameter) else 1e-6
        return logits.softmax(dim=-1) * logits.shape[-1] + offset

    monkeypatch.setattr(other, name, scale)
    if name == "log_var_to_std":  # MMVAE's prior does not use that function
        prior = property(lambda self: (self.prior_mean, scale(self.prior_log_var)))
        monkeypatch.setattr(type(other), "pz_params", prior)


@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize("samples", [1, 3])
def test_mmvae(noise, monkeypatch, count, samples):
    """The bound. With K = 1 its gradient, too: that of our stratified ELBO."""
    model, images, labels = paper_model("mmvae", count, samples=samples, epsilon=0.0, objective="dreg")
    other = theirs("MMVAE", model, K=samples, loss="iwae_looser", learn_prior=True)
    without_offset(other, "log_var_to_std", monkeypatch)
    prior = torch.randn(4)
    model.prior_logits.data[:], other.prior_log_var.data[:] = prior, prior
    epsilon = laplace_noise(count, samples, 12, 4)
    noise([epsilon])
    ours = model.objective(images, labels)["loss"]
    noise(list(epsilon))
    loss = their_loss(other, images) / 12
    compare(ours, loss)
    if samples == 1:
        model.config.objective = "elbo"
        noise([epsilon])
        expected = gradients(model, model.objective(images, labels)["loss"])
        [their_prior] = torch.autograd.grad(loss, [other.prior_log_var], retain_graph=True)
        compare(renamed(gradients(model, loss), {"prior_logits": their_prior}), expected)


@pytest.mark.parametrize("count", [2, 3])
def test_mmvae_doubly_reparameterised_gradient(noise, monkeypatch, count):
    """Theirs is the first sum of ours. The second, the mixture correction, is computed here with loops.

    They report sum_k w~_k ln w_k, and we report the bound ln 1/K sum_k w_k.
    """
    samples = 3
    model, images, labels = paper_model("mmvae", count, samples=samples, epsilon=0.0, objective="dreg")
    other = theirs("MMVAE", model, K=samples, loss="dreg_looser", learn_prior=True)
    without_offset(other, "log_var_to_std", monkeypatch)
    for m, like in model.config.likelihood.items():  # so that several samples have a weight
        like.weight = other.rescale_factors[m] = 0.01
    epsilon = laplace_noise(count, samples, 12, 4)
    noise([epsilon])
    ours = model.objective(images, labels)["loss"]
    noise(list(epsilon))
    loss = their_loss(other, images) / 12

    experts = stack({m: model.shared_encoders[m](x) for m, x in images.items()})
    z = (experts.mean[:, None] + experts.scale[:, None] * epsilon).detach()
    with torch.no_grad():
        log_q = torch.stack([laplace(Laplace(*(part[r] for part in experts))).log_prob(z) for r in range(count)])
        log_w = laplace(model.prior()).log_prob(z) - log_q.logsumexp(dim=0) + math.log(count)
        for m, x in images.items():
            mean = model.decoders[m](z.flatten(0, 2))
            log_p = test_related.weighted_log_p(model, m, mean, x.repeat(count * samples, 1, 1, 1))
            log_w = log_w + log_p.view_as(log_w)
    correction = torch.zeros(())
    for m in range(count):
        own = laplace(Laplace(*(part[m] for part in experts))).log_prob(z[m])
        for k in range(samples):
            share = log_q[:, m, k].softmax(dim=0)  # pi_r, (M, N)
            for r in range(count):
                replaced = log_w[r].clone()
                replaced[k] = log_w[m, k]
                factor = replaced.softmax(dim=0)[k] - log_w[m].softmax(dim=0)[k]  # a_r - w~_k
                correction = correction + (share[r] * factor * own[k]).sum()
    added = gradients(model, correction / (12 * count))  # of the loss, so with a plus sign

    [their_prior] = torch.autograd.grad(loss, [other.prior_log_var], retain_graph=True)
    expected = renamed(gradients(model, loss), {"prior_logits": their_prior})
    norm = math.sqrt(sum(g.square().sum().item() for g in added.values()))
    assert norm > 1e-4 * math.sqrt(sum(g.square().sum().item() for g in expected.values()))  # it matters
    compare(gradients(model, ours), {key: expected[key] + added[key] for key in expected})
    weights = log_w.softmax(dim=1)
    compare(loss, ours - (math.log(samples) + (weights * weights.log()).sum(dim=1)).mean())


@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize("samples", [1, 3])
@pytest.mark.parametrize("objective", ["iwae", "dreg"])
def test_mmvaeplus(noise, monkeypatch, count, samples, objective):
    model, images, labels = test_related.make(
        "mmvaeplus", count, samples=samples, epsilon=0.0, objective=objective, kl=2.5
    )
    other = theirs(
        "MMVAEPlus", model, K=samples, loss=f"{objective}_looser", beta=2.5, modalities_specific_dim=3,
        learn_shared_prior=False, learn_modality_prior=True,
    )  # fmt: skip
    without_offset(other, "_log_var_to_std", monkeypatch)
    for i, m in enumerate(images):
        model.auxiliary_logits.data[i] = random(3)
        other.logvars_priors[m].data[:] = model.auxiliary_logits.data[i]
    if objective == "dreg":
        for m, like in model.config.likelihood.items():  # so that several samples have a weight
            like.weight = other.rescale_factors[m] = 0.01
    sample, others = laplace_noise(count, samples, 12, 7), laplace_noise(count, samples, 12, count, 3)
    noise([sample, others])
    ours = model.objective(images, labels)["loss"]
    order = []
    for j in range(count):
        order += [sample[j, ..., :4], sample[j, ..., 4:], *(others[j, :, :, i] for i in range(count) if i != j)]
    noise(order)
    loss = their_loss(other, images) / 12
    their_priors = torch.autograd.grad(loss, [other.logvars_priors[m] for m in images], retain_graph=True)
    expected = renamed(gradients(model, loss), {"auxiliary_logits": torch.cat(their_priors)})
    compare(gradients(model, ours), expected)
    if objective == "iwae":
        compare(ours, loss)
        return
    # their value is sum_k w~_k ln w_k, ours the bound
    q = [model.joint_expert(m, x) for m, x in images.items()]
    codes = torch.stack([q[j].mean + q[j].scale * sample[j] for j in range(count)])
    log_w = weights_by_hand(model, images, codes, others * model.auxiliary_priors().scale)
    weights = log_w.softmax(dim=1)
    compare(loss, ours - (math.log(samples) + (weights * weights.log()).sum(dim=1)).mean())
