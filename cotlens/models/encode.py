"""Turn a trace into the token ids that a model reads, and find where tokens begin in its text."""

import re
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cotlens.models.template import apply_template, bos_ids
from cotlens.text.delimiters import find_tag, known_pairs
from cotlens.text.families import FAMILIES, HARMONY_TAGS, THINK, family_of
from cotlens.text.prompts import RENDERED_END, opens_thought, prompt_opens
from cotlens.text.response import new_tags, response_tags
from cotlens.text.split import OpenedBy, Status, split_trace
from cotlens.text.tags import Channels, Tags
from cotlens.text.tokens import start_inside
from cotlens.trace import Origin, Trace, TraceError


class Encoded(NamedTuple):
    """Token ids of a trace for a model, and which of them are the completion's.

    Attributes:
        ids: prompt and completion, with the delimiters that a source with separate fields left out.
        scored: positions in `ids` of the completion's tokens, rising.
        token_starts: code point at which each scored token begins, or None if unknown.
        encoding: as in `ScoredTrace`, like the three that follow.
        context: where the tokens before the completion come from.
        exact: whether the ids decode to the text; None without a tokenizer.
        n_drift: tokens that differ when prompt and text are encoded as one; None for the source's
            own ids.
    """

    ids: tuple[int, ...]
    scored: NDArray[np.intp]
    token_starts: tuple[int, ...] | None
    encoding: str
    context: str
    exact: bool | None
    n_drift: int | None


def encode_trace(trace: Trace, tokenizer: Any) -> Encoded:
    """The ids that a model reads: the trace's own if it has them, otherwise its text, encoded once.

    Nothing is added to ids of the source. A prompt of text goes through the chat template, unless
    it already ends as a rendered one does. If the completion starts inside a thought that nothing
    opened, the opening tag is put before it. If the source kept thinking and answer in separate
    fields, both tags are put around the thinking. The model reads such tags, but they are not
    scored, since the completion does not hold them.

    Raises:
        TraceError: if the ids belong to another tokenizer, if the prompt was rendered for another
            model, or if there is text to encode and no tokenizer.
    """
    if trace.token_ids is not None and trace.prompt_token_ids is not None:
        return _keep_ids(trace, _Context(trace.prompt_token_ids, "ids"), tokenizer)
    if tokenizer is None:
        raise TraceError(
            f"trace {trace.id!r} has no token ids, and the model came without a tokenizer"
        )

    context = encode_context(trace, tokenizer)
    if trace.token_ids is not None:
        return _keep_ids(trace, context, tokenizer)
    return _encode_completion(trace, context, tokenizer)


class _Context(NamedTuple):
    """What stands before the completion.

    Attributes:
        ids: its token ids.
        source: where they come from, as `ScoredTrace.context`.
        text: as the model reads it; needed only where the completion is encoded.
    """

    ids: Sequence[int]
    source: str
    text: str = ""


def encode_context(trace: Trace, tokenizer: Any) -> _Context:
    if trace.prompt_token_ids is not None:
        text = tokenizer.decode(list(trace.prompt_token_ids))
        return _Context(trace.prompt_token_ids, "ids", text)

    # A template writes the token that begins every sequence; other prompts get it here.
    text, source = _render_prompt(trace, tokenizer)
    ids, _ = encode(tokenizer, text)
    if source != "template":
        ids = bos_ids(tokenizer, text) + ids
    return _Context(ids, source, text)


def _render_prompt(trace: Trace, tokenizer: Any) -> tuple[str, str]:
    """The text before the completion, and where it comes from.

    It ends in an opening tag exactly if the completion needs one.
    """
    prompt = trace.prompt
    source = "verbatim" if prompt else "none"
    if tokenizer.chat_template and prompt and not is_rendered_for(trace, tokenizer):
        plain_messages = [{"role": "user", "content": prompt}]
        messages = trace.meta.get("prompt_messages") or plain_messages
        prompt = apply_template(tokenizer, messages, f"trace {trace.id!r}")
        source = "template"

    tags = tags_of(tokenizer, trace.completion)
    tag = tags.open.strip()
    split = split_trace(trace, tags=new_tags(tokenizer))

    # The template opened a thought that the completion opens itself, or does not have.
    has_own_tag = trace.completion.lstrip().startswith(tag)
    if prompt.rstrip().endswith(tag) and (has_own_tag or split.status is Status.ABSENT):
        return prompt[: prompt.rindex(tag)], source

    # The completion starts inside a thought that nothing opened.
    starts_inside = split.opened_by in (OpenedBy.PROMPT, OpenedBy.MODEL)
    if starts_inside and not ends_in_thought(prompt, tokenizer):
        return prompt + tags.open, source
    return prompt, source


