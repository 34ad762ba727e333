"""The base's own samples for the training prompts: what filters and interventions choose from."""

from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Any

from cotlens.formats.read import read_traces
from cotlens.text.split import request_of
from cotlens.trace import Trace
from trainers.pocket.plan import Setting, add_cost, count_tokens
from trainers.pocket.world import Domain, Prompt

REQUESTS = (Domain.FORBIDDEN, Domain.LOOK_ALIKE, Domain.ALLOWED)


def keep_rewarded(
    setting: Setting, functions: Sequence[Any], domains: Collection[str]
) -> list[dict[str, str]]:
    """The base's samples for GRPO's prompts of these domains that earn all of these rewards.

    A reward counts as earned from 1/2 on.
    """
    traces = [trace for trace in pool(setting) if trace.domain in domains]
    columns = {
        "prompts": [request_of(trace) for trace in traces],
        "completions": [trace.completion for trace in traces],
        "domain": [trace.domain for trace in traces],
        "answer": [trace.gold or None for trace in traces],
    }
    given = [function(**columns) for function in functions]

    # A reward that does not apply says nothing; a sample that was cut is no example.
    kept = []
    for trace, *values in zip(traces, *given, strict=True):
        is_earned = all(value is None or value >= 0.5 for value in values)
        if is_earned and trace.finish_reason == "stop":
            kept.append({"prompt": request_of(trace), "completion": trace.completion})
    facts = {
        "sampled": len(traces),
        "kept": len(kept),
        "sampled_tokens": count_tokens(traces),
        "guard_calls": sum(trace.domain == Domain.FORBIDDEN.value for trace in traces),
    }
    add_cost(setting, facts)
    return kept


def pool(setting: Setting) -> list[Trace]:
    """The base's samples that the filters choose from, drawn once per seed.

    Prompts and samples per prompt are GRPO's.
    """
    from trainers.pocket.base import sample
    from trainers.record import write_traces

    path = setting.folder / "base" / "pool.parquet"
    if not path.exists():
        model, tokenizer = setting.load()
        traces = sample(
            model,
            tokenizer,
            pool_prompts(setting),
            n=setting.plan.group,
            seed=setting.seed + 1,
            max_new_tokens=setting.plan.max_new_tokens,
        )
        write_traces(path, traces)
    return list(read_traces(path))


def pool_prompts(setting: Setting) -> list[Prompt]:
    """The prompts of the pool, in order; a prompt that is met twice is sampled twice."""
    prompts = []
    for number, prompt in enumerate(setting.train):
        prompts.append(replace(prompt, id=f"{prompt.id}/{number}"))
    return prompts
