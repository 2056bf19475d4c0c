"""The trained Q-MVAE in reports/subset/checkpoint: it loads, draws, and its card says what metrics.json says."""

import json

import torch
from tiny import ROOT

import qmvae

FOLDER = ROOT / "reports" / "subset" / "checkpoint"


def test_it_loads_and_draws():
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) < 10 * 2**20
    model = qmvae.load(FOLDER)
    x = torch.rand(4, 1, 28, 28)
    first = model.cross_generate({"mnist": x}, target="svhn", seed=0)
    assert first.shape == (4, 3, 32, 32) and 0 <= first.min() and first.max() <= 1
    assert torch.equal(first, model.cross_generate({"mnist": x}, target="svhn", seed=0))
    z = model.shared({"mnist": x, "svhn": first})
    assert z.mean.shape == z.logvar.shape == (4, 20)


def test_the_card_says_what_was_measured():
    card = (FOLDER / "README.md").read_text()
    found = json.loads((ROOT / "reports" / "subset" / "metrics.json").read_text())["models"]["qmvae"]
    about = json.loads((FOLDER / "model.json").read_text())
    assert about["seed"] == 0 and about["preset"] == "subset" and f"{about['steps']:,} steps" in card
    for part in ("cross", "cross_strong", "linear"):
        for value in found[part].values():
            assert f"{100 * value['seeds'][0]:.1f} %" in card
