"""Documents that people or models labelled. The completion is the text that their offsets index."""

from collections.abc import Sequence
from typing import Any

from cotlens.formats.fields import Taker, common_fields, fields_of
from cotlens.formats.rows import Row
from cotlens.trace import Label, Trace


def _label(span: Sequence[int], label: str) -> Label:
    return Label(span[0], span[1], label)


def parse_reasoningflow(row: Row, name: str) -> list[Trace]:
    """A ReasoningFlow document, one per annotator.

    It is labelled from end to end, so all of it is read as thinking.
    """
    taker = Taker(row)
    document = taker.take("doc_id")
    group = taker.take("group")
    spans = taker.take("spans")
    labels = []
    for _, start, stop, label, part in spans:
        if part == "r":  # of the response
            labels.append(Label(start, stop, label))

    fields: dict[str, Any] = common_fields(taker, name) | {"id": f"{document}@{group}"}
    fields |= fields_of(taker.text("response"), "")
    prompt = taker.text("question")
    meta = taker.rest | {"spans": spans}
    return [Trace(prompt=prompt, **fields, labels=tuple(labels), meta=meta)]


def parse_schoenfeld(row: Row, name: str) -> list[Trace]:
    """A DeepSeek-R1 trace on SAT maths with Schoenfeld episodes.

    It is labelled from end to end, so all of it is read as thinking.
    """
    taker = Taker(row)
    sentences = taker.take("sentences")
    labels = [
        _label(
            item["span"],
            item["sentence_label"] or "",
        )
        for item in sentences
    ]
    fields = fields_of(taker.text("response"), "")
    prompt = taker.text("question")
    fields |= common_fields(taker, name)
    return [
        Trace(
            prompt=prompt,
            **fields,
            labels=tuple(labels),
            meta=taker.rest,
        )
    ]


def parse_venhoff(row: Row, name: str) -> list[Trace]:
    """Thinking of R1 distills in labelled segments; the raw output stays in the metadata.

    Segments that the source could not find again in the text have no span, so they have no label
    here.
    """
    taker = Taker(row)
    # Only segments with a place.
    segments = taker.take("segments")
    labels = [_label(item["span"], item["label"]) for item in segments if item["span"]]
    fields = fields_of(taker.text("thinking"), "")
    fields |= common_fields(taker, name)
    return [Trace(**fields, labels=tuple(labels), meta=taker.rest)]


def parse_anchors(row: Row, name: str) -> list[Trace]:
    """A thought-anchors trace in labelled chunks (also of the bias study).

    `solution` ends its thinking with a tag, so it is split there.
    """
    taker = Taker(row)
    # A chunk may have several tags.
    chunks = taker.take("chunks")
    labels = [
        _label(
            chunk["span"],
            ",".join(chunk["function_tags"]),
        )
        for chunk in chunks
    ]
    prompt = taker.text("prompt", "problem")
    completion = taker.text("solution")
    fields = common_fields(taker, name)
    trace = Trace(
        prompt=prompt, completion=completion, **fields, labels=tuple(labels), meta=taker.rest
    )
    return [trace]


def parse_self_jailbreak(row: Row, name: str) -> list[Trace]:
    """Thinking on harmful requests with self-jailbreaking sentences.

    The source removed the answers.
    """
    taker = Taker(row)
    sentences = taker.take("sentences")
    indices = taker.take("self_jailbreak_sentences")
    jailbreaks = set(indices or ())
    labels = []
    # Without indices the document was not labelled.
    for i, sentence in enumerate(sentences if indices is not None else ()):
        is_jailbreak = i in jailbreaks
        labels.append(_label(sentence["span"], "self_jailbreak" if is_jailbreak else "other"))

    fields = fields_of(taker.text("thinking"), "")
    prompt = taker.text("prompt")
    fields |= common_fields(taker, name)
    return [
        Trace(
            prompt=prompt,
            **fields,
            labels=tuple(labels),
            meta=taker.rest,
        )
    ]
