"""Memory and speed of what reads whole runs, as ratios against 990ba7c in one run: `make bench`.

1. Verdicts a second at an endpoint of 50 ms: one request at a time, as 990ba7c asks, against
   sixteen in flight.
2. CPU seconds of `figures` on a run of the real traces three times over: today's against those of
   990ba7c, in turns.
3. Peak memory of `figures` and `compare` at four sizes of the input, and at the smallest size of
   990ba7c.

The old build is taken from the repository's history; without it (a tree without .git) its rows are
missing. The traces are traces/reasoning of the shared data (set COTLENS_DATA), else the samples.

    python benchmarks/scale.py [--sizes 8 30 60 120] [--only judge|figures|memory]
"""

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from judges.slow_server import Slow, items

from benchmarks.text import rows as real_rows
from cotlens.judges.cache import Cache
from cotlens.judges.endpoint import EndpointGuard
from cotlens.judges.guard import judge

ROOT = Path(__file__).resolve().parents[1]
OLD = "990ba7c"
SECONDS = 0.05  # that the server takes for an answer
SIZES = (8, 30, 60, 120)  # MB


def main() -> None:
    """Prints each row with its ratio and its bar."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    parser.add_argument("--only", choices=["judge", "figures", "memory"], default="")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        if options.only in ("", "judge"):
            time_judge(work)
        builds = {"now": ROOT, **old_build(work)}
        if options.only in ("", "figures"):
            time_figures(builds, work)
        if options.only in ("", "memory"):
            measure_memory(builds, work, options.sizes)


def old_build(work: Path) -> dict[str, Path]:
    """The tree of the old build by its name; empty where the history does not hold it."""
    tree = work / "old"
    tree.mkdir()
    command = f"git -C {ROOT} archive {OLD} | tar x -C {tree}"
    done = subprocess.run(command, shell=True, capture_output=True, text=True)
    if done.returncode or not (tree / "cotlens").exists():
        print(f"no rows of {OLD}: {done.stderr.strip()}")
        return {}
    return {OLD: tree}


# --- a judge -----------------------------------------------------------------------------------


def time_judge(work: Path) -> None:
    """Verdicts a second, one request at a time and sixteen in flight, each stored on disk."""
    server = Slow(SECONDS)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    rates = {}
    for concurrency, n in ((1, 60), (16, 600)):
        guard = EndpointGuard(server.url, "m", concurrency=concurrency)
        cache = Cache(work / f"{concurrency}.sqlite")
        start = time.perf_counter()
        judge(guard, items(n), cache=cache)
        rates[concurrency] = n / (time.perf_counter() - start)
    server.shutdown()
    print(
        f"judge at an endpoint of {SECONDS * 1000:g} ms: {rates[1]:.1f} verdicts/s one at a time, "
        f"{rates[16]:.1f} with 16 in flight: {rates[16] / rates[1]:.1f} times (bar: 5)"
    )


# --- figures and compare -----------------------------------------------------------------------


def command(tree: Path, folder: Path, *arguments: str) -> tuple[float, float]:
    """CPU seconds and peak memory in MB of a command of a build."""
    environment = {**os.environ, "PYTHONPATH": str(tree)}
    for name in ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_"):
        environment.pop(name, None)
    process = subprocess.Popen(
        [sys.executable, "-c", "from cotlens.cli import main; main()", *arguments],
        env=environment,
        cwd=folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0, arguments
    return usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024


def make_run(tree: Path, folder: Path, megabytes: float) -> str:
    """A run of so many MB of traces, those of the real data over and over, as one arm `base`."""
    folder.mkdir(parents=True, exist_ok=True)
    size = 0
    rows = real_rows()
    with (folder / "traces.jsonl").open("w") as file:
        for number, row in enumerate(itertools.cycle(rows)):
            line = json.dumps({**row, "id": str(number)}) + "\n"
            size += file.write(line)
            if size >= megabytes * 1e6:
                break
    command(tree, folder, "analyze", "traces.jsonl", "-o", "base")
    (folder / "traces.jsonl").unlink()
    return "base"


def time_figures(builds: dict[str, Path], work: Path) -> None:
    """CPU seconds of `figures` on 24 MB, each build with its own run, in turns."""
    for name, tree in builds.items():
        make_run(tree, work / name, 24)
    seconds: dict[str, list[float]] = {name: [] for name in builds}
    for _ in range(2):
        for name, tree in builds.items():
            spent, _ = command(tree, work / name, "figures", "base", "-o", "figures")
            seconds[name].append(spent)
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    line = f"figures of 24 MB: {medians['now']:.1f} CPU s"
    if OLD in medians:
        ratio = medians[OLD] / medians["now"]
        line += f", {medians[OLD]:.1f} of {OLD}: {ratio:.1f} times as fast (bar: 2.5)"
    print(line)


def measure_memory(builds: dict[str, Path], work: Path, sizes: list[int]) -> None:
    """Peak memory of `figures` and `compare` at each size; of the old build at the smallest."""
    peaks: dict[str, list[float]] = {"figures": [], "compare": []}
    for size in sizes:
        for name, tree in builds.items():
            if name == OLD and size != min(sizes):
                continue
            folder = work / f"{name}-{size}"
            make_run(tree, folder, size)
            _, drawn = command(tree, folder, "figures", "base", "-o", "figures")
            _, compared = command(tree, folder, "compare", "base", "-o", "study")
            print(f"{name}, {size} MB: figures {drawn:.0f} MB, compare {compared:.0f} MB")
            if name == "now":
                peaks["figures"].append(drawn)
                peaks["compare"].append(compared)
    for verb, of_verb in peaks.items():
        print(f"{verb}: {of_verb[-1] / of_verb[0]:.2f} times the memory at {sizes[-1]} MB")


if __name__ == "__main__":
    main()