def is_rendered_for(trace: Trace, tokenizer: Any) -> bool:
    """Whether the prompt already ends as the model's chat template ends one.

    Only its end counts: before it a user may quote any token.

    Raises:
        TraceError: if the prompt ends as one that was rendered for another model.
    """
    # What the template writes after a user's message, with or without an opening tag.
    question = "QUESTION"
    messages = [{"role": "user", "content": question}]
    rendered = apply_template(tokenizer, messages, f"trace {trace.id!r}")
    end = rendered.rpartition(question)[2]
    tag = tags_of(tokenizer).open.strip()
    bare_end = end.strip().removesuffix(tag).strip()
    bare_prompt = trace.prompt.strip().removesuffix(tag).strip()
    if bare_end and bare_prompt.endswith(bare_end):
        return True

    if RENDERED_END.search(bare_prompt) or RENDERED_END.search(trace.prompt):
        raise TraceError(
            f"trace {trace.id!r}: its prompt ends in {trace.prompt[-30:]!r}, but this model's chat "
            f"template ends one in {end!r}: it was rendered for another model; "
            "give the plain prompt"
        )

    # "... Assistant: <think>", perhaps with the beginning of a thought.
    is_open = ends_in_thought(trace.prompt, tokenizer)
    return is_open and not _is_tag_alone(trace.prompt)


def ends_in_thought(prompt: str, tokenizer: Any) -> bool:
    """Whether a prompt ends inside a thought, of a known family or of the tokenizer's own."""
    own = new_tags(tokenizer)
    if own and prompt_opens(prompt, own):
        return True
    return opens_thought(prompt)


def _is_tag_alone(prompt: str) -> bool:
    """Whether a prompt begins with an opening delimiter: nothing before it was rendered."""
    pairs = (*known_pairs(), HARMONY_TAGS)
    return any(prompt.lstrip().startswith(pair.open.strip()) for pair in pairs)


def tags_of(tokenizer: Any, completion: str = "") -> Tags:
    """The delimiters of a thought, with the line breaks that the model writes around them.

    They are the completion's; else those of the tokenizer's response template or chat template;
    else `<think>`.
    """
    template = str(tokenizer.chat_template or "")
    channels_tags = _channels_tags(template)
    if channels_tags:
        return channels_tags

    pair = _pair_in(completion) or response_tags(tokenizer) or _pair_in(template) or THINK[0]
    family = family_of(str(getattr(tokenizer, "name_or_path", "")))
    if family and family.written and family.tags[0] == pair:
        return family.written
    return Tags(pair.open.rstrip("\n") + "\n", "\n" + pair.close + "\n\n")


def _pair_in(text: str) -> Tags | None:
    """The first pair whose closing delimiter the text holds."""
    for pair in known_pairs():
        if find_tag(text, pair.close) >= 0:
            return pair
    return None


def _channels_tags(template: str) -> Tags | None:
    """The delimiters of a chat template that gives each message a header, or None."""
    for family in FAMILIES:
        # s1 has the template of Qwen2.5, which knows no thought.
        if family.channels is None or family.name == "s1":
            continue
        # The special tokens of a thought's header, and words that no other template has.
        header = family.channels.opened + family.turns.assistant[0]
        parts = re.findall(r"<\|\w+\|>|\w+[=/]\w+", header)
        if all(part in template for part in parts):
            return family.tags[0]
    return None


def _encode_completion(trace: Trace, context: _Context, tokenizer: Any) -> Encoded:
    """The completion's text encoded after its context, piece by piece."""
    ids = list(context.ids)
    scored: list[int] = []
    token_starts: list[int] = []
    text = ""
    ends: list[int] = []

    for piece in cut_pieces(trace, tokenizer, context.text):
        piece_ids, offsets = encode(tokenizer, piece.text)
        if piece.start is not None:
            scored += range(len(ids), len(ids) + len(piece_ids))
            token_starts += [piece.start + start for start, _ in offsets]
        ends += [len(text) + stop for _, stop in offsets]
        ids += piece_ids
        text += piece.text

    if trace.completion.strip() and not scored:
        raise TraceError(
            f"trace {trace.id!r}: its text has {len(trace.completion):,} characters, but the "
            "tokenizer encodes it to nothing; load the model with the tokenizer it was trained with"
        )

    new_ids = ids[len(context.ids) :]
    tokens = set(zip(new_ids, ends, strict=True))
    return Encoded(
        ids=tuple(ids),
        scored=np.array(scored, np.intp),
        token_starts=tuple(token_starts),
        encoding="text",
        context=context.source,
        exact=tokenizer.decode(new_ids) == text,
        n_drift=_count_drift(tokenizer, context.text, text, tokens),
    )


