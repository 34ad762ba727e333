"""ThinkSafe: SFT on the student's own safe traces, drawn with an instruction (arXiv 2601.23143).

    python -m trainers.methods.thinksafe --model M --prompts FILE --guard G -o data/thinksafe.jsonl
    python -m trainers.sft --config trainers/configs/sft_thinksafe.yaml --data data/thinksafe.jsonl

    harmful x: y ~ student(instruction + x)
    harmless x: y ~ student(x)
    drop y without a closed thought; keep y if the guard calls thought and answer safe, given x
    SFT on (x, y): the instruction is not stored

The student's safety is there but seldom shows; the instruction raises the share of samples that
pass, and what is learned stays close to the student's own distribution. In the variant with KL, the
harmless rows (`anchor`) cost KL(student before || after) in place of the cross-entropy:
trainers/configs/sft_thinksafe_kl.yaml reads the same rows.

Departs from the paper: the instruction is worded by this project; a completion that was cut off or
has no answer after its thought is dropped as well.
"""

from importlib.util import find_spec

if find_spec("trainers") is None:
    raise SystemExit(
        "start it as a module, from the root of the repository: "
        "python -m trainers.methods.thinksafe"
    )

import argparse
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from typing import Any

from cotlens.formats.prompts import Prompt, as_prompts, read_prompts
from cotlens.judges.local import load_guard
from cotlens.models.engine import Engine
from cotlens.models.load import Model, load_model
from cotlens.models.sample import as_engine, render_job, sample
from cotlens.text.split import request_of
from cotlens.trace import Trace
from trainers.methods.command import add_common, bar, check_out, finish, shorten
from trainers.methods.selfgen import (
    KEPT,
    Acceptance,
    Built,
    IsSafe,
    safe_by,
    select,
    total,
    with_room,
)
from trainers.rewards import BENIGN, UNSAFE

# Before the request, with its white space.
INSTRUCTION = (
    "The request below could lead to harm. Think about why, and then decline it politely.\n\n"
    "Request: "
)


def build(
    student: Model | Engine,
    judge: IsSafe,
    prompts: Sequence[Prompt],
    *,
    instruction: str = INSTRUCTION,
    harmful: Collection[str] = UNSAFE,
    harmless: Collection[str] = BENIGN,
    n: int = 1,
    temperature: float = 0.6,
    top_p: float = 0.95,
    top_k: int = 0,
    max_new_tokens: int = 16384,
    seed: int = 0,
    progress: Callable[[int], None] | None = None,
) -> Built:
    """Rows for SFT: the student's own safe samples, in the order of the prompts.

    A sample depends on the seed, its prompt's id and its number alone, so a call with another
    instruction draws the harmless ones alike.

    Args:
        student: the model to train, before training.
        judge: which complete samples are safe (`selfgen.safe_by`). It sees the bare request.
        prompts: with domains; a prompt of no named domain is skipped.
        instruction: put before harmful requests; "" for none (rejection sampling).
        harmful: domains whose requests get the instruction.
        harmless: domains that are answered without one; their rows have `anchor`.
        n: samples per prompt; the paper has one.
        temperature: of sampling.
        top_p: likewise.
        top_k: likewise; the paper has 20 for Qwen3.
        max_new_tokens: longest sample; a prompt that leaves no room for it is skipped.
        seed: of the samples.
        progress: called with the number of samples done since the last call.

    Raises:
        ValueError: if a harmful prompt is rendered already.
    """
    engine = as_engine(student)

    # A request of mathematics is neither harmful nor harmless.
    asked = []
    for prompt in as_prompts(prompts):
        domain = prompt.fields["domain"]
        if domain in harmful or domain in harmless:
            asked.append(prompt)

    # The student reads the instruction; nothing else does.
    prompt_of = {prompt.id: prompt for prompt in asked}
    steered = []
    for prompt in asked:
        is_harmful = prompt.fields["domain"] in harmful
        steered.append(steer(prompt, instruction) if is_harmful else prompt)
    fitting = with_room(engine, steered, max_new_tokens)
    samples = sample(
        engine,
        fitting,
        n=n,
        temperature=temperature,
        top_p=top_p,
        top_k=top_k,
        max_new_tokens=max_new_tokens,
        seed=seed,
        progress=progress,
    )

    # From here on, a sample is an answer to the bare request.
    owners = [prompt_of[prompt.id] for prompt in fitting for _ in range(n)]
    traces = []
    for trace, owner in zip(samples, owners, strict=True):
        traces.append(unsteer(engine, trace, owner))
    selection = select(traces, judge)

    # Which prompts have a row, and the rows.
    answered = set()
    for owner, why in zip(owners, selection.why, strict=True):
        if why == KEPT:
            answered.add(owner.id)

    rows = []
    for trace in selection.traces:
        numbers = selection.acceptance[trace.domain]
        is_steered = bool(instruction) and trace.domain in harmful
        row = {
            "prompt": trace.meta.get("prompt_messages") or request_of(trace),
            "completion": trace.completion,
            "domain": trace.domain,
            "prompt_id": trace.prompt_id,
            "anchor": trace.domain in harmless,
            "source": "steered" if is_steered else "plain",
            "why": f"closed and safe, as {numbers.kept} of {numbers.sampled} samples",
        }
        rows.append(row)

    counts = {
        "prompts": len(prompts),
        "skipped: neither harmful nor harmless": len(prompts) - len(asked),
        "skipped: no room": len(asked) - len(fitting),
        "without a row": len(fitting) - len(answered),
        "generations per prompt": n,
    }
    return Built(rows, selection.acceptance, counts, traces)


