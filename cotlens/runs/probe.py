"""probe: cut and change a run's traces, let a model go on from there, and keep what it writes.

    OUT/run.json            what made it: the model, the probe and its settings
    OUT/part-00000.parquet  the probe's traces of the run's first shard, and so on

The traces are like those of `generate`: analyze the folder, and let any judge read it. What was
asked of which trace stands in their `meta["probe"]`; `measures.probe_table` makes columns of it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pandas as pd
import pyarrow as pa

from cotlens.files import model_versions, read_frame
from cotlens.formats.prompts import Prompt
from cotlens.formats.read import read_traces
from cotlens.measures.prefill import NO_DONOR
from cotlens.measures.probes import probe_table
from cotlens.runs.run import Run, open_run, text_shards
from cotlens.runs.shards import Made, over_shards, shards_of
from cotlens.runs.tables import trace_rows
from cotlens.text.prompts import is_rendered
from cotlens.text.response import new_tags
from cotlens.text.split import request_of
from cotlens.trace import Trace, TraceError

if TYPE_CHECKING:
    from cotlens.models.load import Model

# What a probe does with some traces of a run: it returns others, or none.
Ask = Callable[[list[Trace]], Sequence[Trace]]


def probe(
    run: Run | str | Path,
    model: "Model",
    out: str | Path,
    ask: Ask,
    *,
    kind: str,
    settings: Mapping[str, Any],
    on_error: Literal["stop", "skip"] = "stop",
    force: bool = False,
    progress: Callable[[int], None] | None = None,
) -> dict[str, Any]:
    """Put a probe to every trace of a run, shard by shard, and return what OUT/run.json says.

    Call a killed job again with the same arguments: it resumes after the last finished shard (one
    for each of the run's, of up to 1,000 traces), and makes the same texts.

    >>> ask = lambda traces: probes.continue_steps(model, traces, max_new_tokens=4096)
    >>> probe("runs/grpo", model, "probes/grpo", ask, kind="continuation",
    ...       settings={"max_new_tokens": 4096})  # doctest: +SKIP

    Args:
        run: a run directory that holds its texts (not made with `light`).
        model: the model that `ask` asks.
        out: the folder of the probe's traces.
        ask: of some traces, the traces that the model made of them.
        kind: name of the probe.
        settings: all that decides what `ask` returns, as JSON values.
        on_error: `skip` leaves out traces that cannot be probed; `n_skipped` counts them, and
            `first_skipped` says why of the first.
        force: make everything anew, whatever the folder holds.
        progress: called with the number of the run's traces done since the last call.

    Returns:
        The content of OUT/run.json, `n_asked`, `n_skipped`, `n_traces` and `n_tokens` among it,
        and `first_skipped`.

    Raises:
        TraceError: for a trace that cannot be probed, or if the folder holds what other settings
            made.
    """
    from cotlens.models.load import describe_model

    run = open_run(run)
    text_shards(run)  # raises if there is no text to cut
    made_by = {
        "probe": kind,
        "model": describe_model(model),
        "versions": model_versions(),
        "settings": dict(settings),
        "on_error": on_error,
    }
    tags = None if model.tokenizer is None else new_tags(model.tokenizer)

    def probe_shard(shard: Path) -> Made:
        traces = list(read_traces(shard, format="cotlens"))
        made, faults = _ask(ask, traces, on_error)
        if progress:
            progress(len(traces))
        counts = {
            "n_asked": len(traces),
            "n_skipped": len(faults),
            "n_traces": len(made),
            "n_tokens": sum(len(trace.token_ids or ()) for trace in made),
        }
        first_skipped = {"first_skipped": faults[0]} if faults else {}
        return Made(trace_rows(made, tags), counts | first_skipped)

    info = over_shards(
        shards_of(run.path / "traces"),
        Path(out),
        probe_shard,
        made_by=made_by,
        force=force,
    )

    # Notes that are text are not added up.
    reasons = [shard["notes"].get("first_skipped", "") for shard in info["shards"]]
    return info | {"first_skipped": next(filter(None, reasons), "")}


def _ask(ask: Ask, traces: list[Trace], on_error: str) -> tuple[list[Trace], list[str]]:
    """What a model made of some traces, and why it made nothing of others."""
    try:
        return list(ask(traces)), []
    except TraceError:
        if on_error == "stop":
            raise

    # One of them cannot be probed. What is drawn does not depend on the others.
    made = []
    faults = []
    for trace in traces:
        try:
            made += ask([trace])
        except TraceError as error:
            faults.append(str(error))
    return made, faults


def prompts_of(traces: Sequence[Trace], tokenizer: Any) -> list[Prompt]:
    """The prompts of some traces, each `prompt_id` once, as another model is asked them.

    They are the messages that the user wrote, which go through the other model's chat template. A
    prompt of which only the rendered text is known is read as it is.

    Args:
        traces: of a run.
        tokenizer: the other model's.

    Raises:
        TraceError: for a prompt that was rendered for another model, or two prompts of one id.
    """
    # Verdicts on probes are read without torch.
    from cotlens.models.encode import is_rendered_for

    prompts: dict[str, Prompt] = {}
    for trace in traces:
        messages = trace.meta.get("prompt_messages")
        request = request_of(trace)
        text = ""
        if messages is None and is_rendered(request):
            asked = replace(trace, prompt=request)
            if not tokenizer.chat_template or is_rendered_for(asked, tokenizer):
                text = request

        prompt = Prompt(
            id=trace.prompt_id,
            messages=messages or [{"role": "user", "content": request}],
            fields={
                "prompt_id": trace.prompt_id,
                "domain": trace.domain,
                "split": trace.split,
                "gold": trace.gold,
            },
            meta={},
            place=f"trace {trace.id!r}",
            text=text,
        )
        known = prompts.setdefault(trace.prompt_id, prompt)
        if known.messages != prompt.messages:
            raise TraceError(
                f"trace {trace.id!r}: its prompt is not that of {known.place}, though both have "
                f"the prompt_id {trace.prompt_id!r}; give different prompts different ids"
            )
    return list(prompts.values())


def keep_states(
    run: Run | str | Path,
    model: "Model",
    out: str | Path,
    *,
    layer: int = -1,
    max_tokens: int = 512,
    template_args: Mapping[str, Any] | None = None,
    force: bool = False,
    progress: Callable[[int], None] | None = None,
) -> dict[str, Any]:
    """Keep the hidden states of a run's prompts, shard by shard (`probes.prompt_states`).

    A file has the columns prompt_id, domain, split and state (float32, one number per dimension); a
    prompt whose traces lie in several shards is in each of their files. `read_states` reads them.

    Args:
        run: a run directory that holds its texts.
        model: a loaded model with a tokenizer.
        out: the folder.
        layer: as in `prompt_states`.
        max_tokens: likewise.
        template_args: variables of the chat template.
        force: make everything anew, whatever the folder holds.
        progress: called with the number of traces done since the last call.

    Returns:
        The content of OUT/run.json, `n_prompts` among it.

    Raises:
        TraceError: as `prompt_states`, or if the folder holds what other settings made.
    """
    from cotlens.models.load import describe_model
    from cotlens.probes.hidden import prompt_states

    run = open_run(run)
    text_shards(run)
    variables = dict(template_args or {})
    made_by = {
        "probe": "hidden",
        "model": describe_model(model),
        "versions": model_versions(),
        "settings": {"layer": layer, "max_tokens": max_tokens, "template_args": variables},
    }

    def read_shard(shard: Path) -> Made:
        traces = list(read_traces(shard, format="cotlens"))
        prompts = prompts_of(traces, model.tokenizer)
        states = prompt_states(
            model, prompts, layer=layer, max_tokens=max_tokens, template_args=variables
        )
        rows = {
            "prompt_id": [prompt.id for prompt in prompts],
            "domain": [prompt.fields["domain"] for prompt in prompts],
            "split": [prompt.fields["split"] for prompt in prompts],
            "state": list(states),
        }
        if progress:
            progress(len(traces))
        return Made(pa.table(rows), {"n_prompts": len(prompts)})

    return over_shards(
        shards_of(run.path / "traces"), Path(out), read_shard, made_by=made_by, force=force
    )


def read_states(out: str | Path) -> pd.DataFrame:
    """The hidden states that `keep_states` kept: prompt_id, domain, split, state; a prompt once.

    `np.stack(table["state"])` is the matrix that `measures.fit_boundary` takes.
    """
    paths = [shard.work for shard in shards_of(Path(out))]
    tables = [read_frame(path) for path in paths]
    return pd.concat(tables, ignore_index=True).drop_duplicates("prompt_id", ignore_index=True)


def judged_table(run: Run | str | Path, judge: str, part: str = "answer") -> pd.DataFrame:
    """The traces of a probe as rows, with a judge's verdicts: what `cotlens.measures` counts.

    The way there is `cotlens probe ... -o FOLDER`, `cotlens analyze FOLDER -o RUN`, and
    `cotlens guard RUN`.

    Args:
        run: the analyzed traces of a probe.
        judge: name of the judge whose verdicts count.
        part: `answer` or `thinking`.

    Returns:
        As `measures.probe_table`, with `is_safe`: missing where the judge did not decide. Of a run
        that no probe wrote, the traces are plain samples: their donor is "none".

    Raises:
        TraceError: for a run without verdicts of that judge on the part.
        ValueError: for another part.
    """
    if part not in ("answer", "thinking"):
        raise ValueError(f"expected the part answer or thinking, got {part!r}")
    run = open_run(run)
    if part not in run.judged_parts(judge):
        raise TraceError(f"{run.path}: the judge {judge} has not judged the {part}")

    traces = []
    for trace in run.traces():
        plain = {"kind": "plain", "donor": NO_DONOR}
        traces.append(replace(trace, meta={"probe": plain, **trace.meta}))
    table = probe_table(traces)
    judged = run.with_verdicts(table, judge)
    columns = ["thinking_unsafe", "answer_unsafe"]
    is_safe = ~judged[f"{part}_unsafe"].astype("boolean")
    return judged.assign(is_safe=is_safe).drop(columns=[name for name in columns if name in judged])
