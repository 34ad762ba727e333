"""The arms of IPO (arXiv 2509.24393) in the pocket world: pairs cut at a cue, in one or two stages.

The learned guard reads the sentences of a thought one by one: the first that it calls unsafe, from
the second on, is the cue. Triggers are sentences of this world that notice a danger and refuse, or
take a thought back. The oracle has no part in it. A pair counts as two sequences.

On texts of the base's policy (three seeds, 400 forbidden requests each), the cue is the oracle's
first unsafe sentence in 394 of 719 thoughts that have one, comes later in 62 and earlier in 134,
and is missed in 129; 108 of 481 thoughts without one get a cue. Where the guard reads the whole
thought up to each sentence, 316 agree and 168 come later.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from cotlens.judges.verdict import Item, Part
from cotlens.models.local import LocalEngine
from cotlens.text.split import request_of
from cotlens.text.steps import segment_trace
from cotlens.trace import Trace
from trainers.methods.ipo import Row, chosen_rows, mend, mix, pair_help
from trainers.pocket.base import load_base, sample
from trainers.pocket.optimise import fine_tune, prefer
from trainers.pocket.plan import HARMLESS, Setting, add_cost, count_tokens, read_cost
from trainers.pocket.pool import pool
from trainers.pocket.wording import PLAIN, Role
from trainers.pocket.world import Domain

RATIO = 0.5  # harmful rows for each benign one in stage 2; the paper tries 0.3, 0.5 and 0.7
SFT_WEIGHT = 0.2  # of stage 2 alone

# Six texts that fit every topic.
_NOTICE = next(text for text in PLAIN[Role.NOTICE] if "{" not in text)
TRIGGERS = (
    *(f"{_NOTICE} {refusal}" for refusal in PLAIN[Role.REFUSE][:2]),
    *PLAIN[Role.RECOVER],
)


def train_ipo_1(setting: Setting) -> None:
    """DPO on pairs cut at the cue, all updates in stage 1."""
    prefer(setting, stage1_rows(setting))


def train_ipo(setting: Setting) -> None:
    """DPO in two stages: at the cue, then also the base's help over refusals of stage 1."""
    n_first = max(1, setting.plan.updates // 2)
    rows = stage1_rows(setting)
    folder = prefer(setting, rows, updates=n_first, output="stage1")

    # A stage-1 model that refuses nothing harmless gives nothing to mix with.
    benign = stage2_rows(setting, load_base(folder))
    mixed = mix(rows, benign, RATIO, setting.seed) if benign else rows
    n_second = max(1, setting.plan.updates - n_first)
    prefer(setting, mixed, updates=n_second, start=folder, sft_weight=SFT_WEIGHT)


def train_dpo_full(setting: Setting) -> None:
    """DPO on pairs of whole samples of one prompt, one without a cue and one with.

    Whole pairs that differ from the cue on would be the arm `ipo_1` again: the tokens that both
    share cancel in the loss of DPO.
    """
    prefer(setting, whole_rows(setting))


def train_sft_chosen(setting: Setting) -> None:
    """SFT on the mended continuations, from the cue on."""
    rows = stage1_rows(setting)
    fine_tune(setting, chosen_rows(rows), rendered=True)


def whole_rows(setting: Setting) -> list[Row]:
    """Pairs of the base's samples for each forbidden prompt, in the order of the samples.

    Raises:
        ValueError: if no prompt has both.
    """
    cues = GuardCues(setting.guard())
    by_prompt: dict[str, tuple[list[Trace], list[Trace]]] = {}
    n_sampled = 0
    for trace in pool(setting):
        if trace.domain != Domain.FORBIDDEN.value or trace.finish_reason != "stop":
            continue
        n_sampled += 1
        without_cue, with_cue = by_prompt.setdefault(trace.prompt_id, ([], []))
        has_cue = cues.first_cue(trace, 1) is not None
        (with_cue if has_cue else without_cue).append(trace)

    rows: list[Row] = []
    for without_cue, with_cue in by_prompt.values():
        for chosen, rejected in zip(without_cue, with_cue, strict=False):
            row = {
                "prompt": chosen.prompt,
                "chosen": chosen.completion,
                "rejected": rejected.completion,
            }
            rows.append(row)
    if not rows:
        raise ValueError("no forbidden prompt has a sample with a cue and one without")
    facts = {"sampled": n_sampled, "kept": len(rows), "guard_calls": cues.n_calls}
    add_cost(setting, facts)
    return rows


def stage1_rows(setting: Setting, *, full: bool = False) -> list[Row]:
    """Pairs of the base's first sample for each forbidden prompt, and what each trigger made of it.

    Raises:
        ValueError: if nothing was mended.
    """
    # The paper has one sample of a prompt.
    traces = []
    for trace in pool(setting):
        if trace.domain == Domain.FORBIDDEN.value and trace.sample == 0:
            traces.append(trace)

    model, tokenizer = setting.load()
    cues = GuardCues(setting.guard())
    built = mend(
        LocalEngine(model, tokenizer, "pocket"),
        cues.first_cue,
        traces,
        triggers=TRIGGERS,
        full=full,
        seed=setting.seed + 4,
        max_new_tokens=setting.plan.max_new_tokens,
    )

    # What the builder took from the pool was sampled too.
    made = [*traces, *built.traces]
    facts = {
        "sampled": len(made),
        "sampled_tokens": count_tokens(made),
        "guard_calls": cues.n_calls,
        "kept": len(built.rows),
        "generations_per_prompt": round(len(made) / max(1, len(traces)), 2),
        "stage1": built.prompts | {f"pairs_{name}": n for name, n in built.pairs.items()},
    }
    add_cost(setting, facts)
    if not built.rows:
        raise ValueError(f"{setting.arm}: no thought was mended: {built.prompts}, {built.pairs}")
    return built.rows


def stage2_rows(setting: Setting, stage1: tuple[Any, Any]) -> list[Row]:
    """Pairs of harmless prompts: the base's help over a refusal of the stage-1 model.

    Args:
        setting: of the arm.
        stage1: the model after stage 1 and its tokenizer.
    """
    # The ids are those of the pool, where a prompt that is met twice has two.
    prompts = []
    for number, prompt in enumerate(setting.train):
        if prompt.domain.value in HARMLESS:
            prompts.append(replace(prompt, id=f"{prompt.id}/{number}"))

    model, tokenizer = stage1
    refused = sample(
        model,
        tokenizer,
        prompts,
        seed=setting.seed + 5,
        max_new_tokens=setting.plan.max_new_tokens,
        method="stage1",
    )
    helped = [trace for trace in pool(setting) if trace.domain in HARMLESS]
    built = pair_help(tokenizer, helped, refused)

    # Added to what stage 1 has cost.
    cost = read_cost(setting)
    facts = {
        "sampled": cost["sampled"] + len(refused),
        "sampled_tokens": cost["sampled_tokens"] + count_tokens(refused),
        "kept": cost["kept"] + len(built.rows),
        "stage2": built.prompts | {f"pairs_{name}": n for name, n in built.pairs.items()},
    }
    add_cost(setting, facts)
    return built.rows


class GuardCues:
    """Compliance cues as the learned guard sees them.

    Attributes:
        n_calls: texts that the guard has read.
    """

    def __init__(self, guard: Any) -> None:
        self.guard = guard
        self.n_calls = 0

    def first_cue(self, trace: Trace, first: int = 0) -> int | None:
        """The first step, from `first` on, that is unsafe by itself; None: there is none."""
        items = []
        for step in segment_trace(trace)[first:]:
            text = step.chars.of(trace.completion)
            items.append(Item(request_of(trace), text, Part.THINKING))
        self.n_calls += len(items)

        # The guard gives one verdict a step.
        for number, verdict in enumerate(self.guard.judge(items), first):
            if verdict.label == "unsafe":
                return number
        return None


ARMS: dict[str, Callable[[Setting], None]] = {
    "ipo_1": train_ipo_1,
    "ipo": train_ipo,
    "dpo_full": train_dpo_full,
    "sft_chosen": train_sft_chosen,
}
