"""Images from outside: archives of any origin, and MNIST and SVHN in the files of their authors. No network."""

import gzip
import hashlib
import io
import os
import re
import struct
import subprocess
import sys
import zipfile
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import scipy.io
import torch
import yaml
from tiny import environment, write_project
from torchvision.datasets import MNIST, SVHN

from qmvae import __main__ as command
from qmvae.data import archive, official
from qmvae.data.checks import DataError, check_sides
from qmvae.data.dataset import build
from qmvae.data.sources import files_read, read

MNIST_TEST = [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
REAL = Path(__file__).parents[2] / "shared" / "data"
NAMES = ("mnist", "svhn")


@pytest.fixture
def project(tmp_path):
    """A project with two good archives, and a way to spoil an array of mnist.npz."""
    return write_project(tmp_path)


def rewrite(project, **arrays):
    """Put other arrays into mnist.npz; None takes one out."""
    path = project / "data" / "mnist.npz"
    with np.load(path) as old:
        arrays = dict(old) | arrays
    np.savez(path, **{key: array for key, array in arrays.items() if array is not None})


def build_from(source, folder, names=NAMES, redraw=False):
    titles = {"mnist": "MNIST", "svhn": "SVHN"}
    return build(read(source, folder, names, 0), {n: titles.get(n, n) for n in names}, 30, 0, redraw)


def make(project):
    return build_from("archive", project / "data")


def images(*shape, dtype=np.uint8):
    return np.zeros(shape, dtype)


LABELS = np.arange(120) % 10

# what is put into mnist.npz, and what the message then says after naming the file
BAD_ARRAYS = {
    "missing": (dict(test_labels=None), "test_labels: not in it"),
    "floats": (
        dict(train_images=images(120, 16, 16, dtype=np.float32)),
        r"train_images: found type float32, expected uint8, 0 to 255; save `\(images \* 255\).round\(\)",
    ),
    "nan": (
        dict(test_images=np.full((40, 16, 16), np.nan)),
        "test_images: found type float64, expected uint8, .* NaN or infinity",
    ),
    "signed": (dict(train_images=images(120, 16, 16, dtype=np.int8)), "train_images: found type int8, expected uint8"),
    "0 to 255": (dict(test_images=images(40, 16, 16, dtype=int) + 255), r"type int64, .* save `images.round\(\).ast"),
    "12 bits": (
        dict(train_images=images(120, 16, 16, dtype=np.uint16) + 4095),
        r"type uint16, .* their values are 4095 to 4095: save `\(\(images - a\) .*where a is black and b white",
    ),
    "-1 to 1": (dict(train_images=np.linspace(-1, 1, 30720).reshape(120, 16, 16)), r"values are -1 to 1: save `\(\(im"),
    "masks": (dict(train_images=images(120, 16, 16, dtype=bool)), r"found type bool, .*`images \* np.uint8\(255\)`"),
    "objects": (dict(train_images=np.full((120, 16, 16), None)), "train_images: found pickled Python objects"),
    "text": (dict(train_labels=LABELS.astype(str)), r"train_labels: found type <U\d+, expected integers; number"),
    "float labels": (dict(test_labels=np.full(40, np.nan)), "test_labels: found type float64, expected integers"),
    "flat": (dict(train_images=images(120, 256)), r"train_images: found shape \(120, 256\), expected \(N, height"),
    "five sizes": (dict(train_images=images(120, 1, 1, 16, 16)), "train_images: found shape .*, expected"),
    "channels first": (
        dict(train_images=images(120, 3, 16, 16)),
        r"train_images: found shape \(120, 3, 16, 16\), expected 1 or 3 .*`images.transpose\(0, 2, 3, 1\)`",
    ),
    "grey and alpha": (
        dict(train_images=images(120, 16, 16, 2)),
        r"train_images: found shape .*, expected 1 or 3 .* alpha, save `images\[..., :1\]`",
    ),
    "alpha": (dict(train_images=images(120, 16, 16, 4)), r"expected 1 or 3 .* alpha, save `images\[..., :3\]`"),
    "the images last": (
        dict(train_images=images(20, 20, 3, 120)),
        r"if the images are the last .*transpose\(3, 0, 1, 2",
    ),
    "alpha first": (dict(train_images=images(120, 4, 16, 16)), r"`images\[:, :3\].transpose\(0, 2, 3, 1\)`"),
    "too small": (dict(train_images=images(120, 8, 8)), "train_images: found shape .*, expected sides of 16 to"),
    "no images": (dict(train_images=images(0, 16, 16)), "train_images: found no image, expected at least one"),
    "one more": (dict(train_labels=np.arange(121) % 10), "train_labels: found 121 labels for 120 images, expected"),
    "label rows": (dict(train_labels=LABELS[:, None]), r"train_labels: found shape \(120, 1\), expected \(N,\)"),
    "one label": (dict(train_labels=np.int64(3)), r"train_labels: found shape \(\), expected \(N,\)"),
    "label 10": (dict(train_labels=LABELS + 1), "train_labels: found no image of class 0; .*test_labels: .* class 10"),
    "label -1": (
        dict(test_labels=np.arange(40) % 10 - 1),
        "train_labels: found no image of class -1; .*test_labels: found no image of class 9; "
        ".*svhn.npz: train_labels and test_labels: found no image of class -1, expected each class",
    ),
    "huge label": (
        dict(train_labels=LABELS.astype(np.uint64) + 2**63),
        r"train_labels: found 10 classes, 9223\d* to 9223\d*, expected at most 100, below 2\*\*63; renumber",
    ),
    "a label an image": (
        dict(train_labels=np.arange(120)),
        "train_labels: found 120 classes, 0 to 119, expected at most",
    ),
    "class gone": (dict(train_labels=LABELS % 9), "train_labels: found no image of class 9, expected each class in"),
    "test class gone": (
        dict(test_labels=np.arange(40) % 8),
        "test_labels: found no image of class 8, 9, expected each class in training",
    ),
    "labels from 1": (
        dict(train_labels=LABELS + 1, test_labels=np.arange(40) % 10 + 1),
        "train_labels and test_labels: found no image of class 0; "
        ".*svhn.npz: train_labels and test_labels: found no image of class 10, expected .*`labels % 10`",
    ),
    "no value above 1": (
        dict(train_images=images(120, 16, 16) + 1),
        r"train_images: found no value above 1, .*`images \* 255`",
    ),
    "floats cut off": (
        dict(test_images=np.full((40, 16, 16), 0.9).astype(np.uint8)),
        r"test_images: found no value above 0, expected 0 \(black\) to 255; save `images \* 255`, with floats before",
    ),
    "other size": (dict(test_images=images(40, 24, 24)), r"test_images: found images of \(24, 24\), expected \(16, 16"),
    "other channels": (
        dict(test_images=images(40, 16, 16, 3)),
        "test_images: found images of .*, expected .*; save both with the",
    ),
    "white only": (dict(test_images=images(40, 16, 16) + 255), "test_images: found the value 255 only, expected 0"),
}


@pytest.mark.parametrize("fault", BAD_ARRAYS)
def test_a_bad_array_is_refused_by_name(project, fault):
    arrays, message = BAD_ARRAYS[fault]
    rewrite(project, **arrays)
    with pytest.raises(DataError, match=message) as error:
        make(project)
    assert str(project / "data" / "mnist.npz") in str(error.value) and "\n" not in str(error.value)


def relabel(project, *names, number=lambda labels: labels % 9, only=""):
    """Number the classes of these modalities otherwise, in training and test, or in one of them."""
    for name in names:
        path = project / "data" / f"{name}.npz"
        with np.load(path) as old:
            arrays = {
                k: number(v.astype(int)) if k.startswith(only) and k.endswith("labels") else v for k, v in old.items()
            }
        np.savez(path, **arrays)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("part", ["train", "test"])
def test_a_class_that_one_modality_lacks_is_named(project, name, part):
    relabel(project, name, only=part)
    with pytest.raises(DataError, match=f"{name}.npz: {part}_labels: found no image of class 9, expected each class"):
        make(project)


def test_the_labels_of_svhns_authors_are_named_with_their_cure(project):
    relabel(project, "svhn", number=lambda labels: np.where(labels == 0, 10, labels))
    with pytest.raises(DataError) as error:
        make(project)
    lacking = [f"{project / 'data' / n}.npz: train_labels and test_labels: found no image of class" for n in NAMES]
    expected = "expected each class in training and test of every modality"
    cure = "if 10 stands for the digit 0, save `labels % 10`"
    assert str(error.value) == f"{lacking[0]} 10; {lacking[1]} 0, {expected}; {cure}"
    relabel(project, "svhn", number=lambda labels: labels % 10)
    assert make(project).classes.tolist() == list(range(10))


def test_labels_that_begin_elsewhere_are_not_taken_for_missing_classes(project):
    relabel(project, "svhn", number=lambda labels: labels + 3)
    with pytest.raises(DataError, match=r"begin elsewhere, save `labels - labels.min\(\)` in every array$"):
        make(project)


def test_other_names_of_arrays_are_listed(project):
    np.savez(project / "data" / "svhn.npz", **{"x_train": LABELS, "y_\x1btrain": LABELS})
    with pytest.raises(DataError, match=r"train_images: not in it, found x_train, y_\\x1btrain; rename or add"):
        make(project)


def cured(project, number):
    relabel(project, *NAMES, number=number)
    return project


@pytest.mark.parametrize(
    ("number", "classes"),
    [
        (lambda labels: labels % 9, range(9)),
        (lambda labels: labels + 1, range(1, 11)),
        (lambda labels: 1000 * labels - 5000, range(-5000, 5000, 1000)),
        (lambda labels: labels % 2 - 1, (-1, 0)),
    ],
)
def test_all_modalities_may_number_their_classes_in_any_way(project, number, classes):
    dataset = make(cured(project, number))
    assert dataset.classes.tolist() == list(classes) and dataset.classes.dtype == torch.int64


def test_one_class_is_not_enough(project):
    with pytest.raises(DataError, match="mnist.npz: train_labels: found class 3 only, expected 2 to 100 classes; add"):
        make(cured(project, lambda labels: 0 * labels + 3))


def write(folder, name, shape, classes, train=3, test=1, top=256):
    """Write an archive with this many images of each class; values below `top`."""
    random, arrays = np.random.default_rng(0), {}
    folder.mkdir(parents=True, exist_ok=True)
    for part, count in (("train", train), ("test", test)):
        labels = random.permutation(np.repeat(list(classes), count))
        pixels = random.integers(0, top, (len(labels), *shape), dtype=np.uint8)
        pixels.flat[0] = top - 1
        arrays |= {f"{part}_images": pixels, f"{part}_labels": labels}
    np.savez(folder / f"{name}.npz", **arrays)


@pytest.mark.parametrize("classes", [range(2), (2, 5, 9), range(-13, 13), range(1, 101)])
@pytest.mark.parametrize(
    "shapes", [{"photo": (16, 24, 3), "half": (18, 16)}, {"a": (16, 17), "b": (40, 16, 3), "c": (16, 16, 1)}]
)
def test_own_images_of_any_number_size_and_class(tmp_path, shapes, classes, capsys):
    for i, (name, shape) in enumerate(shapes.items()):
        write(tmp_path, name, shape, classes, train=2 + i)
    dataset = build_from("archive", tmp_path, shapes)
    assert dataset.shapes == {n: ((*shape, 1)[2], *shape[:2]) for n, shape in shapes.items()}
    assert dataset.classes.tolist() == list(classes) and dataset.titles == {n: n for n in shapes}
    for split, rounds in ((dataset.train, 30 * 2), (dataset.test, 30 * 1)):
        assert split.pairs.shape == (rounds * len(classes), len(shapes))
        shown = {n: split.labels[n][column] for n, column in zip(shapes, split.pairs.long().T, strict=True)}
        assert all(torch.equal(labels, torch.tensor(classes).repeat_interleave(rounds)) for labels in shown.values())
        images, labels = split.batch(torch.arange(len(split.pairs)))
        assert labels.unique().tolist() == list(classes)
        assert {n: x.shape[1:] for n, x in images.items()} == dataset.shapes
        for name in shapes:
            examples = [split.examples(name, nth) for nth in range(4)]
            assert all(e.shape == (len(classes), *dataset.shapes[name]) for e in examples)
    assert torch.equal(examples[0], examples[3])  # one test image a class, again and again
    assert capsys.readouterr().err == ""


def test_more_than_a_hundred_classes_are_refused(tmp_path):
    write(tmp_path, "mnist", (16, 16), range(101))
    write(tmp_path, "svhn", (16, 16), range(101))
    with pytest.raises(
        DataError, match="mnist.npz: train_labels: found 101 classes, 0 to 100, expected at most 100, below"
    ):
        build_from("archive", tmp_path)


@pytest.mark.parametrize(("top", "factor"), [(17, 15), (9, 31), (3, 127)])
def test_images_of_few_levels_are_warned_of(tmp_path, top, factor, capsys):
    write(tmp_path, "mnist", (16, 16), range(3), top=top)
    write(tmp_path, "svhn", (16, 16), range(3), top=18)
    assert build_from("archive", tmp_path).train.images["mnist"].max() == top - 1  # used unchanged
    where = tmp_path / "mnist.npz"
    assert capsys.readouterr().err.splitlines() == [
        f"warning: {where}: {key}: found no value above {top - 1}, expected 0 (black) to 255; "
        f"if {top - 1} is white, save `images * {factor}`"
        for key in ("train_images", "test_images")
    ]


def test_sides_for_the_conv_network(tmp_path):
    write(tmp_path, "photo", (16, 20, 3), range(3))
    write(tmp_path, "half", (24, 40), range(3))
    found = read("archive", tmp_path, ["photo", "half"], 0)
    check_sides(*found["half"], "half")
    with pytest.raises(DataError, match="photo.npz: train_images: found 16x20, expected .* by 8; .*photo.net to mlp"):
        check_sides(*found["photo"], "photo")


def test_the_archives_of_the_modalities_are_the_files_read(tmp_path):
    paths = [tmp_path / "photo.npz", tmp_path / "half.npz"]
    for path in paths:
        with pytest.raises(
            DataError,
            match=f"{re.escape(str(path))}: file not found, expected an archive with train_images, .*; put it",
        ):
            files_read("archive", tmp_path, ["photo", "half"])
        path.touch()
    assert files_read("archive", tmp_path, ["photo", "half"]) == paths
    assert files_read("torchvision", tmp_path / "nowhere", NAMES) == []  # their content is known


class Bomb:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_nothing_is_unpickled(project):
    went_off = project / "went_off"
    rewrite(project, train_images=np.array([Bomb(went_off)] * 120))
    with pytest.raises(DataError, match="mnist.npz: train_images: found pickled Python objects"):
        make(project)
    assert not went_off.exists()
    np.load(project / "data" / "mnist.npz", allow_pickle=True)["train_images"]  # the bomb is live
    assert went_off.exists()


def npy(shape, dtype="|u1", version=(1, 0), body=b""):
    header = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, }}".encode()
    size = struct.pack("<H" if version == (1, 0) else "<I", len(header))
    return b"\x93NUMPY" + bytes(version) + size + header + body


