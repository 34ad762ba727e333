"""Commands that show results: figures, a page to read traces in, a study of several arms."""

from pathlib import Path
from typing import Annotated

from typer import Argument, BadParameter, Option

from cotlens.cli.common import ForceOption, JudgeOption, ScorerOption, remark, show
from cotlens.trace import TraceError

# Options of `figures`.
RunsOrStudyArgument = Annotated[
    list[Path],
    Argument(help="Run directories of `cotlens analyze`, or one study of `cotlens compare`."),
]
FiguresOption = Annotated[Path, Option("--out", "-o", help="Folder for the figures.")]
ByOption = Annotated[
    str,
    Option(
        help="What to compare: run, model, method, domain, ...; "
        "by default run if there are several, else model."
    ),
]
WhereOption = Annotated[
    list[str] | None,
    Option(
        metavar="COLUMN=VALUE",
        help="Draw only traces with this value, such as domain=harmful; repeatable.",
    ),
]


def figures(
    runs: RunsOrStudyArgument,
    out: FiguresOption = Path("runs/figures"),
    by: ByOption = "",
    scorer: ScorerOption = "",
    judge: JudgeOption = "",
    where: WhereOption = None,
) -> None:
    """Draw every figure that the runs have data for.

    Each is written as pdf, png, csv (the plotted numbers) and json (provenance).
    """
    from cotlens.plots.of_runs import draw_figures
    from cotlens.plots.of_studies import draw_study
    from cotlens.studies.study import is_study

    # The arms and judges of a study were chosen when it was made.
    studies = [path for path in runs if is_study(path)]
    if studies:
        if len(runs) > 1 or by or scorer or judge or where:
            raise BadParameter(
                f"{studies[0]} is a study, which is drawn alone, "
                "without --by, --where, --scorer and --judge",
                param_hint="RUNS",
            )
        paths = draw_study(runs[0], out, say=remark)
    else:
        values = _parse_conditions(where or [])
        paths = draw_figures(runs, out, by=by, scorer=scorer, judge=judge, where=values, say=remark)

    for path in paths:
        show(path)


def _parse_conditions(conditions: list[str]) -> dict[str, str]:
    """Return column -> value of conditions COLUMN=VALUE."""
    values: dict[str, str] = {}
    for condition in conditions:
        column, sign, value = condition.partition("=")
        if not sign:
            raise BadParameter(f"expected COLUMN=VALUE, got {condition!r}", param_hint="--where")
        if column in values:
            message = f"got two values of {column}; give one value per column"
            raise BadParameter(message, param_hint="--where")
        values[column] = value
    return values


# Options of `view`.
RunWithTextsArgument = Annotated[
    Path, Argument(help="Run directory of `cotlens analyze`, with its texts.")
]
TraceIdsArgument = Annotated[
    list[str] | None, Argument(help="Ids of traces; by default the first of the run.")
]
PageOption = Annotated[Path, Option("--out", "-o", help="HTML file to write.")]
BesideOption = Annotated[
    Path | None, Option(help="Run of another checkpoint on the same prompts, side by side.")
]
LimitOption = Annotated[int, Option(min=1, help="Most traces, where no ids are given.")]


def view(
    run: RunWithTextsArgument,
    traces: TraceIdsArgument = None,
    out: PageOption = Path("page.html"),
    beside: BesideOption = None,
    scorer: ScorerOption = "",
    judge: JudgeOption = "",
    limit: LimitOption = 200,
) -> None:
    """Write one offline HTML page to read traces in.

    It shows text, steps, markers, token entropies and verdicts, and two checkpoints side by side.
    """
    from cotlens.runs.run import Run
    from cotlens.view.page import view_run

    _check_page_path(out)
    opened = Run(run)
    ids = traces or []
    page = view_run(opened, ids, beside=beside, scorer=scorer, judge=judge, limit=limit)
    page.save(out)

    # A page of some traces says of how many.
    summary = f"{len(page.html) / 1e6:.1f} MB"
    n_traces = opened.info.get("n_traces", 0)
    if n_traces > limit and not ids:
        summary += f", {limit:,} of {n_traces:,} traces (--limit, or name them)"
    show(f"{out}: {summary}")


