"""Facts as HTML, for notebooks."""

import html
from collections.abc import Mapping
from typing import Any

_SHOWN = 1500  # characters of a text in a notebook


def facts_html(facts: Mapping[str, Any], texts: Mapping[str, str] | None = None) -> str:
    """Names and values as an HTML table, and texts in boxes that open, everything escaped.

    It has no colours of its own, so that it is readable on a dark page as on a light one.
    """
    left = "text-align:left;vertical-align:top"
    cells = (
        f'<tr><th style="{left}">{html.escape(str(name))}</th><td style="{left}">{html.escape(str(value))}</td></tr>'
        for name, value in facts.items()
    )
    boxes = "".join(
        f'<details><summary>{html.escape(name)} ({len(text):,} characters)</summary><pre style="white-space:pre-wrap">'
        f"{html.escape(text[:_SHOWN])}{' …' if len(text) > _SHOWN else ''}</pre></details>"
        for name, text in (texts or {}).items()
    )
    return f"<table>{''.join(cells)}</table>{boxes}"