HOSTILE = {
    "claims a terabyte": (npy((10**9, 1024)), "train_images: found .* bytes, expected 1,024,000,000"),
    "claims more than 64 bits": (npy((2**40, 2**40)), "train_images: found .* bytes, expected"),
    "claims less": (npy((1, 16, 16), body=b"0" * 512), "train_images: found .* bytes, expected"),
    "negative": (npy((-1, -16, 16), body=b"0" * 256), "train_images: found .* bytes, expected"),
    "version 2": (npy((1, 16, 16), version=(2, 0), body=b"0" * 256), "train_images: found no readable header"),
    "no header": (b"\x93NUMPY", "train_images: found no readable header"),
    "no array": (b"hello", "train_images: found no readable header"),
    "nested": (npy("(" * 5000), "train_images: found no readable header"),
    "a pickle": (b"\x80\x04K\x01.", "train_images: found no readable header"),
}


def put(project, key, content):
    """Replace one entry of mnist.npz by raw bytes."""
    path = project / "data" / "mnist.npz"
    with zipfile.ZipFile(path) as old:
        entries = {name: old.read(name) for name in old.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as new:
        for name, value in (entries | {f"{key}.npy": content}).items():
            new.writestr(name, value)


@pytest.mark.parametrize("fault", HOSTILE)
def test_a_header_is_checked_before_room_is_made(project, fault):
    content, message = HOSTILE[fault]
    put(project, "train_images", content)
    with pytest.raises(DataError, match=f"mnist.npz: {message}"):
        make(project)


def test_an_archive_that_needs_a_later_unzip_is_named(project):
    path = project / "data" / "mnist.npz"
    content = bytearray(path.read_bytes())
    content[content.index(b"PK\x01\x02") + 6] = 99  # the version that is needed, in the directory at the end
    path.write_bytes(content)
    with pytest.raises(DataError, match="mnist.npz: found no complete .npz file .*version 9.9"):
        make(project)


def test_an_archive_that_unpacks_to_too_much_is_refused(project, monkeypatch):
    monkeypatch.setattr(archive, "MOST_BYTES", 2**20)
    rewrite(project, train_images=images(2**13, 16, 16))
    with pytest.raises(DataError, match="mnist.npz: train_images: found .* bytes unpacked .*at most 1,048,576"):
        make(project)


def break_file(path, how):
    content = path.read_bytes()
    path.unlink()
    if how == "folder":
        path.mkdir()
    elif how == "pipe":
        os.mkfifo(path)
    elif how == "cut short":
        path.write_bytes(content[: len(content) // 2])
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "a bare array":
        np.save(path.open("wb"), images(3, 3))


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("missing", "file not found, expected an archive with train_images, .*make repro PRESET=quick"),
        ("folder", "found a folder, expected a .npz file"),
        ("pipe", "found no regular file, expected a .npz file"),  # reading it would wait for ever
        ("cut short", "found no complete .npz file .*train_images.*copy it again"),
        ("empty", "found no complete .npz file"),
        ("a bare array", "found no complete .npz file"),
    ],
)
def test_a_bad_file_is_refused_by_name(project, how, message):
    path = project / "data" / "svhn.npz"
    break_file(path, how)
    with pytest.raises(DataError, match=message) as error:
        make(project)
    assert str(path) in str(error.value) and "\n" not in str(error.value)


def nans(project):
    rewrite(project, train_images=np.full((120, 16, 16), np.nan, np.float16))


def odd_sides(project):
    path, more = project / "data" / "svhn.npz", [(0, 0), (0, 4), (0, 4), (0, 0)]
    with np.load(path) as old:
        np.savez(path, **{k: np.pad(v, more) if k.endswith("images") else v for k, v in old.items()})


SPOILT = {name: lambda project, f=fault: rewrite(project, **f[0]) for name, fault in BAD_ARRAYS.items()}
SPOILT |= {name: lambda project, f=fault: put(project, "test_images", f[0]) for name, fault in HOSTILE.items()}
for broken in ("missing", "folder", "cut short", "empty", "a bare array"):
    SPOILT[f"file {broken}"] = lambda project, how=broken: break_file(project / "data" / "mnist.npz", how)
SPOILT |= {
    "class in one modality": lambda project: relabel(project, "svhn"),
    "one class everywhere": lambda project: relabel(project, *NAMES, number=lambda labels: 0 * labels),
}
SPOILT |= {"nan everywhere": nans, "sides that conv cannot halve": odd_sides}
SPOILT |= {
    "labels for images": lambda project: rewrite(project, train_images=LABELS),
    "images for labels": lambda project: rewrite(project, test_labels=images(40, 16, 16)),
    "truth values": lambda project: rewrite(project, train_images=images(120, 16, 16, dtype=bool)),
    "complex": lambda project: rewrite(project, train_labels=LABELS.astype(complex)),
    "dates": lambda project: rewrite(project, train_labels=LABELS.astype("datetime64[s]")),
    "a record": lambda project: rewrite(project, train_labels=np.zeros(120, [("digit", "i4")])),
    "no label": lambda project: rewrite(project, train_labels=np.zeros(0, int)),
    "nothing at all": lambda project: np.savez(project / "data" / "mnist.npz"),
}


def run_stage(monkeypatch):
    """Run `python -m qmvae data` in this process; return what it exits with."""
    monkeypatch.setattr(sys, "argv", ["qmvae", "data"])
    with pytest.raises(SystemExit) as end:
        command.main()
    return end.value.code


@pytest.mark.parametrize("fault", SPOILT)
def test_bad_images_end_the_command_with_one_line_and_leave_what_was_made(project, monkeypatch, fault):
    monkeypatch.chdir(project)
    assert not run_stage(monkeypatch)
    made = {path: path.read_bytes() for path in (project / "artifacts").rglob("*") if path.is_file()}
    assert made
    SPOILT[fault](project)
    message = run_stage(monkeypatch)  # a text, which Python prints, and exits with 1
    assert isinstance(message, str) and message.startswith("data: ") and "\n" not in message
    assert ".npz" in message  # names the file, says the cure:
    assert re.search("expected|copy it again|copy the archive again|add this array", message)
    assert made == {path: path.read_bytes() for path in (project / "artifacts").rglob("*") if path.is_file()}


def test_there_are_forty_bad_inputs():
    assert len(SPOILT) >= 40


def test_flipped_bits_are_noticed(project):
    rewrite(project)  # not compressed
    path = project / "data" / "mnist.npz"
    content = bytearray(path.read_bytes())
    content[2000] ^= 1  # within train_images
    path.write_bytes(content)
    with pytest.raises(DataError, match="mnist.npz: train_images: found data that can't be read"):
        make(project)


def test_good_archives_come_as_they_are(project):
    with np.load(project / "data" / "svhn.npz") as arrays:
        arrays = dict(arrays)
    arrays["test_labels"] = arrays["test_labels"].astype(">i8")  # any integers, whatever their order of bytes
    arrays["train_images"] = np.asfortranarray(arrays["train_images"])
    np.savez(project / "data" / "svhn.npz", **arrays, notes=np.array("extra arrays do no harm"))
    dataset = make(project)
    assert dataset.shapes == {"mnist": (1, 16, 16), "svhn": (3, 16, 16)}
    assert np.array_equal(dataset.train.images["svhn"].permute(0, 2, 3, 1).numpy(), arrays["train_images"])
    assert dataset.test.labels["svhn"].dtype == torch.int64
    assert np.array_equal(dataset.test.labels["svhn"].numpy(), arrays["test_labels"])


@pytest.mark.skipif(not all((REAL / f"{n}.npz").is_file() for n in NAMES), reason=f"no real images in {REAL}")
def test_the_real_archives():
    dataset = build_from("archive", REAL, redraw=True)
    assert dataset.describe() == "MNIST 60,000/10,000 + SVHN 10,434/2,000"
    assert dataset.shapes == {"mnist": (1, 28, 28), "svhn": (3, 32, 32)}
    assert torch.bincount(dataset.test.labels["mnist"]).tolist() == MNIST_TEST
    assert len(dataset.train.pairs) == 30 * 10_434  # MNIST has more of every class
    assert len(dataset.test.pairs) == 30 * 2_000


# The files of the paper's data sets, tiny, with their checksums in the place of the official ones.


def md5(content):
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


def idx(array):
    return bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}i", *array.shape) + array.tobytes()


