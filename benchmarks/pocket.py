"""CPU seconds of the pocket experiment per 1,000 tokens, on one thread: `make bench`.

    python benchmarks/pocket.py                 # this checkout
    python benchmarks/pocket.py --vs CHECKOUT   # and another one, on that one's world, as a ratio

1. Sampling: evaluation prompts through `trainers.pocket.base.sample`.
2. GRPO: updates of 64 rollouts, parted into sampling and all else (rewards, recording, KL, update).
3. SFT: updates of 64 texts of the teacher.
4. Base: training from nothing, without drawing the texts.

The world (prompts, the teacher's texts, a base model, a guard) is made once, by the checkout that
this one is compared with, and is the same for both. Each measurement is a process of its own, with
the settings of pocket/jobs.py; the checkouts take turns, and CPU seconds, not time, are counted.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
KINDS = ("sampling", "grpo", "sft", "base")
N_PROMPTS = 450  # evaluation prompts that are sampled
N_ROWS = 1600  # texts of the teacher
N_UPDATES = 22
N_WARM = 2  # first updates, not counted
BATCH = 64
GROUP = 8
MAX_NEW_TOKENS = 130
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": str(2**33),
    "MALLOC_TOP_PAD_": str(2**26),
}

Cost = dict[str, float]  # CPU seconds per 1,000 tokens, by what they are spent on


def main() -> None:
    """Make the world, measure both checkouts in turns, and print a table."""
    parser = argparse.ArgumentParser(description="CPU seconds of the pocket experiment")
    parser.add_argument("--vs", type=Path, help="another checkout")
    parser.add_argument("--model", type=Path, help="its base model, if there is one already")
    parser.add_argument("--base-steps", type=int, default=800, help="else: steps of its training")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--worker", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        kind, checkout, world = options.worker
        work(kind, Path(checkout), Path(world), options)
        return

    checkouts = [ROOT] if options.vs is None else [options.vs.resolve(), ROOT]
    with tempfile.TemporaryDirectory() as world:
        start_worker("world", checkouts[0], world, options)
        costs: list[list[Cost]] = [[] for _ in checkouts]
        for _ in range(options.repeat):
            for number, checkout in enumerate(checkouts):
                cost: Cost = {}
                for kind in KINDS:
                    cost |= start_worker(kind, checkout, world, options)
                costs[number].append(cost)
    print_table(costs)


def start_worker(kind: str, checkout: Path, world: str, options: Any) -> Cost:
    """What a process of its own measures in a checkout."""
    command = [sys.executable, "-P", __file__, "--base-steps", str(options.base_steps)]
    if options.model:
        command += ["--model", str(options.model.resolve())]
    command += ["--worker", kind, str(checkout), world]
    environment = {**os.environ, **ENVIRONMENT, "PYTHONPATH": ""}
    process = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=world)
    if process.returncode:
        raise SystemExit(f"{kind} in {checkout} failed:\n{process.stderr[-3000:]}")
    return json.loads(process.stdout.splitlines()[-1])


def print_table(costs: list[list[Cost]]) -> None:
    """Medians over the repetitions; the ratio is the median of the ratios of each turn."""
    print("CPU seconds per 1,000 tokens, median (least to most)")
    for name in costs[0][0]:
        cells = []
        for of_checkout in costs:
            values = [cost[name] for cost in of_checkout]
            low = min(values)
            high = max(values)
            cells.append(f"{statistics.median(values):.4f} ({low:.4f} to {high:.4f})")
        if len(costs) == 2:
            ratios = [own[name] / other[name] for other, own in zip(*costs, strict=True)]
            cells.append(f"ratio {statistics.median(ratios):.2f}")
        print(f"{name:34} {'   '.join(cells)}")


def work(kind: str, checkout: Path, world: Path, options: Any) -> None:
    """Measure one kind in this process, and print the costs as the last line."""
    load = open_checkout(checkout)
    if kind == "world":
        make_world(load, world, options)
        costs: Cost = {}
    else:
        measure = {"sampling": sampling, "grpo": grpo, "sft": sft, "base": base}[kind]
        costs = measure(load, world)
    print()
    print(json.dumps(costs))


def open_checkout(checkout: Path) -> Any:
    """What imports a module of the trainers, whether they are a package there or a folder."""
    is_package = (checkout / "trainers" / "__init__.py").exists()
    sys.path[:0] = [str(checkout)] if is_package else [str(checkout), str(checkout / "trainers")]
    import torch

    torch.set_num_threads(1)
    return lambda name: import_module(f"trainers.{name}" if is_package else name)


def make_world(load: Any, world: Path, options: Any) -> None:
    """Write prompts, texts of the teacher and of the base policy, a base model and a guard."""
    import random

    base = load("pocket.base")
    guard = load("pocket.guard")
    policy = load("pocket.policy")
    places = load("pocket.world")
    prompts = places.build_prompts(0)
    if options.model:
        (world / "model").symlink_to(options.model)
    else:
        scale = base.Scale(steps=options.base_steps)
        base.train_base(world / "model", scale=scale)
    model, tokenizer = base.load_base(world / "model")

    # As many prompts of each split of the evaluation.
    splits = list(places.EVALUATION)
    asked = []
    for split in splits:
        asked += prompts[split][: N_PROMPTS // len(splits)]

    train_split = getattr(places, "PromptSplit", None) or places.Part
    train_prompts = prompts[train_split.TRAIN]
    rng = random.Random(0)
    taught = []
    for number in range(N_ROWS):
        prompt = train_prompts[number % len(train_prompts)]
        taught.append({"prompt": prompt.text, "completion": policy.write_teacher(prompt, rng).text})

    corpus = policy.base_corpus("benchmark", frozenset())
    texts = [list(base.encode_completion(tokenizer, next(corpus))) for _ in range(600)]

    labelled = guard.guard_prompts(0)
    traces = base.sample(model, tokenizer, labelled, max_new_tokens=MAX_NEW_TOKENS)
    guard.fit_guard(traces, labelled, 0).save(world / "guard.json")
    content = {
        "asked": [describe(prompt) for prompt in asked],
        "train": [describe(prompt) for prompt in train_prompts],
        "taught": taught,
        "texts": texts,
    }
    (world / "world.json").write_text(json.dumps(content), encoding="utf-8")


def describe(prompt: Any) -> dict[str, Any]:
    """A prompt of the world as JSON."""
    fields = {"text": prompt.text, "id": prompt.id, "gold": prompt.gold}
    return fields | {"domain": prompt.domain.value}


def read_world(world: Path) -> dict[str, Any]:
    """What `make_world` has written."""
    return json.loads((world / "world.json").read_text(encoding="utf-8"))


def sampling(load: Any, world: Path) -> Cost:
    """Sample the evaluation prompts twice, and count the second time."""
    base = load("pocket.base")
    model, tokenizer = base.load_base(world / "model")
    prompts = []
    for fields in read_world(world)["asked"]:
        value = SimpleNamespace(value=fields["domain"])
        prompts.append(SimpleNamespace(**fields | {"domain": value}, split=value, part=value))

    base.sample(model, tokenizer, prompts[:64], max_new_tokens=MAX_NEW_TOKENS)
    started = time.process_time()
    traces = base.sample(model, tokenizer, prompts, max_new_tokens=MAX_NEW_TOKENS)
    seconds = time.process_time() - started
    return {"sampling: evaluation": 1000 * seconds / count_tokens(traces)}


def count_tokens(traces: Any) -> int:
    """Tokens of the completions."""
    return sum(len(trace.token_ids) for trace in traces)


def grpo(load: Any, world: Path) -> Cost:
    """Updates of GRPO as the pocket world's arm makes them, but for its reward for help."""
    from trl.trainer.grpo_config import GRPOConfig
    from trl.trainer.grpo_trainer import GRPOTrainer

    from cotlens import load_model, read_traces

    module = load("grpo")
    rewards = load("rewards")
    guard = load("pocket.guard").LearnedGuard.load(world / "guard.json")
    model, tokenizer = load("pocket.base").load_base(world / "model")
    rows = []
    for prompt in read_world(world)["train"][: N_UPDATES * BATCH // GROUP]:
        gold = {"answer": prompt["gold"]} if prompt["gold"] else {}
        row = {"prompt": prompt["text"], "prompt_id": prompt["id"], "domain": prompt["domain"]}
        rows.append(row | gold)

    # CPU seconds in the part of TRL's step that draws the rollouts, by update.
    sampling_seconds = []
    generate = GRPOTrainer._generate

    def timed(*arguments: Any) -> Any:
        started = time.process_time()
        result = generate(*arguments)
        sampling_seconds.append(time.process_time() - started)
        return result

    setattr(GRPOTrainer, "_generate", timed)  # noqa: B010
    settings = training_settings(module, world, "grpo")
    settings |= {"num_generations": GROUP, "max_completion_length": MAX_NEW_TOKENS}
    settings |= {"beta": 0.0, "loss_type": "dapo", "learning_rate": 1e-4, "logging_steps": 1}
    options: dict[str, Any] = {}
    if "kl_every" in module.train.__kwdefaults__:
        options["kl_every"] = 10  # as pocket/arms.py has it
    domains = ("forbidden",)
    record = world / f"record-{os.getpid()}"
    clock = make_clock()
    module.train(
        model,
        tokenizer,
        rows,
        rewards=[
            rewards.guard_reward(guard, part="min", domains=domains),
            rewards.correctness_reward(),
            rewards.format_reward(),
        ],
        args=GRPOConfig(**settings),
        record=record,
        kl_to=load_model(world / "model"),
        callbacks=[clock],
        **options,
    )

    n_tokens = 0
    for step in range(N_WARM, N_UPDATES):
        for path in (record / "rollouts" / f"step={step:06d}").glob("*.parquet"):
            n_tokens += count_tokens(read_traces(path))
    whole = clock.ends[-1] - clock.ends[N_WARM - 1]
    drawn = sum(sampling_seconds[N_WARM:])
    return {
        "sampling: GRPO": 1000 * drawn / n_tokens,
        "training: GRPO without sampling": 1000 * (whole - drawn) / n_tokens,
        "GRPO, whole": 1000 * whole / n_tokens,
    }


def sft(load: Any, world: Path) -> Cost:
    """Updates of SFT on texts of the teacher."""
    from trl.trainer.sft_config import SFTConfig

    module = load("sft")
    model, tokenizer = load("pocket.base").load_base(world / "model")
    rows = read_world(world)["taught"]
    settings = training_settings(load("grpo"), world, "sft")
    args = SFTConfig(**settings, logging_steps=10, max_length=300)
    clock = make_clock()
    started = time.process_time()
    module.train(model, tokenizer, rows, args, callbacks=[clock])
    whole = time.process_time() - started

    n_tokens = 0
    for row in rows:
        n_tokens += len(tokenizer(row["completion"])["input_ids"]) + 1
    n_per_update = BATCH * n_tokens / len(rows)
    n_counted = N_UPDATES - N_WARM
    seconds = clock.ends[-1] - clock.ends[N_WARM - 1]
    return {
        "training: SFT": 1000 * seconds / (n_counted * n_per_update),
        "SFT, with all preparation": 1000 * whole / (N_UPDATES * n_per_update),
    }


def training_settings(module: Any, world: Path, name: str) -> dict[str, Any]:
    """TRL's settings that SFT and GRPO share."""
    return {
        **module.CPU,
        "output_dir": str(world / f"{name}-{os.getpid()}"),
        "seed": 0,
        "max_steps": N_UPDATES,
        "per_device_train_batch_size": BATCH,
        "disable_tqdm": True,
    }


def make_clock() -> Any:
    """A callback that notes the CPU seconds at the end of each update."""
    from transformers import TrainerCallback

    class Clock(TrainerCallback):
        def __init__(self) -> None:
            self.ends: list[float] = []

        def on_step_end(self, *_: Any, **__: Any) -> None:
            self.ends.append(time.process_time())

    return Clock()


def base(load: Any, world: Path) -> Cost:
    """Steps of the base model's training on texts that are drawn already."""
    module = load("pocket.base")
    _, tokenizer = module.load_base(world / "model")
    texts = [SimpleNamespace(ids=ids, n_prompt=n) for ids, n in read_world(world)["texts"]]
    scale = module.Scale(hidden=128, intermediate=512, layers=2, heads=4, rows=6, length=160)
    batches = []
    for start in range(0, len(texts) - 20, 20):
        chosen = texts[start : start + 20]
        batches.append(module.pack(chosen, scale.rows, scale.length, tokenizer.pad_token_id))

    model = module.build_model(tokenizer, seed=0, scale=scale).train()
    optimizer = module._make_optimizer(model, scale)
    n_tokens = 0
    started = 0.0
    for step, batch in enumerate(batches):
        if step == N_WARM:
            started = time.process_time()
        if step >= N_WARM:
            n_tokens += int((batch.labels != module.IGNORED).sum())
        module._train_step(model, optimizer, batch, step, scale)
    seconds = time.process_time() - started
    return {"training: base": 1000 * seconds / n_tokens}


if __name__ == "__main__":
    main()