class _Piece(NamedTuple):
    """A stretch of text that is encoded separately.

    Attributes:
        text: the stretch.
        start: code point of the completion at which it begins; None for a tag, which is not scored.
    """

    text: str
    start: int | None


def cut_pieces(trace: Trace, tokenizer: Any, prompt: str) -> Iterator[_Piece]:
    """The completion in pieces, with the tags that a source with separate fields left out.

    A tag brings the line breaks that its model writes around it, unless the text has them.
    """
    completion = trace.completion
    if trace.origin is Origin.TEXT:
        yield _Piece(completion, 0)
        return

    tags = tags_of(tokenizer)
    split = split_trace(trace, tags=new_tags(tokenizer))
    position = 0
    for number, span in enumerate(split.think):
        thought = span.of(completion)
        if span.start > position:
            yield _Piece(completion[position : span.start], position)

        # The prompt may have opened the first thought.
        if number > 0 or not ends_in_thought(prompt, tokenizer):
            opening = tags.open
            if thought.startswith("\n"):
                opening = opening.rstrip("\n")
            yield _Piece(opening, None)
        yield _Piece(thought, span.start)

        # The last thought may have been cut off.
        is_last = number + 1 == len(split.think)
        if split.status is Status.CLOSED or not is_last:
            closing = tags.close
            if thought.endswith("\n"):
                closing = closing.lstrip("\n")
            if completion.startswith("\n", span.stop):
                closing = closing.rstrip("\n")
            yield _Piece(closing, None)
        position = span.stop

    channels = _channels_of(tags)
    if channels and not split.think:
        yield _Piece(channels.direct, None)
    if position < len(completion):
        yield _Piece(completion[position:], position)


def _channels_of(tags: Tags) -> Channels | None:
    """The format whose thought these delimiters enclose, if its messages have a header each."""
    for family in FAMILIES:
        if family.channels and family.tags[0] == tags:
            return family.channels
    return None


def _count_drift(tokenizer: Any, prompt: str, text: str, tokens: set[tuple[int, int]]) -> int:
    """Tokens (id and end) of a text that differ when prompt and text are encoded as one."""
    ids, offsets = encode(tokenizer, prompt + text)
    ends = [stop - len(prompt) for _, stop in offsets]
    joint_tokens = set(zip(ids, ends, strict=True))
    return len(tokens - joint_tokens)


def encode(tokenizer: Any, text: str) -> tuple[list[int], list[tuple[int, int]]]:
    """Ids of a text with nothing added, and the code points (start, stop) of each.

    A space before a word belongs to the word's token. A token that begins inside a character begins
    with it; see also `start_inside`.

    Raises:
        TraceError: if the tokenizer cannot report offsets.
    """
    if not tokenizer.is_fast:
        kind = type(tokenizer).__name__
        raise TraceError(f"{kind} cannot tell where its tokens lie in the text; give token ids")
    encoding = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)

    # Let the tokens tile the text: each begins at or before the end of those before it.
    offsets = []
    start_before = 0
    end = 0
    for start, stop in encoding["offset_mapping"]:
        joined_start = max(start_before, min(start, end))
        if joined_start < end:
            joined_start = start_inside(text, start_before, joined_start)
        end = max(stop, end)
        offsets.append((joined_start, end))
        start_before = joined_start
    return encoding["input_ids"], offsets


def _keep_ids(trace: Trace, context: _Context, tokenizer: Any) -> Encoded:
    """The trace's own ids. A tokenizer serves only to find where each token begins in the text."""
    token_ids = trace.token_ids or ()
    token_starts = trace.token_starts
    exact = None

    if tokenizer is not None:
        decoded = _decode_as_text(trace, tokenizer)
        exact = decoded.text == _text_of_ids(trace)
        if not exact:
            _check_tokenizer(trace, decoded.text)
        elif token_starts is None:
            token_starts = locate_tokens(trace, tokenizer, decoded.skips_special)

    n_before = len(context.ids)
    return Encoded(
        ids=(*context.ids, *token_ids),
        scored=np.arange(n_before, n_before + len(token_ids)),
        token_starts=token_starts,
        encoding="ids",
        context=context.source if n_before else "none",
        exact=exact,
        n_drift=None,
    )


