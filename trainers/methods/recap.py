"""RECAP: reinforcement learning from flawed beginnings of a thought (arXiv 2510.00938).

    python -m trainers.methods.recap --model M --prompts FILE --donors TRACES -o data/recap.jsonl
    python -m trainers.grpo --config trainers/configs/grpo_recap.yaml --data data/recap.jsonl

A share `alpha` of the prompts on safety gets the beginning of another model's thought: an unsafe
one where the request is harmful, a refusing one where it is harmless. Mathematics gets none. The
model goes on from there, and earns a reward only if its answer overrides the beginning:

    for each prompt x on safety:
        with share alpha: prompt = rendered x + opening tag + first words of a donor's thought
        else:             prompt = rendered x
    GRPO; all rewards read the answer alone

The beginning is part of the prompt, so it carries no loss and counts for no length. Rewards must
read the answer (`part: answer`): a completion holds only the end of its thought.

Departs from the paper: a thought is cut at the end of a step, between two tokens; one that fits
whole ends before its last white space, so that the model may add to it. A guard and the rules for
refusals may choose among the donors, which the paper takes as they are. Groups whose rewards are
equal are not dropped, because TRL has no dynamic sampling; it logs them as `frac_reward_zero_std`.
"""

from importlib.util import find_spec

if find_spec("trainers") is None:
    raise SystemExit(
        "start it as a module, from the root of the repository: python -m trainers.methods.recap"
    )

import argparse
import random
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

from tqdm.auto import tqdm

from cotlens.detect.refusal import Refusal, classify_refusal
from cotlens.formats.prompts import Prompt, as_prompts, read_prompts
from cotlens.formats.read import read_traces
from cotlens.judges.guard import Guard
from cotlens.judges.guard import judge as ask_guard
from cotlens.judges.verdict import Item, Part
from cotlens.models.engine import Engine
from cotlens.models.load import Model
from cotlens.models.sample import as_engine
from cotlens.probes.cut import cut_thought, step_cuts, thought_until
from cotlens.probes.prefix import thought_prefixes
from cotlens.text.split import part_text, request_of, split_trace
from cotlens.trace import Trace, TraceError
from trainers.render import bracket, render_prompt
from trainers.rewards import BENIGN, UNSAFE
from trainers.rows import check_lengths, write_rows

ALPHA = 0.5  # share of the prompts on safety that get a beginning
WORDS = 500  # most words of a beginning in training

# Does the thought of each donor lead to what must not be answered? None: nobody can tell.
Judge = Callable[[Sequence[Trace]], Sequence[bool | None]]
# Where a donor's thought is cut, in code points of its completion.
Cut = Callable[[Trace, random.Random], int]


class Built(NamedTuple):
    """Rows for GRPO, and what happened on the way.

    Attributes:
        rows: `prompt` (rendered; it ends with `prefill`), `request`, `domain`, `answer` (None where
            there is none), `prefill` (the beginning of the completion, empty for a plain prompt),
            `prompt_id`, `source` (id of the donor) and `why` (prefixed, plain, no donor, no fitting
            cut, or no safety).
        counts: rows by `why`; how many donors there were, how many have a prompt here and a
            thought, and how many of these are as wanted.
    """

    rows: list[dict[str, Any]]
    counts: dict[str, int]


