"""Seeds or models that trained apart become one metrics.json, if all else agrees."""

import functools
import json
import subprocess
import sys

import pytest
from tiny import ROOT

from tools.join_runs import join, load, main


def metrics(seeds, values, **other):
    by_seed = dict(zip(map(str, seeds), values, strict=True))
    entry = {"mean": sum(values) / len(values), "std": 0.0, "seeds": by_seed}
    parts = {"cross": {"a_to_b": entry}, "linear": {"a": dict(entry)}}
    models = {"m": {"steps": 9, **parts}}
    return {"preset": "p", "steps": 9, "judges": {"a": 0.5}, "models": models} | other


def test_the_seeds_of_both_have_one_mean_and_spread():
    entry = join(metrics([10], [0.1]), metrics([2, 1], [0.2, 0.6]))["models"]["m"]["cross"]["a_to_b"]
    assert [*entry["seeds"].items()] == [("1", 0.6), ("2", 0.2), ("10", 0.1)] and entry["mean"] == pytest.approx(0.3)
    assert entry["std"] == pytest.approx(0.07**0.5)


def test_each_model_is_added_replaced_or_gets_seeds():
    def of(seeds, values, steps, *names):
        model = metrics(seeds, values)["models"]["m"] | {"steps": steps}
        return metrics(seeds, values, models=dict.fromkeys(names, model), steps=steps)

    joined = join(of([0], [0.1], 9, "qmvae", "mvae"), of([0], [0.2], 8, "qmvae", "jmvae"))
    found = {name: (model["steps"], model["cross"]["a_to_b"]["seeds"]) for name, model in joined["models"].items()}
    assert found == {"qmvae": (8, {"0": 0.2}), "mvae": (9, {"0": 0.1}), "jmvae": (8, {"0": 0.2})}
    assert joined["steps"] == 8
    more = join(joined, of([1, 2], [0.3, 0.4], 9, "mvae"))["models"]
    assert [*more] == ["qmvae", "mvae", "jmvae"] and more["qmvae"] == joined["models"]["qmvae"]
    assert more["mvae"]["cross"]["a_to_b"]["seeds"] == {"0": 0.1, "1": 0.3, "2": 0.4}
    with pytest.raises(ValueError, match="preset: one has 'p', the other 'q'"):
        join(of([0], [0.1], 9, "mvae"), of([0], [0.2], 8, "qmvae") | {"preset": "q"})


def test_all_models_share_a_seed():
    one, many = (metrics(seeds, [0.5] * len(seeds))["models"]["m"] for seeds in ([0], [0, 1]))
    first = metrics([0], [0.5], models={"a": many, "b": one})
    with pytest.raises(ValueError, match=r"no seed is common to a \(0, 1\), b \(0\), m \(1\)"):
        join(first, metrics([1], [0.5]))


@pytest.mark.parametrize(
    ("second", "message"),
    [
        (metrics([0, 1], [0.2, 0.3]), "models.m: both files have the seeds 0, and others; give all or none in both"),
        (
            metrics([1], [0.2], models={"n": metrics([1], [0.2])["models"]["m"]}),
            r"models: no seed is common to m \(0\), n \(1\); join the files first",
        ),
        (metrics([1], [0.2], judges={"a": 0.6}), "judges.a: one has 0.5, the other 0.6"),
        (
            metrics([1], [0.2], models={"m": metrics([1], [0.2])["models"]["m"] | {"steps": 8}}),
            "models.m.steps: one has 9",
        ),
        (
            metrics([1], [0.2], models={"m": metrics([1], [0.2])["models"]["m"] | {"linear": {}}}),
            r"models.m.linear: one has \['a'\], the other \[\]",
        ),
    ],
)
def test_what_must_agree_is_named(second, message):
    with pytest.raises(ValueError, match=message):
        join(metrics([0], [0.1]), second)


