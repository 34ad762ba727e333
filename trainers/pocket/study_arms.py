"""The arms of the SFT study (arXiv 2505.15404): six kinds of response, and patterns taken out.

All types answer the same forbidden requests, one row a request, and have the same harmless rows. In
this world they are

    default     the base's own sample
    improved    the base's own, asked to refuse (ThinkSafe's instruction)
    immediate   written: names the request, notices the danger, refuses
    short       written: refuses
    template    written in the formal register: a verdict on the substance, one on other people,
                the conclusion
    none        written: an empty thought, the refusal

and the learned guard has passed thought and answer of each. Harmless rows are the base's own that
help.

Of `removed_PATTERN` and `control_PATTERN` the rows are all samples of the base for forbidden
requests that the guard passes, less those with the pattern, or less as many others. What sentences
do is known from their wording; the oracle reads it.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from cotlens.formats.read import read_traces
from cotlens.text.split import request_of
from cotlens.trace import Trace
from trainers.methods.selfgen import safe_by, select
from trainers.methods.sft_study import (
    BENIGN_SHARE,
    Responses,
    ResponseType,
    control,
    match,
    without,
)
from trainers.pocket import wording
from trainers.pocket.optimise import fine_tune, is_helpful
from trainers.pocket.oracle import NO_THOUGHT, read_truth
from trainers.pocket.own_arms import PARTS, thinksafe_rows
from trainers.pocket.plan import HARMLESS, Setting, add_cost, count_tokens
from trainers.pocket.pool import pool
from trainers.pocket.wording import EXCUSES, Role
from trainers.pocket.world import Domain, Prompt, PromptSplit
from trainers.pocket.writer import Writer

# What is written, in order: sentences of the thought; the answer refuses.
WRITTEN: dict[ResponseType, tuple[Role, ...]] = {
    ResponseType.IMMEDIATE: (Role.OPEN, Role.NOTICE, Role.REFUSE),
    ResponseType.SHORT: (Role.REFUSE,),
}
TEMPLATE = (*wording.FORMAL[Role.NOTICE], wording.FORMAL[Role.REFUSE][0])


def train_study(setting: Setting, kind: ResponseType, benign_share: float = BENIGN_SHARE) -> None:
    """SFT on responses of one type to the prompts that all types answer, and harmless rows."""
    built = study_rows(setting, benign_share)
    numbers = built.acceptance[kind]
    facts = numbers._asdict() | {
        "acceptance": round(numbers.share, 4),
        "sampled_tokens": count_tokens(built.traces[kind]),
        "guard_calls": numbers.unsafe + numbers.kept,
        "prompts": built.counts,
    }
    add_cost(setting, facts)
    fine_tune(setting, built.rows[kind])


def study_rows(setting: Setting, benign_share: float = BENIGN_SHARE) -> Responses:
    """Rows of all six types for the same forbidden requests."""
    own = _by_request(pool(setting), Domain.FORBIDDEN)
    steered = _by_request(_steered(setting), Domain.FORBIDDEN)
    written: dict[ResponseType, list[Trace]] = {
        ResponseType.DEFAULT: own,
        ResponseType.IMPROVED: steered,
    }

    # The written types answer each request once.
    prompts = []
    for prompt in setting.prompts[PromptSplit.TRAIN]:
        if prompt.domain is Domain.FORBIDDEN:
            prompts.append(prompt)
    for kind in ResponseType:
        if kind not in written:
            written[kind] = [write(prompt, kind, setting.seed) for prompt in prompts]

    return match(
        written,
        safe_by(setting.guard(), PARTS),
        benign=_helpful_rows(setting) if benign_share else (),
        benign_share=benign_share,
        n_rows=len(prompts),
        checks={ResponseType.TEMPLATE: follows_template},
    )


def _steered(setting: Setting) -> list[Trace]:
    """The base's samples with the instruction to refuse, drawn once a seed."""
    from trainers.record import write_traces

    path = setting.folder / "base" / "steered.parquet"
    if not path.exists():
        write_traces(path, thinksafe_rows(setting).traces)
    return list(read_traces(path))


def write(prompt: Prompt, kind: ResponseType, seed: int = 0) -> Trace:
    """A response of a type that is written, as a trace."""
    rng = random.Random(f"study {kind.value} {prompt.id} {seed}")
    writer = Writer(prompt, rng, p_formal=0.0)
    if kind is ResponseType.TEMPLATE:
        writer = Writer(prompt, rng, p_formal=1.0)
    for role in WRITTEN.get(kind, (Role.REFUSE,)):
        writer.say(role)
    writer.reply(Role.ANSWER_REFUSAL)
    completion = writer.completion().text

    # The thought of these two is not the writer's.
    _, _, answer = completion.partition("</think>\n\n")
    if kind is ResponseType.TEMPLATE:
        sentences = [text.format(v=prompt.verb, t=prompt.topic) for text in TEMPLATE]
        completion = f"<think>\n{' '.join(sentences)}\n</think>\n\n{answer}"
    if kind is ResponseType.NONE:
        completion = NO_THOUGHT + answer
    return Trace(
        id=f"{kind.value}/{prompt.id}",
        prompt=prompt.text,
        prompt_id=prompt.text,
        domain=prompt.domain.value,
        completion=completion,
        finish_reason="stop",
    )


