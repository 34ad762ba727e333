"""TRL's completions parquet: which rollouts are new in a file, and which are an evaluation's.

Observed with TRL 1.16 (`grpo_trainer.py`, `log`). At each log the trainer writes all that is in
one buffer, of training and evaluation alike, to `completions_<step>.parquet`. The buffer holds the
last `generation_batch_size` rollouts: a generation for training fills it, an evaluation pushes its
own rollouts in at the end. So

- a file of a step that generated nothing (`steps_per_generation`) repeats the file before it;
- an evaluation at step N overwrites that step's file, with its rollouts at the end;
- the files that follow repeat these rollouts under the steps of training.

What a file repeats is thus the longest end of the file before it that it begins with.
"""

import json
import re
import warnings
from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

from cotlens.files import UNREADABLE, read_parquet
from cotlens.formats.chat import parse_plain
from cotlens.formats.fields import Taker
from cotlens.formats.rows import Row
from cotlens.trace import Trace, TraceError, dump_json, hash_text

_FILE = re.compile(r"completions_(\d+)\.parquet")
EVALUATION = "evaluation"


class Rollout(NamedTuple):
    """Where a rollout was first written.

    Attributes:
        file: the name of that file, without its suffix.
        number: the row, from 1.
        step: the number of updates before it.
        is_evaluation: whether it is of an evaluation; None where nothing tells.
    """

    file: str
    number: int
    step: int
    is_evaluation: bool | None


def parse_trl(row: Row, name: str) -> list[Trace]:
    """A row of TRL's `completions_<step>.parquet`.

    Prompt and completion are strings up to TRL 1.10, lists of messages in 1.16. The reward columns
    have the names of the reward functions: they are kept together in `meta["rewards"]`, and if
    there is only one, it is the reward. A rollout that an earlier file holds too has the id and
    the step that it has there; one of an evaluation has the split `evaluation`.
    """
    taker = Taker(row)
    rollouts = taker.rest.pop("trl_file", None)
    step = taker.take("step")
    if isinstance(step, float) and step.is_integer():
        step = int(step)
    if not isinstance(step, int):
        raise TraceError(f"step must be a whole number, got {step!r}")

    # Every other column of numbers is a reward.
    advantage = taker.rest.pop("advantage", None)
    rewards = {}
    for key, value in taker.rest.items():
        if key not in _NO_REWARD and _is_number_or_none(value):
            rewards[key] = value

    if taker.rest.get("reward") is not None:
        # This number is the reward; the other columns come from a log.
        rewards = {"reward": taker.rest["reward"]}

    for key in rewards:
        taker.rest.pop(key)

    taker.rest |= {
        "rewards": rewards,
        "advantage": advantage,
        "training_step": step,
    }
    if len(rewards) == 1:  # None: the reward function does not apply to this row
        taker.rest["reward"] = next(iter(rewards.values()))

    # What the other files of the folder say of this row.
    if rollouts:
        file, _, number = name.rpartition(":")
        folder = file.rpartition("/")[0]
        rollout = rollouts[int(number) - 1]
        name = f"{rollout.file}:{rollout.number}"
        if folder:
            name = f"{folder}/{name}"
        taker.rest["training_step"] = rollout.step
        if rollout.is_evaluation:
            taker.rest.setdefault("split", EVALUATION)

    return parse_plain(taker.rest, name)


_NO_REWARD_WORDS = """
    prompt completion image images id trace_id prompt_id sample sample_index training_step trl_file
    """
_NO_REWARD = frozenset(_NO_REWARD_WORDS.split())


def _is_number_or_none(value: Any) -> bool:
    if value is None:
        return True
    return isinstance(value, int | float) and not isinstance(value, bool)


# --- the files of a folder -------------------------------------------------------------------
def beside_trl(path: Path) -> Row:
    """What the other files of the folder, and the trainer's log, say of the rows of a file."""
    if not _FILE.fullmatch(path.name):
        return {}
    # The sizes tell whether a folder has changed since it was surveyed.
    sizes = []
    for file in _files_of(path.parent):
        size = file.stat().st_size
        sizes.append((file.name, size))
    survey = _survey(path.parent, tuple(sizes))
    name = path.name.removesuffix(".parquet")
    rollouts = survey.get(name)
    return {"trl_file": rollouts} if rollouts else {}


