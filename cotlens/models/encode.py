"""A trace becomes token ids, exactly those that the model saw, and tokens find their characters."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cotlens.models.load import first_line
from cotlens.text.families import FAMILIES, FOREIGN_END, HARMONY, Tags
from cotlens.text.split import OpenedBy, Status, split_trace
from cotlens.trace import Origin, Trace, TraceError


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
        raise TraceError(
            f"trace {trace.id!r} has no token ids, and the model came without a tokenizer"
        )
    if trace.prompt_token_ids is not None:
        before, context = list(trace.prompt_token_ids), "ids"
        prompt = tokenizer.decode(before)
    else:
        prompt, context = _render_prompt(trace, tokenizer)
        before = ([] if context == "template" else _bos(tokenizer, prompt)) + encode(
            tokenizer, prompt
        )[0]
    if trace.token_ids is not None:
        return _keep_ids(trace, before, context, tokenizer)
    ids, scored, starts, spans, text = list(before), [], [], [], ""
    for piece, at in _pieces(trace, tokenizer, prompt):
        new, offsets = encode(tokenizer, piece)
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
        n_drift=_count_drift(
            tokenizer, prompt, text, {(i, stop) for i, (_, stop) in zip(after, spans, strict=True)}
        ),
    )


def _render_prompt(trace: Trace, tokenizer: Any) -> tuple[str, str]:
    """The text before the completion, ending in an opening tag exactly where the completion needs one; its context."""
    prompt, context = trace.prompt, "verbatim" if trace.prompt else "none"
    if tokenizer.chat_template and prompt and not _is_rendered(trace, tokenizer):
        messages = trace.meta.get("prompt_messages") or [{"role": "user", "content": prompt}]
        prompt, context = _apply_template(trace, tokenizer, messages), "template"
    tags, split = tags_of(tokenizer, trace.completion), split_trace(trace)
    tag = tags.open.strip()
    if prompt.rstrip().endswith(tag) and (
        trace.completion.lstrip().startswith(tag) or split.status is Status.ABSENT
    ):
        return prompt[: prompt.rindex(tag)], context
    if split.opened_by in (OpenedBy.PROMPT, OpenedBy.MODEL) and not _is_open(prompt):
        return prompt + tags.open, context
    return prompt, context


def _is_open(prompt: str) -> bool:
    """Whether a thought is open at the end of a prompt."""
    return any(
        prompt.rfind(tags.open.strip()) > prompt.rfind(tags.close) for tags in (*FAMILIES, HARMONY)
    )


def _is_rendered(trace: Trace, tokenizer: Any) -> bool:
    """Whether the prompt already ends as a rendered one does. Before its end a user may quote any token."""
    last = max(
        (trace.prompt.rstrip().rfind(tags.open.strip()) for tags in (*FAMILIES, HARMONY)),
        default=-1,
    )
    if last > 0 and _is_open(
        trace.prompt
    ):  # "... Assistant: <think>", perhaps with the beginning of a thought
        return True
    probe = "QUESTION"
    end = _apply_template(trace, tokenizer, [{"role": "user", "content": probe}]).rpartition(probe)[
        2
    ]
    tag = tags_of(tokenizer).open.strip()
    bare = end.strip().removesuffix(tag).strip()
    own = trace.prompt.strip().removesuffix(tag).strip()
    if bare and own.endswith(bare):
        return True
    if FOREIGN_END.search(trace.prompt):
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
            f"trace {trace.id!r}: the chat template cannot take its prompt: {first_line(error)}"
        ) from None


def tags_of(tokenizer: Any, completion: str = "") -> Tags:
    """What stands before and behind a thought: in the completion, else in the chat template, else `<think>`."""
    template = str(tokenizer.chat_template or "")
    if "<|channel|>" in template and "<|message|>" in template:
        return HARMONY
    known = (
        next((family for family in FAMILIES if family.close in text), None)
        for text in (completion, template)
    )
    family = next((family for family in known if family), FAMILIES[0])
    return Tags(family.open + "\n", "\n" + family.close + "\n\n")


def _pieces(trace: Trace, tokenizer: Any, prompt: str) -> Iterator[tuple[str, int | None]]:
    """Stretches of text that are encoded apart, with the code point at which each begins, or None for a tag.

    A tag brings the line breaks that its model writes around it, unless the text has them.
    """
    if trace.origin is Origin.TEXT:
        yield trace.completion, 0
        return
    tags, split, at = tags_of(tokenizer), split_trace(trace), 0
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
    if tags is HARMONY and not split.think:
        yield "<|channel|>final<|message|>", None
    if at < len(trace.completion):
        yield trace.completion[at:], at


def _bos(tokenizer: Any, prompt: str) -> list[int]:
    """The token that begins every sequence of this tokenizer, unless the prompt's text has it."""
    added = tokenizer("")["input_ids"]
    begins = (
        bool(added)
        and added[0] == tokenizer.bos_token_id
        and not prompt.startswith(tokenizer.bos_token)
    )
    return added[:1] if begins else []