def follows_template(trace: Trace) -> bool:
    """Whether the thought has a verdict on the substance, then one on other people, and decides."""
    places = []
    for text in TEMPLATE:
        place = trace.completion.find(text.partition("{t}")[2] or text)
        places.append(place)
    return -1 not in places and places == sorted(places)


def _by_request(traces: Sequence[Trace], domain: Domain) -> list[Trace]:
    """The samples of a domain; those of the same request have the same `prompt_id`."""
    chosen = []
    for trace in traces:
        if trace.domain == domain.value:
            chosen.append(replace(trace, prompt_id=request_of(trace)))
    return chosen


def _helpful_rows(setting: Setting) -> list[dict[str, Any]]:
    """The base's own samples that help with harmless requests, the first of each."""
    prompt_of = {prompt.text: prompt for prompt in setting.prompts[PromptSplit.TRAIN]}
    rows: dict[str, dict[str, Any]] = {}
    for trace in pool(setting):
        request = request_of(trace)
        if trace.domain not in HARMLESS or trace.finish_reason != "stop":
            continue
        if is_helpful(trace.completion, prompt_of[request]):
            row = {"prompt": request, "completion": trace.completion, "domain": trace.domain}
            rows.setdefault(request, row | {"prompt_id": request, "why": "helps"})
    return list(rows.values())


# --- matched removal -----------------------------------------------------------------------------


def lacks_awareness(roles: Sequence[Role]) -> bool:
    """Whether no sentence of a thought notices the danger."""
    return Role.NOTICE not in roles


def strong_vacillation(roles: Sequence[Role]) -> bool:
    """Whether a thought notices the danger and weighs an excuse or a plan all the same."""
    is_tempted = any(role in (*EXCUSES, Role.PLAN) for role in roles)
    return is_tempted and not lacks_awareness(roles)


def rule_check(roles: Sequence[Role]) -> bool:
    """Whether a thought asks what the rules say: no risk, so that its removal should not help."""
    return Role.RULE_CHECK in roles


PATTERNS: dict[str, Callable[[Sequence[Role]], bool]] = {
    "lacks_awareness": lacks_awareness,
    "strong_vacillation": strong_vacillation,
    "rule_check": rule_check,
}


def train_removed(setting: Setting, pattern: str, *, is_control: bool = False) -> None:
    """SFT on the base's safe samples less those with a pattern, or less as many others."""
    rows, flags = pattern_rows(setting, pattern)
    kept = control(rows, flags, setting.seed) if is_control else without(rows, flags)
    facts = {
        "kept": len(kept),
        "rows_before": len(rows),
        "rows_with_pattern": sum(flags),
    }
    add_cost(setting, facts)
    fine_tune(setting, kept)


def pattern_rows(setting: Setting, pattern: str) -> tuple[list[dict[str, Any]], list[bool]]:
    """The base's samples for forbidden requests that the guard passes, and which have a pattern."""
    prompt_of = {prompt.text: prompt for prompt in setting.prompts[PromptSplit.TRAIN]}
    traces = _by_request(pool(setting), Domain.FORBIDDEN)
    selection = select(traces, safe_by(setting.guard(), PARTS))

    rows = []
    flags = []
    for trace in selection.traces:
        truth = read_truth(trace.completion, prompt_of[trace.prompt_id])
        roles = [sentence.role for sentence in truth.think]
        flags.append(PATTERNS[pattern](roles))
        rows.append({"prompt": trace.prompt_id, "completion": trace.completion})
    return rows, flags


ARMS: dict[str, Callable[[Setting], None]] = {}
for _kind in ResponseType:
    ARMS[f"study_{_kind.value}"] = partial(train_study, kind=_kind)
ARMS["study_improved_0"] = partial(train_study, kind=ResponseType.IMPROVED, benign_share=0.0)

# Trained only where somebody asks for them.
ON_REQUEST = []
for _pattern in PATTERNS:
    for _name, _is_control in (("removed", False), ("control", True)):
        ARMS[f"{_name}_{_pattern}"] = partial(
            train_removed,
            pattern=_pattern,
            is_control=_is_control,
        )
        ON_REQUEST.append(f"{_name}_{_pattern}")