@pytest.fixture
def published(tmp_path, monkeypatch):
    """{path in the data folder: content} of six small official files; the network is cut."""
    random = np.random.default_rng(0)
    unpacked, contents = {}, {}
    for key, (name, _) in official.MNIST_FILES.items():
        count = 60 if key.startswith("train") else 20
        array = random.integers(0, 256, (count, 28, 28)) if key.endswith("images") else np.arange(count) % 10
        contents[f"MNIST/raw/{name}"] = idx(array.astype(np.uint8))
        unpacked[key] = (name, md5(contents[f"MNIST/raw/{name}"]))
        contents[f"MNIST/raw/{name}.gz"] = gzip.compress(contents[f"MNIST/raw/{name}"], mtime=0)
    monkeypatch.setattr(official, "MNIST_FILES", unpacked)
    packed = [(f"{name}.gz", md5(contents[f"MNIST/raw/{name}.gz"])) for name, _ in unpacked.values()]
    monkeypatch.setattr(MNIST, "resources", packed)
    split_list = {}
    for part, count in (("train", 50), ("test", 30)):
        file = io.BytesIO()
        labels = (np.arange(count) % 10 + 1)[:, None].astype(np.uint8)  # 1..10, as SVHN's authors have them
        scipy.io.savemat(file, {"X": random.integers(0, 256, (32, 32, 3, count)).astype(np.uint8), "y": labels})
        url, name, _ = SVHN.split_list[part]
        contents[name] = file.getvalue()
        split_list[part] = [url, name, md5(contents[name])]
    monkeypatch.setattr(SVHN, "split_list", split_list)
    monkeypatch.setattr(official, "download_url", no_internet)
    return contents


