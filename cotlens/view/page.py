"""A page that makes a trace readable in ten seconds: one HTML file without server, network or kernel.

Beside the figures at the end of the flow: `run <- view <- cli`. `show` makes the page of one trace, for a notebook;
`view_run` that of a run, with a table of its traces, and of a second checkpoint on the same prompts beside it.

Model output is hostile. All text travels as JSON in which every `<` is escaped, the scripts put it into the page as
text nodes, and the page's Content-Security-Policy allows its script and its style by their hashes and nothing else.

Numbers are packed into base64 arrays. Nats are whole multiples of `NATS_STEP`, so a shown value is right to half of
that; at 65.534 nats (or rank 65,534) and above the page shows a lower bound. The `TOP` likeliest words are kept.
Offsets in the page's data are code points of the completion, as everywhere; the script converts them to UTF-16.
"""

import base64
import hashlib
import html
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
from numpy.typing import ArrayLike, NDArray

from cotlens.detect.reflect import KINDS, N_REFLECTIVE
from cotlens.detect.unsafe import EXPLORATION, MARKERS
from cotlens.files import write_atomic
from cotlens.formats.read import read_traces
from cotlens.measures.unsafe import safety_states
from cotlens.runs.run import Run, open_run, text_shards
from cotlens.runs.tables import step_table
from cotlens.text.families import Tags
from cotlens.text.split import split_trace
from cotlens.trace import Trace, TraceError

if TYPE_CHECKING:
    from cotlens.models.score import ScoredTrace

NATS_STEP = 0.001
TOP = 3
LIMIT = 200  # traces in a page, unless more are asked for
_UNKNOWN, _MOST = 65535, 65534  # codes of NaN, and of anything too large for a code
_HIGH = (
    0.8  # share of a page's tokens that are not of high entropy, as in entropy.entropy_threshold
)
SCRIPTS = ("view_text.js", "view_pane.js", "view.js")
_STRIP = 60  # cells of the strip that shows a trace's path in the table of traces


@dataclass(frozen=True, slots=True)
class Page:
    """A self-contained page. In a notebook it shows itself, in a frame of its own that cannot reach the notebook."""

    html: str

    def save(self, path: str | Path) -> Path:
        """Writes the page, whole or not at all."""
        write_atomic(Path(path), self.html)
        return Path(path)

    def _repr_html_(self) -> str:
        return (
            '<iframe title="cotlens: a trace" sandbox="allow-scripts allow-modals" '
            'style="width:100%;height:720px;border:1px solid #8886;border-radius:6px" '
            f'srcdoc="{html.escape(self.html)}"></iframe>'
        )


def show(trace: Trace, scores: "ScoredTrace | None" = None, *, tags: Tags | None = None) -> Page:
    """The page of one trace; the last line of a notebook's cell shows it.

    Args:
        trace: any trace.
        scores: what `score_tokens` returned for it. Without, the log-probs that the source gave are shown, if any.
        tags: delimiters of the thought, where they are not among those that cotlens knows.

    Raises:
        TraceError: if the scores are another trace's.
    """
    if scores is not None and scores.trace_id != trace.id:
        raise TraceError(f"trace {trace.id!r}: the scores are those of {scores.trace_id!r}")
    columns = None
    if scores is not None:
        columns = {
            "token_ids": scores.token_ids,
            "token_starts": scores.token_starts,
            **scores.values,
        }
    item = _Item(trace, step_table([trace], tags=tags), columns or _own_scores(trace), {}, tags)
    return _page(trace.id, [item], [], ("", ""), 1)


