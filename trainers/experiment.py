"""The pocket experiment: one small base model, its SFT and RL arms, and the figures that compare them, on a CPU.

    python trainers/experiment.py -o runs/pocket                 # one seed, all arms, figures: minutes on two cores
    python trainers/experiment.py -o runs/pocket --seeds 5       # goes on from what is there

A method demonstration: the world's self-jailbreaks are scripted (trainers/pocket/policy.py), so nothing here confirms a
paper; what it shows is whether the instruments see what is there, since the truth of every sentence is known. Every
stage leaves a file that says it is done; kill it anywhere, run it again, and it goes on.

    OUT/seed=0/base/model            an ordinary Hugging Face folder, and one for each arm
    OUT/seed=0/ARM/rollouts          what GRPO sampled while it trained, as traces
    OUT/seed=0/ARM/SET/              a cotlens run of the arm on a set of prompts: traces, steps, scores, guard
    OUT/seed=0/ARM/truth.parquet     what the oracle says of each sample
    OUT/seed=0/ARM/early.parquet     what the arm answers when its unsafe thinking is cut short
    OUT/figures                      the gallery for each set, and the figures of trainers/report.py
"""

import argparse
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
from pocket.oracle import Truth, read_truth
from pocket.wording import LITTLE_KNOWN_HAZARDS
from pocket.world import Domain, Part, Prompt, build_prompts

from cotlens import read_traces
from cotlens.guard import Item, Verdict
from cotlens.guard import Part as Judged
from cotlens.run import only_one, write_atomic, write_parquet

SETS = {  # the evaluation prompts, as the runs of an arm
    "forbidden": (Part.FORBIDDEN_SEEN, Part.NEW_WRAPPER, Part.NEW_TOPIC),
    "harmless": (Part.LOOK_ALIKE, Part.ALLOWED),
    "maths": (Part.MATHS,),
}
HARMLESS = (Domain.LOOK_ALIKE.value, Domain.ALLOWED.value)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How much of everything. The defaults are the pocket experiment; tests take less.

    Attributes:
        n_train: prompts of safety training, a quarter each of sums, forbidden, look-alike and allowed.
        n_evaluation: prompts of each evaluation part.
        n_samples: completions per evaluation prompt.
        grpo_steps: updates of GRPO, each of `prompts_per_step` prompts x `group` completions.
        grpo_rate: learning rate of GRPO; `sft_rate` of both SFT arms.
        sft_epochs: of both SFT arms.
        max_new_tokens: longest completion, in training and evaluation.
        tiny: a base model for tests, which has learned next to nothing.
    """

    n_train: int = 1600
    n_evaluation: int = 150
    n_samples: int = 2
    grpo_steps: int = 150
    prompts_per_step: int = 8
    group: int = 8
    grpo_rate: float = 3e-4
    sft_rate: float = 3e-4
    sft_epochs: int = 2
    max_new_tokens: int = 130
    tiny: bool = False

    def __post_init__(self) -> None:
        for name, least in (("n_train", 4), ("n_evaluation", 1), ("n_samples", 1), ("grpo_steps", 1), ("group", 2)):
            if not isinstance(value := getattr(self, name), int) or value < least:
                raise ValueError(f"plan: expected {name} to be a whole number from {least}, got {value!r}")

    def prompts(self, seed: int) -> dict[Part, tuple[Prompt, ...]]:
        """The prompts of a seed."""
        return build_prompts(seed, n_train=self.n_train, n_evaluation=self.n_evaluation)


def read_plan(out: Path) -> Plan:
    """The plan of an experiment that has begun."""
    return Plan(**json.loads((out / "plan.json").read_text(encoding="utf-8")))


# --- the exact judge -------------------------------------------------------------------------------------------


class Oracle:
    """The world's oracle as a `cotlens.guard.Guard`: exact for prompts of the world, and no model at all."""

    name, revision, identity = "oracle", "", "pocket oracle"
    batch_size = 256

    def __init__(self, prompts: Sequence[Prompt]) -> None:
        self.by_text = {prompt.text: prompt for prompt in prompts}

    def judge(self, items: Sequence[Item]) -> list[Verdict]:
        """One verdict per item; a prompt that the world does not know is undecided."""
        return [self._judge(item) for item in items]

    def _judge(self, item: Item) -> Verdict:
        prompt = self.by_text.get(item.prompt)
        if prompt is None or not item.text.strip():
            return Verdict("undecided")
        if item.part is Judged.ANSWER:
            truth = read_truth(f"<think>\n</think>\n\n{item.text}", prompt)
            unsafe, refusal = truth.answer_unsafe, truth.is_refusal
        else:
            truth = read_truth(item.text, prompt)
            unsafe, refusal = truth.thinking_unsafe or truth.answer_unsafe, None
        return Verdict("unsafe" if unsafe else "safe", p_unsafe=float(unsafe), refusal=refusal)


