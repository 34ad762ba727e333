"""The model under study: loaded, checked against itself, and asked what it thought of every token of a trace.

`trace <- scores <- model`. Nothing else loads a model. A trace with token ids is scored on exactly those; a trace of
text is encoded once, and what that may have changed is reported beside its scores.
"""

import hashlib
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cotlens.scores import Head, Scores, score_hidden, score_logits
from cotlens.split import FAMILIES, OpenedBy, Status, Tags, split_trace
from cotlens.trace import Origin, Trace, TraceError

TOKENS_PER_BATCH = {"cpu": 4096, "cuda": 32768}


@dataclass(frozen=True, slots=True)
class Model:
    """A causal language model that has passed its check, with its tokenizer.

    Attributes:
        name: as it was asked for: a folder or a repository of the Hub.
        revision: the commit that was loaded; empty for a folder.
        network: the transformers model.
        tokenizer: its tokenizer, or None: then only traces with token ids can be scored.
        head: its output head, as `scores` takes it.
        context: the longest sequence it was made for, in tokens.
    """

    name: str
    revision: str
    network: Any
    tokenizer: Any
    head: Head
    context: int

    @property
    def device(self) -> torch.device:
        return self.network.device

    @property
    def n_words(self) -> int:
        """Size of the output vocabulary."""
        return self.head.weight.shape[0]

    @property
    def sees_length(self) -> bool:
        """Whether positions depend on the longest sequence of a batch (LongRoPE, dynamic NTK): then each goes alone."""
        text = self.network.config.get_text_config()
        return bool(re.search(r"'(?:rope_)?type': '(?:longrope|dynamic)'", str(getattr(text, "rope_parameters", ""))))

    @property
    def is_slow_on_cpu(self) -> bool:
        """Whether the weights are of a 16-bit type that this processor only emulates."""
        half = self.head.weight.dtype in (torch.bfloat16, torch.float16)
        return half and self.device.type == "cpu" and not torch.ops.mkldnn._is_mkldnn_bf16_supported()

    def hidden(self, ids: Tensor) -> Tensor:
        """Final hidden states (B, L, d) of token ids (B, L) that are padded on the right, if at all.

        No mask is needed: in a causal model a token never sees what stands right of it.
        """
        return self.network.base_model(input_ids=ids, use_cache=False).last_hidden_state


class ScoredTrace(NamedTuple):
    """The scores of one completion; every array is parallel to `token_ids`. Unscored is NaN.

    Attributes:
        trace_id: the trace.
        token_ids: of the completion, as they were scored.
        token_starts: code point of the completion at which each token begins, or None where that cannot be told.
        values: the columns of `table.SCORE_COLUMNS` that hold one float32 (or k of them) per token.
        encoding: `ids` from the source, or `text` encoded here.
        context: where the tokens before the completion come from: `ids` of the source, the chat `template`, a prompt
            taken `verbatim` because it was rendered already or there is no template, or `none`.
        exact: whether the ids decode to the completion, character for character.
        n_drift: of a text: tokens that come out otherwise when prompt and completion are encoded as one string.
        windowed: whether the trace was longer than the context and was scored in overlapping windows.
        error: why the trace has no scores; empty if it has.
    """

    trace_id: str
    token_ids: tuple[int, ...]
    token_starts: tuple[int, ...] | None
    values: dict[str, NDArray[Any]]
    encoding: str = ""
    context: str = ""
    exact: bool | None = None
    n_drift: int | None = None
    windowed: bool = False
    error: str = ""


# --- loading ---------------------------------------------------------------------------------------------------


