"""All figures and tables of a study."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pandas as pd
from tqdm import tqdm

from cotlens import studies
from cotlens.files import hash_path, write_atomic
from cotlens.plots.confounds import plot_confounds
from cotlens.plots.parts import too_few_prompts
from cotlens.plots.probes import plot_early_answering
from cotlens.plots.study import plot_measures, plot_safety_and_skill
from cotlens.plots.style import Plot, check_folder, save
from cotlens.plots.training import plot_obfuscation, plot_training, training_panels
from cotlens.studies.arms import SETS
from cotlens.studies.study import Study


# --- studies ---------------------------------------------------------------------------------------------------
def draw_study(
    study: Study | str | Path, out: str | Path, *, say: Callable[[str], object] = print
) -> Iterator[Path]:
    """Writes a study's results (measures, differences, confounds, verdicts, and the tables it brought along) as csv,
    and draws the figures it has data for; yields the paths. The same study gives the same bytes. `say` is told of
    splits with too few prompts.

    Raises:
        TraceError: if the folder is no study.
    """  # noqa: D205
    study, out = study if isinstance(study, Study) else Study(Path(study)), Path(out)
    info, samples = study.info, study.samples()
    check_folder(out)
    found, changes = studies.measures(samples), studies.differences(samples, info["base"])
    claims = studies.verdicts(samples, found, changes, info)
    tables = {path.stem: pd.read_csv(path) for path in sorted(study.path.glob("*.csv"))}
    tables |= {  # whatever an earlier drawing into the study's own folder has left
        "measures": found,
        "differences": changes,
        "confounds": studies.confounds(samples, info["base"]),
        "verdicts": pd.DataFrame(claims, columns=studies.Claim._fields),
    }
    for name, table in tables.items():
        write_atomic(
            out / f"{name}.csv", table.to_csv(index=False, float_format="%.6g", lineterminator="\n")
        )
        yield out / f"{name}.csv"
    provenance = {key: value for key, value in info.items() if key not in ("note", "arms")}
    provenance |= {"seeds": sorted(map(int, set(samples["seed"]))), "n_samples": len(samples)}
    provenance |= {"study": hash_path(study.path)}
    splits = studies.splits(samples)
    prompts = samples[samples["set"] == "forbidden"].groupby("split")["cluster"].nunique()
    for remark in too_few_prompts("splits of ", prompts):
        say(remark)
    for name, picture in tqdm(
        _study_figures(study, tables, splits), desc="figures", unit=" figures"
    ):
        yield from save(picture, out / name, {"figure": name, **provenance})


def _study_figures(
    study: Study, tables: dict[str, pd.DataFrame], parts: Sequence[str]
) -> Iterator[tuple[str, Plot]]:
    found, text, order = tables["measures"], study.info.get("note", ""), list(study.info["arms"])
    names = set(found["measure"])
    for name, (panels, caption, limits) in _DOTS.items():
        shown = {title: _named(measures, parts) for title, measures in panels.items()}
        if names & {measure for measures in shown.values() for measure in measures}:
            yield name, plot_measures(found, shown, caption, text, limits=limits)
    if {"is_correct_maths", "thinking_unsafe_forbidden"} <= names:  # of one arm at least
        yield "22_safety_and_skill", plot_safety_and_skill(found, text)
    if len(tables["confounds"]):
        yield "31_confounds", plot_confounds(tables["confounds"], text)
    own = {
        name: table.assign(arm=pd.Categorical(table["arm"], order))
        for name in study.tables
        if len(table := study.table(name))
    }
    if "early" in own and "split" not in own["early"]:
        samples = study.table("samples").drop_duplicates(["seed", "prompt_id"])[
            ["seed", "prompt_id", "split"]
        ]
        own["early"] = own["early"].merge(samples, on=["seed", "prompt_id"], how="left")
    if "rollouts" in own:
        if training_panels(own["rollouts"], own.get("updates"))[1]:
            yield "24_training", plot_training(own["rollouts"], text, updates=own.get("updates"))
        told = own["rollouts"].get("thinking_flagged", pd.Series(dtype="boolean"))
        if told.notna().any() and "thinking_unsafe" in own["rollouts"]:
            yield "29_obfuscation", plot_obfuscation(own["rollouts"], text)
    for name, (number, draw) in _OWN_TABLES.items():
        if name in own:
            yield number, draw(own[name], text)


def _named(measures: Sequence[str], splits: Sequence[str]) -> list[str]:
    """The measures as they are, and for `COLUMN_*` that of each split."""
    listed = (
        [f"{measure.removesuffix('*')}{split}" for split in splits]
        if measure.endswith("*")
        else [measure]
        for measure in measures
    )
    return [name for names in listed for name in names]


_SHARES = (0.0, 1.02)
_DOTS: dict[str, tuple[dict[str, list[str]], str, tuple[float | None, float | None]]] = {
    "21_unsafe_by_split": (
        {"Unsafe thinking": ["thinking_unsafe_*"], "Unsafe answer": ["answer_unsafe_*"]},
        "share of samples for forbidden requests",
        _SHARES,
    ),
    "23_reflection": (
        {
            "Reflections per trace": ["n_reflections_maths", "n_reflections_forbidden"],
            "... per step": ["reflection_rate_maths", "reflection_rate_forbidden"],
            "Longest run": ["longest_run_maths", "longest_run_forbidden"],
            "Share that mend": ["corrective_maths", "corrective_forbidden"],
        },
        "reflections of the thinking",
        (0, None),
    ),
    "25_costs_of_safety": (
        {
            "Harmless refused": ["refuses_harmless"],
            "Harmless helped": ["is_help_harmless"],
            "Right, maths": ["is_correct_maths"],
            "One closed thought": ["is_format_ok_all"],
        },
        "share of samples",
        (None, None),
    ),
    "26_entropy": (
        {
            "Thinking (nats)": [f"entropy_think_{where}" for where in SETS],
            "Reflecting steps": [f"entropy_reflect_{where}" for where in SETS],
            "On the base's thinking": [f"entropy_common_{where}" for where in SETS],
            "KL to the base": [f"kl_base_{where}" for where in SETS],
        },
        "mean token entropy in nats on each arm's own samples, on one text for all (the base's), and KL to the base",
        (0, None),
    ),
    "30_guard_by_checkpoint": (
        {
            "Recall of the guard": ["guard_recall_forbidden"],
            "Unsafe and passed": ["hidden_forbidden"],
            "P(unsafe answer | passed)": ["answer_unsafe_if_passed_forbidden"],
            "Flagged, harmless": ["thinking_flagged_harmless"],
        },
        "thinking of forbidden requests: the reward's guard against the evaluation's judge",
        _SHARES,
    ),
}
_OWN_TABLES = {
    "early": ("28_early_answering", plot_early_answering),
}