def no_internet(url, *_):
    raise URLError("no route to host")


def lay(folder, contents, leave_out=""):
    for name, content in contents.items():
        if not leave_out or not name.endswith(leave_out):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(content)


def paper(folder):
    return build_from("torchvision", folder / "data")


@pytest.mark.parametrize("leave_out", [".gz", "ubyte"])
def test_published_files_are_used_where_they_lie(tmp_path, published, leave_out):
    lay(tmp_path / "data", published, leave_out)
    before = sorted((tmp_path / "data").rglob("*"))
    used = [path for name in NAMES for path in official.files(tmp_path / "data", name)]
    assert len(used) == 6 and set(used) == {path for path in before if path.is_file()}
    dataset = paper(tmp_path)
    assert dataset.describe() == "MNIST 60/20 + SVHN 50/30"
    assert dataset.shapes == {"mnist": (1, 28, 28), "svhn": (3, 32, 32)}
    assert dataset.train.labels["mnist"].tolist() == [i % 10 for i in range(60)]
    assert dataset.train.labels["svhn"].tolist() == [(i + 1) % 10 for i in range(50)]  # 10 became 0
    raw = published["MNIST/raw/t10k-images-idx3-ubyte"]
    assert dataset.test.images["mnist"].numpy().tobytes() == raw[16:]
    matrix = scipy.io.loadmat(io.BytesIO(published["test_32x32.mat"]))["X"]
    assert np.array_equal(dataset.test.images["svhn"][7].permute(1, 2, 0).numpy(), matrix[..., 7])
    assert sorted((tmp_path / "data").rglob("*")) == before