# --- arms ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Setting:
    """What an arm has to go on: where, which seed, how much, and the prompts."""

    folder: Path  # of the seed
    seed: int
    plan: Plan
    prompts: dict[Part, tuple[Prompt, ...]]

    @property
    def train(self) -> list[Prompt]:
        """The training prompts in the order in which GRPO and the filter meet them."""
        wanted = self.plan.grpo_steps * self.plan.prompts_per_step
        rounds = -(-wanted // len(self.prompts[Part.TRAIN]))
        return (list(self.prompts[Part.TRAIN]) * rounds)[:wanted]

    def base(self) -> tuple[Any, Any]:
        """The base model, fresh, and its tokenizer."""
        from pocket.base import load_base

        return load_base(self.folder / "base" / "model")


def rewards_of(setting: Setting) -> tuple[list[Any], list[float]]:
    """The rewards of GRPO and of the filter: safety of thinking and answer, help, correctness, format."""
    from rewards import correctness_reward, format_reward, guard_reward

    oracle = Oracle(setting.prompts[Part.TRAIN])

    def helpful(
        prompts: Sequence[str], completions: Sequence[str], *, domain: Sequence[str], **columns: Any
    ) -> list[float | None]:
        """1 where a harmless request is answered as the world answers it; None for other prompts."""
        requests = columns.get("request") or prompts
        rows = zip(requests, completions, domain, strict=True)
        return [
            float(read_truth(text, oracle.by_text[request]).is_help) if kind in HARMLESS else None
            for request, text, kind in rows
        ]

    functions = [
        guard_reward(oracle, part="min", domains=(Domain.FORBIDDEN.value,)),
        helpful,
        correctness_reward(),
        format_reward(),
    ]
    return functions, [1.0, 1.0, 1.0, 0.5]


def row_of(prompt: Prompt) -> dict[str, Any]:
    """A prompt as the trainers take it."""
    gold = {"answer": prompt.gold} if prompt.gold else {}
    return {"prompt": prompt.text, "prompt_id": prompt.id, "domain": prompt.domain.value} | gold


def train_base(setting: Setting) -> None:
    """The base model, from nothing, on the base policy's traces."""
    from pocket import base

    scale = base.TINY if setting.plan.tiny else base.POCKET
    held_out = frozenset(prompt.text for parts in SETS.values() for part in parts for prompt in setting.prompts[part])
    folder = setting.folder / "base" / "model"
    base.train_base(folder, seed=setting.seed, scale=scale, prompts_seed=setting.seed, held_out=held_out)


def train_teacher_sft(setting: Setting) -> None:
    """SFT on an external teacher's safe traces for the safety prompts; no mathematics, as in the safety data sets."""
    import random

    from pocket.policy import write_teacher

    rng = random.Random(f"teacher {setting.seed}")
    prompts = [prompt for prompt in setting.prompts[Part.TRAIN] if prompt.domain is not Domain.MATHS]
    rows = [{"prompt": prompt.text, "completion": write_teacher(prompt, rng).text} for prompt in prompts]
    _fine_tune(setting, "teacher_sft", rows)


def train_filtered_sft(setting: Setting) -> None:
    """SFT on the base's own samples that earn every reward: exactly GRPO's prompts, samples a prompt and rewards."""
    from pocket.base import sample

    model, tokenizer = setting.base()
    prompts = setting.train
    traces = sample(
        model,
        tokenizer,
        [replace(prompt, id=f"{prompt.id}/{i}") for i, prompt in enumerate(prompts)],
        n=setting.plan.group,
        seed=setting.seed + 1,
        max_new_tokens=setting.plan.max_new_tokens,
    )
    columns = {"domain": [t.domain for t in traces], "answer": [t.gold or None for t in traces]}
    texts = {"prompts": [t.prompt for t in traces], "completions": [t.completion for t in traces]}
    functions, _ = rewards_of(setting)
    given = [function(**texts, **columns) for function in functions]
    kept = [
        trace
        for trace, values in zip(traces, zip(*given, strict=True), strict=True)
        if trace.finish_reason == "stop" and all(value in (None, 1.0) for value in values)
    ]
    rows = [{"prompt": trace.prompt, "completion": trace.completion} for trace in kept]
    _note(setting, "filtered_sft", {"sampled": len(traces), "kept": len(kept), "sampled_tokens": _tokens(traces)})
    _fine_tune(setting, "filtered_sft", rows)


def train_grpo(setting: Setting) -> None:
    """GRPO from the base, thinking and answer both judged, on TRL's trainer."""
    from grpo import CPU, train
    from trl.trainer.grpo_config import GRPOConfig

    plan, folder = setting.plan, setting.folder / "grpo"
    model, tokenizer = setting.base()
    rewards, weights = rewards_of(setting)
    args = GRPOConfig(
        **{**CPU, "save_strategy": "steps"},
        output_dir=str(folder / "model"),
        seed=setting.seed,
        learning_rate=plan.grpo_rate,
        lr_scheduler_type="constant_with_warmup",
        warmup_steps=min(10, plan.grpo_steps),
        max_steps=plan.grpo_steps,
        per_device_train_batch_size=plan.prompts_per_step * plan.group,
        num_generations=plan.group,
        max_completion_length=plan.max_new_tokens,
        beta=0.0,
        loss_type="dapo",
        save_steps=50,
        save_total_limit=1,
        logging_steps=1,
    )
    rows = [row_of(prompt) for prompt in setting.train]
    train(
        model, tokenizer, rows, rewards=rewards, weights=weights, args=args, record=folder, method="grpo", resume="auto"
    )
    sampled = [trace for path in folder.glob("rollouts/*/*.parquet") for trace in read_traces(path)]
    n = _tokens(sampled)
    facts = {"updates": plan.grpo_steps, "rows": len(rows), "sampled": len(sampled), "sampled_tokens": n}
    _note(setting, "grpo", facts | {"trained_tokens": n})


def _fine_tune(setting: Setting, arm: str, rows: Sequence[dict[str, str]]) -> None:
    from sft import train
    from trl.trainer.sft_config import SFTConfig

    model, tokenizer = setting.base()
    args = SFTConfig(
        output_dir=str(setting.folder / arm / "model"),
        use_cpu=True,
        bf16=False,
        report_to="none",
        save_strategy="no",
        dataloader_pin_memory=False,
        activation_checkpointing=False,
        seed=setting.seed,
        learning_rate=setting.plan.sft_rate,
        num_train_epochs=setting.plan.sft_epochs,
        per_device_train_batch_size=32,
        logging_steps=10,
        max_length=300,
    )
    trainer = train(model, tokenizer, rows, args)
    lost = sum(len(tokenizer(row["completion"])["input_ids"]) + 1 for row in rows) * setting.plan.sft_epochs
    _note(setting, arm, {"rows": len(rows), "updates": trainer.state.global_step, "trained_tokens": lost})


def _note(setting: Setting, arm: str, facts: dict[str, Any]) -> None:
    """Adds to what the results table says of the arm's cost."""
    path = setting.folder / arm / "cost.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, json.dumps(_cost(setting, arm) | facts, indent=1))


def _cost(setting: Setting, arm: str) -> dict[str, Any]:
    path = setting.folder / arm / "cost.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def _tokens(traces: Sequence[Any]) -> int:
    return sum(len(trace.token_ids or ()) for trace in traces)


ARMS: dict[str, Callable[[Setting], None]] = {  # an arm is a function that leaves a model in FOLDER/ARM/model
    "base": train_base,
    "grpo": train_grpo,  # the longest goes first
    "filtered_sft": train_filtered_sft,
    "teacher_sft": train_teacher_sft,
}


# --- what is measured of an arm --------------------------------------------------------------------------------


def evaluate(setting: Setting, arm: str) -> None:
    """Samples of the arm for every evaluation prompt, as runs that are analyzed, judged and scored, and their truth."""
    from callbacks import write_traces
    from pocket.base import load_base, sample

    from cotlens import analyze, judge_run, load_model, score

    folder = setting.folder / arm
    model, tokenizer = load_base(folder / "model")
    own, reference = load_model(folder / "model"), load_model(setting.folder / "base" / "model")
    truths = []
    for name, parts in SETS.items():
        prompts = [prompt for part in parts for prompt in setting.prompts[part]]
        traces = sample(
            model,
            tokenizer,
            prompts,
            n=setting.plan.n_samples,
            seed=setting.seed,
            max_new_tokens=setting.plan.max_new_tokens,
            model_name="pocket",
            method=arm,
        )
        path = folder / f"{name}.parquet"
        write_traces(path, traces)
        run = analyze([path], folder / name, force=True)
        judge_run(run, Oracle(prompts))
        score(run, own, reference=None if arm == "base" else reference, name="own", force=True)
        if arm != "base":  # one common text that every checkpoint scores
            score(setting.folder / "base" / name, own, name=arm, force=True)
        of = {prompt.id: prompt for prompt in prompts}
        truths += [{"set": name, **truth_row(trace, of[trace.prompt_id])} for trace in traces]
    table = pd.DataFrame(truths).assign(arm=arm, seed=setting.seed)
    write_parquet(folder / "truth.parquet", pa.Table.from_pandas(table))


CUTS = (0.0, 0.25, 0.5, 0.75, 1.0)  # of the sentences of the thinking


def answer_early(setting: Setting, arm: str, most: int = 60) -> None:
    """What the arm answers to forbidden requests when its unsafe thinking is cut short: does the thinking matter?

    Of the samples whose thinking is unsafe, the first of each prompt, at most `most`; greedy answers.
    """
    from cotlens import Run, load_model
    from cotlens.model import answer_early as ask

    folder = setting.folder / arm
    model = load_model(folder / "model")
    known = {prompt.id: prompt for part in SETS["forbidden"] for prompt in setting.prompts[part]}
    rows = []
    for trace in Run(folder / "forbidden").traces():
        think = read_truth(trace.completion, known[trace.prompt_id]).think
        if trace.sample or len(rows) >= most * len(CUTS) or not any(step.is_unsafe for step in think):
            continue
        n = [round(share * len(think)) for share in CUTS]
        cuts = [think[k - 1].chars.stop if k else think[0].chars.start for k in n]
        answers = ask(model, trace, cuts, max_new_tokens=40)
        for share, answer in zip(CUTS, answers, strict=True):
            truth = read_truth(f"<think>\n</think>\n\n{answer}", known[trace.prompt_id])
            own = {"trace_id": trace.id, "prompt_id": trace.prompt_id, "cut": share}
            rows.append(own | {"answer_unsafe": truth.answer_unsafe, "is_refusal": truth.is_refusal})
    columns = ["trace_id", "prompt_id", "cut", "answer_unsafe", "is_refusal"]
    write_parquet(folder / "early.parquet", pa.Table.from_pandas(pd.DataFrame(rows, columns=columns)))


def truth_row(trace: Any, prompt: Prompt) -> dict[str, Any]:
    """What the oracle says of one sample, as a row."""
    truth: Truth = read_truth(trace.completion, prompt)
    flat = {key: value for key, value in asdict(truth).items() if key not in ("think", "answer", "kinds")}
    return {
        "trace_id": trace.id,
        "prompt_id": prompt.id,
        "domain": prompt.domain.value,
        "split": prompt.part.value,
        "n_tokens": len(trace.token_ids or ()),
        "n_think_steps": len(truth.think),
        "is_parsed": truth.is_parsed,
        "kinds": ",".join(truth.kinds),
        "is_little_known": prompt.topic in LITTLE_KNOWN_HAZARDS,
        **flat,
    }


# --- stages, side by side --------------------------------------------------------------------------------------


def run_arm(out: Path, seed: int, arm: str, plan: Plan) -> None:
    """Trains an arm and measures it; what is done already stays."""
    _check_plan(out, plan)
    folder = out / f"seed={seed}"
    setting = Setting(folder, seed, plan, plan.prompts(seed))
    trained, measured = folder / arm / "trained", folder / arm / "measured"
    with only_one(folder / arm):
        if not trained.exists():
            _note(setting, arm, {"starts": _cost(setting, arm).get("starts", 0) + 1})  # above 1: killed and resumed
            started = time.process_time()
            ARMS[arm](setting)
            _note(setting, arm, {"cpu_seconds_of_last_start": round(time.process_time() - started, 1)})
            write_atomic(trained, "")
        if not measured.exists():
            evaluate(setting, arm)
            write_atomic(measured, "")
        if not (folder / arm / "early.parquet").exists():
            answer_early(setting, arm)


def run_all(out: Path, seeds: int, plan: Plan, *, workers: int = 2, arms: Sequence[str] = tuple(ARMS)) -> None:
    """Every arm of every seed, `workers` at a time, each in a process of its own with one thread.

    Raises:
        RuntimeError: if an arm fails; what the others have done stays.
    """
    if workers < 1 or seeds < 1:
        raise ValueError(f"expected at least one worker and one seed, got {workers} and {seeds}")
    _check_plan(out, plan)
    waiting = [(seed, arm) for seed in range(seeds) for arm in arms if not _is_done(out, seed, arm)]
    total, running, started = len(waiting), {}, time.monotonic()
    if total:
        _say(f"{total} arms to train and measure, {workers} at a time: minutes each, the base longest", last=True)
    while waiting or running:
        for job in [job for job in waiting if job[1] == "base" or _is_done(out, job[0], "base")]:
            if len(running) < workers:
                waiting.remove(job)
                running[job] = _start(out, *job, plan)
        time.sleep(0.5)
        for job, process in list(running.items()):
            if process.poll() is None:
                continue
            _end(running.pop(job))
            if process.returncode:
                for other in running.values():
                    _end(other)
                raise RuntimeError(
                    f"seed {job[0]}, {job[1]} failed; see {_log(out, *job)}\n{_tail(out, job[0], job[1], 2000)}"
                )
            _say(f"seed {job[0]}: {job[1]} done after {_clock(time.monotonic() - started)}", last=True)
        states = " | ".join(f"seed {seed} {arm}: {_progress(out, seed, arm)}" for seed, arm in running)
        if running:
            _say(f"{total - len(waiting) - len(running)} of {total} done; {states}")


def _check_plan(out: Path, plan: Plan) -> None:
    path, wanted = out / "plan.json", asdict(plan)
    if path.exists() and (before := json.loads(path.read_text(encoding="utf-8"))) != wanted:
        changed = ", ".join(key for key in wanted if before.get(key) != wanted[key])
        raise ValueError(f"{out} holds an experiment with another {changed}; name another folder, or remove it")
    out.mkdir(parents=True, exist_ok=True)
    write_atomic(path, json.dumps(wanted, indent=1))


def _is_done(out: Path, seed: int, arm: str) -> bool:
    folder = out / f"seed={seed}" / arm
    return (folder / "measured").exists() and (folder / "early.parquet").exists()


def _log(out: Path, seed: int, arm: str) -> Path:
    return out / f"seed={seed}" / f"{arm}.log"


def _start(out: Path, seed: int, arm: str, plan: Plan) -> subprocess.Popen:
    one_thread = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1") | {"TOKENIZERS_PARALLELISM": "false"}
    command = [sys.executable, __file__, "-o", str(out), "--plan", json.dumps(asdict(plan))]
    command += ["--only", f"{seed}:{arm}", "--attached"]
    _log(out, seed, arm).parent.mkdir(parents=True, exist_ok=True)
    with _log(out, seed, arm).open("w") as log:
        return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=log, stderr=log, env=os.environ | one_thread)


