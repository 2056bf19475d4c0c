"""Fixtures of more than one file of tests."""

import pytest
import torch


@pytest.fixture
def one_thread():
    """For thousands of steps of tiny networks: with two files of tests at once, threads only wait for each other."""
    count = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(count)
