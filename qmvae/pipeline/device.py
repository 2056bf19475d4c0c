"""The device of a run, and the error of a training that cannot start or continue."""

import torch

from qmvae.pipeline.schema import Params


class TrainingError(RuntimeError):
    """Training cannot start or continue; the message says why and what to do."""


def resolve_device(run: Params) -> torch.device:
    """Return the device that params.yaml asks for; `auto` is a GPU where there is one. Raises TrainingError."""
    if run.device == "cuda" and not torch.cuda.is_available():
        raise TrainingError("params.yaml: device: cuda, but torch sees no GPU here; use `auto` or `cpu`")
    return torch.device("cuda" if run.device != "cpu" and torch.cuda.is_available() else "cpu")