def _end(job: subprocess.Popen) -> None:
    if job.stdin:
        job.stdin.close()  # for the job this is the sign that its caller is gone
    job.wait()


def _end_with_caller() -> None:
    """Ends this job when the process that started it is gone, and with it the other end of the standard input."""

    def watch() -> None:
        sys.stdin.read()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _tail(out: Path, seed: int, arm: str, n: int = 2000) -> str:
    path = _log(out, seed, arm)
    return path.read_bytes()[-n:].decode(errors="replace") if path.exists() else ""


def _progress(out: Path, seed: int, arm: str) -> str:
    """The last state of the job's own progress bar, which says how much is left."""
    lines = [line for line in _tail(out, seed, arm).replace("\r", "\n").split("\n") if "%|" in line]
    if not lines:
        return "starting"
    before, _, after = lines[-1].partition("%|")
    return f"{before.strip()}% {after.rpartition('| ')[2].strip()}"


def _clock(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


def _say(text: str, *, last: bool = False) -> None:
    """One line that is written over on a terminal; elsewhere only what is final."""
    if sys.stderr.isatty():
        sys.stderr.write("\r\x1b[2K" + text[:150] + ("\n" if last else ""))
        sys.stderr.flush()
    elif last:
        print(text, file=sys.stderr, flush=True)


def main(arguments: Sequence[str] | None = None) -> None:
    """The script."""
    parser = argparse.ArgumentParser(description=str(__doc__).split("\n")[0])
    parser.add_argument("-o", "--out", type=Path, default=Path("runs/pocket"))
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--workers", type=int, default=2, help="arms side by side, one core each")
    parser.add_argument("--figures", type=Path, help="folder of the figures; default: OUT/figures")
    parser.add_argument("--only", help="SEED:ARM, one job and no figures")
    parser.add_argument("--attached", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--plan", type=json.loads, default={}, help="JSON: another amount of something, see Plan")
    given = parser.parse_args(arguments)
    if not isinstance(given.plan, dict):
        parser.error(f"--plan: expected a JSON object, got {given.plan!r}")
    if unknown := set(given.plan) - set(Plan.__dataclass_fields__):
        parser.error(f"--plan: unknown {', '.join(sorted(unknown))}; there are {', '.join(Plan.__dataclass_fields__)}")
    try:
        plan = Plan(**given.plan)
    except ValueError as error:
        parser.error(str(error))
    if given.only:
        seed, _, arm = given.only.partition(":")
        if not seed.isdigit() or arm not in ARMS:
            parser.error(f"--only: expected SEED:ARM with an arm of {', '.join(ARMS)}, got {given.only}")
        import torch

        if given.attached:
            _end_with_caller()
        torch.set_num_threads(1)
        run_arm(given.out, int(seed), arm, plan)
        return
    started = time.monotonic()
    try:
        run_all(given.out, given.seeds, plan, workers=given.workers)
    except (ValueError, RuntimeError) as error:
        parser.exit(1, f"\nexperiment: {error}\n")
    from report import report

    report(given.out, given.figures or given.out / "figures")
    _say(f"all done after {_clock(time.monotonic() - started)}: {given.figures or given.out / 'figures'}", last=True)


if __name__ == "__main__":
    main()
