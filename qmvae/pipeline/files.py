"""Files that are either complete or absent: each is written under another name, flushed to disk, then renamed.

Tensors are stored as safetensors, which hold numbers and a few strings and run no code when read. Nothing is unpickled.
"""

import contextlib
import functools
import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor


class FileError(RuntimeError):
    """A file is missing, broken or can't be written; the message names it and says what to do."""


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a path to write to. On success it replaces `path` in one step; on failure `path` stays as it was.

    Raises FileError where the disk is full or the folder can't be written.
    """
    partial = path.with_name(f".{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield partial
        with open(partial, "rb") as file:
            os.fsync(file.fileno())
        os.replace(partial, path)
    except OSError as error:
        raise FileError(
            f"{path}: cannot be written: {error.strerror or error}; what was there before is kept"
        ) from None
    finally:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)


def save_text(path: Path, text: str) -> None:
    """Write UTF-8 text."""
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8")


def save_json(path: Path, value) -> None:
    """Write JSON, indented. Raises ValueError on NaN and infinity, which JSON cannot hold."""
    save_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def load_json(path: Path, hint: str = "run `dvc repro`"):
    """Return the value of a JSON file. Raises FileError if it is missing or broken; hint: what the user can do."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise FileError(f"{path}: not there; {hint}") from None
    except (OSError, ValueError, RecursionError) as error:
        raise FileError(f"{path}: cannot be read as JSON: {error}; delete it and {hint}") from None


def fingerprint(parts: Any, paths: Iterable[Path]) -> str:
    """Return the SHA-256 over values, as JSON, and over the contents of files, in this order."""
    digest = hashlib.sha256(json.dumps(parts, sort_keys=True).encode())
    for path in paths:
        found = path.stat()
        digest.update(_sha256(path, found.st_mtime_ns, found.st_size))
    return digest.hexdigest()


@functools.cache
def _sha256(path: Path, modified: int, size: int) -> bytes:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


def has_fingerprint(path: Path, fingerprint: str) -> bool:
    """Return whether a JSON file is there and names this fingerprint. Raises FileError if it is broken."""
    return path.exists() and load_json(path).get("fingerprint") == fingerprint


def save_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Write tensors of any shapes and types, with a few strings, as one safetensors file."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with replacing(path) as partial:
        partial.write_bytes(safetensors.torch.save(tensors, dict(metadata or {}) or None))


def load_tensors(
    path: Path, device: str = "cpu", hint: str = "run `dvc repro`"
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the tensors of a safetensors file, on `device`, and its strings. FileError if it is missing or broken."""
    try:
        with safetensors.safe_open(path, framework="pt", device=str(device)) as file:
            return {name: file.get_tensor(name) for name in file.keys()}, dict(file.metadata() or {})
    except FileNotFoundError:
        raise FileError(f"{path}: not there; {hint}") from None
    except (OSError, safetensors.SafetensorError) as error:
        raise FileError(f"{path}: not a whole safetensors file: {error}; delete it and {hint}") from None


def load_weights(path: Path, expected: Mapping[str, Tensor], what: str, hint: str) -> dict[str, Tensor]:
    """Return the weights of a safetensors file as float32; the file may have them as float16, as published ones do.

    expected: tensors with the names, shapes and types that the weights must have. what: the thing that they belong to,
    for the message. Raises FileError if the file is missing or broken, or if a tensor differs from what is expected.
    """

    def form(tensors: Mapping[str, Tensor], key: str) -> str:
        return f"{tuple(tensors[key].shape)} {tensors[key].dtype}" if key in tensors else ""

    stored, _ = load_tensors(path, hint=hint)
    weights = {key: t.float() if t.dtype == torch.float16 else t for key, t in stored.items()}
    for key in sorted(expected.keys() | weights.keys()):
        found, wanted = form(weights, key), form(expected, key)
        if found != wanted:
            fault = f"{key} is {found or 'missing'}, expected {wanted or 'nothing of that name'}"
            raise FileError(f"{path}: does not fit {what}: {fault}; {hint}")
    return weights
