"""A trained model as a folder: model.safetensors with the weights, model.json with what is needed to build it again."""

from collections.abc import Mapping
from pathlib import Path

import torch

from qmvae import files, params
from qmvae.models import MODELS, MultimodalVAE


def build(name: str, config, shapes: dict, nets: Mapping[str, str]) -> MultimodalVAE:
    """A model with fresh weights. name: a key of MODELS; the rest as MultimodalVAE takes it."""
    return MODELS[name](shapes, nets, config)


def save(folder: Path, model: MultimodalVAE, name: str, nets: Mapping[str, str], about: dict) -> None:
    """Write the two files. about: facts for people (preset, seed, steps, ...), kept in model.json."""
    files.save_tensors(folder / "model.safetensors", model.state_dict())
    description = {"model": name, "shapes": model.shapes, "nets": nets, "config": model.config.model_dump(), **about}
    files.save_json(folder / "model.json", description)


def load(folder: str | Path, device: str = "cpu") -> MultimodalVAE:
    """The trained model of a folder, ready for use (eval mode, no gradients needed).

    Reads safetensors and JSON only, so that a folder from somebody else can't run code.
    Raises FileError where a file is missing, broken or does not fit the other.
    """
    folder = Path(folder)
    hint = "give a folder with model.safetensors and model.json, such as artifacts/<preset>/models/<model>/seed-<k>"
    about = files.load_json(folder / "model.json", hint)
    try:
        name = about["model"]
        config = params.MODELS[name].model_validate(about["config"])
        shapes = {m: (int(c), int(h), int(w)) for m, (c, h, w) in about["shapes"].items()}
        if any(not 0 < side <= 1024 for shape in shapes.values() for side in shape):
            raise ValueError(f"shapes {shapes} are out of range")
        with torch.device("meta"):  # no memory yet: model.json may ask for any amount of it
            expected = build(name, config, shapes, about["nets"]).state_dict()
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise files.FileError(f"{folder / 'model.json'}: does not describe a model: {error!r}; {hint}") from None
    weights, _ = files.load_tensors(folder / "model.safetensors", hint=hint)
    wrong = sorted(key for key in expected.keys() | weights.keys() if _form(expected, key) != _form(weights, key))
    if wrong:
        found, wanted = _form(weights, wrong[0]), _form(expected, wrong[0])
        fault = f"{wrong[0]} is {found or 'not there'}, expected {wanted or 'nothing of that name'}"
        raise files.FileError(f"{folder / 'model.safetensors'}: does not fit model.json: {fault}; {hint}")
    model = build(name, config, shapes, about["nets"])
    model.load_state_dict(weights)
    return model.to(device).eval()


def _form(tensors: dict[str, torch.Tensor], key: str) -> tuple | None:
    return (tuple(tensors[key].shape), tensors[key].dtype) if key in tensors else None