def test_the_command_writes_both_files_or_none(tmp_path):
    first, second = tmp_path / "metrics.json", tmp_path / "second.json"
    first.write_text(json.dumps(metrics([0], [0.1])))

    def run(found):
        second.write_text(json.dumps(found))
        command = [sys.executable, ROOT / "tools" / "join_runs.py", first, second]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)

    before = first.read_text()
    assert "judges.a: one has 0.5" in run(metrics([1], [0.1], judges={"a": 1})).stderr and first.read_text() == before
    assert run(metrics([1], [0.3])).stdout.endswith(": m (0, 1)\n")
    assert json.loads((tmp_path / "scores.json").read_text()) == {"m": {"a_to_b": 20.0, "a": 20.0}}
    assert json.loads(first.read_text())["models"]["m"]["cross"]["a_to_b"]["seeds"] == {"0": 0.1, "1": 0.3}


def changed(key, value):
    """Return the text of metrics with another value under names joined by dots."""
    found = metrics([1], [0.2])
    *names, last = key.split(".")
    functools.reduce(dict.__getitem__, names, found)[last] = value
    return json.dumps(found)


@pytest.fixture
def stopped(tmp_path, monkeypatch, capsys):
    """Join the texts of two files, which must end in status 1 and change no file; return the message."""

    def run(*texts):
        paths = [tmp_path / name for name in ("metrics.json", "second.json")]
        for path, text in zip(paths, texts, strict=True):
            if text is not None:
                path.write_text(text)
        before = sorted(tmp_path.iterdir())
        monkeypatch.setattr(sys, "argv", ["join_runs.py", *map(str, paths)])
        with pytest.raises(SystemExit) as raised:
            main()
        assert raised.value.code == 1 and sorted(tmp_path.iterdir()) == before
        assert all(path.read_text() == text for path, text in zip(paths, texts, strict=True) if text is not None)
        return capsys.readouterr().err

    return run


ENTRY = "models.m.cross.a_to_b"


@pytest.mark.parametrize("broken", [0, 1])
@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "file not found; give two files metrics.json"),
        ("{", "cannot be read as JSON"),
        *((text, "steps: expected a whole number; give") for text in ("{}", "[]", "null", "3", '"x"')),
        *((changed("models", value), "models: expected an object with a model") for value in (3, [3], {})),
        (changed("steps", None), "steps: expected a whole number"),
        (changed("models.n", {}), "models.n.steps: expected a whole number"),
        (changed("models.n", {"steps": 9}), "models.n.cross: expected an object with an entry or more"),
        (changed("models.m.cross", {}), "models.m.cross: expected an object with an entry or more"),
        (changed("models.m.linear", [3]), "models.m.linear: expected an object of entries"),
        *((changed(ENTRY, value), f"{ENTRY}: expected mean, std and `seeds`") for value in (None, 3, {"mean": 1})),
        *(
            (changed(f"{ENTRY}.seeds", value), f"{ENTRY}: expected mean, std and `seeds`, an object with a number")
            for value in (None, "x", [], [1], {}, {"1": [1]}, {"1": "x"}, {"x": 1})
        ),
        (changed("models.m.linear.a.seeds", {"2": 0.2}), "models.m.linear.a.seeds: expected the model's seeds 1"),
        (changed(f"{ENTRY}.mean", "x"), f"{ENTRY}: expected mean, std and `seeds`"),
        (changed(f"{ENTRY}.seeds", {"1": float("nan")}), f"{ENTRY}.seeds.1: expected a finite number"),
        (changed(f"{ENTRY}.mean", 10**400), f"{ENTRY}.mean: expected a finite number"),
        (changed("judges.a", float("inf")), "judges.a: expected a finite number"),
    ],
)
def test_a_broken_file_is_named_with_its_key(stopped, tmp_path, text, message, broken):
    texts = [json.dumps(metrics([1], [0.2]))] * 2
    texts[broken] = text
    name = ("metrics.json", "second.json")[broken]
    assert f"cannot be joined: {tmp_path / name}: {message}" in stopped(*texts)


def test_what_cannot_be_written_leaves_the_first_file(stopped, tmp_path):
    (tmp_path / "scores.json").mkdir()
    texts = [json.dumps(metrics([seed], [0.2])) for seed in (0, 1)]
    assert f"{tmp_path / 'scores.json'}: cannot be written" in stopped(*texts)


@pytest.mark.parametrize("preset", ["quick", "subset"])
def test_what_the_pipeline_writes_can_be_joined(preset):
    path = ROOT / "reports" / preset / "metrics.json"
    assert load(path) == json.loads(path.read_text())
