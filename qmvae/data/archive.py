"""Images from the user's archives, one <modality>.npz in the data folder; data/README.md describes the format.

A file may come from a stranger: nothing is unpickled, and a header is checked before memory is allocated for its array.
"""

import math
import zipfile
from pathlib import Path

import numpy as np

from qmvae.data.checks import ARRAYS, DataError

MOST_BYTES = 4 * 2**30  # of one archive, unpacked


def find(folder: Path, name: str) -> Path:
    """Return the path of one modality's archive. Raises DataError if there is no file."""
    path = folder / f"{name}.npz"
    if not path.exists():
        cure = "put it there, name its folder as `folder` in params.yaml, or run `make repro PRESET=quick`"
        raise DataError(f"{path}: file not found, expected an archive with {', '.join(ARRAYS)}; {cure}")
    if not path.is_file():
        what = "a folder" if path.is_dir() else "no regular file"
        raise DataError(f"{path}: found {what}, expected a .npz file; move it away and put the file there")
    return path


def read(folder: Path, name: str) -> tuple[str, dict[str, np.ndarray]]:
    """Return the path of one modality's archive, and its four arrays. Raises DataError."""
    path = find(folder, name)
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.namelist()
            if lacking := [key for key in ARRAYS if f"{key}.npy" not in entries]:
                names = ", ".join(entry.removesuffix(".npy") for entry in entries)
                found = ascii(names)[1:-1][:300] or "nothing"  # a stranger's names, on one line
                raise DataError(f"{path}: {lacking[0]}: not in it, found {found}; rename or add this array")
            return str(path), {key: _array(path, archive, key) for key in ARRAYS}
    except PermissionError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}; change its permissions") from None
    except (zipfile.BadZipFile, EOFError, OSError, ValueError, NotImplementedError) as error:
        if isinstance(error, DataError):
            raise
        expected = f"expected one with {', '.join(ARRAYS)}; it may be cut short, copy it again"
        raise DataError(f"{path}: found no complete .npz file ({error}), {expected}") from None


def _array(path: Path, archive: zipfile.ZipFile, key: str) -> np.ndarray:
    """Return an array whose header agrees with the size of its entry; only then is memory allocated for it."""
    where, entry = f"{path}: {key}", archive.getinfo(f"{key}.npy")
    try:
        with archive.open(entry) as file:
            version = np.lib.format.read_magic(file)
            if version != (1, 0):  # later ones are for structured types, and their headers may be huge
                raise ValueError(f"a .npy of version {version}")
            shape, _, dtype = np.lib.format.read_array_header_1_0(file)
            claimed = file.tell() + math.prod(shape) * dtype.itemsize
    except Exception as error:  # a hostile header can trip NumPy's parser in many ways
        expected = "expected one as np.savez writes it; save the array again"
        raise DataError(f"{where}: found no readable header ({error}), {expected}") from None
    if dtype.hasobject:
        raise DataError(f"{where}: found pickled Python objects, expected plain integers; convert and save again")
    if claimed != entry.file_size or min(shape, default=0) < 0:
        size = f"{entry.file_size:,} bytes, expected {claimed:,} for its shape {shape}"
        raise DataError(f"{where}: found {size}; save it again")
    if (total := sum(info.file_size for info in archive.infolist())) > MOST_BYTES:
        expected = f"expected at most {MOST_BYTES:,}; take fewer images"
        raise DataError(f"{where}: found {total:,} bytes unpacked with the rest of the file, {expected}")
    try:
        with archive.open(entry) as file:
            return np.lib.format.read_array(file, allow_pickle=False)
    except Exception as error:  # a wrong checksum, lack of memory, and all other faults of unpacking
        raise DataError(f"{where}: found data that can't be read ({error!r}); copy the archive again") from None
