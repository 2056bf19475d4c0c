"""Q-MVAE + translated quadruplets: what each term asks for, and whom its gradient reaches."""

import pytest
import torch
from test_models import make, sample
from torch import distributions as D

from qmvae.baselines import translated
from qmvae.baselines.translated import class_share, hinge
from qmvae.model.gaussian import Gaussian


def test_the_hinge_by_hand():
    code, positive, negative = (torch.tensor([[float(v), 0.0]]) for v in (0, 3, 4))
    assert hinge(code, positive, negative, margin=2.0).item() == 1.0  # 3 - 4 + 2
    assert hinge(code, positive, negative, margin=0.5).item() == 0.0


def test_the_class_share_is_that_of_its_definition_and_zero_for_codes_without_a_class():
    torch.manual_seed(0)
    codes, labels = torch.randn(30, 3).double(), torch.tensor([0] * 18 + [1] * 8 + [2] * 3 + [3])
    apart, alike = [], []
    for a in range(3):
        for b in range(3):
            pairs = [(i, j) for i in range(30) for j in range(30) if i != j and labels[i] == a and labels[j] == b]
            (alike if a == b else apart).append(torch.stack([(codes[i] - codes[j]).norm() for i, j in pairs]).mean())
    expected = 1 - torch.stack(alike).mean() / torch.stack(apart).mean()
    assert class_share(codes, labels).item() == pytest.approx(expected.item(), rel=1e-9)
    free = torch.stack([class_share(torch.randn(60, 3), torch.arange(60) % 3) for _ in range(200)])
    assert abs(free.mean()) < 4 * free.std() / 200**0.5  # without bias
    shifted = torch.randn(60, 3) + torch.nn.functional.one_hot(torch.arange(60) % 3).float()
    assert class_share(shifted, torch.arange(60) % 3) > 4 * free.std()


def test_a_large_class_that_spreads_out_does_not_make_the_class_share_negative():
    labels = torch.tensor([0] * 40 + [1] * 10)
    codes = torch.randn(50, 3) * torch.where(labels == 0, 100.0, 1.0)[:, None]
    assert class_share(codes, labels) > 0


def test_the_class_share_of_codes_that_are_close_to_each_other():
    torch.manual_seed(0)
    labels, noise = torch.arange(128) % 10, torch.randn(128, 10).double()
    for spread in (1e-1, 1e-2, 1e-3):
        codes = 3 + spread * noise
        assert class_share(codes.float(), labels).item() == pytest.approx(class_share(codes, labels).item(), abs=1e-3)
    for count in (26, 128):
        assert class_share(torch.full((count, 10), 3.1), labels[:count]).item() == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize("labels", [[1, 1, 1], [0, 1, 2], [0]])
def test_batches_of_one_class_or_of_single_images_have_no_distance(labels):
    codes = torch.randn(len(labels), 3, requires_grad=True)
    distance = class_share(codes, torch.tensor(labels))
    distance.backward()
    assert distance.item() == 0.0 and torch.isfinite(codes.grad).all()


@pytest.mark.parametrize("count", [2, 3])
def test_every_additional_term_of_the_objective(monkeypatch, count):
    monkeypatch.setattr(Gaussian, "rsample", sample)
    monkeypatch.setattr(translated, "shifted", lambda x, most: x.flip(3))
    monkeypatch.setattr(torch, "randint", lambda *_, **__: torch.tensor([4]))  # row i takes h from row i + 5
    model, images, _ = make("translated", count, class_share=3.0, cross_reconstruction=0.6)
    config, labels, other = model.config, torch.arange(12) % 5, (torch.arange(12) + 5) % 12
    config.digit, config.style = {m: 2.0 + i for i, m in enumerate(images)}, {m: 4.0 + i for i, m in enumerate(images)}
    for i, m in enumerate(images):
        config.likelihood[m].weight = 1.5 + i
    differs = labels != labels[other]
    assert 0 < differs.sum() < 12
    with torch.no_grad():
        terms = model.loss(images, labels)
        shared = {m: model.shared_encoders[m](x) for m, x in images.items()}
        private = {m: model.private_encoders[m](x) for m, x in images.items()}
        expected = config.beta * terms["quad"] - sum(terms[name] for name in terms if name.startswith("elbo_"))
        for m, x in images.items():
            digit, style, cross = 0.0, 0.0, []
            for z in (q for n, q in shared.items() if n != m):
                p = D.Laplace(model.decoders[m](torch.cat([sample(z), sample(private[m])], dim=1)), 0.75)
                cross.append(p.log_prob(x).sum(dim=(1, 2, 3)).mean())
                h = sample(private[m])[other]
                image = model.decoders[m](torch.cat([z.mean, h], dim=1))
                mu, q = model.shared_encoders[m](image.flip(3)).mean, model.private_encoders[m](image)
                near, far = (mu - z.mean).norm(dim=1), (mu - shared[m].mean[other]).norm(dim=1)
                digit += (torch.relu(near - far + config.alpha1) * differs).mean()
                style -= (D.Normal(q.mean, (q.logvar / 2).exp()).log_prob(h).sum(dim=1) * differs).mean()
            share, log_p = class_share(private[m].mean, labels), torch.stack(cross).mean()
            for name, value in {"digit": digit, "style": style, "class_share": share, "cross_log_p": log_p}.items():
                assert terms[f"{name}_{m}"].item() == pytest.approx(value.item(), rel=1e-4), name
            expected += config.digit[m] * digit + config.style[m] * style + 3.0 * share
            expected -= 0.6 * config.likelihood[m].weight * log_p
    assert terms["loss"].item() == pytest.approx(expected.item(), rel=1e-5)


def test_the_gradient_reaches_the_decoder_only():
    model, images, labels = make("translated", style={"all": 1.0})
    shared = {m: model.shared_encoders[m](x) for m, x in images.items()}
    private = {m: model.private_encoders[m](x) for m, x in images.items()}
    digit, style = model.translated_losses("mnist", shared, private, labels)
    (digit + style).backward()
    reached = {tuple(name.split(".")[:2]) for name, p in model.named_parameters() if p.grad is not None}
    assert reached == {("decoders", "mnist")}


def test_without_the_additional_terms_the_objective_is_that_of_q_mvae():
    model, images, labels = make("translated")
    paper, _, _ = make("qmvae", kl_shared=model.config.kl_shared)
    paper.config.kl_private = model.config.kl_private
    paper.load_state_dict(model.state_dict())
    config = model.config
    config.digit = config.style = {"mnist": 0.0, "svhn": 0.0}
    config.class_share = config.cross_reconstruction = 0.0
    losses = []
    for network in (model, paper):
        torch.manual_seed(1)
        losses.append(network.loss(images, labels, 0.0)["loss"])
    assert losses[0].item() == pytest.approx(losses[1].item(), rel=1e-6)


def test_the_shift_of_translations_is_that_of_the_parameters(monkeypatch):
    model, images, labels = make("translated", shift=5)
    seen = []
    monkeypatch.setattr(translated, "shifted", lambda x, most: (seen.append(most), x)[1])
    model.loss(images, labels)
    assert seen and set(seen) == {5}