def _check_page_path(path: Path) -> None:
    """Raise TraceError unless the path is free, or holds a page of cotlens or an empty file."""
    from cotlens.view.page import MARK

    is_free = not path.exists()
    if path.is_file():
        with path.open("rb") as file:
            beginning = file.read(1000)
        is_free = not beginning or MARK.encode() in beginning
    if not is_free:
        raise TraceError(f"{path}: exists and is no page of cotlens; name another file")


# Options of `compare`.
RunsArgument = Annotated[
    list[Path], Argument(help="Run directories of all arms, with texts, scores and verdicts.")
]
StudyOption = Annotated[Path, Option("--out", "-o", help="Folder of the study.")]
BaseOption = Annotated[str, Option(help="Arm that the others are compared with.")]
RlOption = Annotated[
    str, Option(help="Arm of the claims about RL; by default the first with grpo in its name.")
]
SftOption = Annotated[
    list[str] | None,
    Option(help="Arm of the claims about SFT, repeatable; by default all with sft in their name."),
]
TruthOption = Annotated[
    str, Option(help="Judge whose verdicts count as ground truth; by default the only one.")
]
MonitorOption = Annotated[
    str, Option(help="A second judge: the guard that the reward in training came from.")
]
OwnScorerOption = Annotated[
    str,
    Option(
        help="Name of each arm's scores of its own text; "
        "by default the only one, own, or the arm's name."
    ),
]
NoteOption = Annotated[str, Option(help="A line under every figure: models, judge, prompts.")]
ClaimsOption = Annotated[
    Path | None,
    Option(help="JSON file of the claims to decide, such as trainers/configs/claims.json."),
]
RolloutsOption = Annotated[
    list[Path] | None, Option(help="Run of the rollouts of RL training (RECORD/rollouts).")
]
LogOption = Annotated[
    list[Path] | None,
    Option(help="Output folder of an RL trainer, named as its arm: entropy and KL by update."),
]


def compare(
    runs: RunsArgument,
    out: StudyOption,
    base: BaseOption = "base",
    rl: RlOption = "",
    sft: SftOption = None,
    judge: TruthOption = "",
    monitor: MonitorOption = "",
    scorer: OwnScorerOption = "",
    note: NoteOption = "",
    claims: ClaimsOption = None,
    rollouts: RolloutsOption = None,
    log: LogOption = None,
    force: ForceOption = False,
) -> None:
    """Join the runs of several arms and seeds into a study, and report which claims hold in it.

    Claims are a list in a file, written before the runs exist: see --claims.

    The arm of a run is the name given to `cotlens generate --method`, else its folder's name. Its
    seed is K if a folder seed=K is on its path, as in runs/seed=0/grpo. Prompts are told apart by
    their domains harmful, benign and math. Scores of the base's runs under another arm's name are
    that arm's scores of a text common to all. Missing data is reported and left out.
    """
    from cotlens import studies
    from cotlens.runs.run import is_run
    from cotlens.studies.collect import compare_runs

    # A glob such as runs/* also matches folders that are not runs.
    run_paths = []
    for path in runs:
        if path.is_dir() and not is_run(path):
            remark(f"left out, not a run: {path}")
        else:
            run_paths.append(path)

    study = compare_runs(
        run_paths,
        out,
        base=base,
        rl=rl,
        sft=sft or (),
        judge=judge,
        monitor=monitor,
        scorer=scorer,
        note=note,
        claims=claims or (),
        rollouts=rollouts or (),
        logs=log or (),
        force=force,
        say=remark,
    )

    info = study.info
    samples = study.samples()
    set_sizes = samples["set"].value_counts(sort=False).items()
    sets = ", ".join(f"{name} {n:,}" for name, n in set_sizes)
    arms = ", ".join(info["arms"])
    show(f"{out}: {len(samples):,} samples ({sets}), arms {arms}")

    if "claims" in info:
        measures = studies.measures(samples)
        differences = studies.differences(samples, base)
        evidence = studies.Evidence(samples, measures, differences, base)
        for verdict in studies.verdicts(info["claims"], evidence, info):
            show(f"{verdict.verdict:>10}  {verdict.claim}: {verdict.because}")
    show(f"figures: cotlens figures {out} -o FOLDER")
