"""The paper's images, MNIST and SVHN as published: found where torchvision keeps them, or downloaded by it.

Addresses, checksums and downloader are torchvision's. Its MNIST class is not used, since it does not check unpacked
files, loads old .pt files first, and leaves half a file behind when it is interrupted.
"""

import contextlib
import gzip
import os
import socket
import tempfile
from http.client import HTTPException
from pathlib import Path

import numpy as np
from torchvision.datasets import MNIST, SVHN
from torchvision.datasets.utils import check_integrity, download_url

from qmvae.data.checks import DataError

MNIST_FILES = {  # names and MD5 sums of the unpacked files; torchvision has the sums of the packed files only
    "train_images": ("train-images-idx3-ubyte", "6bbc9ace898e44ae57da46a324031adb"),
    "train_labels": ("train-labels-idx1-ubyte", "a25bea736e30d166cdddb491f175f624"),
    "test_images": ("t10k-images-idx3-ubyte", "2646ac647ad5339dbf082846283269ea"),
    "test_labels": ("t10k-labels-idx1-ubyte", "27ae3e4e09519cfbb04c329615203637"),
}
TIMEOUT = 30  # seconds without a byte; torchvision would wait forever


def read(folder: Path, name: str) -> tuple[str, dict[str, np.ndarray]]:
    """Return the folder of one modality's files, mnist or svhn, and its four arrays.

    Images uint8 (N, 28, 28) or (N, 32, 32, 3), labels integers (N,), 0..9. Raises DataError where a
    file is missing and cannot be downloaded.
    """
    try:
        return (_mnist if name == "mnist" else _svhn)(folder)
    except OSError as error:
        raise DataError(f"{folder}: cannot be read or written: {error}\n{_cure(folder)}") from None


def files(folder: Path, name: str) -> list[Path]:
    """Return the paths of one modality's files: the unpacked file if there is one, else the official one."""
    if name == "mnist":
        paths = [folder / "MNIST" / "raw" / unpacked for unpacked, _ in MNIST_FILES.values()]
        return [path if path.exists() else path.with_name(f"{path.name}.gz") for path in paths]
    return [folder / SVHN.split_list[part][1] for part in ("train", "test")]


def _mnist(folder: Path) -> tuple[str, dict[str, np.ndarray]]:
    raw = folder / "MNIST" / "raw"
    packed_md5 = dict(MNIST.resources)
    arrays = {}
    for key, (name, md5) in MNIST_FILES.items():
        if check_integrity(raw / name, md5):
            content = (raw / name).read_bytes()
        else:
            packed = f"{name}.gz"
            urls = [mirror + packed for mirror in MNIST.mirrors]
            content = gzip.decompress(_fetch(folder, raw / packed, urls, packed_md5[packed]).read_bytes())
        arrays[key] = _idx(content)
    return str(raw), arrays


def _idx(content: bytes) -> np.ndarray:
    """Return the array of an IDX file of bytes.

    Two zeros, the type (8), the rank, each dimension as a big-endian int32, then the values.
    """
    rank = content[3]
    shape = np.frombuffer(content, ">i4", rank, offset=4)
    return np.frombuffer(content, np.uint8, offset=4 + 4 * rank).reshape(shape)


def _svhn(folder: Path) -> tuple[str, dict[str, np.ndarray]]:
    arrays = {}
    for part in ("train", "test"):
        url, name, md5 = SVHN.split_list[part]
        _fetch(folder, folder / name, [url], md5)
        images = SVHN(str(folder), split=part)  # its labels are 0 to 9: torchvision turns 10 into 0
        arrays[f"{part}_images"] = images.data.transpose(0, 2, 3, 1)
        arrays[f"{part}_labels"] = images.labels
    return str(folder), arrays


def _fetch(folder: Path, path: Path, urls: list[str], md5: str) -> Path:
    """Return `path` of a complete file. If need be, download it beside its place, check it, and then move it there."""
    if check_integrity(path, md5):
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    reasons = []
    with tempfile.TemporaryDirectory(prefix=".download-", dir=path.parent) as place, _patience(TIMEOUT):
        for url in urls:
            try:
                download_url(url, place, path.name, md5)  # raises RuntimeError if the MD5 sum is wrong
                os.replace(Path(place) / path.name, path)
                return path
            except (OSError, RuntimeError, HTTPException) as error:
                reasons.append(f"{url}: {error}")
    state = "found a file with a wrong MD5 sum, cut short or altered" if path.exists() else "file not found"
    raise DataError(f"{path}: {state}, and the download failed ({'; '.join(reasons)})\n{_cure(folder)}")


def _cure(folder: Path) -> str:
    listed = "\n".join(f"  {path}" for name in ("mnist", "svhn") for path in files(folder, name))
    return f"Put the official files there yourself (or .gz files unpacked):\n{listed}\nor run `make repro PRESET=quick`"


@contextlib.contextmanager
def _patience(seconds: float):
    """Limit how long a connection may be silent, for downloaders without a timeout of their own."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
