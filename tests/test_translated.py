"""Q-MVAE + translated quadruplets: what each term asks for, and whom its gradient reaches."""

import pytest
import torch
from test_models import make

from qmvae.model.translated import class_share, hinge


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


@pytest.mark.parametrize("labels", [[1, 1, 1], [0, 1, 2], [0]])
def test_batches_of_one_class_or_of_single_images_have_no_distance(labels):
    codes = torch.randn(len(labels), 3, requires_grad=True)
    distance = class_share(codes, torch.tensor(labels))
    distance.backward()
    assert distance.item() == 0.0 and torch.isfinite(codes.grad).all()


def test_the_gradient_reaches_the_decoder_and_the_private_encoder_only():
    model, images, labels = make("translated", style={"all": 1.0})
    shared = {m: model.shared_encoders[m](x) for m, x in images.items()}
    private = {m: model.private_encoders[m](x) for m, x in images.items()}
    digit, style = model.translated_losses("mnist", shared, private, labels)
    (digit + style).backward()
    reached = {tuple(name.split(".")[:2]) for name, p in model.named_parameters() if p.grad is not None}
    assert reached == {("decoders", "mnist"), ("private_encoders", "mnist")}


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
