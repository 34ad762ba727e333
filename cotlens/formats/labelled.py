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
    doc, group, spans = taker.take("doc_id"), taker.take("group"), taker.take("spans")
    labels = tuple(
        Label(start, stop, label) for _, start, stop, label, part in spans if part == "r"
    )
    fields: dict[str, Any] = common_fields(taker, name) | {"id": f"{doc}@{group}"}
    text = fields_of(taker.text("response"), "")
    prompt = taker.text("question")
    return [
        Trace(prompt=prompt, **text, **fields, labels=labels, meta=taker.rest | {"spans": spans})
    ]


def parse_schoenfeld(row: Row, name: str) -> list[Trace]:
    """A DeepSeek-R1 trace on SAT maths with Schoenfeld episodes.

    It is labelled from end to end, so all of it is read as thinking.
    """
    taker = Taker(row)
    sentences = taker.take("sentences")
    labels = tuple(_label(item["span"], item["sentence_label"] or "") for item in sentences)
    text, prompt = fields_of(taker.text("response"), ""), taker.text("question")
    return [
        Trace(prompt=prompt, **text, **common_fields(taker, name), labels=labels, meta=taker.rest)
    ]


def parse_venhoff(row: Row, name: str) -> list[Trace]:
    """Thinking of R1 distills in labelled segments; the raw output stays in the metadata.

    Segments that the source could not find again in the text have no span, so they have no label
    here.
    """
    taker = Taker(row)
    segments = taker.take("segments")
    labels = tuple(_label(item["span"], item["label"]) for item in segments if item["span"])
    text = fields_of(taker.text("thinking"), "")
    return [Trace(**text, **common_fields(taker, name), labels=labels, meta=taker.rest)]


def parse_anchors(row: Row, name: str) -> list[Trace]:
    """A thought-anchors trace in labelled chunks (also of the bias study).

    `solution` ends its thinking with a tag, so it is split there.
    """
    taker = Taker(row)
    chunks = taker.take("chunks")
    labels = tuple(_label(chunk["span"], ",".join(chunk["function_tags"])) for chunk in chunks)
    prompt, completion = taker.text("prompt", "problem"), taker.text("solution")
    fields = common_fields(taker, name)
    return [Trace(prompt=prompt, completion=completion, **fields, labels=labels, meta=taker.rest)]


def parse_self_jailbreak(row: Row, name: str) -> list[Trace]:
    """Thinking on harmful requests with self-jailbreaking sentences.

    The source removed the answers.
    """
    taker = Taker(row)
    sentences, indices = taker.take("sentences"), taker.take("self_jailbreak_sentences")
    found = set(indices or ())
    labels = tuple(
        _label(sentence["span"], "self_jailbreak" if i in found else "other")
        for i, sentence in enumerate(sentences)
        if indices is not None
    )
    text, prompt = fields_of(taker.text("thinking"), ""), taker.text("prompt")
    return [
        Trace(prompt=prompt, **text, **common_fields(taker, name), labels=labels, meta=taker.rest)
    ]