def view_run(
    run: Run | str | Path,
    ids: Sequence[str] = (),
    *,
    beside: Run | str | Path | None = None,
    scorer: str = "",
    judge: str = "",
    limit: int = LIMIT,
) -> Page:
    """The page of a run: a table of its traces, and each trace with its steps, markers, scores and verdicts.

    Args:
        run: a run directory that holds its texts.
        ids: the traces to show; default: the first `limit`.
        beside: a run of another checkpoint. The k-th trace of a prompt stands beside the k-th of the same prompt there.
        scorer: whose scores to show; default: each run's only scorer's, if it is scored.
        judge: whose verdicts to show; default: the first by name, as in the figures. Beside, only the same judge's.
        limit: most traces in the page, where none are named.

    Raises:
        TraceError: if the run holds no text, a trace is not in it, or no prompt is in both runs.
    """
    run = open_run(run)
    _ = run.info  # a path that is no run is named as what it is
    if judge and judge not in run.judges:
        raise TraceError(
            f"{run.path}: no verdicts of {judge}; judges: {', '.join(run.judges) or 'none'}"
        )
    judge = judge or next(iter(run.judges), "")
    items = _read(run, list(ids) or None, limit, scorer, judge)
    others: list[_Item | None] = []
    names = (run.path.resolve().name, "")
    if beside is not None:
        beside = open_run(beside)
        names = _tell_apart(run.path, beside.path)
        others = _partners(run, beside, items, scorer, judge)
    return _page(names[0], items, others, names, int(run.info.get("n_traces", len(items))))


# --- what is read ----------------------------------------------------------------------------------------------
class _Item(NamedTuple):
    """One trace with what the run knows of it."""

    trace: Trace
    steps: pd.DataFrame
    scores: Mapping[str, Any] | None  # columns of `table.SCORE_COLUMNS`
    verdicts: dict[str, str]  # part -> what the judge says of it
    tags: Tags | None
    scorer: str = ""
    judge: str = ""


def _own_scores(trace: Trace) -> Mapping[str, Any] | None:
    """The log-probs that a trace brings along, as scores."""
    if trace.logprobs is None or trace.token_starts is None:
        return None
    return {
        "token_ids": trace.token_ids,
        "token_starts": trace.token_starts,
        "logprob": trace.logprobs,
    }


def _read(run: Run, ids: Sequence[str] | None, limit: int, scorer: str, judge: str) -> list[_Item]:
    """The traces of the given ids in their order, or the first of the run."""
    if scorer or run.scorers:
        run.score_table(
            scorer, ["trace_id"]
        )  # says so where scores are missing, many, or older than the traces
        scorer = scorer or run.scorers[0]
    verdicts = _verdicts(run, judge)
    found: dict[str, _Item] = {}
    asked = set(ids or ())
    for shard in text_shards(run):
        here = pq.read_table(shard, columns=["trace_id"])["trace_id"].to_pylist()
        chosen = (
            [key for key in here if key in asked] if ids is not None else here[: limit - len(found)]
        )
        if not chosen:
            continue
        only = [("trace_id", "in", chosen)]
        steps = pq.read_table(run.path / "steps" / shard.name, filters=only).to_pandas()
        parts, empty = dict(iter(steps.groupby("trace_id", sort=False))), steps.iloc[:0]
        scores = _score_rows(run.path / "scores" / scorer / shard.name, only) if scorer else {}
        traces = {trace.id: trace for trace in read_traces(shard, format="cotlens")}
        for key in chosen:
            own, said = scores.get(key), verdicts.get(key, {})
            names = (scorer if own else "", judge if said else "")
            found[key] = _Item(
                traces[key],
                parts.get(key, empty),
                own or _own_scores(traces[key]),
                said,
                run.tags,
                *names,
            )
    if missing := [key for key in ids or () if key not in found]:
        raise TraceError(
            f"{run.path}: no trace {missing[0]!r}; it has {run.info['n_traces']:,} traces"
        )
    return [found[key] for key in (found if ids is None else dict.fromkeys(ids))]


def _score_rows(path: Path, only: list[tuple[str, str, Any]]) -> dict[str, dict[str, Any]]:
    rows = pq.read_table(path, filters=only).to_pandas().to_dict("records")
    return {
        str(row["trace_id"]): {str(k): v for k, v in row.items()}
        for row in rows
        if not row["error"]
    }