def _files_of(folder: Path) -> list[Path]:
    """The files of completions of a folder, by their step."""
    files = [child for child in folder.iterdir() if _FILE.fullmatch(child.name)]
    return sorted(files, key=_step_of)


class _File(NamedTuple):
    """One file of the folder.

    Attributes:
        name: without the suffix.
        step: the number of updates before it.
        rows: a hash of each row, its step left out.
        prompts: a hash of the prompt of each row.
    """

    name: str
    step: int
    rows: list[str]
    prompts: list[str]


@lru_cache(maxsize=8)
def _survey(folder: Path, _: tuple[tuple[str, int], ...]) -> dict[str, list[Rollout]]:
    """The rollouts of every file of a folder, row by row.

    Warns where evaluations cannot be told from training.
    """
    files = [_read_file(path) for path in _files_of(folder)]
    n_repeated = [0]
    for earlier, later in pairwise(files):
        n_repeated.append(_overlap(earlier.rows, later.rows))

    log = _training_log(folder.parent)
    marks = _mark_evaluations(files, n_repeated, log)

    # Rows that are repeated are those of the file before; the others are new.
    survey: dict[str, list[Rollout]] = {}
    previous: list[Rollout] = []
    for file, n, file_marks in zip(files, n_repeated, marks, strict=True):
        rollouts = previous[len(previous) - n :]
        for at in range(n, len(file.rows)):
            rollout = Rollout(
                file=file.name,
                number=at + 1,
                step=file.step,
                is_evaluation=file_marks[at],
            )
            rollouts.append(rollout)

        survey[file.name] = rollouts
        previous = rollouts

    _warn_of_unknown(folder, survey, log is not None)
    return survey


def _step_of(path: Path) -> int:
    match = _FILE.fullmatch(path.name)
    return int(match[1]) if match else -1


def _read_file(path: Path) -> _File:
    """The hashes of a file's rows; none for a file that cannot be read, which reading reports."""
    try:
        rows = read_parquet(path).to_pylist()
    except UNREADABLE:
        rows = []

    hashes = []
    prompts = []
    for row in rows:
        # A rollout that is written again has another step and nothing else.
        row.pop("step", None)
        row_text = dump_json(row)
        prompt = dump_json(row.get("prompt"))
        hashes.append(hash_text(row_text))
        prompts.append(hash_text(prompt))

    return _File(
        name=path.name.removesuffix(".parquet"),
        step=_step_of(path),
        rows=hashes,
        prompts=prompts,
    )


def _overlap(earlier: Sequence[str], later: Sequence[str]) -> int:
    """The length of the longest end of `earlier` that `later` begins with.

    It is the border of `later + earlier`, computed as in the search of Knuth, Morris and Pratt, in
    linear time.

    >>> _overlap("abcd", "cdxy"), _overlap("aa", "aa"), _overlap("ab", "xy")
    (2, 2, 0)
    """
    joined = [*later, None, *earlier]
    borders = [0] * len(joined)
    for at in range(1, len(joined)):
        length = borders[at - 1]
        # The longest border so far that the next row continues.
        while length and joined[at] != joined[length]:
            length = borders[length - 1]
        if joined[at] == joined[length]:
            length += 1
        borders[at] = length

    return borders[-1]


# --- evaluation or training ------------------------------------------------------------------
class _Log(NamedTuple):
    """What `trainer_state.json` says.

    Attributes:
        evaluated: steps at which the model was evaluated.
        generated: steps that trained on rollouts generated at that step.
        last: the last step that the log covers.
    """

    evaluated: frozenset[int]
    generated: frozenset[int]
    last: int


def _training_log(folder: Path) -> _Log | None:
    """The log of the newest `trainer_state.json` of an output folder, or None.

    Evaluations have keys that begin with `eval_`. A step that generated has a `reward`.
    """
    paths = list(folder.glob("trainer_state.json"))
    paths += folder.glob("checkpoint-*/trainer_state.json")
    entries: list[Row] = []
    last = -1
    for path in paths:
        try:
            text = path.read_text(encoding="utf-8")
            state = json.loads(text)
            if state["global_step"] > last:
                entries = [entry for entry in state["log_history"] if "step" in entry]
                last = int(state["global_step"])
        except (OSError, ValueError, KeyError, TypeError):
            continue  # not the trainer's; without it, less is known

    if last < 0:
        return None

    # An entry is of an evaluation, of training, or the summary at the end.

    evaluated = set()
    generated = set()
    for entry in entries:
        if any(str(key).startswith("eval_") for key in entry):
            evaluated.add(entry["step"])
        elif entry.get("reward") is not None:
            generated.add(entry["step"])

    return _Log(
        evaluated=frozenset(evaluated),
        generated=frozenset(generated),
        last=last,
    )


