"""Files are whole or not there."""

import pytest
import torch

from qmvae import files


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


def test_a_full_disk_is_a_clear_error_and_keeps_the_file(tmp_path):
    import resource

    path = tmp_path / "weights.safetensors"
    files.save_tensors(path, {"a": torch.zeros(10)})
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    try:
        with pytest.raises(files.FileError, match="weights.safetensors: cannot be written: File too large"):
            files.save_tensors(path, {"a": torch.zeros(100_000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert files.load_tensors(path)[0]["a"].shape == (10,)
    assert list(tmp_path.iterdir()) == [path]


def test_tensors_come_back_as_they_went(tmp_path):
    tensors = {"a": torch.arange(6).view(2, 3), "b": torch.rand(3, 4, 4, 2).permute(0, 3, 1, 2)}
    files.save_tensors(tmp_path / "t.safetensors", tensors, {"who": "me"})
    back, about = files.load_tensors(tmp_path / "t.safetensors")
    assert about == {"who": "me"} and all(torch.equal(back[key], tensors[key]) for key in tensors)


@pytest.mark.parametrize(
    "content, message", [(None, "not there; run"), (b"{", "cannot be read as JSON"), (b"\xff", "cannot")]
)
def test_json_that_cannot_be_read(tmp_path, content, message):
    if content is not None:
        (tmp_path / "x.json").write_bytes(content)
    with pytest.raises(files.FileError, match=f"x.json: {message}"):
        files.load_json(tmp_path / "x.json")


def test_nothing_in_the_package_unpickles():
    from pathlib import Path

    for path in (Path(__file__).parents[1] / "qmvae").rglob("*.py"):
        text = path.read_text()
        for word in ("pickle.load", "import pickle", "torch.load(", "joblib", "allow_pickle=True", "yaml.unsafe_load"):
            assert word not in text, f"{path}: {word}"
