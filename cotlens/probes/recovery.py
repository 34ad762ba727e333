"""Recovery: a model is put into a thought that has gone wrong. Does it go back, and is it right?

Reflective depth cannot be counted in words: training may drop the words and keep the skill, or keep
the words without their use. Here every arm is put into the same state, and what it does next is
looked at. There is no confound of length, and no arm chooses which mistakes it has to mend.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import pandas as pd

from cotlens.detect.reflect import classify
from cotlens.formats.prompts import Prompt, as_prompts
from cotlens.judges.grade import Grade, grade
from cotlens.models.engine import Engine
from cotlens.models.sample import as_engine, sample
from cotlens.probes.prefix import thought_prefixes
from cotlens.text.response import new_tags
from cotlens.text.rules import STOPPED
from cotlens.text.split import split_trace
from cotlens.text.steps import segment_trace
from cotlens.text.tags import Split, Status, Tags
from cotlens.trace import Trace

if TYPE_CHECKING:
    from cotlens.models.load import Model

WITHIN = 3  # steps after a prefix in which a reflection counts as going back

# A decision on one trace; None where it cannot be told.
Decide = Callable[[Trace], bool | None]


class Recovery(NamedTuple):
    """Continuations of injected thoughts.

    Attributes:
        traces: each completion is the prefix and what the model wrote after it, which is what a
            judge should read; `token_ids` are the model's own.
        table: as `recovery_table` makes it, in the order of the traces.
    """

    traces: list[Trace]
    table: pd.DataFrame


def recover(
    model: "Model | Engine",
    prompts: Sequence[str | Sequence[Mapping[str, Any]] | Prompt],
    prefixes: str | Sequence[str],
    *,
    goes_back: Decide | None = None,
    is_right: Decide | None = None,
    template_args: Mapping[str, Any] | None = None,
    **options: Any,
) -> Recovery:
    """What a model makes of injected beginnings of a thought: a mistake, an excuse, a false doubt.

    Give every arm the same prompts and prefixes. Where tokenizer and chat template are the same,
    all arms then read the same `prompt_token_ids`, and differences can be paired by prompt:

    >>> arm = recover(model, prompts, misses, n=8, max_new_tokens=4096)  # doctest: +SKIP
    >>> stats.proportion(arm.table["is_right"], arm.table["prompt_id"])  # doctest: +SKIP

    The idea is that of prefilled reasoning in RECAP (arXiv 2510.00938), turned from safety to any
    mistake; the definitions are this project's.

    Args:
        model: as in `sample`. An endpoint cannot carry a prefix on.
        prompts: as in `sample`.
        prefixes: beginnings of the thinking, one for each prompt or one for all, without the tag
            that opens it where the chat template writes it (see `thought_prefixes`). With empty
            ones this is plain sampling.
        goes_back: whether a continuation leaves the injected course. Default: `reflects_next`.
        is_right: whether its answer is right. Default: `grade_answer`, against the prompt's gold.
        template_args: as in `sample`.
        **options: of `sample`: `n`, `temperature`, `max_new_tokens`, `seed`, `banned_ids`,
            `method`, ...

    Raises:
        TraceError: as `sample` and `thought_prefixes`.
        ImportError: from `grade_answer`, if math-verify is not installed.
    """
    engine = as_engine(model)
    asked = as_prompts(prompts)
    if isinstance(prefixes, str):
        prefixes = [prefixes] * len(asked)
    completions = thought_prefixes(engine, asked, list(prefixes), template_args)

    traces = sample(engine, asked, prefill=completions, template_args=template_args, **options)

    # A tokenizer may bring delimiters of its own.
    tags = tags_of_engine(engine)
    goes_back = goes_back or partial(reflects_next, tags=tags)
    is_right = is_right or partial(grade_answer, tags=tags)
    table = recovery_table(traces, goes_back, is_right)
    return Recovery(traces, table)


def recovery_table(traces: Sequence[Trace], goes_back: Decide, is_right: Decide) -> pd.DataFrame:
    """One row per continuation, from `recover` or `continue_trace`.

    Returns:
        trace_id, prompt_id (the cluster of statistics), method, sample, start (code points of the
        prefix), finish_reason (`length`: it was cut off), n_tokens (written by the model, the end
        token included; missing where the engine returns text), goes_back and is_right (missing
        where they cannot be told).
    """
    rows = []
    for trace in traces:
        # An engine that returns text says nothing of tokens.
        n_tokens = None
        if trace.token_ids is not None:
            n_tokens = len(trace.token_ids)

        rows.append(
            {
                "trace_id": trace.id,
                "prompt_id": trace.prompt_id,
                "method": trace.method,
                "sample": trace.sample,
                "start": start_of_own(trace),
                "finish_reason": trace.finish_reason,
                "n_tokens": n_tokens,
                "goes_back": goes_back(trace),
                "is_right": is_right(trace),
            }
        )
    table = pd.DataFrame(rows, columns=_COLUMNS)
    return table.astype(
        {
            "n_tokens": "Int64",
            "goes_back": "boolean",
            "is_right": "boolean",
        }
    )


_COLUMNS = [
    "trace_id", "prompt_id", "method", "sample", "start", "finish_reason", "n_tokens",
    "goes_back", "is_right",
]  # fmt: skip


def start_of_own(trace: Trace) -> int:
    """Code point at which the model's own text begins; before it is the prefix."""
    starts = trace.token_starts or (0,)
    return starts[0]