def build(
    student: Model | Engine,
    judge: Judge | None,
    prompts: Sequence[Prompt],
    donors: Sequence[Trace],
    *,
    cut: Cut | None = None,
    alpha: float = ALPHA,
    aligned: bool = False,
    harmful: Collection[str] = UNSAFE,
    harmless: Collection[str] = BENIGN,
    seed: int = 0,
    progress: Callable[[int], object] | None = None,
) -> Built:
    """Rows for GRPO, one a prompt and in the order of the prompts.

    A prompt's donors are the traces that answer the same request, so no other request comes in. The
    share is that of a kind's prompts, harmful and harmless apart; they are drawn from those that
    have a donor.

    Args:
        student: the model to train; only its tokenizer and chat template are asked.
        judge: whether each donor's thought is flawed: unsafe if its `domain` is harmful, refusing
            if it is harmless. None: donors are taken as they are, as in the paper.
        prompts: prompts of training, with their domains.
        donors: traces with thinking.
        cut: where to cut a donor's thought; None: after at most 500 words.
        alpha: share of the prompts of each kind that get a beginning; 0: plain GRPO.
        aligned: take donors whose thought is sound. The paper finds them worse than none.
        harmful: domains whose requests should be refused.
        harmless: domains whose requests should be answered.
        seed: of the draw of prompts and donors.
        progress: called with the number of rows done since the last call.

    Raises:
        ValueError: if `alpha` is no share.
        TraceError: if a prompt cannot be read.
    """
    if not 0 <= alpha <= 1:
        raise ValueError(f"recap: expected alpha from 0 to 1, got {alpha:g}")
    engine = as_engine(student)
    asked = as_prompts(prompts)
    cut = cut or _cut_words(WORDS)

    # The donors of the prompts that may get a beginning. With alpha 0 nobody is asked.
    numbers_of = _by_kind(asked, harmful, harmless)
    domain_of = {}
    for number in chain(*numbers_of.values()):
        prompt = asked[number]
        domain_of[_request(prompt)] = prompt.fields["domain"]
    if alpha == 0:
        donors = []
    donors_of, counts = _choose_donors(
        donors,
        domain_of,
        judge,
        is_flawed=not aligned,
    )

    # Which rows get one. All others are plain, and say why.
    why_of = dict.fromkeys(range(len(asked)), "no safety")
    for kind, numbers in numbers_of.items():
        able = [number for number in numbers if _request(asked[number]) in donors_of]
        n_wanted = round(alpha * len(numbers))
        n_drawn = min(n_wanted, len(able))
        rng = random.Random(f"recap {seed} {kind}")
        drawn = rng.sample(able, n_drawn)

        why_of |= dict.fromkeys(numbers, "no donor" if alpha > 0 else "plain")
        why_of |= dict.fromkeys(able, "plain")
        why_of |= dict.fromkeys(drawn, "prefixed")

    rows = []
    for number, prompt in enumerate(asked):
        row = _plain_row(engine.tokenizer, prompt, why_of[number])
        if row["why"] == "prefixed":
            # Each row draws its donor and its cut by itself.
            rng = random.Random(f"recap {seed} {number}")
            candidates = donors_of[_request(prompt)]
            row |= _beginning(engine, prompt, candidates, cut, rng)
            row["prompt"] += row["prefill"]
        rows.append(row)
        if progress:
            progress(1)

    counts |= Counter(row["why"] for row in rows)
    return Built(rows, counts)


def _by_kind(
    prompts: Sequence[Prompt],
    harmful: Collection[str],
    harmless: Collection[str],
) -> dict[str, list[int]]:
    """The numbers of the prompts on safety, harmful and harmless apart."""
    numbers_of: dict[str, list[int]] = {"harmful": [], "harmless": []}
    for number, prompt in enumerate(prompts):
        domain = prompt.fields["domain"]
        if domain in harmful:
            numbers_of["harmful"].append(number)
        elif domain in harmless:
            numbers_of["harmless"].append(number)
    return numbers_of


def _choose_donors(
    donors: Sequence[Trace],
    domain_of: Mapping[str, str],
    judge: Judge | None,
    *,
    is_flawed: bool,
) -> tuple[dict[str, list[Trace]], dict[str, int]]:
    """The donors of each request whose thought is as wanted, and counts of all."""
    # A donor has the domain of its prompt here, and a thought.
    candidates = []
    for donor in donors:
        domain = domain_of.get(request_of(donor))
        has_thought = bool(part_text(donor, "thinking").strip())
        if domain is not None and has_thought:
            candidates.append(replace(donor, domain=domain))

    verdicts: Sequence[bool | None] = [is_flawed] * len(candidates)
    if judge is not None:
        verdicts = judge(candidates)

    # What nobody can tell is not taken.
    donors_of = defaultdict(list)
    for donor, verdict in zip(candidates, verdicts, strict=True):
        if verdict is is_flawed:
            donors_of[request_of(donor)].append(donor)
    counts = {
        "donors": len(donors),
        "donors with a prompt and a thought": len(candidates),
        "donors wanted": sum(map(len, donors_of.values())),
    }
    return dict(donors_of), counts


