"""What every model must do alike, so that training, evaluation and figures need not know which one they hold."""

import copy
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml
from torch import nn

from qmvae.model.base import check_names, warm_up
from qmvae.pipeline import checkpoint, code, params, sections
from qmvae.report import tables

# all but CVAE, which has no shared code; tests/test_related.py has its tests
MODELS = {name: checkpoint.model_class(name) for name in sections.MODELS if name != "cvae"}
SHAPES = {"mnist": (1, 4, 4), "svhn": (3, 8, 8), "third": (1, 3, 5)}
NETWORKS = {"mnist": "mlp", "svhn": "conv", "third": "mlp"}
PER_MODALITY = {"likelihood", "kl_private", "delta", "digit", "style"}
PARAMS = Path(__file__).parents[1] / "params.yaml"


def namespace(settings):
    """A model's section of params.yaml with attributes for keys; mappings by modality stay mappings."""
    settings = copy.deepcopy(settings)
    settings["likelihood"] = {m: SimpleNamespace(**value) for m, value in settings["likelihood"].items()}
    for key in {"negatives"} & settings.keys():
        settings[key] = SimpleNamespace(**settings[key])
    return SimpleNamespace(**settings)


def sample(q, generator=None):
    """What stands for a sample of a Gaussian: another value than the mean, and no random number."""
    return q.mean + q.logvar


def make(name, count=2, **changes):
    """The model that params.yaml describes, made small, for the first `count` modalities, and a batch of 12 for it."""
    config = yaml.safe_load(PARAMS.read_text())[name] | {"shared": 4} | changes
    config |= {"private": 3} if "private" in config else {}
    config |= {key: 16 for key in ("discriminator", "features") if key in config}
    config |= {"samples": 3} if "samples" in config and "samples" not in changes else {}
    for key in PER_MODALITY & config.keys():
        entry = config[key].get("all", config[key].get("conv"))
        if key == "likelihood" and entry["family"] == "bernoulli":  # tests have images of any value
            entry = {"family": "laplace", "scale": 0.75}
        config[key] = {m: entry | {"weight": 1.0} if key == "likelihood" else entry for m in list(SHAPES)[:count]}
    torch.manual_seed(0)
    shapes = {m: SHAPES[m] for m in list(SHAPES)[:count]}
    model = MODELS[name](shapes, NETWORKS, namespace(config))
    return model, {m: torch.rand(12, *s) for m, s in shapes.items()}, torch.arange(12) % 3


every = pytest.mark.parametrize("name", list(MODELS))


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


