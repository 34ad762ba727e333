"""Where the tests find real data: ../shared/data beside the checkout, or the folder named by COTLENS_DATA."""

import gzip
import json
import os
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DATA = Path(os.environ.get("COTLENS_DATA", ROOT.parent / "shared" / "data"))
SAMPLES = ROOT / "figures" / "data" / "sample_traces.jsonl"


@pytest.fixture(scope="session")
def data() -> Path:
    """The folder of real traces and labels; a test that needs it is skipped, and says so, where it is missing."""
    if not (DATA / "labels").is_dir():
        pytest.skip(f"no real data at {DATA}: set COTLENS_DATA")
    return DATA


def read_rows(path: Path) -> list[dict]:
    """The rows of a gzipped JSONL file, as the source wrote them."""
    with gzip.open(path, "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


@pytest.fixture
def one_thread():
    """Models this small are slower on more threads, many times so where the cores are busy."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