def load_model(
    name: str, *, revision: str | None = None, device: str = "", dtype: str = "auto", tokenizer: Any = "auto"
) -> Model:
    """The model of a folder or a Hub repository, after a check of its output head against its own logits.

    Only safetensors are read, and no code that comes with the weights is run.

    Args:
        name: a folder or a repository.
        revision: branch, tag or commit of the repository.
        device: `cpu`, `cuda`, `cuda:1`, ...; default: the GPU if there is one.
        dtype: `auto` keeps the checkpoint's own type; or `float32`, `bfloat16`, `float16`.
        tokenizer: a tokenizer; `auto` loads the model's own; None does without.

    Raises:
        TraceError: if files are missing or damaged, weights are not finite, or the head does not explain the logits.
    """
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM, AutoTokenizer

    if dtype not in _DTYPES:
        raise TraceError(f"dtype {dtype!r} is not known; there are {', '.join(_DTYPES)}")
    options = {"revision": revision, "trust_remote_code": False}
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            name, dtype=_DTYPES[dtype], use_safetensors=True, output_loading_info=True, **options
        )
        if tokenizer == "auto":
            tokenizer = AutoTokenizer.from_pretrained(name, **options)
    except (*_LOADING_ERRORS, SafetensorError) as error:
        where = "" if Path(name).is_dir() else " (there is no such folder here, so the Hub was asked)"
        raise TraceError(f"{name}: the model cannot be loaded{where}: {_first_line(error)}") from error
    network, report = loaded
    missing = sorted(report["missing_keys"]) + sorted(str(key) for key in report.get("mismatched_keys") or ())
    if missing:
        raise TraceError(
            f"{name}: {len(missing)} weights are not in the files ({', '.join(missing[:3])}, ...): the checkpoint is "
            "incomplete; save or download it again"
        )
    try:
        network = network.to(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    except (AssertionError, RuntimeError) as error:
        raise TraceError(f"{name}: cannot be put on device {device!r}: {_first_line(error)}") from error
    return wrap_model(network, tokenizer, name=name)


_DTYPES = {"auto": "auto", "float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
# What transformers and safetensors raise for a folder that is missing, damaged or of no known kind.
_LOADING_ERRORS = (OSError, ValueError, KeyError, RuntimeError, ImportError)


def wrap_model(network: Any, tokenizer: Any = None, *, name: str = "") -> Model:
    """A transformers causal language model in memory, made ready to score and checked as `load_model` does.

    Raises:
        TraceError: if weights are not finite, the tokenizer has ids the model lacks, or the head does not explain
            the model's own logits.
    """
    network.eval()
    config = network.config.get_text_config()
    name = name or getattr(network, "name_or_path", "") or type(network).__name__
    model = Model(
        name=name,
        revision=getattr(network.config, "_commit_hash", None) or "",
        network=network,
        tokenizer=tokenizer,
        head=_head_of(network, config),
        context=getattr(config, "max_position_embeddings", None) or 2**31,
    )
    # A few ids beyond the head are tokens that the model never reads or writes (Gemma 3's image token); more are not.
    if tokenizer is not None and max(tokenizer.get_vocab().values()) >= model.n_words + model.n_words // 4000:
        raise TraceError(
            f"{name}: the tokenizer has ids up to {max(tokenizer.get_vocab().values()):,}, but the model only "
            f"{model.n_words:,} words: they do not belong together"
        )
    _check_head(model)
    return model


def fingerprint(network: Any) -> str:
    """16 hex digits that tell checkpoints apart: of up to 1,024 numbers, evenly spread, of every weight.

    Two checkpoints of one training run lie in folders of the same name; their scores must not be mixed.
    """
    digest = hashlib.sha256()
    for name, weight in sorted(network.state_dict().items()):
        flat = weight.detach().reshape(-1)
        some = flat[:: max(1, len(flat) // 1024)][:1024].float().cpu().numpy()
        digest.update(f"{name}{tuple(weight.shape)}{weight.dtype}".encode() + some.tobytes())
    return digest.hexdigest()[:16]


def _head_of(network: Any, config: Any) -> Head:
    """The output head, with what the architecture does to its logits."""
    embeddings = network.get_output_embeddings()
    if embeddings is None:
        raise TraceError(f"{type(network).__name__} has no output head: it is not a causal language model")
    scale = getattr(config, "logit_scale", None) or 1.0 / (getattr(config, "logits_scaling", None) or 1.0)
    softcap = getattr(config, "final_logit_softcapping", None)
    return Head(embeddings.weight, getattr(embeddings, "bias", None), float(scale), softcap)


@torch.inference_mode()
def _check_head(model: Model) -> None:
    """Compares one short text's scores from the head with those from the model's own logits."""
    ids = torch.linspace(0, model.n_words - 1, min(16, model.context)).long()[None].to(model.device)
    logits = model.network(input_ids=ids, use_cache=False).logits[0].float()
    if not torch.isfinite(logits).any(1).all() or torch.isnan(logits).any():
        raise TraceError(f"{model.name}: the model's logits are not numbers: its weights are damaged")
    targets = ids[0].roll(-1)
    try:
        ours, own = score_hidden(model.hidden(ids)[0], targets, model.head), score_logits(logits, targets)
    except (AttributeError, TypeError) as error:
        kind = type(model.network).__name__
        raise TraceError(
            f"{model.name}: {kind} does not show its final hidden states ({error}); it cannot be scored"
        ) from None
    # A head in 16 bits rounds every logit it returns; ours are not rounded.
    unit = torch.finfo(model.head.weight.dtype).eps
    allowed = 1e-3 + 4 * unit * float(logits[torch.isfinite(logits)].abs().max())
    off = max(float((a - b).abs().max()) for a, b in ((ours.entropy, own.entropy), (ours.logprob, own.logprob)))
    if not off <= allowed:
        raise TraceError(
            f"{model.name}: {type(model.network).__name__} does something to its logits that cotlens does not know "
            f"(scores differ by {off:.2g} nats, allowed is {allowed:.2g}); it cannot be scored"
        )


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


# --- from a trace to token ids ---------------------------------------------------------------------------------


class Encoded(NamedTuple):
    """Token ids of a trace for a model, and which of them are the completion's.

    Attributes:
        ids: prompt and completion, with the delimiters that a source with separate fields left out.
        scored: numbers within `ids` of the completion's tokens, rising.
        token_starts: one per scored token, or None.
        encoding: as in `ScoredTrace`, like the three that follow.
        exact: None without a tokenizer.
        n_drift: None for ids of the source.
    """

    ids: tuple[int, ...]
    scored: NDArray[np.intp]
    token_starts: tuple[int, ...] | None
    encoding: str
    context: str
    exact: bool | None
    n_drift: int | None


def encode_trace(trace: Trace, tokenizer: Any) -> Encoded:
    """The ids a model reads: the trace's own where it has them, with nothing added; else its text, encoded once.

    A prompt of text goes through the chat template, unless it already ends as a rendered one does. Where the completion
    starts inside a thought that nothing opened, the opening tag is put before it; where the source kept
    thinking and answer apart, both tags are put around the thinking. Such tags are read by the model and not scored,
    since the completion does not hold them.

    Raises:
        TraceError: if the ids belong to another tokenizer, if the prompt was rendered for another model, or if there is
            text to encode and no tokenizer.
    """
    if trace.token_ids is not None and trace.prompt_token_ids is not None:
        return _keep_ids(trace, list(trace.prompt_token_ids), "ids", tokenizer)
    if tokenizer is None:
        raise TraceError(f"trace {trace.id!r} has no token ids, and the model came without a tokenizer")
    if trace.prompt_token_ids is not None:
        before, context = list(trace.prompt_token_ids), "ids"
        prompt = tokenizer.decode(before)
    else:
        prompt, context = _render_prompt(trace, tokenizer)
        before = ([] if context == "template" else _bos(tokenizer, prompt)) + _encode(tokenizer, prompt)[0]
    if trace.token_ids is not None:
        return _keep_ids(trace, before, context, tokenizer)
    ids, scored, starts, spans, text = list(before), [], [], [], ""
    for piece, at in _pieces(trace, tokenizer, prompt):
        new, offsets = _encode(tokenizer, piece)
        if at is not None:
            scored += range(len(ids), len(ids) + len(new))
            starts += [at + start for start, _ in offsets]
        spans += [(len(text) + start, len(text) + stop) for start, stop in offsets]
        ids += new
        text += piece
    after = ids[len(before) :]
    return Encoded(
        ids=tuple(ids),
        scored=np.array(scored, np.intp),
        token_starts=tuple(starts),
        encoding="text",
        context=context,
        exact=tokenizer.decode(after) == text,
        n_drift=_count_drift(tokenizer, prompt, text, {(i, stop) for i, (_, stop) in zip(after, spans, strict=True)}),
    )


def _render_prompt(trace: Trace, tokenizer: Any) -> tuple[str, str]:
    """The text before the completion, ending in an opening tag exactly where the completion needs one; its context."""
    prompt, context = trace.prompt, "verbatim" if trace.prompt else "none"
    if tokenizer.chat_template and prompt and not _is_rendered(trace, tokenizer):
        messages = trace.meta.get("prompt_messages") or [{"role": "user", "content": prompt}]
        prompt, context = _apply_template(trace, tokenizer, messages), "template"
    tags, split = _tags_of(tokenizer, trace.completion), split_trace(trace)
    tag = tags.open.strip()
    if prompt.rstrip().endswith(tag) and (trace.completion.lstrip().startswith(tag) or split.status is Status.ABSENT):
        return prompt[: prompt.rindex(tag)], context
    if split.opened_by in (OpenedBy.PROMPT, OpenedBy.MODEL) and not _is_open(prompt):
        return prompt + tags.open, context
    return prompt, context


def _is_open(prompt: str) -> bool:
    """Whether a thought is open at the end of a prompt."""
    return any(prompt.rfind(tags.open.strip()) > prompt.rfind(tags.close) for tags in (*FAMILIES, _HARMONY))


# How the families of models let a prompt end. One of these behind a prompt that the own template would end otherwise
# says that it was rendered for another model.
_FOREIGN_END = re.compile(
    r"(?:<｜Assistant｜>|<\|im_start\|>assistant|<\|start_header_id\|>assistant<\|end_header_id\|>|\[/INST\]"
    r"|<start_of_turn>model|<\|assistant\|>|<\|start\|>assistant)\s*(?:<think>\s*)?$"
)


def _is_rendered(trace: Trace, tokenizer: Any) -> bool:
    """Whether the prompt already ends as a rendered one does. Before its end a user may quote any token."""
    last = max((trace.prompt.rstrip().rfind(tags.open.strip()) for tags in (*FAMILIES, _HARMONY)), default=-1)
    if last > 0 and _is_open(trace.prompt):  # "... Assistant: <think>", perhaps with the beginning of a thought
        return True
    probe = "QUESTION"
    end = _apply_template(trace, tokenizer, [{"role": "user", "content": probe}]).rpartition(probe)[2]
    tag = _tags_of(tokenizer).open.strip()
    bare = end.strip().removesuffix(tag).strip()
    own = trace.prompt.strip().removesuffix(tag).strip()
    if bare and own.endswith(bare):
        return True
    if _FOREIGN_END.search(trace.prompt):
        raise TraceError(
            f"trace {trace.id!r}: its prompt ends in {trace.prompt[-30:]!r}, but this model's chat template ends one "
            f"in {end!r}: it was rendered for another model; give the plain prompt"
        )
    return False


def _apply_template(trace: Trace, tokenizer: Any, messages: Any) -> str:
    from jinja2 import TemplateError

    try:
        return tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    except (TemplateError, TypeError, ValueError, KeyError) as error:
        raise TraceError(
            f"trace {trace.id!r}: the chat template cannot take its prompt: {_first_line(error)}"
        ) from None


_HARMONY = Tags("<|channel|>analysis<|message|>", "<|end|><|start|>assistant<|channel|>final<|message|>")


def _tags_of(tokenizer: Any, completion: str = "") -> Tags:
    """What stands before and behind a thought: in the completion, else in the chat template, else `<think>`."""
    template = str(tokenizer.chat_template or "")
    if "<|channel|>" in template and "<|message|>" in template:
        return _HARMONY
    known = (next((family for family in FAMILIES if family.close in text), None) for text in (completion, template))
    family = next((family for family in known if family), FAMILIES[0])
    return Tags(family.open + "\n", "\n" + family.close + "\n\n")


def _pieces(trace: Trace, tokenizer: Any, prompt: str) -> Iterator[tuple[str, int | None]]:
    """Stretches of text that are encoded apart, with the code point at which each begins, or None for a tag.

    A tag brings the line breaks that its model writes around it, unless the text has them.
    """
    if trace.origin is Origin.TEXT:
        yield trace.completion, 0
        return
    tags, split, at = _tags_of(tokenizer), split_trace(trace), 0
    for number, span in enumerate(split.think):
        thought, rest = span.of(trace.completion), trace.completion[span.stop :]
        if span.start > at:
            yield trace.completion[at : span.start], at
        if number or not _is_open(prompt):
            yield tags.open.rstrip("\n") if thought.startswith("\n") else tags.open, None
        yield thought, span.start
        if split.status is Status.CLOSED or number + 1 < len(split.think):
            close = tags.close.lstrip("\n") if thought.endswith("\n") else tags.close
            yield close.rstrip("\n") if rest.startswith("\n") else close, None
        at = span.stop
    if tags is _HARMONY and not split.think:
        yield "<|channel|>final<|message|>", None
    if at < len(trace.completion):
        yield trace.completion[at:], at


def _bos(tokenizer: Any, prompt: str) -> list[int]:
    """The token that begins every sequence of this tokenizer, unless the prompt's text has it."""
    added = tokenizer("")["input_ids"]
    begins = bool(added) and added[0] == tokenizer.bos_token_id and not prompt.startswith(tokenizer.bos_token)
    return added[:1] if begins else []


def _encode(tokenizer: Any, text: str) -> tuple[list[int], list[tuple[int, int]]]:
    """Ids of a text, with nothing added, and the code points of each; a space before a word belongs to its token."""
    if not tokenizer.is_fast:
        raise TraceError(f"{type(tokenizer).__name__} cannot tell where its tokens lie in the text; give token ids")
    found = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    offsets, end = [], 0
    for start, stop in found["offset_mapping"]:
        offsets.append((min(start, end), max(stop, end)))
        end = offsets[-1][1]
    return found["input_ids"], offsets


def _count_drift(tokenizer: Any, prompt: str, text: str, tokens: set[tuple[int, int]]) -> int:
    """How many tokens (id and end) of the completion's text are others when prompt and text are encoded as one."""
    ids, offsets = _encode(tokenizer, prompt + text)
    joint = {(token, stop - len(prompt)) for token, (_, stop) in zip(ids, offsets, strict=True)}
    return len(tokens - joint)


def _keep_ids(trace: Trace, before: list[int], context: str, tokenizer: Any) -> Encoded:
    """The trace's own ids. A tokenizer serves only to tell where each token lies in the text."""
    own = trace.token_ids or ()
    starts, exact = trace.token_starts, None
    if tokenizer is not None:
        skip, exact, decoded = _decode_as(trace, own, tokenizer)
        kin = trace.completion.strip() in decoded or _share_in_common(decoded, trace.completion) >= 0.5
        if not exact and not kin:
            raise TraceError(
                f"trace {trace.id!r}: its token ids decode to {decoded[:40]!r}, its text begins "
                f"{trace.completion[:40]!r}: they belong to another tokenizer; take a model that has that one, "
                "or score the text (retokenize=True, --retokenize)"
            )
        starts = (locate_tokens(trace, tokenizer, skip) if exact else None) if starts is None else starts
    scored = np.arange(len(before), len(before) + len(own))
    return Encoded((*before, *own), scored, starts, "ids", context if before else "none", exact, None)


def _decode_as(trace: Trace, own: Sequence[int], tokenizer: Any) -> tuple[bool, bool, str]:
    """How the ids come nearest to the text: whether special tokens are left out, whether it is exact, and the text.

    A server may leave special tokens in its text, leave out those at the end, the one that ended it, or all.
    """
    special, end = set(tokenizer.all_special_ids), len(own)
    while end and own[end - 1] in special:
        end -= 1
    for skip, ids in ((False, own), (False, own[:end]), (False, own[:-1]), (True, own)):
        decoded = tokenizer.decode(ids, skip_special_tokens=skip)
        if decoded == trace.completion:
            return skip, True, decoded
    return True, False, decoded


def _share_in_common(a: str, b: str) -> float:
    """Characters of a shared beginning and end, as a share of the longer text."""
    longest, shortest = max(len(a), len(b)), min(len(a), len(b))
    head = next((i for i in range(shortest) if a[i] != b[i]), shortest)
    tail = next((i for i in range(shortest - head) if a[-1 - i] != b[-1 - i]), shortest - head)
    return (head + tail) / longest if longest else 1.0


def locate_tokens(trace: Trace, tokenizer: Any, skip: bool) -> tuple[int, ...]:
    """Where each of a trace's own tokens begins in its text; a token that ends inside a character begins with it."""
    own = trace.token_ids or ()
    if tokenizer.is_fast:
        ids, offsets = _encode(tokenizer, trace.completion)
        if tuple(ids) == own:
            return tuple(start for start, _ in offsets)
    starts, done, first, read = [], 0, 0, 0
    for i in range(len(own)):  # decode a few tokens at a time: what one adds depends on those before it
        starts.append(min(done, len(trace.completion)))
        before = tokenizer.decode(own[first:read], skip_special_tokens=skip)
        now = tokenizer.decode(own[first : i + 1], skip_special_tokens=skip)
        new = now[len(before) :]
        whole = not new.endswith("\ufffd") or trace.completion[done : done + len(new)] == new  # the text has U+FFFD too
        if whole or i - read > 8:
            done += len(now) - len(before)
            first, read = read, i + 1
    return tuple(starts)


# --- scoring ---------------------------------------------------------------------------------------------------


class _Window(NamedTuple):
    """A stretch of one trace's ids that fits the context, and the part of its scored tokens that it answers for."""

    trace: int
    start: int
    stop: int
    scored: slice

    @property
    def length(self) -> int:
        return self.stop - self.start


_Long = Literal["error", "window"]
_OnError = Literal["stop", "skip"]


def score_tokens(
    model: Model,
    traces: Sequence[Trace],
    *,
    reference: Model | None = None,
    temperature: float = 1.0,
    top_k: int = 0,
    retokenize: bool = False,
    long: _Long = "error",
    on_error: _OnError = "stop",
    tokens_per_batch: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> list[ScoredTrace]:
    """What a model makes of every token of every completion, in the order of the traces.

    Entry i describes the model's distribution at the place of token i, given all tokens before it: raw logits at
    temperature 1, unless told otherwise. It is what token i was drawn from if this model drew it that way. A first
    token that nothing precedes has no distribution: its entry is NaN.

    Args:
        model: the model.
        traces: held in memory; a run directory is scored shard by shard (`run.score`).
        reference: a second model with the same vocabulary: adds the two KL divergences, and its own entropy and
            log-prob.
        temperature: divides the logits.
        top_k: keep this many of the likeliest words; from 1 their mass, from 2 the margin of the first two.
        retokenize: leave a trace's own token ids aside and encode its text: for a model of another family.
        long: what to do with a trace longer than the context: refuse it, or score it in windows that overlap by half,
            so that every token has at least half a context before it; such scores are marked.
        on_error: `skip` marks a trace that cannot be scored and goes on.
        tokens_per_batch: padded tokens that are computed together; halved when memory runs out.
        progress: called with the number of tokens done since the last call.

    Raises:
        TraceError: for a trace that cannot be scored, unless it is to be skipped.
    """
    for given, allowed in ((long, get_args(_Long)), (on_error, get_args(_OnError))):
        if given not in allowed:
            raise ValueError(f"expected {' or '.join(allowed)}, got {given!r}")
    if reference is not None:
        _check_same_words(model, reference)
    if retokenize:
        traces = [replace(trace, **_NO_TOKENS) for trace in traces]
    context = min(model.context, reference.context) if reference else model.context
    job = _Job(model, traces, on_error == "skip", context, _column_shapes(top_k, reference is not None))
    for number in range(len(traces)):
        job.prepare(number, long)
    budget = tokens_per_batch or TOKENS_PER_BATCH.get(model.device.type, 4096)
    options = {"temperature": temperature, "top_k": top_k}
    work = partial(_score_batch, model, reference, job, options)
    lengths, alone = [window.length for window in job.windows], reference is not None and reference.sees_length
    for batch, scores in in_batches(model, job.windows, lengths, budget, work, alone=alone):
        if scores is None:
            trace = job.traces[batch[0].trace]
            job.fail(
                batch[0].trace,
                TraceError(f"trace {trace.id!r}: {batch[0].length:,} tokens do not fit into memory"),
            )
        else:
            job.put(batch, scores)
        if progress:
            progress(sum(window.scored.stop - window.scored.start for window in batch))
    return job.finish()


_NO_TOKENS: dict[str, Any] = dict.fromkeys(("prompt_token_ids", "token_ids", "token_starts", "logprobs"))


class _Job:
    """The traces of one call, as far as they have come."""

    def __init__(
        self, model: Model, traces: Sequence[Trace], skip: bool, context: int, columns: dict[str, tuple[int, ...]]
    ) -> None:
        self.model, self.traces, self.skip, self.context, self.columns = model, traces, skip, context, columns
        self.encoded: dict[int, Encoded] = {}
        self.values: dict[int, dict[str, NDArray[Any]]] = {}
        self.results: dict[int, ScoredTrace] = {}
        self.windows: list[_Window] = []

    def prepare(self, number: int, long: str) -> None:
        """Encodes a trace and cuts it into windows."""
        trace = self.traces[number]
        try:
            _check_ids(trace, self.model)
            found = encode_trace(trace, self.model.tokenizer)
            _check_ids(trace, self.model, found.ids)
            self.encoded[number] = found
            if not len(found.scored):
                self.results[number] = self._unscored(number, "the completion has no token")
                return
            self.windows += _windows(trace, number, found, self.context, long)
            self.values[number] = self._blank(len(found.scored))
        except TraceError as error:
            self.fail(number, error)

    def fail(self, number: int, error: TraceError) -> None:
        """Marks a trace as unscored, or stops."""
        if not self.skip:
            raise error
        self.results[number] = self._unscored(number, str(error))
        self.values.pop(number, None)

    def put(self, batch: Sequence[_Window], scores: Scores) -> None:
        """Files the scores of a batch under their traces."""
        columns = {name: getattr(scores, name).float().cpu().numpy() for name in self.columns}
        first = 0
        for window in batch:
            n = window.scored.stop - window.scored.start
            for name, values in columns.items() if window.trace in self.values else ():
                self.values[window.trace][name][window.scored] = values[first : first + n]
            first += n

    def finish(self) -> list[ScoredTrace]:
        """The results in the order of the traces."""
        for number, columns in list(self.values.items()):
            found, trace = self.encoded[number], self.traces[number]
            unknown = np.isnan(columns["entropy"][_free(found) :])
            if "reference_entropy" in columns:
                unknown = unknown | np.isnan(columns["reference_entropy"][_free(found) :])
            if unknown.any():
                at = _free(found) + int(unknown.argmax())
                self.fail(number, TraceError(f"trace {trace.id!r}: the logits for token {at} are no distribution"))
                continue
            self.results[number] = self._result(number, columns, windowed=int(found.scored[-1]) >= self.context)
        return [self.results[number] for number in range(len(self.traces))]

    def _blank(self, n: int) -> dict[str, NDArray[Any]]:
        return {name: np.full((n, *shape), np.nan, np.float32) for name, shape in self.columns.items()}

    def _unscored(self, number: int, error: str) -> ScoredTrace:
        own = self.traces[number].token_ids or ()
        n = len(self.encoded[number].scored) if number in self.encoded else len(own)
        return self._result(number, self._blank(n), error=error)

    def _result(self, number: int, values: dict[str, NDArray[Any]], **rest: Any) -> ScoredTrace:
        trace, found = self.traces[number], self.encoded.get(number)
        if found is None:
            return ScoredTrace(trace.id, trace.token_ids or (), trace.token_starts, values, **rest)
        ids = tuple(found.ids[i] for i in found.scored)
        kept = {name: getattr(found, name) for name in ("encoding", "context", "exact", "n_drift")}
        return ScoredTrace(trace.id, ids, found.token_starts, values, **kept, **rest)


def _column_shapes(top_k: int, reference: bool) -> dict[str, tuple[int, ...]]:
    """The columns of a call, and what each holds for a token beyond one number."""
    columns: dict[str, tuple[int, ...]] = dict.fromkeys(("entropy", "logprob", "rank", "varentropy"), ())
    if top_k:
        columns |= {"top_ids": (top_k,), "top_logprobs": (top_k,), "top_mass": ()}
    if top_k > 1:
        columns["margin"] = ()
    if reference:
        columns |= dict.fromkeys(("kl", "reverse_kl", "reference_entropy", "reference_logprob"), ())
    return columns


def _free(encoded: Encoded) -> int:
    """1 if the first scored token has nothing before it, and so no distribution; else 0."""
    return int(len(encoded.scored) > 0 and encoded.scored[0] == 0)


def _check_same_words(model: Model, reference: Model) -> None:
    words, others = (m.tokenizer and m.tokenizer.get_vocab() for m in (model, reference))
    if model.n_words != reference.n_words or (words and others and words != others):
        raise TraceError(
            f"KL needs one vocabulary: {model.name} has {model.n_words:,} words, {reference.name} "
            f"{reference.n_words:,}, and their tokenizers {'agree' if words == others else 'differ'}"
        )
    if reference.device != model.device:
        raise TraceError(f"the model is on {model.device}, the reference on {reference.device}; load both on one")


def _check_ids(trace: Trace, model: Model, ids: Sequence[int] | None = None) -> None:
    ids = (*(trace.prompt_token_ids or ()), *(trace.token_ids or ())) if ids is None else ids
    if ids and not (min(ids) >= 0 and max(ids) < model.n_words):
        wrong = min(ids) if min(ids) < 0 else max(ids)
        raise TraceError(
            f"trace {trace.id!r}: token id {wrong:,} is not among the {model.n_words:,} words of {model.name}"
        )


def _windows(trace: Trace, number: int, encoded: Encoded, context: int, long: str) -> list[_Window]:
    """One window, or several of a context's length, each half a context further."""
    n = int(encoded.scored[-1]) + 1  # what follows the last scored token does not matter
    if n > context and long == "error":
        raise TraceError(
            f"trace {trace.id!r}: {n:,} tokens with its prompt, but the model was made for {context:,}; "
            "score it in overlapping windows (long='window', --long window), or leave it out"
        )
    windows, done = [], _free(encoded)
    for start in range(0, max(1, n - context + context // 2), max(1, context // 2)):
        stop = min(n, start + context)
        until = int(np.searchsorted(encoded.scored, stop))
        if until > done:
            windows.append(_Window(number, start, stop, slice(done, until)))
        done = until
    return windows


@torch.inference_mode()
def answer_early(model: Model, trace: Trace, cuts: Sequence[int], *, max_new_tokens: int = 256) -> list[str]:
    """What a model answers, greedily, when the thinking of a trace is cut and closed: one answer per cut.

    Early answering (Lanham et al. 2023, arXiv 2307.13702): if the answer is the same however early the thinking ends,
    the thinking did not matter for it. It is a probe of the model given, best the one that wrote the trace.

    Args:
        model: a model with a tokenizer.
        trace: a trace with thinking.
        cuts: code points of the completion, within the thinking: ends of steps, say.
        max_new_tokens: longest answer.

    Raises:
        TraceError: if the trace has no thinking, or a cut lies outside of it.
    """
    split = split_trace(trace)
    if not split.think or model.tokenizer is None:
        raise TraceError(f"trace {trace.id!r} has no thinking to cut, or the model came without a tokenizer")
    first, last = split.think[0].start, split.think[-1].stop
    if any(not first <= cut <= last for cut in cuts):
        raise TraceError(f"trace {trace.id!r}: cuts {list(cuts)} must lie in the thinking, {first} to {last}")
    found = encode_trace(replace(trace, token_ids=None, token_starts=None, logprobs=None), model.tokenizer)
    before = list(found.ids[: int(found.scored[0])])
    answers = []
    for cut in cuts:
        thought = trace.completion[:cut]
        close = _tags_of(model.tokenizer, trace.completion).close
        text = thought + (close.lstrip("\n") if thought.endswith("\n") else close)
        ids = torch.tensor([before + _encode(model.tokenizer, text)[0]], device=model.device)
        made = model.network.generate(
            ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=max_new_tokens,
            pad_token_id=model.tokenizer.pad_token_id or 0,
        )  # fmt: skip
        answers.append(model.tokenizer.decode(made[0, ids.shape[1] :], skip_special_tokens=True))
    return answers


# --- batches ---------------------------------------------------------------------------------------------------


def batches(lengths: Sequence[int], budget: int) -> list[list[int]]:
    """Numbers of sequences in groups of like length: at most `budget` tokens a group once padded, or one sequence.

    >>> batches([5, 1, 4, 2], budget=8)
    [[0], [2, 3], [1]]
    >>> batches([5, 1, 4, 2], budget=10)
    [[0, 2], [3, 1]]
    """
    groups: list[list[int]] = []
    for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        if groups and (len(groups[-1]) + 1) * lengths[groups[-1][0]] <= budget:
            groups[-1].append(i)
        else:
            groups.append([i])
    return groups


_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


def in_batches(
    model: Model,
    items: Sequence[_Item],
    lengths: Sequence[int],
    budget: int,
    work: Callable[[list[_Item]], _Result],
    *,
    alone: bool = False,
) -> Iterator[tuple[list[_Item], _Result | None]]:
    """What `work` makes of groups of items of like length; None for an item that does not even fit alone.

    When memory runs out, what is left goes in groups half the size. `alone`: one item a group, as for a model whose
    positions depend on the longest.
    """
    waiting, budget = list(range(len(items))), 1 if alone or model.sees_length else budget
    while waiting:
        failed: list[int] = []
        for group in batches([lengths[i] for i in waiting], budget):
            numbers = [waiting[i] for i in group]
            if failed:
                failed += numbers
                continue
            batch, result = [items[i] for i in numbers], None
            try:
                result = work(batch)
            except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
                if not _out_of_memory(error):
                    raise
                if len(batch) > 1:
                    budget = max(1, min(budget, len(batch) * lengths[numbers[0]]) // 2)
                    failed += numbers
            if result is None:
                _free_memory(model)
            if not failed:
                yield batch, result
        waiting = failed


def _out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out; a CPU's allocator and some of CUDA's libraries say so in an ordinary RuntimeError."""
    said = re.search(r"can't allocate memory|out of memory|ALLOC_FAILED", str(error))
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or said is not None


def _free_memory(model: Model) -> None:
    if model.device.type == "cuda":
        torch.cuda.empty_cache()


@torch.inference_mode()
def _score_batch(
    model: Model, reference: Model | None, job: _Job, options: dict[str, Any], batch: Sequence[_Window]
) -> Scores:
    ids = torch.zeros(len(batch), batch[0].length, dtype=torch.long)
    rows, columns, targets = [], [], []
    for row, window in enumerate(batch):
        encoded = job.encoded[window.trace]
        ids[row, : window.length] = torch.tensor(encoded.ids[window.start : window.stop])
        at = encoded.scored[window.scored] - window.start
        rows += [row] * len(at)
        columns.append(at)
        targets += [encoded.ids[i] for i in encoded.scored[window.scored]]
    ids = ids.to(model.device)
    places = torch.tensor(rows, device=ids.device), torch.tensor(np.concatenate(columns) - 1, device=ids.device)
    wanted = torch.tensor(targets, device=ids.device)
    other = None if reference is None else (reference.hidden(ids)[places], reference.head)
    return score_hidden(model.hidden(ids)[places], wanted, model.head, reference=other, **options)
