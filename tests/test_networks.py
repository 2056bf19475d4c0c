"""Encoders keep an image's contrast on the way to the codes; in bfloat16 codes, images and gradients stay precise."""

import pytest
import torch

from qmvae.model.networks import NETWORKS, Decoder, GaussianEncoder, conv_encoder, shifted


def test_a_signal_keeps_its_size_through_a_fresh_encoder():
    torch.manual_seed(0)
    x = torch.rand(64, 3, 32, 32)
    encoder = conv_encoder((3, 32, 32), 20)
    torch.testing.assert_close(encoder[0](x), 2 * x - 1)
    sizes = [x := layer(x) for layer in encoder]
    for layer, values in zip(encoder, sizes, strict=True):
        if isinstance(layer, torch.nn.ReLU):
            assert 0.5 < values.square().mean() / sizes[0].square().mean() < 2


def test_codes_of_a_bfloat16_network_have_the_dtype_of_the_images():
    encoder = GaussianEncoder("mlp", (1, 4, 4), 3)
    with torch.autocast("cpu", torch.bfloat16):
        q = encoder(torch.rand(2, 1, 4, 4))
    assert q.mean.dtype == q.logvar.dtype == torch.float32


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("logit", [-12.0, 12.0])
def test_a_pixel_of_a_bfloat16_network_has_a_gradient_at_either_end(network, logit):
    decoder = Decoder(network, 3, (2, 8, 8))
    bias = list(decoder.parameters())[-1]
    for parameter in decoder.parameters():
        torch.nn.init.zeros_(parameter)
    torch.nn.init.constant_(bias, logit)
    with torch.autocast("cpu", torch.bfloat16):
        images = decoder(torch.rand(5, 3))
    assert images.dtype == torch.float32 and ((images > 0) & (images < 1)).all()
    images.sum().backward()
    p = torch.tensor(logit, dtype=torch.float64).sigmoid()
    expected = (images.numel() / bias.numel() * p * (1 - p)).expand_as(bias)
    torch.testing.assert_close(bias.grad.double(), expected, rtol=0.02, atol=0)


def test_shifted_moves_all_images_alike_and_in_both_directions():
    torch.manual_seed(0)
    images, places = torch.zeros(2, 1, 9, 9), set()
    images[:, :, 4, 4] = 1
    for _ in range(400):
        first, second = shifted(images, 2)
        assert torch.equal(first, second) and first.sum() == 1
        places.add(tuple(first[0].nonzero()[0].tolist()))
    assert places == {(row, column) for row in range(2, 7) for column in range(2, 7)}
    assert shifted(torch.ones(1, 1, 4, 4), 2).eq(1).all()  # the border is repeated
