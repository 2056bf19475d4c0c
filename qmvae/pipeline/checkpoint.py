"""A trained model as a folder: model.safetensors has the weights, model.json all that is needed to build the model."""

import importlib
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pydantic
import torch

from qmvae.model.base import MultimodalVAE
from qmvae.model.networks import Shape
from qmvae.pipeline import code, files, sections, tensor_files

HINT = "give a folder with model.safetensors and model.json, such as artifacts/<preset>/models/<model>/seed-<k>"
CLASSES = {"translated": "TranslatedQMVAE"}  # of models whose class is not their name in capitals


def model_class(name: str) -> type[MultimodalVAE]:
    """Return the class of a model by its name in params.yaml. It is imported late: a run depends on its model only."""
    file, wanted = code.model_file(name), CLASSES.get(name, name.upper())
    module = importlib.import_module(file.removesuffix(".py").replace("/", "."))
    if not hasattr(module, wanted):
        raise AttributeError(f"{file}: expected a class {wanted}, the file's name in capitals")
    return getattr(module, wanted)


def build_model(name: str, config: Any, shapes: Mapping[str, Shape], networks: Mapping[str, str]) -> MultimodalVAE:
    """Return a model with fresh weights; shapes, networks and config as MultimodalVAE takes them.

    The weight `balanced` of a modality's likelihood becomes a number: how many values the largest image has for each
    value of its own image. So small images count as much as large ones (Shi et al. 2019: 3072/784 for MNIST).
    """
    sizes = {m: math.prod(shape) for m, shape in shapes.items()}
    likelihood = {
        m: like.model_copy(update={"weight": max(sizes.values()) / sizes[m]} if like.weight == "balanced" else {})
        for m, like in config.likelihood.items()
    }
    return model_class(name)(shapes, networks, config.model_copy(update={"likelihood": likelihood}))


def save_model(folder: Path, model: MultimodalVAE, name: str, networks: Mapping[str, str], about: dict) -> None:
    """Write the two files. about: facts for people (preset, seed, steps, ...), kept in model.json. Raises FileError."""
    tensor_files.save(folder / "model.safetensors", model.state_dict())
    config = model.config.model_dump()
    files.save_json(
        folder / "model.json", {"model": name, "shapes": model.shapes, "nets": networks, "config": config, **about}
    )


def load_model(folder: str | Path, device: torch.device | str = "cpu", hint: str = HINT) -> MultimodalVAE:
    """Return the trained model of a folder, in eval mode.

    Reads safetensors and JSON only, so that a folder from a stranger cannot run code. The model has float32 weights;
    the file may have them as float16.
    Raises FileError where a file is missing or broken, or where the two do not fit each other; hint: what the user can
    do then.
    """
    folder = Path(folder)
    about = files.load_json(folder / "model.json", hint)
    try:
        name = sections.known_model(about["model"])
        config = sections.MODELS[name].model_validate(about["config"])
        shapes = {m: (int(c), int(h), int(w)) for m, (c, h, w) in about["shapes"].items()}
        if any(not 0 < side <= 1024 for shape in shapes.values() for side in shape):
            raise ValueError(f"shapes {shapes} are out of range")
        with torch.device("meta"):  # without memory: model.json may ask for any amount of it
            expected = build_model(name, config, shapes, about["nets"]).float().state_dict()
    except pydantic.ValidationError as error:
        faults = "; ".join(f"config.{'.'.join(map(str, f['loc']))}: {f['msg']}" for f in error.errors())[:300]
        fault = f"does not describe a model of this version of qmvae: {faults}"
        raise files.FileError(f"{folder / 'model.json'}: {fault}; {hint}") from None
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise files.FileError(f"{folder / 'model.json'}: does not describe a model: {error!r}; {hint}") from None
    weights = tensor_files.load_weights(folder / "model.safetensors", expected, "model.json", hint)
    model = build_model(name, config, shapes, about["nets"]).float()  # whatever torch.set_default_dtype was given
    model.load_state_dict(weights)
    return model.to(device).eval()