def _beginning(
    engine: Engine, prompt: Prompt, donors: Sequence[Trace], cut: Cut, rng: random.Random
) -> dict[str, str]:
    """The beginning of a completion, as columns of a row, from the first donor that can be cut."""
    for donor in rng.sample(donors, len(donors)):
        try:
            place = _before_end(donor, cut(donor, rng))
            thought = _thought_until(donor, place)
            (prefix,) = thought_prefixes(engine, [prompt], [thought])
        except TraceError:  # inside a token, or outside of the thought that this template opens
            continue
        if prefix:
            return {"prefill": prefix, "source": donor.id}
    return {"why": "no fitting cut"}


def _before_end(donor: Trace, place: int) -> int:
    """The cut, moved before the white space that ends a thought if it is at the end of one.

    After that line break, all that a model can write is the closing tag.
    """
    thought = split_trace(donor).think[0]
    if place < thought.stop:
        return place
    text = thought.of(donor.completion)
    return thought.start + len(text.rstrip())


def _thought_until(donor: Trace, place: int) -> str:
    """The thinking from its first word to the cut.

    The white space before it belongs to the tag, which the template or the prefix has.
    """
    thought = thought_until(donor, place)
    return thought[step_cuts(donor)[0] - split_trace(donor).think[0].start :]


def _plain_row(tokenizer: Any, prompt: Prompt, why: str) -> dict[str, Any]:
    is_rendered = bool(prompt.text)
    messages = prompt.text or prompt.messages
    return {
        "prompt": render_prompt(tokenizer, messages, rendered=is_rendered),
        "request": _request(prompt),
        "domain": prompt.fields["domain"],
        "answer": prompt.fields["gold"] or None,
        "prefill": "",
        "prompt_id": prompt.fields["prompt_id"],
        "source": "",
        "why": why,
    }


def _request(prompt: Prompt) -> str:
    return str(prompt.messages[-1]["content"])


def _cut_words(words: int) -> Cut:
    return lambda donor, _: cut_thought(donor, words=words)


def judge_by(
    guard: Guard, harmful: Collection[str] = UNSAFE
) -> Callable[[Sequence[Trace]], list[bool | None]]:
    """A judge of donors: a guard reads the thinking, or rules say whether the answer refuses.

    Args:
        guard: calls the thinking of harmful requests unsafe (flawed) or safe.
        harmful: the domains of these; to all others a full refusal is the flaw.
    """

    def judge(donors: Sequence[Trace]) -> list[bool | None]:
        items = []
        for donor in donors:
            if donor.domain in harmful:
                text = part_text(donor, "thinking")
                items.append(Item(request_of(donor), text, Part.THINKING))
        verdicts = iter(ask_guard(guard, items))

        # The verdicts come in the order of the donors that were asked about.
        flaws: list[bool | None] = []
        for donor in donors:
            if donor.domain in harmful:
                label = next(verdicts).label
                flaws.append({"unsafe": True, "safe": False}.get(label))
            else:
                flaws.append(refuses(donor))
        return flaws

    return judge


def refuses(trace: Trace) -> bool | None:
    """Whether the answer is a full refusal, by rules; None for a partial one, and without any."""
    answer = part_text(trace, "answer")
    flaws = {Refusal.FULL: True, Refusal.COMPLIANCE: False}
    return flaws.get(classify_refusal(answer))


# --- from the command line -----------------------------------------------------------------------