def tags_of_engine(engine: Engine) -> Tags | None:
    """Delimiters of a thought that only the model's tokenizer knows; None: cotlens knows them."""
    if engine.tokenizer is None:
        return None
    return new_tags(engine.tokenizer)


def reflects_next(trace: Trace, *, within: int = WITHIN, tags: Tags | None = None) -> bool | None:
    """Whether one of the first steps after the prefix reflects (`is_reflection` of `classify`).

    Steps are those of the whole thought, prefix included, so that the classifier sees what came
    before. A step counts if it begins after the prefix: one that the prefix began and the model
    ended does not. A thought that ends without a reflection did not go back.

    Args:
        trace: a continuation.
        within: number of steps after the prefix that count.
        tags: delimiters of the thought, where cotlens does not know them.

    Returns:
        None without a thought, where none of these steps reflects and one is in a language that the
        classifier does not know, or where the text was cut off within them.
    """
    split = split_trace(trace, tags=tags)
    if split.status is Status.ABSENT:
        return None
    steps = segment_trace(trace, split)
    texts = [step.chars.of(trace.completion) for step in steps]
    kinds = classify(texts)

    # What the model began itself.
    start = start_of_own(trace)
    reflections = []
    for step, is_reflection in zip(steps, kinds.is_reflection, strict=True):
        if step.chars.start >= start:
            reflections.append(is_reflection)

    # The last step of a text that was cut off is not whole: nothing is known of it.
    if _is_cut_off(trace, split) and len(reflections) <= within:
        reflections[-1:] = [None]

    first_reflections = reflections[:within]
    if True in first_reflections:
        return True
    if None in first_reflections:
        return None
    return False


def _is_cut_off(trace: Trace, split: Split) -> bool:
    """Whether the thought might have gone on."""
    return split.status is Status.OPEN and trace.finish_reason.lower() not in STOPPED


def grade_answer(trace: Trace, *, tags: Tags | None = None) -> bool | None:
    """Whether the answer equals the trace's gold (`grade`); None without a gold.

    As in studies, an answer that cannot be read, or that is missing because the text was cut off,
    is not right. `finish_reason` tells how many were cut off: allow enough tokens.
    """
    if not trace.gold:
        return None
    split = split_trace(trace, tags=tags)
    answer = split.answer.of(trace.completion)
    return grade(answer, trace.gold) is Grade.CORRECT
