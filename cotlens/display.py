"""Facts and texts as HTML, for notebooks."""

from collections.abc import Mapping
from html import escape
from typing import Any

_SHOWN_CHARS = 1500  # of each text; the rest is cut

_ROW = """<tr><th style="text-align:left;vertical-align:top">{name}</th>\
<td style="text-align:left;vertical-align:top">{value}</td></tr>"""
_BOX = """<details><summary>{name} ({length:,} characters)</summary>\
<pre style="white-space:pre-wrap">{text}</pre></details>"""


def facts_html(facts: Mapping[str, Any], texts: Mapping[str, str] | None = None) -> str:
    """An HTML table of names and values, then one collapsed box per text, with everything escaped.

    It sets no colours, so it is readable on a dark page as on a light one.
    """
    parts = ["<table>"]
    for name, value in facts.items():
        heading = escape(str(name))
        content = escape(str(value))
        row = _ROW.format(name=heading, value=content)
        parts.append(row)
    parts.append("</table>")

    # Each text is cut before it is escaped: a later cut could split an entity.
    texts = texts or {}
    for name, text in texts.items():
        heading = escape(name)
        shown = escape(text[:_SHOWN_CHARS])
        if len(text) > _SHOWN_CHARS:
            shown += " …"
        box = _BOX.format(name=heading, length=len(text), text=shown)
        parts.append(box)

    return "".join(parts)