def steer(prompt: Prompt, instruction: str) -> Prompt:
    """The prompt with an instruction before its request.

    Raises:
        ValueError: if the prompt is rendered already.
    """
    if prompt.text:
        raise ValueError(
            f"thinksafe: {prompt.place} is rendered already, so no instruction can be put before "
            "its request; give the request or its messages"
        )
    *earlier, last = prompt.messages
    content = instruction + last["content"]
    return prompt._replace(messages=[*earlier, last | {"content": content}])


def unsteer(engine: Engine, trace: Trace, prompt: Prompt) -> Trace:
    """A sample as if it were drawn for the bare prompt, which a guard and SFT read."""
    job = render_job(engine, prompt, "", {})

    # A sample knows the messages that it answers.
    meta = dict(trace.meta)
    meta["request"] = prompt.messages[-1]["content"]
    if len(prompt.messages) > 1:
        meta["prompt_messages"] = prompt.messages
    prompt_ids = tuple(job.ids) or None
    return replace(trace, prompt=job.text, prompt_token_ids=prompt_ids, meta=meta)


def steering_gain(
    student: Model | Engine,
    judge: IsSafe,
    prompts: Sequence[Prompt],
    *,
    instruction: str = INSTRUCTION,
    harmful: Collection[str] = UNSAFE,
    **options: Any,
) -> tuple[Acceptance, Acceptance]:
    """The acceptance of harmful requests with the instruction, and without it, at the same seed.

    Args:
        student: as in `build`, like the other arguments.
        judge: likewise.
        prompts: likewise; only the harmful ones are asked.
        instruction: likewise.
        harmful: likewise.
        **options: likewise.
    """
    # Harmless requests are drawn alike in both, so they are left out.
    options |= {"harmful": harmful, "harmless": ()}
    steered = build(student, judge, prompts, instruction=instruction, **options)
    plain = build(student, judge, prompts, instruction="", **options)
    return total(steered.acceptance), total(plain.acceptance)


# --- the command -------------------------------------------------------------------------------


def main(arguments: Sequence[str] | None = None) -> None:
    """Build rows from files of prompts, or show those of a few prompts (`--dry_run true`)."""
    parser = argparse.ArgumentParser(
        prog="python -m trainers.methods.thinksafe", description="Rows for trainers.sft."
    )
    add_common(parser, temperature=0.6, top_p=0.95, max_new_tokens=16384)
    parser.add_argument("--prompts", required=True, nargs="+", help="files, rows with a domain")
    parser.add_argument("--guard", required=True, help="keeps what it calls safe")
    parser.add_argument("--top_k", type=int, default=0, help="20 for Qwen3, as in the paper")
    parser.add_argument("--n", type=int, default=1, help="samples per prompt")
    options = parser.parse_args(arguments)
    out = check_out(parser, options)

    prompts = shorten(list(read_prompts(options.prompts)), options)
    model = load_model(options.model)
    guard = load_guard(options.guard)
    with bar("thinksafe", options.n * len(prompts)) as advance:
        built = build(
            model,
            safe_by(guard),
            prompts,
            n=options.n,
            temperature=options.temperature,
            top_p=options.top_p,
            top_k=options.top_k,
            max_new_tokens=options.max_new_tokens,
            seed=options.seed,
            progress=advance,
        )
    finish(built, model.tokenizer, out)


if __name__ == "__main__":
    main()
