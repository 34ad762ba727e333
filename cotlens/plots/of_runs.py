"""All figures of one run or several: the list FIGURES says what each needs and how it is drawn."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tqdm import tqdm

from cotlens.files import names_that_differ
from cotlens.measures.reflection import agreement_of_counts
from cotlens.measures.requests import BASELINE
from cotlens.plots.entropy import (
    plot_entropy_distribution,
    plot_entropy_parts,
    plot_forking_tokens,
    plot_position_entropy,
    plot_reflection_entropy,
)
from cotlens.plots.judges import (
    plot_detector,
    plot_guard_agreement,
    plot_outcomes,
    plot_safety_by_part,
    plot_thinking_by_answer,
)
from cotlens.plots.lengths import plot_lengths
from cotlens.plots.parts import too_few_prompts
from cotlens.plots.reflection import (
    plot_marker_counts,
    plot_reflection,
    plot_reflection_places,
    plot_transition_counts,
)
from cotlens.plots.run_tables import RunTables, Selection, join_runs
from cotlens.plots.style import Plot, check_folder, save
from cotlens.plots.unsafe import (
    plot_excuses,
    plot_onset_recovery,
    plot_risky_patterns,
    plot_unsafe_path,
    plot_unsafe_places,
)
from cotlens.runs.run import Run, open_run
from cotlens.trace import TraceError

MOST_CURVES = 6  # groups in a figure of curves, its parameter `most`


class RunFigure(NamedTuple):
    """One figure of runs.

    Attributes:
        name: SUBJECT/WHAT_IT_SHOWS: the folder and the file it is written to.
        has_data: whether the runs have what it needs.
        draw: draws it.
        is_of_curves: it shows the `MOST_CURVES` largest groups only.
    """

    name: str
    has_data: Callable[[RunTables], bool]
    draw: Callable[[RunTables], Plot]
    is_of_curves: bool = False

    @property
    def subject(self) -> str:
        """The first half of its name."""
        return self.name.partition("/")[0]


def _has_entropy(name: str) -> Callable[[RunTables], bool]:
    return lambda tables: name in tables.entropy


FIGURES: tuple[RunFigure, ...] = (
    RunFigure(
        "lengths/by_part",
        lambda tables: True,  # noqa: ARG005
        lambda tables: plot_lengths(tables.traces, tables.by),
    ),
    RunFigure(
        "reflection/rate",
        lambda tables: tables.has_reflection,
        lambda tables: plot_reflection(tables.traces, tables.by),
    ),
    RunFigure(
        "reflection/position",
        lambda tables: tables.has_reflection,
        lambda tables: plot_reflection_places(
            tables.steps.reflection_places(tables.traces, tables.by), tables.by
        ),
        is_of_curves=True,
    ),
    RunFigure(
        "reflection/marker_agreement",
        lambda tables: tables.has_reflection,
        lambda tables: plot_marker_counts(agreement_of_counts(tables.steps.markers)),
    ),
    RunFigure(
        "reflection/transitions",
        lambda tables: tables.has_reflection,
        lambda tables: plot_transition_counts(tables.steps.transitions),
    ),
    RunFigure(
        "entropy/parts",
        _has_entropy("trace"),
        lambda tables: plot_entropy_parts(tables.entropy["trace"], tables.by),
    ),
    RunFigure(
        "entropy/position",
        _has_entropy("position"),
        lambda tables: plot_position_entropy(tables.entropy["position"], tables.by),
        is_of_curves=True,
    ),
    RunFigure(
        "entropy/around_reflection",
        _has_entropy("reflection"),
        lambda tables: plot_reflection_entropy(tables.entropy["reflection"], tables.by),
        is_of_curves=True,
    ),
    RunFigure(
        "entropy/distribution",
        _has_entropy("survival"),
        lambda tables: plot_entropy_distribution(tables.entropy["survival"], tables.by),
        is_of_curves=True,
    ),
    RunFigure(
        "entropy/forking_tokens",
        _has_entropy("forking"),
        lambda tables: plot_forking_tokens(tables.entropy["forking"]),
    ),
    RunFigure(
        "entropy/kl_position",
        _has_entropy("kl"),
        lambda tables: plot_position_entropy(
            tables.entropy["kl"], tables.by, label="KL to the reference"
        ),
        is_of_curves=True,
    ),
    RunFigure(
        "unsafe/position",
        lambda tables: tables.has_harmful,
        lambda tables: plot_unsafe_places(tables.harmful_places, tables.by),
        is_of_curves=True,
    ),
    RunFigure(
        "unsafe/path",
        lambda tables: tables.has_harmful,
        lambda tables: plot_unsafe_path(tables.harmful.traces, tables.by),
    ),
    RunFigure(
        "unsafe/risky_patterns",
        lambda tables: tables.has_harmful,
        lambda tables: plot_risky_patterns(tables.harmful.traces, tables.by),
    ),
    RunFigure(
        "unsafe/onset_recovery",
        lambda tables: tables.has_harmful,
        lambda tables: plot_onset_recovery(tables.harmful.traces, tables.by),
        is_of_curves=True,
    ),
    RunFigure(
        "unsafe/self_jailbreak_kinds",
        lambda tables: tables.has_harmful,
        lambda tables: plot_excuses(tables.harmful_places.traces, tables.by),
    ),
    RunFigure(
        "judges/outcomes",
        lambda tables: tables.has_outcomes,
        lambda tables: plot_outcomes(tables.with_outcomes(), tables.by, judge=tables.judge),
    ),
    RunFigure(
        "judges/thinking_by_answer",
        lambda tables: tables.has_both_parts,
        lambda tables: plot_thinking_by_answer(
            tables.with_thinking_verdicts(), tables.by, judges=tables.judges_of_parts
        ),
        is_of_curves=True,
    ),
    RunFigure(
        "judges/safety_by_part",
        lambda tables: tables.has_both_parts,
        lambda tables: plot_safety_by_part(
            tables.with_thinking_verdicts(), tables.by, judges=tables.judges_of_parts
        ),
    ),
    RunFigure(
        "judges/agreement",
        lambda tables: tables.has_several_judges,
        lambda tables: plot_guard_agreement(tables.verdicts),
    ),
    RunFigure(
        "judges/detector",
        lambda tables: tables.has_judged_markers,
        lambda tables: plot_detector(tables.traces, tables.by, judge=tables.thinking_judge),
    ),
)


def draw_figures(
    runs: Sequence[str | Path | Run],
    out: str | Path,
    *,
    by: str = "",
    scorer: str = "",
    judge: str = "",
    where: Mapping[str, str] | None = None,
    only: Sequence[str] = (),
    say: Callable[[str], object] = print,
) -> list[Path]:
    """Draw every figure that the runs have data for, and return the paths.

    Each figure is written as pdf, png, csv (the numbers drawn) and json (what they were made from),
    into a folder of its subject. The same runs give the same bytes.

    Args:
        runs: complete run directories.
        out: folder for the figures.
        by: what is compared, one of `run_tables.GROUPS`; default: `run` if there are several runs,
            else `model`.
        scorer: whose token scores to draw, if several models scored a run.
        judge: whose verdicts to draw; default: the first by name that judged answers or thinking.
            If it judged no thinking and another one did, the thinking is by that one. Agreement is
            drawn of all.
        where: column of `run_tables.GROUPS` -> the value that traces must have to be drawn.
        only: names of figures (reflection/rate), where not all are wanted.
        say: called with what is left out and why.

    Raises:
        TraceError: if a run is not complete, its traces have no such groups, or there is no such
            scorer or judge.
    """
    opened = list({run.path.resolve(): run for run in map(open_run, runs)}.values())
    names = dict(
        zip(opened, names_that_differ([run.path.resolve() for run in opened]), strict=True)
    )
    for run in opened:
        if not run.info.get("complete"):
            raise TraceError(
                f"{run.path}: the run is not complete; "
                "call `cotlens analyze` again with the same inputs"
            )
    out = Path(out)
    check_folder(out)

    by = by or ("run" if len(opened) > 1 else "model")
    selection = Selection(names, by, dict(where or {}))
    tables = join_runs(opened, selection, judge, scorer, say)
    drawable = [figure for figure in FIGURES if figure.has_data(tables)]
    if only:
        drawable = [figure for figure in drawable if figure.name in only]
    for remark in _remarks(tables, drawable):
        say(remark)

    paths = []
    provenance = _provenance(opened, selection, tables)
    for figure in tqdm(drawable, desc="figures", unit=" figures"):
        record = {"figure": figure.name, **provenance}
        if figure.subject == "entropy":
            record["scores"] = _score_infos(opened, names, scorer)
        if figure.subject == "judges":
            record["judges"] = tables.judge or sorted(set(tables.verdicts["judge"]))
        if figure.subject == "unsafe":
            record["requests"] = _request_counts(tables)
        paths += save(figure.draw(tables), out / figure.name, record)
    return paths


def _remarks(tables: RunTables, drawable: Sequence[RunFigure]) -> list[str]:
    """What a reader may miss in the folder, and what to read with care, a line each."""
    remarks = []
    subjects = {figure.subject for figure in drawable}
    if "entropy" not in subjects:
        remarks.append(
            "no figures of token entropy: `cotlens score RUN --model MODEL` gives what they need"
        )
    if "judges" not in subjects:
        remarks.append(
            "no figures of judged safety: `cotlens guard RUN --judge JUDGE` gives what they need"
        )
    remarks.append(_requests_remark(tables))
    remarks += _curves_remarks(tables, drawable)

    n_prompts = tables.traces.groupby(tables.by, dropna=False)["prompt_id"].nunique()
    return remarks + too_few_prompts("", n_prompts)


def _curves_remarks(tables: RunTables, drawable: Sequence[RunFigure]) -> list[str]:
    """Which figures leave out groups, by the number of groups that they could show."""
    n_groups = tables.traces[tables.by].nunique(dropna=False)
    shown = tables.harmful.traces[tables.by]
    n_harmful_groups = shown[shown != BASELINE].nunique(dropna=False)

    curves: dict[int, list[str]] = {}
    for figure in drawable:
        n = n_harmful_groups if figure.subject == "unsafe" else n_groups
        if figure.is_of_curves and n > MOST_CURVES:
            curves.setdefault(n, []).append(figure.name)
    return [
        f"of the {MOST_CURVES} largest of {n} groups only: {', '.join(names)}"
        for n, names in curves.items()
    ]


def _request_counts(tables: RunTables) -> dict[str, Any]:
    """Numbers of traces by what their request asks for, of the baseline, and median lengths."""
    harmful = tables.harmful
    is_baseline = harmful.traces[tables.by] == BASELINE
    lengths = harmful.traces["n_think_chars"]
    counts: dict[str, Any] = {
        "n_harmful": harmful.n_harmful,
        "n_harmless": harmful.n_harmless,
        "n_unknown": harmful.n_unknown,
        "n_baseline": harmful.n_baseline,
        "median_chars_harmful": float(lengths[~is_baseline].median()),
    }
    if harmful.n_baseline:
        counts["median_chars_baseline"] = float(lengths[is_baseline].median())
    return counts


def _requests_remark(tables: RunTables) -> str:
    """Which traces the figures of unsafe exploration show, or why there are none."""
    harmful = tables.harmful
    unknown = f"{harmful.n_unknown:,} traces on requests of unknown kind"
    if not tables.has_harmful:
        return (
            "no figures of unsafe exploration: no trace with safety markers is known to answer a "
            f"harmful request ({harmful.n_harmless:,} answer harmless ones, {unknown}); a domain "
            "or split such as `harmful` tells, or `cotlens guard RUN --judge NAME --verdicts CSV "
            "--part request`"
        )

    baseline = f"no baseline, as none of {harmful.n_harmless:,} on harmless ones are as long"
    if harmful.n_baseline:
        baseline = (
            f"as a baseline {harmful.n_baseline:,} of {harmful.n_harmless:,} on harmless ones, of "
            "equal length"
        )
    elif not harmful.n_harmless:
        baseline = "no baseline, as none are on harmless ones"
    return (
        f"unsafe exploration: {harmful.n_harmful:,} traces on harmful requests; {baseline}; left "
        f"out: {unknown}"
    )


def _provenance(runs: Sequence[Run], selection: Selection, tables: RunTables) -> dict[str, Any]:
    """What the figures were made from."""
    inputs = []
    for run in runs:
        for source in run.info["inputs"]:
            inputs.append(source | {"path": Path(source["path"]).name})
    record: dict[str, Any] = {"by": selection.by, "inputs": inputs}
    if selection.where:
        record["where"] = dict(selection.where)
    record["n_traces"] = len(tables.traces)
    record["n_steps"] = tables.steps.n
    return record


def _score_infos(runs: Sequence[Run], names: Mapping[Run, str], scorer: str) -> dict[str, Any]:
    infos = {}
    for run in runs:
        if run.scorers:
            infos[names[run]] = run.score_info(scorer or run.scorers[0])
    return infos