def serve(published, spoil=lambda content: content):
    def download(url, folder, name, expected):
        content = spoil(next(c for path, c in published.items() if path.endswith(name)))
        (Path(folder) / name).write_bytes(content)
        if md5(content) != expected:
            raise RuntimeError("File not found or corrupted.")

    return download


def test_what_is_not_there_is_downloaded_once(tmp_path, published, monkeypatch):
    monkeypatch.setattr(official, "download_url", serve(published))
    first = paper(tmp_path)
    assert all(path.is_file() for name in NAMES for path in official.files(tmp_path / "data", name))
    names = {str(p.relative_to(tmp_path / "data")) for p in (tmp_path / "data").rglob("*") if p.is_file()}
    assert names == {name for name in published if not name.endswith("ubyte")}
    monkeypatch.setattr(official, "download_url", no_internet)
    assert torch.equal(paper(tmp_path).train.images["svhn"], first.train.images["svhn"])


@pytest.mark.parametrize("spoil", [lambda c: c[:-5], lambda c: b"<html>log in</html>", lambda c: b""])
def test_a_download_cut_short_leaves_nothing(tmp_path, published, monkeypatch, spoil):
    monkeypatch.setattr(official, "download_url", serve(published, spoil))
    with pytest.raises(DataError, match="download failed.*corrupted"):
        paper(tmp_path)
    assert not [p for p in (tmp_path / "data").rglob("*") if p.is_file() or "download" in p.name]