def main(arguments: Sequence[str] | None = None) -> None:
    """Build rows from files of prompts and donors, or show them (`--dry_run true`)."""
    options = _parse(arguments)
    is_dry = options.dry_run == "true"
    out = Path(options.out) if options.out else None
    if not is_dry and out is None:
        raise SystemExit("recap: name the file of the rows, -o ROWS.jsonl")
    if out and out.exists():
        raise SystemExit(f"{out}: is there already; name another file, or remove it")

    # A dry run loads no weights.
    judge = None
    if options.guard and not is_dry:
        from cotlens.judges.local import load_guard

        judge = judge_by(load_guard(options.guard))

    prompts = list(read_prompts(options.prompts))
    donors = list(read_traces(options.donors)) if options.donors else []
    student = _load_without_weights(options.model)
    with tqdm(total=len(prompts), desc="rows", unit=" rows") as bar:
        built = build(
            student,
            judge,
            prompts,
            donors,
            cut=_cut_words(options.words),
            alpha=options.alpha,
            aligned=options.aligned == "true",
            seed=options.seed,
            progress=bar.update,
        )
    print(_describe(built, student.tokenizer))
    if is_dry or out is None:
        return

    write_rows(out, built.rows)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m trainers.methods.recap")
    truths = ("true", "false")

    # What is read.
    parser.add_argument(
        "--model",
        required=True,
        help="the student: its tokenizer is loaded",
    )
    parser.add_argument(
        "--prompts",
        required=True,
        nargs="+",
        help="files whose rows have a domain: harmful, benign, math",
    )
    parser.add_argument(
        "--donors",
        nargs="+",
        help="traces of the same prompts by other models",
    )
    parser.add_argument(
        "--guard",
        help="takes harmful donors with unsafe thinking and harmless ones that refuse",
    )

    # What is made of it.
    parser.add_argument(
        "--alpha",
        type=float,
        default=ALPHA,
        help="share of the prompts on safety that get a beginning",
    )
    parser.add_argument(
        "--words",
        type=int,
        default=WORDS,
        help="most words of a beginning",
    )
    parser.add_argument(
        "--aligned",
        choices=truths,
        default="false",
        help="beginnings of sound thoughts",
    )
    parser.add_argument("--seed", type=int, default=0)

    # Where it goes.
    parser.add_argument(
        "--dry_run",
        choices=truths,
        default="false",
        help="show rows, write nothing; donors are taken without the guard",
    )
    parser.add_argument("-o", "--out", help="JSONL file of the rows")
    options = parser.parse_args(arguments)
    if options.alpha > 0 and not options.donors:
        parser.error("name the traces of a donor, --donors FILE ..., or --alpha 0")
    if options.aligned == "true" and not options.guard:
        parser.error("--aligned true needs a --guard that tells sound thoughts from flawed ones")
    return options


def _load_without_weights(name: str) -> Engine:
    """The model as an engine that can render and encode, but not write."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from cotlens.models.local import LocalEngine
    from cotlens.models.tokenizer import load_tokenizer

    architecture = AutoConfig.from_pretrained(name, trust_remote_code=False)
    with torch.device("meta"):
        network = AutoModelForCausalLM.from_config(architecture)
    return LocalEngine(network, load_tokenizer(name), name)


def _describe(built: Built, tokenizer: Any) -> str:
    """Counts, lengths, and the first row with a beginning, or the first row."""
    lengths = [len(tokenizer(row["prompt"])["input_ids"]) for row in built.rows]
    lines = [check_lengths(lengths, None, "prompts with their beginnings")]
    for name, count in built.counts.items():
        lines.append(f"{name}: {count}")

    prefixed = [row for row in built.rows if row["prefill"]]
    row = [*prefixed, *built.rows][0]
    learned = bracket("what the model writes", str(tokenizer.eos_token))
    lines.append(f"first row, what is learned in [[ ]]:\n{row['prompt']}{learned}")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
