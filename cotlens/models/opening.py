"""Cut a trace, put a text there, and encode what a model reads before it carries on."""

from dataclasses import replace
from typing import Any, NamedTuple

from cotlens.models.encode import cut_pieces, encode, encode_context
from cotlens.trace import Origin, Span, Trace


class Opening(NamedTuple):
    """The beginning of a turn, which a model is to carry on.

    Attributes:
        ids: token ids of prompt and prefix.
        prompt: text before the turn, as the model reads it.
        prefix: text of the turn so far, as the model reads it.
    """

    ids: tuple[int, ...]
    prompt: str
    prefix: str


def encode_opening(trace: Trace, cut: int, insert: str, tokenizer: Any) -> Opening:
    """What a model reads before it carries on `trace.completion[:cut] + insert`.

    The trace keeps its own ids up to a cut that lies between two of its tokens; otherwise prefix
    and insert are encoded as one text. Delimiters that a source with separate fields left out are
    put in, as `encode_trace` does.

    The prompt ids of a continuation, or of a sample with a prefill, hold the beginning of its
    completion as well: it is read once.

    Raises:
        TraceError: as `encode_trace`.
    """
    # What stands before the completion, and nothing of it.
    bare = trace
    if _begins_in_prompt_ids(trace):
        bare = replace(trace, prompt_token_ids=None)
    context = encode_context(bare, tokenizer)

    own_ids = _own_ids(trace, cut)
    if own_ids is not None:
        insert_ids, _ = encode(tokenizer, insert)
        ids = (*own_ids, *insert_ids)
        return Opening(ids, context.text, trace.completion[:cut] + insert)

    ids = list(context.ids)
    prefix = ""
    cut_trace = _cut_trace(trace, cut, insert)
    for piece in cut_pieces(cut_trace, tokenizer, context.text):
        piece_ids, _ = encode(tokenizer, piece.text)
        ids += piece_ids
        prefix += piece.text
    return Opening(tuple(ids), context.text, prefix)


def _begins_in_prompt_ids(trace: Trace) -> bool:
    """Whether the first tokens of the completion are the last of the prompt."""
    starts = trace.token_starts or (0,)
    return starts[0] > 0


def _own_ids(trace: Trace, cut: int) -> tuple[int, ...] | None:
    """The trace's own ids of its prompt and its text up to the cut; None where they are not known.

    They are not if the cut lies inside a token, or before the first that the model wrote.
    """
    starts = trace.token_starts
    if trace.token_ids is None or not starts or trace.origin is Origin.FIELDS:
        return None
    if trace.prompt_token_ids is None or cut not in starts:
        return None
    return (*trace.prompt_token_ids, *trace.token_ids[: starts.index(cut)])


def _cut_trace(trace: Trace, cut: int, insert: str) -> Trace:
    """The trace as if the model had written its text up to the cut and the insert, and no more."""
    text = trace.completion[:cut] + insert
    bare: dict[str, Any] = {"token_ids": None, "token_starts": None, "logprobs": None, "labels": ()}
    if trace.origin is Origin.TEXT:
        return replace(trace, completion=text, finish_reason="length", **bare)

    # Thinking and answer in fields: the part in which the cut lies takes the insert.
    think = tuple(span for span in trace.think if span.start < cut)
    is_answer = not think or cut > think[-1].stop
    if not is_answer:
        think = (*think[:-1], Span(think[-1].start, len(text)))
    answer_start = trace.answer.start if trace.answer and is_answer else len(text)
    return replace(
        trace,
        completion=text,
        think=think,
        answer=Span(min(answer_start, len(text)), len(text)),
        finish_reason="stop" if is_answer else "length",
        **bare,
    )