class _Decoded(NamedTuple):
    """A text, and whether special tokens were left out of it."""

    text: str
    skips_special: bool


def _decode_as_text(trace: Trace, tokenizer: Any) -> _Decoded:
    """The trace's ids decoded so that they give its text, if any way does.

    A server may keep special tokens in its text, or leave out those at the end, the one that ended
    it, or all.
    """
    token_ids = trace.token_ids or ()
    spelled = _text_of_ids(trace)
    special_ids = set(tokenizer.all_special_ids)
    n_without_end = len(token_ids)
    while n_without_end and token_ids[n_without_end - 1] in special_ids:
        n_without_end -= 1

    for ids in (token_ids, token_ids[:n_without_end], token_ids[:-1]):
        text = tokenizer.decode(ids, skip_special_tokens=False)
        if text == spelled:
            return _Decoded(text, skips_special=False)
    text = tokenizer.decode(token_ids, skip_special_tokens=True)
    return _Decoded(text, skips_special=True)


def _text_of_ids(trace: Trace) -> str:
    """The text that the trace's own ids spell: of a continuation, what follows its prefix."""
    starts = trace.token_starts
    return trace.completion[starts[0] :] if starts else trace.completion


def _check_tokenizer(trace: Trace, decoded: str) -> None:
    """Raise TraceError if the decoded ids have little in common with the trace's text."""
    completion = _text_of_ids(trace)
    if completion.strip() in decoded or _share_in_common(decoded, completion) >= 0.5:
        return
    raise TraceError(
        f"trace {trace.id!r}: its token ids decode to {decoded[:40]!r}, its text begins "
        f"{completion[:40]!r}: they belong to another tokenizer; take a model that has that one, "
        "or score the text (retokenize=True, --retokenize)"
    )


def _share_in_common(first: str, second: str) -> float:
    """Characters of a common beginning and end, as a share of the longer text."""
    longest = max(len(first), len(second))
    if longest == 0:
        return 1.0
    head = _n_common(first, second)
    tail = _n_common(first[head:][::-1], second[head:][::-1])
    return (head + tail) / longest


def _n_common(first: str, second: str) -> int:
    """Length of the common beginning."""
    # Python 3.15 deprecates os.path.commonprefix.
    n_common = 0
    for first_letter, second_letter in zip(first, second, strict=False):
        if first_letter != second_letter:
            break
        n_common += 1
    return n_common


def locate_tokens(trace: Trace, tokenizer: Any, skip: bool) -> tuple[int, ...]:
    """Code point of the completion at which each of the trace's own tokens begins.

    A token that begins inside a character begins with it; see also `start_inside`.

    Args:
        trace: a trace with token ids.
        tokenizer: the one they belong to.
        skip: whether the text leaves out special tokens.
    """
    token_ids = trace.token_ids or ()
    completion = trace.completion
    if tokenizer.is_fast:
        ids, offsets = encode(tokenizer, completion)
        if tuple(ids) == token_ids:
            return tuple(start for start, _ in offsets)

    # Decode a few tokens at a time: what a token adds depends on those before it. Characters up to
    # `position` are those of the tokens before `next_token`; `first` is where decoding starts.
    # The tokens from `next_token` on have spelled `n_whole` characters and a part of the next.
    starts = []
    position = 0
    first = 0
    next_token = 0
    n_whole = 0
    for index in range(len(token_ids)):
        start = position + n_whole
        if n_whole:
            start = start_inside(completion, starts[-1], start)
        starts.append(min(start, len(completion)))
        before = tokenizer.decode(token_ids[first:next_token], skip_special_tokens=skip)
        now = tokenizer.decode(token_ids[first : index + 1], skip_special_tokens=skip)
        added = now[len(before) :]

        # U+FFFD stands for a character that is not complete yet, unless the text has it too.
        n_whole = len(added.rstrip("\ufffd"))
        is_complete = not added.endswith("\ufffd") or completion.startswith(added, position)
        if is_complete or index - next_token > 8:
            position += len(now) - len(before)
            first = next_token
            next_token = index + 1
            n_whole = 0
    return tuple(starts)
