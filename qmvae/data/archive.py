"""Images from archives that the user brings, one <modality>.npz in the data folder; data/README.md gives the format.

The files may come from anywhere: nothing is unpickled, and an array's header is checked before room is made for it.
"""

import math
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from qmvae.data.checks import ARRAYS, DataError, check_form
from qmvae.params import Params

MOST_BYTES = 4 * 2**30  # of one archive, unpacked


@dataclass(frozen=True)
class Header:
    shape: tuple[int, ...]
    dtype: np.dtype


def read(params: Params, name: str) -> tuple[str, dict[str, np.ndarray]]:
    """The four arrays of one modality, and the path of their archive.

    Images uint8 (N, H, W) or (N, H, W, C), labels of any integer type (N,). Raises DataError.
    """
    path = params.data / f"{name}.npz"
    try:
        with zipfile.ZipFile(path) as archive:
            present = [key for key in ARRAYS if f"{key}.npy" in archive.namelist()]
            headers = {key: _header(path, archive, key) for key in present}
            check_form(str(path), headers)
            return str(path), {key: _array(path, archive, key) for key in ARRAYS}
    except FileNotFoundError:
        cure = "put it there, name its folder as `folder` in params.yaml, or run `make repro PRESET=quick`"
        raise DataError(f"{path}: not there, expected an archive with {', '.join(ARRAYS)}; {cure}") from None
    except IsADirectoryError:
        raise DataError(f"{path}: found a folder, expected a .npz file; move it away and put the file there") from None
    except (zipfile.BadZipFile, EOFError, OSError, ValueError) as error:
        if isinstance(error, DataError):
            raise
        expected = f"expected one with {', '.join(ARRAYS)}; it may be cut short, copy it again"
        raise DataError(f"{path}: found no whole .npz file ({error}), {expected}") from None


def _header(path: Path, archive: zipfile.ZipFile, key: str) -> Header:
    """Shape and type of an array, from the first bytes of its entry; what they claim must fit the entry's size."""
    where, entry = f"{path}: {key}", archive.getinfo(f"{key}.npy")
    try:
        with archive.open(entry) as file:
            version = np.lib.format.read_magic(file)
            if version != (1, 0):  # later ones are for structured types, and their headers may be huge
                raise ValueError(f"a .npy of version {version}")
            shape, _, dtype = np.lib.format.read_array_header_1_0(file)
            length = file.tell()
    except Exception as error:  # a hostile header can trip NumPy's parser in many ways
        expected = "expected one as np.savez writes it; save the array again"
        raise DataError(f"{where}: found no readable header ({error}), {expected}") from None
    if dtype.hasobject:
        raise DataError(f"{where}: found pickled Python objects, expected plain integers; convert and save again")
    claimed, held = length + math.prod(shape) * dtype.itemsize, entry.file_size
    total = sum(info.file_size for info in archive.infolist())
    if claimed != held or min(shape, default=0) < 0:
        raise DataError(f"{where}: found {held:,} bytes, expected {claimed:,} for its shape {shape}; save it again")
    if total > MOST_BYTES:
        expected = f"expected at most {MOST_BYTES:,}; take fewer images"
        raise DataError(f"{where}: found {total:,} bytes unpacked with the rest of the file, {expected}")
    return Header(shape, dtype)


def _array(path: Path, archive: zipfile.ZipFile, key: str) -> np.ndarray:
    try:
        with archive.open(f"{key}.npy") as file:
            return np.lib.format.read_array(file, allow_pickle=False)
    except Exception as error:  # every way in which unpacking can fail, wrong checksums and lack of memory included
        raise DataError(f"{path}: {key}: found data that can't be read ({error!r}); copy the archive again") from None
