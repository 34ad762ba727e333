"""Fixtures of all tests."""

import gc
from pathlib import Path

import pytest
from places import DATA


@pytest.fixture(scope="session")
def data() -> Path:
    """The folder of real traces and labels; a test that needs it is skipped, and says so, where it is missing."""
    if not (DATA / "labels").is_dir():
        pytest.skip(f"no real data at {DATA}: set COTLENS_DATA")
    return DATA


@pytest.fixture
def one_thread():
    """Models this small are slower on more threads, many times so where the cores are busy."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def _leftovers_are_collected_where_they_were_made(request):
    """Sockets and event loops that other people's code leaves open warn when they are collected.

    Warnings are errors, so that must happen within the test that allows them, not in a later one.
    """
    yield
    if request.node.get_closest_marker("filterwarnings"):
        gc.collect()