def test_without_network_the_message_says_what_belongs_where(tmp_path, published):
    with pytest.raises(DataError) as error:
        paper(tmp_path)
    message = str(error.value)
    for name in published:
        assert str(tmp_path / "data" / name) in message
    assert "no route to host" in message and "make repro PRESET=quick" in message


def test_the_command_without_network_ends_in_a_message_and_leaves_nothing(tmp_path):
    document = yaml.safe_load((write_project(tmp_path) / "params.yaml").read_text())
    document["presets"]["tiny"]["images"]["source"] = "torchvision"
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(document))
    before = sorted(filter(Path.is_file, tmp_path.rglob("*")))
    nowhere = dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), "http://127.0.0.1:9")
    nowhere |= {"no_proxy": "", "NO_PROXY": ""}
    command = [sys.executable, "-m", "qmvae", "data"]
    run = subprocess.run(command, cwd=tmp_path, env=environment(**nowhere), capture_output=True, text=True)
    assert run.returncode == 1 and "download failed" in run.stderr and "make repro PRESET=quick" in run.stderr
    assert "Traceback" not in run.stderr and sorted(filter(Path.is_file, tmp_path.rglob("*"))) == before


@pytest.mark.parametrize("name", ["MNIST/raw/train-labels-idx1-ubyte", "test_32x32.mat"])
def test_a_file_cut_short_is_named_and_a_download_replaces_it(tmp_path, published, monkeypatch, name):
    lay(tmp_path / "data", published, ".gz")
    path = tmp_path / "data" / name
    path.write_bytes(published[name][:-3])
    with pytest.raises(DataError, match=name):
        paper(tmp_path)
    monkeypatch.setattr(official, "download_url", serve(published))
    assert paper(tmp_path).train.labels["mnist"].tolist() == [i % 10 for i in range(60)]