def _verdicts(run: Run, judge: str) -> dict[str, dict[str, str]]:
    """What a judge says of the parts of each trace, in words."""
    said: dict[str, dict[str, str]] = {}
    for part in run.judged_parts(judge) if judge else ():
        for row in run.guard_table(judge, part).to_dict("records"):
            refuses = ", refuses" if row["refusal"] is True else ""
            said.setdefault(str(row["trace_id"]), {})[part] = f"{row['label']}{refuses}"
    return said


def _partners(
    run: Run, beside: Run, items: Sequence[_Item], scorer: str, judge: str
) -> list[_Item | None]:
    """For each item the trace of the other run on the same prompt, with the same number among the prompt's traces."""
    there = {key: trace_id for trace_id, key in _keys(beside).items()}
    here = _keys(run)
    wanted = [there.get(here[item.trace.id]) for item in items]
    chosen = [key for key in wanted if key is not None]
    if not chosen:
        raise TraceError(f"{beside.path}: has no trace on any of the prompts shown from {run.path}")
    if scorer and scorer not in beside.scorers:
        raise TraceError(
            f"{beside.path}: not scored by {scorer}; its scorers: {', '.join(beside.scorers) or 'none'}"
        )
    read = _read(beside, chosen, len(chosen), scorer, judge if judge in beside.judges else "")
    found = {item.trace.id: item for item in read}
    return [found.get(key) if key is not None else None for key in wanted]


def _keys(run: Run) -> dict[str, tuple[str, int]]:
    """Trace id -> prompt and number of the trace among those of the prompt."""
    table = run.trace_table(["trace_id", "prompt_id"])
    numbers = table.groupby("prompt_id").cumcount()
    return dict(zip(table["trace_id"], zip(table["prompt_id"], numbers, strict=True), strict=True))


def _tell_apart(first: Path, second: Path) -> tuple[str, str]:
    """The names of two runs, with as many folders above them as it takes for the names to differ."""
    a, b = first.resolve().parts, second.resolve().parts
    n = next((n for n in range(1, min(len(a), len(b))) if a[-n] != b[-n]), 1)
    return "/".join(a[-n:]), "/".join(b[-n:])


# --- what is put into the page ---------------------------------------------------------------------------------
def _page(
    title: str, items: Sequence[_Item], others: Sequence[_Item | None], names: Any, total: int
) -> Page:
    entropies = [
        _nats(i.scores["entropy"])
        for i in items
        if i.scores is not None and _has(i.scores, "entropy")
    ]
    known = np.concatenate([np.zeros(0, np.uint16), *entropies])
    known = known[known != _UNKNOWN]
    high = int(np.quantile(known, _HIGH)) if len(known) else _MOST
    first, second = _all_data(items, high), _all_data(others, high)
    info = {
        "title": title,
        "names": names,
        "total": total,
        "high": high,
        "kinds": [kind.value for kind in KINDS],
        "nReflective": N_REFLECTIVE,
        "markers": [marker.value for marker in MARKERS],
        "unsafe": [marker in EXPLORATION for marker in MARKERS],
        "natsStep": NATS_STEP,
        "rows": [data and data["row"] for data in first],
        "beside": [data and data["row"] for data in second],
    }
    blocks = {"page": info}
    blocks |= {f"a{i}": data for i, data in enumerate(first)}
    blocks |= {f"b{i}": data for i, data in enumerate(second)}
    return Page(_html(title, blocks))


def _all_data(items: Sequence[_Item | None], high: int) -> list[dict[str, Any] | None]:
    words = _words(item for item in items if item is not None)
    return [None if item is None else _trace_data(item, words, high) for item in items]


