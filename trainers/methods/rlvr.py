"""RLVR: reinforcement learning from rewards that can be verified (arXiv 2511.21050).

    python -m trainers.methods.rlvr --prompts FILE --model M -o data/rlvr.jsonl
    python -m trainers.grpo --config trainers/configs/grpo_rlvr.yaml --data data/rlvr.jsonl
    python -m trainers.rloo --config trainers/configs/rloo_rlvr.yaml --data data/rlvr.jsonl

The claim is that this raises skill and leaves guardrails where they are, though no data on safety
are used; SFT on harmless data is said to wear them down.

    prompts whose answers a rule can check, and no others
    reward g(x, y) = 1 if the answer of y is right, else 0; no guard
    max over pi of E_pi[g] - beta KL(pi || pi_ref), with beta > 0

The best policy is pi_ref e^{g / beta} / Z: within a prompt, it moves mass from failures to
successes and touches nothing else. So safety moves by its covariance with success within a prompt
(cotlens/measures/drift.py), and not at all where that is 0.

The counter-arm is SFT on the same prompts: on the model's own right samples (`--sft FILE`), which
differs from the above in the optimiser alone, or on solutions of others.

Departs from the paper: models, data and settings of its experiments were not to be had, so those of
the recipes are this project's. TRL has GRPO and RLOO, and no PPO. GRPO divides rewards by their
deviation in the group, so that its beta is not the formula's; its KL term is a mean over tokens.
RLOO has the formula's objective.
"""

from importlib.util import find_spec

if find_spec("trainers") is None:
    raise SystemExit(
        "start it as a module, from the root of the repository: python -m trainers.methods.rlvr"
    )

import argparse
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tqdm.auto import tqdm

from cotlens.formats.prompts import Prompt, as_prompts, read_prompts
from cotlens.judges.grade import Grade, grade
from cotlens.models.engine import Engine
from cotlens.models.load import Model, load_model
from cotlens.models.sample import sample
from cotlens.models.tokenizer import load_tokenizer
from cotlens.text.split import part_text
from cotlens.trace import Trace
from trainers.render import bracket, render_prompt
from trainers.rows import write_rows

# Is each sample right? None: nobody can tell.
Verify = Callable[[Sequence[Trace]], Sequence[bool | None]]

N_SHOWN = 4  # prompts that a dry run samples


class Built(NamedTuple):
    """Rows of both arms, and what happened on the way.

    Attributes:
        rows: for GRPO and RLOO: `prompt`, `answer`, `domain`, `prompt_id`, `source` and `why`; and
            `success`, the share of right samples (None where nothing was sampled).
        examples: for SFT, the model's own right samples: `prompt`, `completion`, `domain`,
            `prompt_id`, `source` (id of the sample) and `why`.
        counts: prompts by what became of them, and samples.
    """

    rows: list[dict[str, Any]]
    examples: list[dict[str, Any]]
    counts: dict[str, int]


def verify_by_grade(traces: Sequence[Trace]) -> list[bool | None]:
    """Whether each answer, outside of the thought, equals its gold answer as mathematics."""
    verdicts: list[bool | None] = []
    for trace in traces:
        verdict = grade(part_text(trace, "answer"), trace.gold)
        verdicts.append(verdict is Grade.CORRECT)
    return verdicts


def build(
    student: Model | Engine | None,
    verify: Verify,
    prompts: Sequence[Prompt],
    *,
    n: int = 0,
    temperature: float = 1.0,
    top_p: float = 1.0,
    max_new_tokens: int = 4096,
    seed: int = 0,
    progress: Callable[[int], None] | None = None,
) -> Built:
    """Rows of the prompts that can be verified, in their order, and own right samples of them.

    Prompts that are always or never solved are kept: they have no covariance, and GRPO learns
    nothing from a group without variance. `success` tells them.

    Args:
        student: the model to train, as it is before; None if nothing is sampled.
        verify: which samples are right.
        prompts: with gold answers; one without is skipped.
        n: samples per prompt; 0: no samples, and no examples.
        temperature: of sampling.
        top_p: likewise.
        max_new_tokens: longest sample.
        seed: of the samples.
        progress: called with the number of samples done since the last call.

    Raises:
        ValueError: if a prompt is rendered already, or there is nothing to sample from.
    """
    if n and student is None:
        raise ValueError(f"rlvr: expected a student to draw {n} samples a prompt from, got none")

    # What becomes of each prompt.
    why_not = [_why_not(prompt) for prompt in as_prompts(prompts)]
    taken = []
    for prompt, reason in zip(as_prompts(prompts), why_not, strict=True):
        if not reason:
            taken.append(prompt)
    counts = Counter(f"skipped: {reason}" for reason in why_not if reason)
    counts["prompts"] = len(why_not)

    traces: list[Trace] = []
    if n and student is not None:
        traces = sample(
            student,
            taken,
            n=n,
            temperature=temperature,
            top_p=top_p,
            max_new_tokens=max_new_tokens,
            seed=seed,
            progress=progress,
        )
    verdicts = list(verify(traces)) if traces else []

    rows = []
    examples = []
    for number, prompt in enumerate(taken):
        own = slice(number * n, number * n + n)
        n_right = sum(verdict is True for verdict in verdicts[own])
        row = _row(prompt)
        success = n_right / n if n else None
        rows.append(row | {"success": success, "source": "prompts", "why": "verifiable"})
        if n:
            counts[_solved(n_right, n)] += 1

        # A sample that was cut off is no example.
        del row["answer"]
        for trace, verdict in zip(traces[own], verdicts[own], strict=True):
            if verdict is True and trace.finish_reason != "length":
                example = row | {"completion": trace.completion, "source": trace.id}
                example["why"] = f"right, as {n_right} of {n} samples"
                examples.append(example)
    sizes = {"rows": len(rows), "samples": len(traces), "examples": len(examples)}
    return Built(rows, examples, dict(counts) | sizes)