Marks = list[bool | None]


def _mark_evaluations(
    files: Sequence[_File], n_repeated: Sequence[int], log: _Log | None
) -> list[Marks]:
    """For every row of every file whether it is of an evaluation, where that can be known.

    Rows that a file repeats are left open: they are what they were in the file before it.
    """
    marks: list[Marks] = [[None] * len(file.rows) for file in files]
    for file, n, file_marks in zip(files, n_repeated, marks, strict=True):
        mark = _mark_of_file(file, n, log)
        file_marks[n:] = [mark] * (len(file.rows) - n)

    # What is still open is told by its prompt.
    for_training, for_evaluation = _prompts_by_mark(files, marks)
    in_several = _in_several_evaluations(files, n_repeated, log)
    is_evaluation_known = log is None and bool(for_evaluation)
    for file, n, file_marks in zip(files, n_repeated, marks, strict=True):
        for at in range(n, len(file.rows)):
            if file_marks[at] is not None:
                continue
            prompt = file.prompts[at]
            is_training = prompt in for_training
            if prompt in for_evaluation:
                # A prompt of both tells nothing.
                file_marks[at] = None if is_training else True
            elif is_training:
                file_marks[at] = False
            elif prompt in in_several:
                file_marks[at] = True
            elif is_evaluation_known:
                # Each evaluation asks the same prompts, and one was seen whole.
                file_marks[at] = False

    return marks


def _mark_of_file(file: _File, n_repeated: int, log: _Log | None) -> bool | None:
    """Whether the new rows of a file are of an evaluation, where the file or the log tells."""
    if 0 < n_repeated < len(file.rows):
        return True  # a generation for training replaces the whole buffer
    if log is None or file.step > log.last:
        return None

    # With an evaluation, and rollouts for training at the same step, it may be either.
    if file.step not in log.evaluated:
        return False
    if file.step in log.generated:
        return None
    return True


def _prompts_by_mark(
    files: Sequence[_File], marks: Sequence[Marks]
) -> tuple[frozenset[str], frozenset[str]]:
    """The prompts of rows known to be of training, and those of rows of evaluations."""
    prompts: dict[bool, set[str]] = {False: set(), True: set()}
    for file, file_marks in zip(files, marks, strict=True):
        for prompt, mark in zip(file.prompts, file_marks, strict=True):
            if mark is not None:
                prompts[mark].add(prompt)

    return frozenset(prompts[False]), frozenset(prompts[True])


def _in_several_evaluations(
    files: Sequence[_File], n_repeated: Sequence[int], log: _Log | None
) -> frozenset[str]:
    """Prompts that are new in the files of at least two steps with an evaluation."""
    once: set[str] = set()
    again: set[str] = set()
    evaluated = log.evaluated if log else frozenset()
    for file, n in zip(files, n_repeated, strict=True):
        if file.step not in evaluated:
            continue
        prompts = set(file.prompts[n:])
        again |= prompts & once
        once |= prompts

    return frozenset(again)


def _warn_of_unknown(folder: Path, survey: dict[str, list[Rollout]], has_log: bool) -> None:
    """Warn of rollouts that may be of training or of an evaluation."""
    everything: set[Rollout] = set()
    for rollouts in survey.values():
        everything.update(rollouts)
    unknown = [rollout for rollout in everything if rollout.is_evaluation is None]
    if not unknown:
        return

    reason = "prompts do not tell" if has_log else "there is no trainer_state.json next to it"
    warnings.warn(
        f"{folder}: {len(unknown)} of {len(everything)} rollouts may be of training or of an "
        "evaluation, which TRL writes to the same files: "
        f"{reason}. If the run had an eval_dataset, put a checkpoint's trainer_state.json into "
        f"{folder.parent}, or leave out the files of the steps with an evaluation",
        stacklevel=2,
    )
