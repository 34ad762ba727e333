"""Sample completions: one contract for every caller and every engine.

`sample` answers prompts, `continue_trace` and `continue_traces` carry cut traces on. All take a
loaded model, a vLLM engine or an endpoint, and return traces. Nothing else in cotlens draws text.

Only the arguments decide what is drawn. Of a checkpoint's generation_config only the end tokens
are used: transformers would otherwise fill every setting that is left out from the checkpoint or
from its own defaults (top_k 50, a repetition penalty). Every sample has its own stream of random
numbers: its batch changes nothing but the rounding of low-precision arithmetic.

torch and transformers are imported where they are used, so that `cotlens.runs.generate` can be
imported without them.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any, cast

from cotlens.formats.prompts import Prompt, as_prompts
from cotlens.models.engine import Engine, Job, Sampling, Written
from cotlens.trace import Trace, TraceError, hash_text

if TYPE_CHECKING:
    from cotlens.models.load import Model


def sample(
    model: "Model | Engine",
    prompts: Sequence[str | Sequence[Mapping[str, Any]] | Prompt],
    *,
    n: int = 1,
    temperature: float = 1.0,
    top_p: float = 1.0,
    top_k: int = 0,
    max_new_tokens: int,
    seed: int | None = 0,
    prefill: str | Sequence[str] = "",
    banned_ids: Sequence[int] = (),
    template_args: Mapping[str, Any] | None = None,
    method: str = "",
    progress: Callable[[int], None] | None = None,
) -> list[Trace]:
    """`n` completions of each prompt, as traces in the order of the prompts.

    A trace's prompt is what the model read, and its completion begins with the prefill. Its token
    ids are those that were drawn, the end token included: those of the prefill are the last of
    `prompt_token_ids`. `token_starts` is set wherever the engine returns token ids.

    >>> sample(model, ["What is 2 + 2?"], n=8, max_new_tokens=4096)  # doctest: +SKIP

    Args:
        model: a loaded model, or an engine: `VllmEngine`, `EndpointEngine`.
        prompts: requests, lists of messages, or prompts as `read_prompts` returns them. A `Prompt`
            with `text` is already rendered and is read as it is.
        n: samples per prompt.
        temperature: sampling temperature; 0 is greedy.
        top_p: keep the likeliest words that hold this much probability.
        top_k: keep this many of the likeliest words; 0 keeps all.
        max_new_tokens: longest completion, without its prefill; a longer one is cut, finish reason
            `length`.
        seed: of all random numbers. A sample depends on it, the prompt's id and the sample's
            number. Prompts without an id have the hash of their messages.
        prefill: beginning of every completion, or one for each prompt.
        banned_ids: token ids that are never drawn.
        template_args: variables of the chat template, such as `{"enable_thinking": True}`.
        method: name of the checkpoint or training arm, for the traces.
        progress: called with the number of completions done since the last call.

    Raises:
        TraceError: for a prompt that the model cannot read or that leaves no room for the
            completion, two prompts of one id, or a request that the engine cannot meet (an endpoint
            promises no seeds, prefills or banned tokens).
    """
    engine = as_engine(model)
    sampling = Sampling(n, temperature, top_p, top_k, max_new_tokens, seed, tuple(banned_ids))
    asked = as_prompts(prompts)

    prefills = [prefill] * len(asked) if isinstance(prefill, str) else list(prefill)
    if len(prefills) != len(asked):
        raise TraceError(
            f"prefill: expected one text, or one for each of the {len(asked)} prompts; "
            f"got {len(prefills)}"
        )
    engine.check(sampling, prefills)
    check_template(engine, template_args)

    jobs = []
    for prompt, prefix in zip(asked, prefills, strict=True):
        job = render_job(engine, prompt, prefix, template_args or {})
        check_room(engine, job, max_new_tokens)
        jobs.append(job)
    return list(sample_jobs(engine, jobs, sampling, method=method, progress=progress))


def continue_trace(
    model: "Model | Engine",
    trace: Trace,
    cut: int | Sequence[int],
    *,
    insert: str | Sequence[str] = "",
    **options: Any,
) -> list[Trace]:
    """A trace cut off, with a text put in its place, and carried on by the model.

    Args:
        model: as in `sample`.
        trace: the trace.
        cut: code points of the completion, or a list of cuts.
        insert: the text to put there, or one for each cut.
        **options: of `continue_traces`.

    Returns:
        As `continue_traces`: `n` traces for each cut, in the order of the cuts.

    Raises:
        TraceError: as `continue_traces`.
    """
    cuts = [cut] if isinstance(cut, int) else list(cut)
    return continue_traces(model, [trace] * len(cuts), cuts, insert=insert, **options)


def continue_traces(
    model: "Model | Engine",
    traces: Sequence[Trace],
    cuts: Sequence[int],
    *,
    insert: str | Sequence[str] = "",
    n: int = 1,
    temperature: float = 1.0,
    top_p: float = 1.0,
    top_k: int = 0,
    max_new_tokens: int,
    seed: int | None = 0,
    banned_ids: Sequence[int] = (),
    progress: Callable[[int], None] | None = None,
) -> list[Trace]:
    """Traces cut off, each with a text put in its place, and carried on by the model together.

    The completion of a continuation is `completion[:cut] + insert` and what the model wrote after
    it: this is what a judge should read. Its `token_ids` are the model's own; `token_starts` tells
    where they begin, and everything before the first of them is the prefix. Where the source kept
    thinking and answer in separate fields, the completion has the delimiters that the model read.

    A trace keeps its own token ids up to a cut that lies between two of them; otherwise prefix and
    insert are encoded as one text.

    Args:
        model: as in `sample`.
        traces: a prompt goes through the chat template unless it is rendered. A trace may occur
            several times.
        cuts: code points of the completions, one for each trace.
        insert: the text to put there, or one for each cut.
        n: continuations of each cut.
        temperature: as in `sample`, like the arguments that follow.
        top_p: likewise.
        top_k: likewise.
        max_new_tokens: longest continuation, without the prefix.
        seed: likewise; a continuation depends on it, the trace's id, cut, insert and its number.
        banned_ids: likewise.
        progress: called with the number of continuations done since the last call.

    Returns:
        `n` traces for each cut, in the order of the cuts. Their ids are `ID@CUT/NUMBER`, with a
        hash of the insert where there is one; `meta["continues"]` holds id, cut and insert.

    Raises:
        TraceError: if a cut lies outside of the completion, the prefix leaves no room in the
            model's context, the same cut is asked for twice, or the engine cannot continue a text.
    """
    engine = as_engine(model)
    sampling = Sampling(n, temperature, top_p, top_k, max_new_tokens, seed, tuple(banned_ids))
    inserts = [insert] * len(cuts) if isinstance(insert, str) else list(insert)
    for name, given in (("cuts", cuts), ("insert", inserts)):
        if len(given) != len(traces):
            raise TraceError(
                f"{name}: expected one for each of the {len(traces)} traces to continue; "
                f"got {len(given)}"
            )
    for trace, cut in zip(traces, cuts, strict=True):
        if not 0 <= cut <= len(trace.completion):
            raise TraceError(
                f"trace {trace.id!r}: cut {cut} lies outside of its "
                f"{len(trace.completion):,} characters"
            )
    engine.check(sampling, [trace.completion for trace in traces])

    jobs = []
    for trace, cut, text in zip(traces, cuts, inserts, strict=True):
        job = _continuation_job(engine, trace, cut, text)
        check_room(engine, job, max_new_tokens)
        jobs.append(job)

    # The source of a continuation gives what it does not depend on.
    continuations = []
    sources = [trace for trace in traces for _ in range(n)]
    written = sample_jobs(engine, jobs, sampling, progress=progress)
    for trace, continued in zip(sources, written, strict=True):
        source = {
            "method": trace.method,
            "training_step": trace.training_step,
            "meta": {**trace.meta, **continued.meta},
        }
        continuations.append(replace(continued, **source))
    return continuations


def _continuation_job(engine: Engine, trace: Trace, cut: int, insert: str) -> Job:
    """What the model reads before it carries a cut trace on."""
    from cotlens.models.opening import encode_opening

    if engine.tokenizer is None:
        raise TraceError(f"{engine.name}: a model without a tokenizer cannot continue a text")
    opening = encode_opening(trace, cut, insert, engine.tokenizer)

    # The same cut may be asked for with several inserts: each has random numbers of its own.
    place = f"{trace.id}@{cut}"
    if insert:
        place += f"+{hash_text(insert)[:8]}"
    meta = {"continues": {"id": trace.id, "cut": cut, "insert": insert}}
    fields = {
        "prompt_id": trace.prompt_id,
        "domain": trace.domain,
        "split": trace.split,
        "gold": trace.gold,
    }
    prompt = Prompt(
        id=place,
        messages=[],
        fields=fields,
        meta=meta,
        place=f"trace {trace.id!r}, cut {cut}",
    )
    return Job(prompt, opening.prompt, opening.ids, prefix=opening.prefix)


def as_engine(model: "Model | Engine", batch_tokens: int | None = None) -> Engine:
    """The engine that writes for a model: transformers for a loaded one.

    Raises:
        TraceError: if the loaded model has no tokenizer.
    """
    if hasattr(model, "write"):
        return cast("Engine", model)
    from cotlens.models.local import LocalEngine

    model = cast("Model", model)
    return LocalEngine(
        model.network, model.tokenizer, model.name, revision=model.revision, budget=batch_tokens
    )


def sample_jobs(
    engine: Engine,
    jobs: Sequence[Job],
    sampling: Sampling,
    *,
    method: str = "",
    progress: Callable[[int], None] | None = None,
) -> Iterator[Trace]:
    """`sampling.n` traces of each job, in the order of the jobs."""
    ids = [job.prompt.id for job in jobs]
    for first, second in pairwise(sorted(ids)):
        if first == second:
            raise TraceError(f"the id {first!r} occurs twice; give each prompt an id of its own")

    numbered = []
    for job in jobs:
        numbered += [job._replace(sample=number) for number in range(sampling.n)]

    # Completions come in any order.
    traces = {}
    for job, written in engine.write(numbered, sampling):
        traces[job.prompt.id, job.sample] = make_trace(engine, job, written, sampling, method)
        if progress:
            progress(1)
    for job in numbered:
        yield traces[job.prompt.id, job.sample]


def make_trace(
    engine: Engine, job: Job, written: Written, sampling: Sampling | None = None, method: str = ""
) -> Trace:
    """The trace of a completion.

    Args:
        engine: what wrote it.
        job: what was asked.
        written: the token ids, or the reply.
        sampling: how it was drawn; kept in the trace's `meta`.
        method: name of the checkpoint or training arm.
    """
    from cotlens.files import short_name

    # The request as the user wrote it, before the chat template.
    prompt = job.prompt
    meta = dict(prompt.meta)
    if prompt.messages:
        meta["request"] = prompt.messages[-1]["content"]
    if len(prompt.messages) > 1:
        meta["prompt_messages"] = prompt.messages
    if sampling:
        meta["sampling"] = sampling.describe()
    known: dict[str, Any] = {
        "id": f"{prompt.id}/{job.sample}",
        "prompt": job.text,
        "model": short_name(engine.name),
        "method": method,
        "sample": job.sample,
        **prompt.fields,
    }

    # An engine that returns text: what its reply says of the thinking and the end stays.
    if written.trace is not None:
        reply_meta = {**written.trace.meta, **meta}
        return replace(written.trace, **known, meta=reply_meta)

    # The end token is one of those that were drawn, and has no text.
    ids = tuple(written.ids or ())
    has_ended = bool(ids) and ids[-1] in engine.end_ids
    text_ids = ids[:-1] if has_ended else ids
    text = engine.tokenizer.decode(text_ids)
    completion = job.prefix + text
    starts = _token_starts(engine, text, text_ids, len(job.prefix))
    if has_ended:
        starts = (*starts, len(completion))
    return Trace(
        **known,
        completion=completion,
        finish_reason="stop" if has_ended else "length",
        prompt_token_ids=tuple(job.ids),
        token_ids=ids,
        token_starts=starts,
        meta=meta,
    )


def _token_starts(
    engine: Engine, text: str, ids: tuple[int, ...], n_before: int
) -> tuple[int, ...]:
    """Where the tokens of a text begin, with so many characters before it."""
    from cotlens.models.encode import locate_tokens

    drawn = Trace(id="drawn", completion=text, token_ids=ids)
    starts = locate_tokens(drawn, engine.tokenizer, skip=False)
    return tuple(n_before + start for start in starts)


def render_job(
    engine: Engine, prompt: Prompt, prefix: str, template_args: Mapping[str, Any]
) -> Job:
    """A prompt as the model reads it, as the job of its first sample.

    Raises:
        TraceError: if the chat template cannot take the prompt, or if there is no template and the
            prompt is more than one text.
    """
    tokenizer = engine.tokenizer
    if tokenizer is None:  # the server renders the messages
        return Job(prompt, prompt.messages[-1]["content"], (), prefix=prefix)

    if prompt.text:
        return Job(prompt, prompt.text, _rendered_ids(tokenizer, prompt.text, prefix), 0, prefix)

    if not tokenizer.chat_template:
        if len(prompt.messages) > 1:
            raise TraceError(
                f"{prompt.place}: the model has no chat template; give one text, and no system"
            )
        text = prompt.messages[0]["content"]
        encoding = tokenizer(text + prefix, verbose=False)
        return Job(prompt, text, encoding["input_ids"], prefix=prefix)

    # The template writes the token that begins a sequence: the tokenizer must not add it again.
    from cotlens.models.template import apply_template

    text = apply_template(tokenizer, prompt.messages, prompt.place, template_args)
    encoding = tokenizer(text + prefix, add_special_tokens=False, verbose=False)
    return Job(prompt, text, encoding["input_ids"], prefix=prefix)


def _rendered_ids(tokenizer: Any, text: str, prefix: str) -> list[int]:
    """Ids of a rendered prompt, which may or may not hold the token that begins a sequence."""
    from cotlens.models.template import bos_ids

    encoding = tokenizer(text + prefix, add_special_tokens=False, verbose=False)
    return bos_ids(tokenizer, text) + encoding["input_ids"]


def check_template(engine: Engine, template_args: Mapping[str, Any] | None) -> None:
    """Raise TraceError for a variable that the chat template does not have.

    A template passes over variables that it does not know: a typing error would change nothing.
    """
    if not template_args:
        return
    template = str(getattr(engine.tokenizer, "chat_template", "") or "")
    unknown = [name for name in template_args if name not in template]
    if unknown:
        raise TraceError(f"the chat template has no variable {', '.join(unknown)}")


def check_room(engine: Engine, job: Job, max_new_tokens: int) -> None:
    """Raise TraceError if a prompt and the longest completion exceed the model's context.

    All completions have one limit, or their lengths could not be compared.
    """
    n_over = len(job.ids) + max_new_tokens - engine.context
    if n_over > 0:
        raise TraceError(
            f"{job.prompt.place}: the prompt's {len(job.ids):,} tokens and the longest completion "
            f"are {n_over:,} more than the model was made for; lower max_new_tokens "
            "(--max-new-tokens) by that, or leave the prompt out"
        )