def _trace_data(item: _Item, words: Mapping[int, str], high: int) -> dict[str, Any]:
    trace, split = item.trace, split_trace(item.trace, tags=item.tags)
    known = [
        ("model", trace.model),
        ("checkpoint", trace.method),
        ("domain", trace.domain),
        ("split", trace.split),
        ("finish reason", trace.finish_reason),
        ("reward", "" if trace.reward is None else f"{trace.reward:g}"),
        ("gold answer", trace.gold),
        ("reasoning", "" if trace.reasoning == "verbatim" else trace.reasoning.value),
        ("scored by", item.scorer),
        ("judged by", item.judge),
    ]
    tokens = None if item.scores is None else _tokens(item.scores, words)
    return {
        "id": trace.id,
        "prompt": trace.prompt,
        "text": trace.completion,
        "facts": [fact for fact in known if fact[1]],
        "verdicts": item.verdicts,
        "status": split.status.value,
        "think": [list(span) for span in split.think],
        "answer": list(split.answer),
        "steps": _steps(item.steps),
        "tokens": tokens,
        "row": _row(item, split.status.value, high),
    }


def _row(item: _Item, status: str, high: int) -> dict[str, Any]:
    """What the table of traces says of a trace; the counts are those of the step table."""
    steps, scores = item.steps, item.scores
    states = safety_states(steps)
    entropy = scores["entropy"] if scores is not None and _has(scores, "entropy") else []
    codes = _nats(entropy)
    ids = scores["token_ids"] if scores is not None else item.trace.token_ids
    return {
        "id": item.trace.id,
        "prompt": item.trace.prompt[-2000:][:160]
        if len(item.trace.prompt) > 2000
        else item.trace.prompt[:160],
        "status": status,
        "tokens": None if ids is None else len(ids),
        "steps": len(steps),
        "reflect": int(steps["is_reflection"].eq(True).sum()),
        "unsafe": int((states > 0).sum()),
        "high": None if not len(codes) else int(((codes > high) & (codes != _UNKNOWN)).sum()),
        "entropy": _rounded(np.nanmean(np.asarray(entropy, float)))
        if np.any(codes != _UNKNOWN)
        else None,
        "verdicts": item.verdicts,
        "strip": _strip(steps, states),
    }


def _strip(steps: pd.DataFrame, states: NDArray[np.int8]) -> str:
    """The path of a trace in `_STRIP` cells by position: u unsafe, else s safe, else r reflecting, else a dot."""
    cells = ["."] * _STRIP
    at = np.minimum(steps["position"].to_numpy(float) * _STRIP, _STRIP - 1).astype(int)
    reflects = steps["is_reflection"].eq(True).to_numpy(bool)
    for mark, flags in (("r", reflects), ("s", states < 0), ("u", states > 0)):
        for cell in at[flags]:
            cells[cell] = mark
    return "".join(cells) if len(steps) else ""


def _steps(steps: pd.DataFrame) -> dict[str, Any]:
    names = [kind.value for kind in KINDS]
    carried = sum(steps[m.value].eq(True).to_numpy(np.int64) << i for i, m in enumerate(MARKERS))
    return {
        "start": steps["start"].tolist(),
        "stop": steps["stop"].tolist(),
        "kind": [names.index(kind) if kind else -1 for kind in steps["kind"]],
        "reflects": steps["is_reflection"].eq(True).astype(int).tolist(),
        "state": safety_states(steps).tolist(),
        "markers": np.asarray(carried).tolist(),
        "pReflect": [_rounded(p) for p in steps["p_reflect"]],
        "pJailbreak": [_rounded(p) for p in steps["p_self_jailbreak"]],
    }


def _tokens(scores: Mapping[str, Any], words: Mapping[int, str]) -> dict[str, Any] | None:
    """The places of the tokens and their numbers, packed; None where the tokens have no place in the text."""
    if scores["token_starts"] is None or not len(scores["token_starts"]):
        return None
    starts = np.asarray(scores["token_starts"], np.int64)
    values = {name: _pack(_nats(scores[name])) for name in ("entropy", "kl") if _has(scores, name)}
    values["surprise"] = _pack(_nats(-np.asarray(scores["logprob"], float)))
    if _has(scores, "rank"):
        rank = np.asarray(scores["rank"], float)
        values["rank"] = _pack(np.where(np.isnan(rank), _UNKNOWN, np.minimum(rank, _MOST)))
    tokens = {"starts": _pack(np.diff(starts, prepend=0)), "values": values}
    return tokens | ({"top": _alternatives(scores, words)} if _has(scores, "top_ids") else {})


