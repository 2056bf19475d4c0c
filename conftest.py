"""What all tests share, those of notebooks (nbval) too: an environment without personal settings, and fixtures."""

import contextlib
import os
import tempfile

import pytest
import torch

from qmvae.pipeline import notebooks, params, published, surroundings


def pytest_configure(config):
    """Run tests and notebooks as `python -m qmvae notebook` does, see surroundings.own_settings."""
    settings = contextlib.ExitStack()
    settings.enter_context(surroundings.own_settings())
    surroundings.write_fonts()
    os.environ["OMP_NUM_THREADS"] = "1"
    # torch.compile's cache, which a user's runs share, keeps the half-written files of a killed one
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = settings.enter_context(tempfile.TemporaryDirectory())
    config.add_cleanup(settings.close)


def pytest_collection_modifyitems(items):
    """Compare no output of the preset `published` where its images are the built-in ones; such cells only run.

    The committed outputs are those of real images. tests/notebooks has the outputs that any machine can repeat.
    """
    cells = [item for item in items if hasattr(item, "cell")]
    for item in cells:
        item.output_timeout = 60  # seconds; a cell's last output may come later than after nbval's 5
    shown = {item.parent: item.cell.source for item in cells if notebooks.has_parameters(item.cell)}
    cells = [item for item in cells if shown.get(item.parent) == f'preset = "{params.PUBLISHED}"']
    if cells and published.missing_archives(params.load(params.PUBLISHED)):
        for item in cells:
            item.options["check"] = False


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item):
    """Fail a cell of a notebook that promises a figure and has none; nbval compares texts only."""
    yield
    cell, outputs = getattr(item, "cell", None), getattr(item, "test_outputs", None)
    if cell is not None and notebooks.promises_figure(cell) and not notebooks.has_figure({"outputs": outputs or []}):
        item.raise_cell_error(notebooks.NO_FIGURE)


@pytest.fixture
def one_thread():
    """For thousands of steps of tiny networks: with two files of tests at once, threads only wait for each other."""
    count = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(count)
