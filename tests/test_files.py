"""Files are whole or not there."""

import contextlib
import os
import resource
import signal
import subprocess
import sys
from types import SimpleNamespace

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from tiny import ROOT

from qmvae.pipeline import artifacts, files, tensor_files, training
from qmvae.report import tables


def test_a_failed_write_keeps_the_file_that_was_there(tmp_path):
    path = tmp_path / "a" / "numbers.json"
    files.save_json(path, [1])
    with pytest.raises(ValueError):
        files.save_json(path, [float("nan")])
    with pytest.raises(RuntimeError), files.replacing(path) as partial:
        partial.write_text("half")
        raise RuntimeError
    assert files.load_json(path) == [1]
    assert list(path.parent.iterdir()) == [path]


@contextlib.contextmanager
def room_for(size):
    """The disk takes no more than `size` bytes a file."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def save_checkpoint(folder, size):
    model = torch.nn.Linear(size, 1000)
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.ones(1, size)).sum().backward()
    optimizer.step()
    training.save_state(folder / "checkpoint.safetensors", "fingerprint", model, optimizer, training.Log(1), size)


def save_figure(folder, size):
    figure, axes = plt.subplots()
    axes.imshow(np.random.default_rng(0).random((size, size)))
    artifacts.write_figure(figure, folder, "figure")
    plt.close(figure)


def save_table(folder, size):
    columns = {("a", "ours", "mean"): [1.0] * size, ("a", "ours", "std"): [0.1] * size}
    frame = pd.DataFrame(columns, index=[f"model {i}" for i in range(size)])
    artifacts.save_table(SimpleNamespace(reports=folder), tables.render(frame, {}, "Table"), "table")


WRITERS = {
    "weights": lambda folder, size: tensor_files.save(folder / "file", {"a": torch.zeros(1000 * size)}),
    "checkpoint": save_checkpoint,
    "report": lambda folder, size: files.save_json(folder / "file", list(range(1000 * size))),
    "figure": save_figure,
    "table": save_table,
}


@pytest.mark.parametrize("room", [0, 4096])
@pytest.mark.parametrize("writer", WRITERS)
def test_a_full_disk_is_a_clear_error_and_keeps_the_file(tmp_path, writer, room):
    WRITERS[writer](tmp_path, 10)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert before
    kept = "cannot be written: .* the earlier file, if any, is kept"
    with room_for(room), pytest.raises(files.FileError, match=kept):
        WRITERS[writer](tmp_path, 300)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_a_device_that_is_full_is_a_clear_error(tmp_path):
    if not os.path.exists("/dev/full"):
        pytest.skip("no /dev/full")
    (tmp_path / ".report.json.partial").symlink_to("/dev/full")  # where the file is written before it takes its place
    with pytest.raises(files.FileError, match="report.json: cannot be written: No space left on device"):
        files.save_json(tmp_path / "report.json", [1])


def test_a_kill_amid_a_write_keeps_the_file_that_was_there(tmp_path):
    path = tmp_path / "checkpoint.safetensors"
    tensor_files.save(path, {"a": torch.zeros(9)})
    code = """if True:
        import os, pathlib, signal, sys, torch
        from qmvae.pipeline import files, tensor_files
        files.os.fsync = lambda file: os.kill(os.getpid(), signal.SIGKILL)  # all is written, but not yet in its place
        tensor_files.save(pathlib.Path(sys.argv[1]), {"a": torch.ones(9)})"""
    killed = subprocess.run([sys.executable, "-c", code, str(path)], env=os.environ | {"PYTHONPATH": str(ROOT)})
    assert killed.returncode == -signal.SIGKILL and len(list(tmp_path.iterdir())) == 2  # it had begun
    assert tensor_files.load(path)[0]["a"].tolist() == [0] * 9
    tensor_files.save(path, {"a": torch.ones(9)})  # what the kill left is in nobody's way
    assert tensor_files.load(path)[0]["a"].tolist() == [1] * 9 and list(tmp_path.iterdir()) == [path]


def test_tensors_come_back_as_they_went(tmp_path):
    tensors = {"a": torch.arange(6).view(2, 3), "b": torch.rand(3, 4, 4, 2).permute(0, 3, 1, 2)}
    tensor_files.save(tmp_path / "t.safetensors", tensors, {"who": "me"})
    back, about = tensor_files.load(tmp_path / "t.safetensors")
    assert about == {"who": "me"} and all(torch.equal(back[key], tensors[key]) for key in tensors)


@pytest.mark.parametrize(
    "content, message", [(None, "file not found; run"), (b"{", "cannot be read as JSON"), (b"\xff", "cannot")]
)
def test_json_that_cannot_be_read(tmp_path, content, message):
    if content is not None:
        (tmp_path / "x.json").write_bytes(content)
    with pytest.raises(files.FileError, match=f"x.json: {message}"):
        files.load_json(tmp_path / "x.json")