def _alternatives(scores: Mapping[str, Any], words: Mapping[int, str]) -> dict[str, Any]:
    ids = np.array([list(row)[:TOP] for row in scores["top_ids"]], float)
    logprobs = np.array([list(row)[:TOP] for row in scores["top_logprobs"]], float)
    distinct, index = np.unique(np.nan_to_num(ids, nan=-1).astype(np.int64), return_inverse=True)
    return {
        "k": ids.shape[1],
        "words": [
            words.get(int(word), int(word)) for word in distinct[:_UNKNOWN]
        ],  # an unknown word is its id
        "index": _pack(np.minimum(index.ravel(), _UNKNOWN)),
        "surprise": _pack(_nats(-logprobs.ravel())),
    }


def _words(items: Iterable[_Item]) -> dict[int, str]:
    """The text of every token id that stands in one of the traces: names for alternatives, without a tokenizer."""
    words: dict[int, str] = {}
    for trace, _, scores, *_ in items:
        if scores is None or scores["token_starts"] is None or not _has(scores, "top_ids"):
            continue
        starts = [-1, *scores["token_starts"], len(trace.completion)]
        for word, before, start, stop in zip(
            scores["token_ids"], starts, starts[1:], starts[2:], strict=False
        ):
            if before < start < stop:  # else it is some bytes of a character
                words.setdefault(int(word), trace.completion[start:stop])
    return words


def _has(scores: Mapping[str, Any], name: str) -> bool:
    value = scores.get(name)  # pandas has None or NaN where there are none
    return value is not None and np.ndim(value) > 0 and np.size(value) > 0


def _nats(values: ArrayLike) -> NDArray[np.uint16]:
    """Codes of numbers in nats: multiples of `NATS_STEP`, `_MOST` for more (also infinity), `_UNKNOWN` for NaN."""
    steps = np.asarray(values, float) / NATS_STEP
    codes = np.clip(np.rint(np.nan_to_num(steps, nan=0, posinf=_MOST)), 0, _MOST)
    return np.where(np.isnan(steps), _UNKNOWN, codes).astype(np.uint16)


def _pack(values: ArrayLike) -> str:
    """Whole numbers as base64 in the least width that holds them, which stands in front."""
    whole = np.asarray(values)
    width = next(n for n in (1, 2, 4) if not whole.size or whole.max() < 256**n)
    return f"{width}:" + base64.b64encode(whole.astype(f"<u{width}").tobytes()).decode()


def _rounded(value: Any) -> float | None:
    return round(float(value), 3) if np.isfinite(float(value)) else None


# --- the page --------------------------------------------------------------------------------------------------
_HTML = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; script-src '{script_hash}'; \
style-src '{style_hash}'; base-uri 'none'; form-action 'none'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="referrer" content="no-referrer">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<noscript>This page needs JavaScript to show its traces. It loads nothing and sends nothing.</noscript>
{blocks}
<script>{script}</script>
</body>
</html>
"""


def _html(title: str, blocks: Mapping[str, Any]) -> str:
    script, style = "\n".join(map(_shipped, SCRIPTS)), _shipped("view.css")
    data = [
        f'<script type="application/json" id="{key}">{_json(value)}</script>'
        for key, value in blocks.items()
    ]
    return _HTML.format(
        title=html.escape(f"{title} · cotlens".encode("utf-8", "replace").decode()),
        script=script,
        style=style,
        script_hash=_hash(script),
        style_hash=_hash(style),
        blocks="\n".join(data),
    )


def _shipped(name: str) -> str:
    return files("cotlens.view").joinpath(name).read_text(encoding="utf-8")


def _json(value: Any) -> str:
    """JSON in ASCII without `<`: nothing in it can end the element it stands in, or begin another."""
    return json.dumps(value, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