def _why_not(prompt: Prompt) -> str:
    """Why nothing can verify answers to this prompt; empty if a rule can."""
    if prompt.text:
        raise ValueError(
            f"rlvr: {prompt.place} is rendered already; give the request or its messages"
        )
    gold = str(prompt.fields["gold"] or "").strip()
    if not gold:
        return "no gold answer"

    # A reference that says nothing would stop the training at its first batch.
    try:
        grade("1", gold)
    except ValueError:
        return "unreadable gold answer"
    return ""


def _row(prompt: Prompt) -> dict[str, Any]:
    messages = prompt.messages
    is_request = len(messages) == 1 and messages[0]["role"] == "user"
    return {
        "prompt": messages[0]["content"] if is_request else messages,
        "answer": str(prompt.fields["gold"]),
        "domain": prompt.fields["domain"],
        "prompt_id": prompt.fields["prompt_id"],
    }


def _solved(n_right: int, n: int) -> str:
    if n_right in (0, n):
        return "always right" if n_right else "never right"
    return "sometimes right"


# --- the command -------------------------------------------------------------------------------


def main(arguments: Sequence[str] | None = None) -> None:
    """Build rows from files of prompts, or show them (`--dry_run true`)."""
    options = _parse(arguments)
    is_dry = options.dry_run == "true"
    wanted = [Path(path) for path in (options.out, options.sft) if path]
    for path in wanted:
        if path.exists():
            raise SystemExit(f"{path} is there already; name another file, or remove it")

    # A dry run samples a few prompts only; without samples, no weights are loaded.
    prompts = list(read_prompts(options.prompts))
    shown = prompts[:N_SHOWN] if is_dry and options.n else prompts
    student = load_model(options.model) if options.n else None
    with tqdm(total=options.n * len(shown), desc="rlvr", unit=" samples") as bar:

        def advance(n: int) -> None:
            bar.update(n)

        built = build(
            student,
            verify_by_grade,
            shown,
            n=options.n,
            temperature=options.temperature,
            top_p=options.top_p,
            max_new_tokens=options.max_new_tokens,
            seed=options.seed,
            progress=advance,
        )
    print(_describe(built, student.tokenizer if student else load_tokenizer(options.model)))
    if is_dry:
        return

    write_rows(options.out, built.rows)
    if options.sft and not built.examples:
        print(f"no sample was right: {options.sft} is not written")
    elif options.sft:
        write_rows(options.sft, built.examples)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m trainers.methods.rlvr", description="Rows for trainers.grpo and .rloo."
    )
    add = parser.add_argument
    add("--model", required=True, help="the model to train: a folder, or a repository of the Hub")
    add("--prompts", required=True, nargs="+", help="files; rows with a gold answer are taken")
    add("-o", "--out", help="file of rows (JSONL); it must not exist")
    add("--n", type=int, default=0, help="samples per prompt; 0 loads no weights")
    add("--sft", help="file of the own right samples, for trainers.sft; it must not exist")
    add("--temperature", type=float, default=1.0)
    add("--top_p", type=float, default=1.0)
    add("--max_new_tokens", type=int, default=4096)
    add("--seed", type=int, default=0)
    add(
        "--dry_run",
        choices=("true", "false"),
        default="false",
        help=f"show the rows, with --n those of {N_SHOWN} prompts; write no file",
    )
    options = parser.parse_args(arguments)
    if options.dry_run == "false" and not options.out:
        parser.error("name the file of rows, -o ROWS.jsonl, or look first, --dry_run true")
    if options.sft and not options.n:
        parser.error("--sft: own samples need a number of them, --n 8")
    return options


def _describe(built: Built, tokenizer: Any) -> str:
    """Counts, and the first row of each arm with what is learned in [[ ]]."""
    lines = [f"{name}: {number}" for name, number in built.counts.items()]
    if built.rows:
        prompt = render_prompt(tokenizer, built.rows[0]["prompt"])
        written = bracket("what the model writes", str(tokenizer.eos_token))
        lines.append(f"first row, what is learned in [[ ]]:\n{prompt}{written}")
    if built.examples:
        first = built.examples[0]
        prompt = render_prompt(tokenizer, first["prompt"])
        learned = bracket(first["completion"], str(tokenizer.eos_token))
        lines.append(f"first example, what is learned in [[ ]]:\n{prompt}{learned}")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
