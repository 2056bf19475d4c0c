"""Steps that are recorded and replayed, as far as a machine without a GPU can tell.

`Tape` is to a CPU what a CUDA graph is to a GPU: it notes the operations of a step and the memory they use, and does
the same on the same memory again, without the Python that led there. What would for that reason go wrong in a CUDA
graph (a number from Python, a tensor made anew, a choice that depends on data) goes wrong here too.
"""

import contextlib
import csv
from types import SimpleNamespace

import pytest
import torch
from tiny import write_project
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from qmvae import checkpoint, data, graphs, params, training
from qmvae.graphs import Recorded, Turn


class Tape(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.notes = []

    def __torch_dispatch__(self, operation, types, arguments=(), keywords=None):
        found = operation(*arguments, **(keywords or {}))
        self.notes.append((operation, arguments, keywords or {}, found))
        return found

    @torch.no_grad()
    def replay(self):
        for operation, arguments, keywords, found in self.notes:
            again = operation(*arguments, **keywords)
            if all(part.alias_info is None for part in operation._schema.returns):  # else it lies there already
                for old, new in zip(tree_leaves(found), tree_leaves(again), strict=True):
                    if isinstance(old, torch.Tensor):
                        old.copy_(new)


def taped(recorded: Recorded):
    """`record` of a Recorded that notes a step on a tape and, as a CUDA graph does, leaves all as it was before."""

    def record(call):
        before, random = recorded.copies(), recorded.turn.random()
        with Tape() as tape:
            found = call()
        recorded.restore(before, random)
        return tape.replay, found

    return record


@pytest.fixture
def project(tmp_path, monkeypatch, one_thread):
    monkeypatch.chdir(write_project(tmp_path, steps=24))
    run = params.load()
    data.save(data.make(run), run)
    return run


def follow(run, name, folder, record, steps=24):
    """Train with recorded steps; the losses and what the steps leave. record: makes the `record` of a Recorded of it;
    None: a Recorded that never records."""
    one = training.SeedRun(run, name, 1, data.load(run), folder, "")
    one.update = recorded = Recorded(one.update, one.state, one.turn)
    if record is None:
        recorded.plain = steps + 1
    else:
        recorded.record = record(recorded)
    losses, replays = [], 0
    for step in range(steps):
        one.advance(step)
        losses.append(one.log.window[-1][0].item() if one.log.window else None)
        replays += recorded.replay is not None
    return losses, one.log.rows, {k: [t.detach().clone() for t in v] for k, v in one.state().items()}, replays


def same(a, b):
    return all(torch.equal(x, y) for kind in a for x, y in zip(a[kind], b[kind], strict=True))


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", checkpoint.MODELS)
def test_replays_do_what_the_steps_do(project, tmp_path, name, precision, capsys):
    project.training[name] = project.training[name].model_copy(update={"precision": precision})
    losses, rows, state, _ = follow(project, name, tmp_path / "plain", None)
    assert "can't be recorded" not in capsys.readouterr().out
    again = follow(project, name, tmp_path / "replayed", taped)
    assert "can't be recorded" not in capsys.readouterr().out
    # three plain steps at the start; Q-MVAE has three more where the policy of its negatives changes
    assert again[3] == (18 if name == "qmvae" else 21)
    assert (losses, rows) == again[:2] and same(state, again[2])
    training.train(project, name, {1: tmp_path / "whole"}, data.load(project), "")  # with numbers of Python's precision
    near = {"float32": 0.002, "bfloat16": 0.05}[precision]
    assert [pytest.approx(row, rel=near, abs=near) for row in logged(tmp_path / "whole")] == rows


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", checkpoint.MODELS)
def test_the_same_on_a_gpu(project, tmp_path, monkeypatch, name, precision, capsys):
    """Two seeds side by side, recorded, end in the bytes of each alone, and follow the plain steps."""
    project.training[name] = project.training[name].model_copy(update={"precision": precision})
    dataset, (both, alone, plain) = data.load(project, "cuda"), (tmp_path / way for way in ("both", "alone", "plain"))
    training.train(project, name, {seed: both / str(seed) for seed in (0, 1)}, dataset, "")
    training.train(project, name, {1: alone / "1"}, dataset, "")
    assert "can't be recorded" not in capsys.readouterr().out
    monkeypatch.setattr(graphs, "WARM_UP", 10**9)
    training.train(project, name, {1: plain / "1"}, dataset, "")
    for file in ("model.safetensors", "log.csv"):
        assert (both / "1" / file).read_bytes() == (alone / "1" / file).read_bytes()
    assert [pytest.approx(row, rel=0.05, abs=0.05) for row in logged(plain / "1")] == logged(alone / "1")


def logged(folder):
    """The rows of a log, as numbers."""
    return [[float(x) for x in row] for row in csv.reader((folder / "log.csv").read_text().split()[1:])]


def test_numbers_and_random_numbers_are_new_in_every_replay(project, tmp_path):
    losses, *_ = follow(project, "mvae", tmp_path, taped)
    assert len({loss for loss in losses if loss is not None}) > 15  # the log keeps four of five


def test_turns_have_their_own_random_numbers_which_go_on():
    turns = {seed: Turn(seed, torch.device("cpu")) for seed in (0, 1)}
    drawn = {0: [], 1: []}
    for seed in (0, 1, 1, 0, 0, 1):
        with turns[seed]:
            drawn[seed].append(torch.rand(()).item())
        torch.rand(7)  # whatever happens outside
    for seed in (0, 1):
        torch.manual_seed(seed)
        assert drawn[seed] == [torch.rand(()).item() for _ in range(3)]


def no_memory(recorded):
    def record(call):
        raise RuntimeError("CUDA error: out of memory\nand a page of advice")

    return record


def without_adam(recorded):
    """A recording that moves no weights."""

    def record(call):
        replay, found = taped(recorded)(call)
        notes = replay.__self__.notes
        notes[:] = [note for note in notes if "adam" not in str(note[0])]
        return replay, found

    return record


@pytest.mark.parametrize(
    "record, message",
    [
        (no_memory, "a step can't be recorded as a CUDA graph (CUDA error: out of memory)"),
        (without_adam, "a replay leaves other weights and exp_avg and exp_avg_sq than the plain step"),
    ],
)
def test_where_a_recording_fails_training_goes_on_with_plain_steps(project, tmp_path, capsys, record, message):
    plain = follow(project, "qmvae", tmp_path / "plain", None)
    other = follow(project, "qmvae", tmp_path / "other", record)
    said = capsys.readouterr().out
    assert said.count("can't be recorded") == 1 and message in said
    assert other[3] == 0 and plain[:2] == other[:2] and same(plain[2], other[2])


class Elsewhere(TorchDispatchMode):
    def __torch_dispatch__(self, operation, types, arguments=(), keywords=None):
        found = operation(*arguments, **(keywords or {}))
        here = [t for t in tree_leaves((arguments, keywords, found)) if isinstance(t, torch.Tensor) and not t.is_meta]
        assert not here, f"{operation} has a tensor that is not where the images are"
        return found


@pytest.mark.parametrize("name", checkpoint.MODELS)
def test_a_step_makes_and_reads_nothing_outside_the_device(project, monkeypatch, name):
    """On PyTorch's device without memory, `meta`, where to read a number, as `.item()` does, is an error too."""
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: contextlib.nullcontext())  # it doesn't know the device
    shapes = data.load(project).shapes
    nets = {m: modality.net for m, modality in project.modalities.items()}
    with torch.device("meta"):
        model = checkpoint.build(name, getattr(project, name), shapes, nets)
        images = {m: torch.zeros(20, *shape, dtype=torch.uint8) for m, shape in shapes.items()}
        labels = dict.fromkeys(images, torch.zeros(20, dtype=torch.int64))
        split = data.Split(images, labels, torch.zeros(90, len(images), dtype=torch.int32))
        rows, number = torch.zeros(16, dtype=torch.int64), torch.zeros(())
    optimizer = SimpleNamespace(param_groups=[{}], zero_grad=model.zero_grad, step=lambda: None)  # Adam is PyTorch's
    for progress in (0.0, 0.3, 1.0):
        schedule = {k: v if isinstance(v, str) else number for k, v in model.schedule(progress).items()}
        with Elsewhere():
            training.update(model, optimizer, split, "float32", rows, number, **schedule)
        assert all(weight.grad is not None for weight in model.parameters())
