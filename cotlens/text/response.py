"""The delimiters that a tokenizer brings: its `response_template` (transformers 5.13)."""

import re
from typing import Any

from cotlens.text.channels import FORMATS
from cotlens.text.delimiters import known_pairs
from cotlens.text.prompts import ASSISTANT_TURN
from cotlens.text.tags import Tags

_THOUGHT_FIELDS = ("reasoning_content", "reasoning", "thinking")


def response_tags(tokenizer: Any) -> Tags | None:
    """The delimiters of a thought in a tokenizer's `response_template`, or None.

    None also where a pattern that is no plain text delimits it.
    """
    spec = getattr(tokenizer, "response_template", None)
    fields = spec.get("fields", {}) if isinstance(spec, dict) else {}
    for name in _THOUGHT_FIELDS:
        field = fields.get(name)
        if not isinstance(field, dict):
            continue
        # What a template prefills ends the anchor of the response.
        opening = _literal(field, "open") or _last_tag(_literal(spec, "start_anchor"))
        closing = _literal(field, "close")
        if opening and closing:
            return Tags(opening, closing)
    return None


def _last_tag(anchor: str) -> str:
    """The tag that ends an anchor, unless it only opens the assistant's turn."""
    match = _TAG_AT_END.search(anchor)
    if match is None or ASSISTANT_TURN.search(match[1]):
        return ""
    return match[1]


_TAG_AT_END = re.compile(r"(<[^<>\s]{1,60}>|\[[^\[\]\s]{1,60}\])\s*\Z")


def new_tags(tokenizer: Any) -> Tags | None:
    """The delimiters of a tokenizer's response template, if the table lacks them; else None.

    A known pair is left to the splitter, which knows more of its family than the two delimiters.
    """
    tags = response_tags(tokenizer)
    if tags is None or any(channels.opened in tags.open for channels in FORMATS):
        return None
    for pair in known_pairs():
        if pair.open.strip().lower() == tags.open.strip().lower():
            return None
    return tags


def _literal(field: Any, end: str) -> str:
    """The text of a delimiter: given as one, or as a pattern that allows blanks around a text."""
    given = field.get(end)
    if isinstance(given, list) and given:
        given = given[0]
    if isinstance(given, str):
        return given

    pattern = field.get(f"{end}_pattern")
    if not isinstance(pattern, str):
        return ""
    # Blanks around the text may be allowed; all else that has a meaning in patterns is escaped.
    core = _OPTIONAL_BLANKS.sub("", pattern).replace(r"\n", "\n")
    if _UNESCAPED.search(core):
        return ""
    return re.sub(r"\\(.)", r"\1", core)


_OPTIONAL_BLANKS = re.compile(r"^(?:\\s\*|\\n\*|\\n\?)+|(?:\\s\*|\\n\*|\\n\?)+$")
_UNESCAPED = re.compile(r"(?<!\\)[.^$*+?{}\[\]()|]|\\\w")
