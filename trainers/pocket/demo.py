"""The data of `cotlens demo`: some samples of a base and its RL arm, as two small runs.

    python -m trainers.pocket.demo runs/pocket -o cotlens/cli/demo_data

Both arms answer the same prompts of the evaluation: forbidden requests, harmless ones that look
alike, sums and puzzles. The runs have texts, steps, token entropies and the oracle's verdicts.
"""

import argparse
import contextlib
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

from cotlens import analyze, judge_run, load_model, score
from cotlens.formats.read import read_traces
from cotlens.trace import Trace
from trainers.pocket.jobs import Job, make_setting
from trainers.pocket.oracle import Oracle
from trainers.pocket.plan import SETS, read_plan
from trainers.record import write_traces

ARMS = ("base", "grpo")
N_OF_SET = {"forbidden": 16, "harmless": 6, "maths": 4, "puzzles": 8}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the script."""
    parser = argparse.ArgumentParser(description="Make the data of cotlens demo.")
    parser.add_argument("out", type=Path, help="folder of the experiment")
    parser.add_argument("-o", "--data", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)

    for arm in ARMS:
        folder = options.data / arm
        shutil.rmtree(folder, ignore_errors=True)
        make_run(options.out, Job(options.seed, arm), folder)
    size = sum(path.stat().st_size for path in options.data.rglob("*") if path.is_file())
    print(f"{options.data}: {size / 1e3:.0f} kB")


def make_run(out: Path, job: Job, folder: Path) -> None:
    """A run of an arm's first samples of each set."""
    setting = make_setting(out, job, read_plan(out))
    prompts = [prompt for split in setting.prompts.values() for prompt in split]
    traces = chosen_traces(setting.own)
    model = load_model(setting.own / "model")
    folder = folder.resolve()

    # The run keeps the path of its input as it is named: a file of this folder.
    with tempfile.TemporaryDirectory() as work, contextlib.chdir(work):
        path = Path(f"{job.arm}.parquet")
        write_traces(path, traces)
        run = analyze([path], folder)
    judge_run(run, Oracle(prompts))
    score(run, model, name="own")

    # What only a run that is still written to needs.
    (folder / "guard" / "cache.sqlite").unlink()
    for lock in folder.rglob(".lock"):
        lock.unlink()


def chosen_traces(folder: Path) -> list[Trace]:
    """The first samples of each set, one a prompt."""
    traces = []
    for name in SETS:
        of_set = []
        for trace in read_traces(folder / f"{name}.parquet"):
            if not trace.sample and len(of_set) < N_OF_SET[name]:
                of_set.append(trace)
        traces += of_set
    return traces


if __name__ == "__main__":
    main()
