"""cotlens: the dynamics of chain-of-thought. A trace goes in, one row per step comes out.

`import cotlens as ct` gives the names below, each loaded on first use: importing loads no torch,
pandas or matplotlib. Everything else is imported from where it lives, as in
`from cotlens.detect.words import count_words`.

The packages in the order of the flow; a file imports only from its own and earlier ones:

display        facts as HTML, for notebooks
trace, files   the lossless record of one turn; files written whole or not at all
stats          numbers with intervals
detect         what does a text do? texts in, labels out
text           where is the thinking, where are its steps?
formats        foreign rows become traces
measures       tables in, tables out
models         ask a model: score a text, sample one
judges         is it unsafe, a refusal, right?
probes         cut a trace, change it, ask again
runs           a corpus on disk, a shard at a time
studies        arms and seeds side by side
plots          tables become figures
view           one offline page to read traces in
describe, cli  what `cotlens info` says; the command line

Read first: trace.py, text/split.py, text/steps.py, runs/tables.py, runs/run.py.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_NAMES = {
    # nouns
    "Trace": "trace",
    "TraceError": "trace",
    "Span": "trace",
    "Run": "runs.run",
    "Study": "studies.study",
    "Estimate": "stats",
    "Model": "models.load",
    # verbs on traces
    "read_traces": "formats.read",
    "split_trace": "text.split",
    "segment_trace": "text.steps",
    "trace_table": "runs.tables",
    "step_table": "runs.tables",
    "classify": "detect.reflect",
    "mark": "detect.unsafe",
    # verbs that ask a model or a judge
    "load_model": "models.load",
    "sample": "models.sample",
    "continue_trace": "models.sample",
    "score_tokens": "models.score",
    "load_guard": "judges.local",
    "judge": "judges.guard",
    "grade": "judges.grade",
    # verbs on runs
    "generate": "runs.generate",
    "analyze": "runs.analyze",
    "open_run": "runs.run",
    "score": "runs.score",
    "judge_run": "runs.judge",
    "compare_runs": "studies.collect",
    "export": "runs.export",
    "draw_figures": "plots.of_runs",
    "show": "view.page",
}
_PACKAGES = ("measures", "plots", "probes", "stats", "studies")

__all__ = [*_NAMES, *_PACKAGES]


def __getattr__(name: str) -> Any:
    if name in _PACKAGES:
        return import_module(f"cotlens.{name}")
    if name in _NAMES:
        return getattr(import_module(f"cotlens.{_NAMES[name]}"), name)
    raise AttributeError(f"module 'cotlens' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
