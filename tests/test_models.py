"""What every model must do alike, so that training, evaluation and figures need not know which one they hold."""

from pathlib import Path

import pytest
import torch
import yaml

from qmvae import checkpoint, params

SHAPES = {"mnist": (1, 4, 4), "svhn": (3, 8, 8), "third": (1, 3, 5)}
NETS = {"mnist": "mlp", "svhn": "conv", "third": "mlp"}
PER_MODALITY = ("likelihood", "kl_private", "delta")


def make(name, count=2, **changes):
    """The model that params.yaml describes, made small, for the first `count` modalities, and a batch of 12 for it."""
    config = getattr(params.load(root=Path(__file__).parents[1]), name).model_dump() | {"shared": 4} | changes
    config |= {"private": 3} if "private" in config else {}
    config |= {"discriminator": 16} if "discriminator" in config else {}
    config |= {"samples": 3} if "samples" in config and "samples" not in changes else {}
    config |= {k: {m: config[k]["svhn"] for m in list(SHAPES)[:count]} for k in PER_MODALITY if k in config}
    torch.manual_seed(0)
    shapes = {m: SHAPES[m] for m in list(SHAPES)[:count]}
    model = checkpoint.build(name, params.MODELS[name].model_validate(config), shapes, NETS)
    return model, {m: torch.rand(12, *s) for m, s in shapes.items()}, torch.arange(12) % 3


every = pytest.mark.parametrize("name", list(checkpoint.MODELS))


@every
@pytest.mark.parametrize("count", [2, 3])
def test_terms_are_scalars_with_the_same_names_all_the_way(name, count):
    model, images, labels = make(name, count)
    model = model.to(memory_format=torch.channels_last)
    images["svhn"] = images["svhn"].to(memory_format=torch.channels_last)
    names = None
    for progress in (0.0, 0.3, 0.7, 1.0):
        terms = model.loss(images, labels, progress)
        assert all(value.shape == () and torch.isfinite(value) for value in terms.values())
        assert names in (None, list(terms))
        names = list(terms)
        model.zero_grad()
        terms["loss"].backward()
        assert all(torch.isfinite(p.grad).all() for p in model.parameters())  # and each parameter has a gradient


@every
@pytest.mark.parametrize("batch", [1, 5])
def test_batches_of_one_pair_or_one_class(name, batch):
    model, images, _ = make(name)
    terms = model.loss({m: x[:batch] for m, x in images.items()}, torch.zeros(batch, dtype=torch.long), 0.6)
    terms["loss"].backward()
    assert all(torch.isfinite(value) for value in terms.values())
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


@every
@pytest.mark.parametrize("level", [50.0, -50.0, 0.0])
@pytest.mark.parametrize("batch", [1, 6])
def test_posteriors_of_any_width_in_one_place(name, level, batch):
    """Every image gets the same code, so that all distances of Eq. 19 are zero, with log-variances of 50, -50 and 0."""
    model, images, labels = make(name)
    for encoder in [*model.shared_encoders.values(), *model.private_encoders.values()]:
        last = encoder.net[-1]
        torch.nn.init.zeros_(last.weight)
        torch.nn.init.zeros_(last.bias)
        last.bias.data[len(last.bias) // 2 :: 2] = level  # MMVAE's scales are a softmax: one dimension has it all
    for progress in (0.0, 0.6, 1.0):
        model.zero_grad()
        terms = model.loss({m: x[:batch] for m, x in images.items()}, labels[:batch], progress)
        terms["loss"].backward()
        assert all(torch.isfinite(value) for value in terms.values()), terms
        assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


@every
def test_the_global_seed_decides_the_loss(name):
    model, images, labels = make(name, 3)
    values = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        values.append(model.loss(images, labels, 0.6)["loss"].item())
    assert values[0] == values[1] != values[2]


@every
def test_a_few_steps_of_adam_lower_the_loss(name):
    model, images, labels = make(name)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.003)
    values = []
    for _ in range(40):
        loss = model.loss(images, labels)["loss"]  # with full KL weights, so that the objective stays the same
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        values.append(loss.item())
    assert sum(values[-10:]) < sum(values[:10])


@every
def test_codes_and_images_have_the_promised_shapes(name):
    model, images, _ = make(name, 3)
    private = model.sizes["private"]
    for given in (["mnist"], ["svhn", "third"], list(images)):
        q = model.shared({m: images[m] for m in given})
        assert q.mean.shape == q.logvar.shape == q.rsample().shape == (12, 4)
    assert model.private("svhn", images["svhn"]).mean.shape == (12, private)
    assert model.decode("svhn", torch.zeros(12, 4), torch.zeros(12, private)).shape == (12, 3, 8, 8)
    assert model.translate({"svhn": images["svhn"]}, "mnist", images["mnist"]).shape == (12, 1, 4, 4)
    assert {m: tuple(x.shape) for m, x in model.generate(5, seed=0).items()} == {m: (5, *s) for m, s in SHAPES.items()}
    with pytest.raises(ValueError, match="no modality given; expected at least one of mnist, svhn, third"):
        model.shared({})


@every
def test_cross_generation_hangs_on_its_seed_alone(name):
    model, images, _ = make(name, 3)
    for given in ({"mnist": images["mnist"]}, {"mnist": images["mnist"], "third": images["third"]}):
        first, again, other = (model.cross_generate(given, "svhn", seed=seed) for seed in (3, 3, 4))
        assert torch.equal(first, again) and not torch.equal(first, other)


@every
def test_parameters_of_each_modality_must_be_complete(name, tmp_path):
    document = yaml.safe_load((Path(__file__).parents[1] / "params.yaml").read_text())
    for key in set(PER_MODALITY) & set(document[name]):
        value = document[name][key].pop("svhn")
        (tmp_path / "params.yaml").write_text(yaml.safe_dump(document))
        with pytest.raises(params.ParamsError, match=rf"{name}\.{key}: has \['mnist'\], expected one entry"):
            params.load(root=tmp_path)
        document[name][key]["svhn"] = value


@every
def test_checkpoints_bring_the_model_back(name, tmp_path):
    model, images, _ = make(name)
    checkpoint.save(tmp_path, model, name, NETS, {})
    loaded = checkpoint.load(tmp_path)
    expected = model.cross_generate({"svhn": images["svhn"]}, "mnist", seed=0)
    assert torch.equal(loaded.cross_generate({"svhn": images["svhn"]}, "mnist", seed=0), expected)
