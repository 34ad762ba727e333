"""One HTML file to read traces in, without server, network or kernel.

`show` makes the page of one trace, for a notebook. `view_run` makes the page of a run: a table of
its traces, each trace, and next to it the trace of a second checkpoint on the same prompt.

Model output is hostile. All text travels as JSON in which every `<` is escaped, the scripts put it
into the page as text nodes, and the page's Content-Security-Policy allows its script and its style
by their hashes and nothing else.
"""

import base64
import hashlib
import html
import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cotlens.files import names_that_differ, write_atomic
from cotlens.runs.run import Run, open_run
from cotlens.runs.tables import step_table
from cotlens.text.families import Tags
from cotlens.trace import Trace, TraceError
from cotlens.view.pack import page_blocks
from cotlens.view.shown import ShownTrace, read_partners, read_shown, source_scores

if TYPE_CHECKING:
    from cotlens.models.score import ScoredTrace

LIMIT = 200  # traces in a page, unless more are asked for
SCRIPTS = ("view_text.js", "view_pane.js", "view.js")


@dataclass(frozen=True, slots=True)
class Page:
    """A self-contained page. A notebook displays it in a frame that cannot reach the notebook."""

    html: str

    def save(self, path: str | Path) -> Path:
        """Write the page, whole or not at all, and return its path."""
        path = Path(path)
        write_atomic(path, self.html)
        return path

    def _repr_html_(self) -> str:
        return (
            '<iframe title="cotlens: a trace" sandbox="allow-scripts allow-modals" '
            'style="width:100%;height:720px;border:1px solid #8886;border-radius:6px" '
            f'srcdoc="{html.escape(self.html)}"></iframe>'
        )


def show(trace: Trace, scores: "ScoredTrace | None" = None, *, tags: Tags | None = None) -> Page:
    """Return the page of one trace; as the last line of a notebook cell it displays itself.

    Args:
        trace: any trace.
        scores: what `score_tokens` returned for it. By default the log-probs that came with the
            trace, if any.
        tags: delimiters of the thought, where they are not among those that cotlens knows.

    Raises:
        TraceError: if the scores are another trace's.
    """
    # Without scores by a model, the page shows the log-probs of the source.
    if scores is None:
        columns = source_scores(trace)
    elif scores.trace_id != trace.id:
        raise TraceError(
            f"trace {trace.id!r}: got the scores of trace {scores.trace_id!r}; "
            "pass what score_tokens returned for this trace"
        )
    else:
        columns = {
            "token_ids": scores.token_ids,
            "token_starts": scores.token_starts,
            **scores.values,
        }

    steps = step_table([trace], tags=tags)
    shown = ShownTrace(trace, steps, columns, verdicts={}, tags=tags)
    blocks = page_blocks(trace.id, [shown], partners=[], names=["", ""], n_traces=1)
    return _make_page(trace.id, blocks)


def view_run(
    run: Run | str | Path,
    ids: Sequence[str] = (),
    *,
    beside: Run | str | Path | None = None,
    scorer: str = "",
    judge: str = "",
    limit: int = LIMIT,
) -> Page:
    """Return the page of a run: a table of its traces, and each trace with all that is known of it.

    That is its steps with their markers, its token scores, and the verdicts on its parts.

    Args:
        run: a run directory that holds its texts.
        ids: the traces to show; by default the first `limit`.
        beside: a run of another checkpoint. The k-th trace of a prompt is shown next to the other
            run's k-th trace of that prompt.
        scorer: the model whose token scores to show; by default each run's only one, if there is
            one.
        judge: the judge whose verdicts to show, on both runs; by default the first of `run` by
            name, as in the figures.
        limit: most traces in the page, where no ids are given.

    Raises:
        TraceError: if the run holds no text, lacks one of the ids, is not judged by `judge`, has no
            complete scores by `scorer`, or shares no prompt with `beside`.
    """
    # A path that is not a run fails here, with advice.
    run = open_run(run)
    info = run.info

    if judge and judge not in run.judges:
        judges = ", ".join(run.judges) or "none"
        raise TraceError(f"{run.path}: no verdicts of {judge}; judges: {judges}")
    if not judge and run.judges:
        judge = run.judges[0]

    shown = read_shown(run, ids, limit, scorer, judge)
    partners: list[ShownTrace | None] = []
    names = [run.name, ""]
    if beside is not None:
        beside = open_run(beside)
        paths = [run.path.resolve(), beside.path.resolve()]
        names = names_that_differ(paths)
        partners = read_partners(run, beside, shown, scorer, judge)

    title = names[0]
    n_traces = int(info.get("n_traces", len(shown)))
    return _make_page(title, page_blocks(title, shown, partners, names, n_traces))


# By this the command knows the pages that it may replace.
MARK = '<meta name="generator" content="cotlens">'

_HTML = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
{mark}
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; \
script-src '{script_hash}'; style-src '{style_hash}'; base-uri 'none'; form-action 'none'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="referrer" content="no-referrer">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<noscript>This page needs JavaScript to show its traces. It loads nothing \
and sends nothing.</noscript>
{blocks}
<script>{script}</script>
</body>
</html>
"""


def _make_page(title: str, blocks: dict[str, Any]) -> Page:
    """Return a page with the data in `blocks`, the scripts and the style."""
    script = "\n".join(_read_asset(name) for name in SCRIPTS)
    style = _read_asset("view.css")

    # Each trace is a block, so that the script parses only those it shows.
    data = []
    for block_id, block in blocks.items():
        text = _inert_json(block)
        data.append(f'<script type="application/json" id="{block_id}">{text}</script>')

    # A folder's name may hold a lone surrogate, which cannot be encoded: it becomes `?`.
    full_title = f"{title} · cotlens".encode("utf-8", "replace").decode()

    page = _HTML.format(
        mark=MARK,
        title=html.escape(full_title),
        script=script,
        style=style,
        script_hash=_source_hash(script),
        style_hash=_source_hash(style),
        blocks="\n".join(data),
    )
    return Page(page)


def _read_asset(name: str) -> str:
    asset = files("cotlens.view").joinpath(name)
    return asset.read_text(encoding="utf-8")


def _inert_json(value: Any) -> str:
    """Return ASCII JSON without `<`: it can neither end the element around it nor begin another."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c")


def _source_hash(text: str) -> str:
    """Return the hash by which a Content-Security-Policy allows an inline script or style."""
    digest = hashlib.sha256(text.encode()).digest()
    return "sha256-" + base64.b64encode(digest).decode()
