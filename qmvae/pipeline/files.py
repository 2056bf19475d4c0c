"""Files that are either complete or absent: each is written under another name, flushed to disk, then renamed.

This module does not import torch, which takes a second or two: many short processes need it. See tensor_files.py.
"""

import contextlib
import functools
import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

REPRO = "run `dvc repro`"


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
            f"{path}: cannot be written: {error.strerror or error}; the earlier file, if any, is kept"
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


def load_json(path: Path, hint: str = REPRO):
    """Return the value of a JSON file. Raises FileError if it is missing or broken; hint: what the user can do."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise FileError(f"{path}: file not found; {hint}") from None
    except (OSError, ValueError, RecursionError) as error:
        raise FileError(f"{path}: cannot be read as JSON: {error}; {cure(hint)}") from None


def cure(hint: str) -> str:
    """Return what to do about a broken file. A run makes its own files again, and no other file."""
    return f"delete it and {hint}" if hint == REPRO else hint


def fingerprint(parts: Any, paths: Iterable[Path]) -> str:
    """Return the SHA-256 over values, as JSON, and over the contents of files, in this order."""
    digest = hashlib.sha256(json.dumps(parts, sort_keys=True).encode())
    for path in paths:
        digest.update(sha256(path))
    return digest.hexdigest()


def sha256(path: Path) -> bytes:
    """Return the SHA-256 of a file's contents; an unchanged file is read once in a process."""
    found = path.stat()
    return _sha256(path, found.st_mtime_ns, found.st_size)


@functools.cache
def _sha256(path: Path, modified: int, size: int) -> bytes:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


def has_fingerprint(path: Path, fingerprint: str) -> bool:
    """Return whether a JSON file is there and names this fingerprint. Raises FileError if it is broken."""
    return path.exists() and isinstance(found := load_json(path), dict) and found.get("fingerprint") == fingerprint
