"""Where tests find things: the repository, its sample traces, and real data beside the checkout.

Real data is ../shared/data, or the folder that COTLENS_DATA names.
"""

import gzip
import json
import os
from pathlib import Path

ROOT = Path(__file__).parents[1]
DATA = Path(os.environ.get("COTLENS_DATA", ROOT.parent / "shared" / "data"))
SAMPLES = ROOT / "figures" / "data" / "sample_traces.jsonl"
TOOL_FILES = ROOT / "tests" / "data"  # written by other tools


def read_rows(path: Path) -> list[dict]:
    """The rows of a gzipped JSONL file, as the source wrote them."""
    with gzip.open(path, "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]