def encode(tokenizer: Any, text: str) -> tuple[list[int], list[tuple[int, int]]]:
    """Ids of a text, with nothing added, and the code points of each; a space before a word belongs to its token."""
    if not tokenizer.is_fast:
        raise TraceError(
            f"{type(tokenizer).__name__} cannot tell where its tokens lie in the text; give token ids"
        )
    found = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    offsets, end = [], 0
    for start, stop in found["offset_mapping"]:
        offsets.append((min(start, end), max(stop, end)))
        end = offsets[-1][1]
    return found["input_ids"], offsets


def _count_drift(tokenizer: Any, prompt: str, text: str, tokens: set[tuple[int, int]]) -> int:
    """How many tokens (id and end) of the completion's text are others when prompt and text are encoded as one."""
    ids, offsets = encode(tokenizer, prompt + text)
    joint = {(token, stop - len(prompt)) for token, (_, stop) in zip(ids, offsets, strict=True)}
    return len(tokens - joint)


def _keep_ids(trace: Trace, before: list[int], context: str, tokenizer: Any) -> Encoded:
    """The trace's own ids. A tokenizer serves only to tell where each token lies in the text."""
    own = trace.token_ids or ()
    starts, exact = trace.token_starts, None
    if tokenizer is not None:
        skip, exact, decoded = _decode_as(trace, own, tokenizer)
        kin = (
            trace.completion.strip() in decoded
            or _share_in_common(decoded, trace.completion) >= 0.5
        )
        if not exact and not kin:
            raise TraceError(
                f"trace {trace.id!r}: its token ids decode to {decoded[:40]!r}, its text begins "
                f"{trace.completion[:40]!r}: they belong to another tokenizer; take a model that has that one, "
                "or score the text (retokenize=True, --retokenize)"
            )
        starts = (
            (locate_tokens(trace, tokenizer, skip) if exact else None) if starts is None else starts
        )
    scored = np.arange(len(before), len(before) + len(own))
    return Encoded(
        (*before, *own), scored, starts, "ids", context if before else "none", exact, None
    )


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
        ids, offsets = encode(tokenizer, trace.completion)
        if tuple(ids) == own:
            return tuple(start for start, _ in offsets)
    starts, done, first, read = [], 0, 0, 0
    for i in range(
        len(own)
    ):  # decode a few tokens at a time: what one adds depends on those before it
        starts.append(min(done, len(trace.completion)))
        before = tokenizer.decode(own[first:read], skip_special_tokens=skip)
        now = tokenizer.decode(own[first : i + 1], skip_special_tokens=skip)
        new = now[len(before) :]
        whole = (
            not new.endswith("\ufffd") or trace.completion[done : done + len(new)] == new
        )  # the text has U+FFFD too
        if whole or i - read > 8:
            done += len(now) - len(before)
            first, read = read, i + 1
    return tuple(starts)