def test_a_place_that_cannot_be_written_is_named(tmp_path, published):
    (tmp_path / "data").write_text("a file where the folder should be")  # fails for root too, unlike a read-only folder
    with pytest.raises(DataError, match="cannot be read or written") as error:
        paper(tmp_path)
    assert str(tmp_path / "data") in str(error.value) and "make repro PRESET=quick" in str(error.value)


def test_the_checksums_of_the_unpacked_files_are_the_official_ones():
    if not REAL.is_dir():
        pytest.skip(f"no real images in {REAL}")
    with np.load(REAL / "mnist.npz") as arrays:
        computed = {key: md5(idx(arrays[key])) for key in arrays}
    assert computed == {key: expected for key, (_, expected) in official.MNIST_FILES.items()}


def test_a_modality_that_no_model_can_hold_is_refused_before_any_work(tmp_path):
    write_project(tmp_path)
    path = tmp_path / "params.yaml"
    path.write_text(path.read_text().replace("mnist:", "train:"))
    command = [sys.executable, "-m", "qmvae", "data"]
    run = subprocess.run(command, cwd=tmp_path, env=environment(), capture_output=True, text=True)
    assert run.returncode == 1 and "Traceback" not in run.stderr
    assert "modality 'train': nn.ModuleDict cannot hold it" in run.stderr and "rename it" in run.stderr
