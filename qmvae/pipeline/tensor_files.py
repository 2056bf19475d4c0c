"""Tensors on disk, as safetensors: these hold numbers and a few strings, and run no code when read."""

from collections.abc import Mapping
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from qmvae.pipeline.files import REPRO, FileError, cure, replacing


def save(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Write tensors of any shapes and types, with a few strings, as one safetensors file."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with replacing(path) as partial:
        partial.write_bytes(safetensors.torch.save(tensors, dict(metadata or {}) or None))


def load(path: Path, device: torch.device | str = "cpu", hint: str = REPRO) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the tensors of a safetensors file, on `device`, and its strings. FileError if it is missing or broken."""
    try:
        with safetensors.safe_open(path, framework="pt", device=str(device)) as file:
            return {name: file.get_tensor(name) for name in file.keys()}, dict(file.metadata() or {})
    except FileNotFoundError:  # safetensors raises it for each file that it cannot open
        fault = "cannot be opened; change its permissions or" if path.exists() else "file not found;"
        raise FileError(f"{path}: {fault} {hint}") from None
    except (OSError, safetensors.SafetensorError) as error:
        raise FileError(f"{path}: not a complete safetensors file: {error}; {cure(hint)}") from None


def load_weights(path: Path, expected: Mapping[str, Tensor], what: str, hint: str) -> dict[str, Tensor]:
    """Return the weights of a safetensors file as float32; the file may have them as float16, as published ones do.

    expected: tensors with the names, shapes and types that the weights must have. what: the thing that they belong to,
    for the message. Raises FileError if the file is missing or broken, or if a tensor differs from what is expected or
    is not finite.
    """

    def form(tensors: Mapping[str, Tensor], key: str) -> str:
        return f"{tuple(tensors[key].shape)} {tensors[key].dtype}" if key in tensors else ""

    stored, _ = load(path, hint=hint)
    weights = {key: t.float() if t.dtype == torch.float16 else t for key, t in stored.items()}
    for key in sorted(expected.keys() | weights.keys()):
        found, wanted = form(weights, key), form(expected, key)
        if found != wanted:
            fault = f"{key} is {found or 'missing'}, expected {wanted or 'nothing of that name'}"
            raise FileError(f"{path}: does not fit {what}: {fault}; {hint}")
    if broken := not_finite(weights):
        raise FileError(f"{path}: {broken} has values that are not finite; {hint}")
    return weights


def not_finite(tensors: Mapping[str, Tensor]) -> str | None:
    """Return the name of the first tensor that has NaN or infinite values, or None."""
    return next((name for name, tensor in tensors.items() if not tensor.isfinite().all()), None)