def check_that_adam_lowers_the_loss(model, images, labels):
    """40 steps; without `progress`, with full KL weights, so that the objective stays the same."""
    optimizer = torch.optim.Adam(model.parameters(), lr=0.003)
    values = []
    for _ in range(40):
        loss = model.loss(images, labels)["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        values.append(loss.item())
    assert sum(values[-10:]) < sum(values[:10])


@every
def test_a_few_steps_of_adam_lower_the_loss(name):
    check_that_adam_lowers_the_loss(*make(name))


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
def test_cross_generation_depends_on_its_seed_only(name):
    model, images, _ = make(name, 3)
    for given in ({"mnist": images["mnist"]}, {"mnist": images["mnist"], "third": images["third"]}):
        first, again, other = (model.cross_generate(given, "svhn", seed=seed) for seed in (3, np.int64(3), 4))
        assert torch.equal(first, again) and not torch.equal(first, other)
        reordered = model.cross_generate(dict(reversed(given.items())), "svhn", seed=3)
        assert torch.equal(first, reordered)


def test_the_models_are_those_of_the_parameters():
    """Each list of all models has each of them, so that a new model is forgotten nowhere."""
    names = set(sections.MODELS)
    assert names == {*MODELS, "cvae"} == {*code.model_names(PARAMS.parent)} == {*tables.MODELS}
    stages = yaml.safe_load((PARAMS.parent / "dvc.yaml").read_text())["stages"]
    assert names <= {*stages["train"]["params"]}
    presets = yaml.safe_load(PARAMS.read_text())["presets"]
    assert names == {*presets["subset"]["models"]}
    assert names - {"qmvae", "translated"} == {*presets["paper"]["overrides"]}  # the learning rates of their papers


@every
def test_parameters_of_each_modality_must_be_complete(name, tmp_path):
    document = yaml.safe_load(PARAMS.read_text())
    for key in PER_MODALITY & document[name].keys():
        entries = document[name][key]
        document[name][key] = {"svhn": entries.get("all", entries.get("conv"))}
        (tmp_path / "params.yaml").write_text(yaml.safe_dump(document))
        with pytest.raises(params.ParamsError, match=rf"{name}\.{key}: no entry for the modality mnist"):
            params.load(root=tmp_path)
        document[name][key] = entries


@every
def test_checkpoints_bring_the_model_back(name, tmp_path):
    model, images, _ = make(name)
    model.config = sections.MODELS[name].model_validate(json.loads(json.dumps(model.config, default=vars)))
    checkpoint.save_model(tmp_path, model, name, NETWORKS, {})
    loaded = checkpoint.load_model(tmp_path)
    expected = model.cross_generate({"svhn": images["svhn"]}, "mnist", seed=0)
    assert torch.equal(loaded.cross_generate({"svhn": images["svhn"]}, "mnist", seed=0), expected)


def with_names(name, modalities):
    config = make(name)[0].config
    for key in set(PER_MODALITY) & set(vars(config)):
        setattr(config, key, {m: getattr(config, key)["mnist"] for m in modalities})
    return MODELS[name]({m: (1, 4, 4) for m in modalities}, {m: "mlp" for m in modalities}, config)


@every
@pytest.mark.parametrize("bad", ["type", "half", "train", "items", "keys", "training", "forward", "", "a.b"])
def test_names_that_no_module_can_have(name, bad):
    with pytest.raises(ValueError, match=f"modality {bad!r}: nn.ModuleDict cannot hold it .*; rename it"):
        with_names(name, ["mnist", bad])


def test_names_of_modalities_are_all_but_those_of_nn_module_dict_itself():
    for bad in dir(nn.ModuleDict()):
        with pytest.raises(ValueError, match="nn.ModuleDict cannot hold it"):
            check_names(["mnist", bad])
    model = with_names("qmvae", ["Type", "x_1", "street numbers", "0"])
    model.loss({m: torch.rand(3, 1, 4, 4) for m in model.shapes}, torch.arange(3))


def calls(model, x, y):
    """Every method that is given images: by name, what it returns for images x of `mnist` and y of `svhn`."""
    return {
        "shared": model.shared({"svhn": y, "mnist": x}).mean,
        "private": model.private("mnist", x).mean,
        "cross_generate": model.cross_generate({"mnist": x}, "svhn", seed=0),
        "translate": model.translate({"svhn": y}, "mnist", x, seed=0),
    }


@every
def test_the_terms_have_the_dtype_of_the_codes(name):
    """So float64 runs, and no term is a bfloat16."""
    model, images, labels = make(name)
    with torch.autocast("cpu", torch.bfloat16):
        terms = model.loss(images, labels)
    assert {term.dtype for term in terms.values()} == {torch.float32}
    terms = model.double().loss({m: x.double() for m, x in images.items()}, labels)
    assert {term.dtype for term in terms.values()} == {torch.float64}


def test_which_models_fuse():
    assert {name for name in MODELS if make(name)[0].is_fused} == {
        "qmvae",
        "translated",
        "mvae",
        "dmvae",
        "jmvae",
        "mopoe",
    }


@every
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_images_may_be_whatever_torch_turns_into_a_tensor_of_floats(name, dtype):
    model, images, _ = make(name)
    model = model.to(dtype)
    x, y = ((image > 0.5).to(dtype) for image in images.values())
    expected = calls(model, x, y)
    assert all(value.dtype == dtype for value in expected.values())
    for cast in (torch.Tensor.double, torch.Tensor.bool, lambda t: t.double().numpy(), lambda t: t.tolist()):
        for call, value in calls(model, cast(x), cast(y)).items():
            assert value.dtype == dtype and torch.equal(value, expected[call]), call


def test_lists_and_private_codes_keep_the_precision_of_the_model():
    model, images, _ = make("qmvae")
    model, x = model.double(), images["mnist"].double()
    assert torch.equal(model.private("mnist", x.tolist()).mean, model.private("mnist", x).mean)
    h = np.random.default_rng(0).normal(size=(12, 3))
    expected = model.cross_generate({"mnist": x}, "svhn", private=torch.from_numpy(h))
    assert torch.equal(model.cross_generate({"mnist": x}, "svhn", private=h.tolist()), expected)
    assert torch.equal(model.float().cross_generate({"mnist": x}, "svhn", private=h), model.cross_generate(
        {"mnist": x.float()}, "svhn", private=torch.from_numpy(h).float()))  # fmt: skip


@every
@pytest.mark.parametrize("value, found", [
    (float("nan"), "nan to nan"), (float("inf"), "to inf"), (-0.01, "-0.01 to"), (1.01, "to 1.01"), (255, "to 255"),
])  # fmt: skip
def test_values_out_of_range_are_refused(name, value, found):
    model, images, _ = make(name)
    x, y = images["mnist"], images["svhn"]
    x[7, 0, 2, 3] = value
    for call in (lambda: model.shared({"svhn": y, "mnist": x}), lambda: model.private("mnist", x),
                 lambda: model.cross_generate({"mnist": x}, "svhn"), lambda: model.translate({"mnist": x}, "svhn", y),
                 lambda: model.translate({"svhn": y}, "mnist", x.numpy())):  # fmt: skip
        with pytest.raises(ValueError, match=rf"mnist: expected .* in \[0, 1\], got values from .*{found}"):
            call()


@every
def test_rounding_is_not_out_of_range_and_no_images_are_no_error(name):
    model, images, _ = make(name)
    x = images["mnist"].half()
    x[0], x[1] = 1 + 2**-10, -(2**-10)
    assert x.max() > 1 and model.shared({"mnist": x}).mean.isfinite().all()
    assert model.shared({"mnist": x[:0]}).mean.shape == (0, 4)


@pytest.mark.parametrize("images", [None, "a file", {"a": 1}, [[1.0], [1.0, 2.0]], [torch.zeros(1, 4, 4)] * 2])
def test_what_is_no_array_is_refused_by_name(images):
    with pytest.raises(ValueError, match=rf"mnist: expected images of shape \(N, 1, 4, 4\).*{type(images).__name__}"):
        make("mvae")[0].shared({"mnist": images})


@pytest.mark.parametrize("name", ["qmvae", "jmvae"])  # with a joint encoder, too
def test_what_does_not_belong_together_is_refused(name):
    model, images, labels = make(name)
    x, y = images["mnist"], images["svhn"]
    for call, message in (
        (lambda: model.shared({"mnist": x[:3], "svhn": y[:2]}), "as many images of each"),
        (lambda: model.shared(x), "expected images by modality, .* got Tensor"),
        (lambda: model.translate({"mnist": x}, "svhn", y[:1]), r"svhn: expected a private code for each .*\(12, "),
        (lambda: model.cross_generate({"mnist": x}, "svhn", private=torch.zeros(12, 9)), r"svhn: .* got \(12, 9\)"),
        (lambda: model.loss({"mnist": x}, labels), "expected one of each modality for each label"),
        (lambda: model.loss({m: x[:0] for m, x in images.items()}, labels[:0]), "a batch of at least one pair"),
        (lambda: model.loss(images, labels[:5]), "expected one of each modality for each label"),
    ):
        with pytest.raises(ValueError, match=message):
            call()


@every
def test_training_skips_the_check_of_the_range(name, monkeypatch):
    model, images, labels = make(name)
    monkeypatch.setattr(model, "_checked", None)
    assert model.loss({m: 2 * x for m, x in images.items()}, labels)["loss"].isfinite()


@pytest.mark.parametrize(
    "progress, fraction, expected", [(0, 0.4, 0), (0.1, 0.4, 0.25), (0.4, 0.4, 1), (0.9, 0.4, 1), (0, 0, 1)]
)
def test_warm_up(progress, fraction, expected):
    assert warm_up(progress, fraction) == expected
