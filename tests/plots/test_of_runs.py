import json
import math

import matplotlib as mpl
import pandas as pd
import pytest
from places import ROOT, SAMPLES
from typer.testing import CliRunner

from cotlens import Run, Trace, TraceError, analyze, draw_figures, read_traces, trace_table
from cotlens.cli import app
from cotlens.measures.lengths import length_quantiles
from cotlens.plots.judges import (
    plot_detector,
    plot_guard_agreement,
    plot_outcomes,
    plot_safety_by_part,
    plot_thinking_by_answer,
)
from cotlens.plots.lengths import plot_lengths
from cotlens.plots.parts import _even_lines
from cotlens.plots.run_tables import Selection, join_runs
from cotlens.plots.style import save
from cotlens.plots.unsafe import plot_onset_recovery, plot_self_jailbreak_kinds
from cotlens.runs.judge import add_verdicts
from cotlens.studies.study import is_study
from trainers.pocket import report


def test_length_quantiles_by_hand():
    """Thinking of 1, 2, 3, 4 and 5 letters: median 3, quartiles 2 and 4, 5th percentile 1.2, 95th 4.8."""
    traces = [
        Trace(id=str(i), prompt="p", model="m", completion=f"<think>{'x' * i}</think>yy")
        for i in range(1, 6)
    ]
    row = length_quantiles(trace_table(traces)).set_index("measure").loc["n_think_chars"]
    assert row[["p5", "p25", "median", "p75", "p95"]].tolist() == [1.2, 2, 3, 4, 4.8]
    assert row[["n", "n_traces", "n_prompts", "share_open"]].tolist() == [5, 5, 1, 0]


def test_open_and_absent_thoughts_count_where_they_have_something_to_measure():
    """One closed (3, 1), one open (5, -), one without a thought (-, 2)."""
    texts = ["<think>xxx</think>y", "<think>xxxxx", "yy"]
    table = trace_table([Trace(id=text, model="m", completion=text) for text in texts])
    rows = length_quantiles(table).set_index("measure")
    assert rows["n"].to_dict() == {"n_think_chars": 2, "n_answer_chars": 2, "n_steps": 2}
    assert rows["median"].to_dict() == {"n_think_chars": 4, "n_answer_chars": 1.5, "n_steps": 1}
    assert rows["share_open"].iloc[0] == rows["share_absent"].iloc[0] == 1 / 3


def test_nothing_to_measure_is_nan():
    rows = length_quantiles(trace_table([Trace(id="a", completion="y")])).set_index("measure")
    assert math.isnan(rows.loc["n_think_chars", "median"])
    assert rows["group"].tolist() == ["(unnamed)"] * 3


def test_the_figure_shows_its_numbers():
    """Each dot is the median of the csv; each label names the group and its n."""
    plot = plot_lengths(trace_table(read_traces(SAMPLES)))
    axis = plot.figure.axes[0]
    medians = plot.data[plot.data["measure"] == "n_think_chars"].sort_values("median")
    (line,) = axis.lines
    assert line.get_xdata().tolist() == medians["median"].tolist()
    labels = [label.get_text() for label in axis.get_yticklabels()]
    assert labels == ["written-short\nn = 7, 14% absent", "written-long\nn = 7, 14% open"]


def test_a_group_without_thoughts_does_not_break_the_figure():
    plot_lengths(
        trace_table(
            [
                Trace(id="a", completion="y"),
                Trace(id="b", model="m", completion="<think>x</think>y"),
            ]
        )
    )


def test_save_writes_picture_numbers_and_provenance_twice_the_same(tmp_path):
    table = trace_table(read_traces(SAMPLES))
    for folder in ("a", "b"):
        paths = save(plot_lengths(table), tmp_path / folder / "lengths", {"n": 14})
        assert [path.name for path in paths] == [
            f"lengths.{kind}" for kind in ("pdf", "png", "csv", "json")
        ]
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes(), path.name
    numbers = pd.read_csv(tmp_path / "a" / "lengths.csv")
    assert numbers["median"].tolist() == plot_lengths(table).data["median"].tolist()
    record = json.loads((tmp_path / "a" / "lengths.json").read_text())
    assert record["n"] == 14
    assert record["versions"]["matplotlib"] == mpl.__version__


def test_lines_under_a_figure_are_about_as_long():
    """Four words of three letters, three to a line: two and two instead of three and one."""
    assert _even_lines("aaa bbb ccc ddd", 11) == ["aaa bbb", "ccc ddd"]
    assert _even_lines("aaa bbb ccc", 11) == ["aaa bbb ccc"]
    assert _even_lines("", 11) == [""]
    assert _even_lines("a" * 25, 11) == ["a" * 9, "a" * 9, "a" * 7]


def test_drawing_leaves_the_users_style_alone():
    before = dict(mpl.rcParams)
    plot_lengths(trace_table(read_traces(SAMPLES)))
    assert dict(mpl.rcParams) == before


def test_figures_read_a_run_without_its_texts(tmp_path):
    run, light = (
        analyze([SAMPLES], tmp_path / "run"),
        analyze([SAMPLES], tmp_path / "light", light=True),
    )
    pd.testing.assert_frame_equal(
        plot_lengths(run.trace_table()).data, plot_lengths(light.trace_table()).data
    )


@pytest.mark.parametrize(
    "name", ["real", "self_jailbreak", "pocket", "pocket_methods", "pocket_nine"]
)
def test_committed_figures_are_rebuilt_byte_for_byte(tmp_path, name):
    """What `make paper` runs gives the files in figures/NAME from figures/data/NAME."""
    source = ROOT / "figures" / "data" / name
    if is_study(source):
        report.main([str(source), "-o", str(tmp_path)])
    else:
        assert Run(source).info["settings"]["light"]
        result = CliRunner().invoke(app, ["figures", str(source), "-o", str(tmp_path)])
        assert result.exit_code == 0, result.output
    committed = {
        path.relative_to(ROOT / "figures" / name) for path in files_in(ROOT / "figures" / name)
    }
    assert {path.relative_to(tmp_path) for path in files_in(tmp_path)} == committed
    for path in committed:
        assert (tmp_path / path).read_bytes() == (ROOT / "figures" / name / path).read_bytes(), path


def files_in(folder):
    return [path for path in folder.rglob("*") if path.is_file()]


# --- unsafe exploration and judges -----------------------------------------------------------------------------


def judged(thinking, answer, model="m"):
    """One trace a row, each with a prompt of its own."""
    flags = {
        "thinking_unsafe": pd.array(thinking, dtype="boolean"),
        "answer_unsafe": pd.array(answer, dtype="boolean"),
    }
    ids = [f"{model}{i}" for i in range(len(thinking))]
    return pd.DataFrame({"trace_id": ids, "prompt_id": ids, "model": model, **flags})


def test_the_2x2_by_hand():
    """safe/safe 3, safe/unsafe 1, unsafe/safe 2, unsafe/unsafe 4 of 10; P(answer safe | thinking safe) = 3/4; 1 unknown."""
    table = judged(
        [False] * 4 + [True] * 6 + [None], [False] * 3 + [True] + [False] * 2 + [True] * 4 + [True]
    )
    got = plot_thinking_by_answer(table).data.set_index("measure")["value"]
    assert got[["safe_safe", "safe_unsafe", "unsafe_safe", "unsafe_unsafe"]].tolist() == [
        0.3,
        0.1,
        0.2,
        0.4,
    ]
    assert got["answer_safe_given_thinking_safe"] == 0.75
    assert got["answer_safe_given_thinking_unsafe"] == pytest.approx(1 / 3)
    by_part = plot_safety_by_part(table).data.set_index("measure")["value"]
    assert by_part.to_dict() == {"thinking_unsafe": 0.6, "answer_unsafe": 0.5}
    drawn = plot_thinking_by_answer(table).figure.axes[0].patches
    assert sum(bar.get_width() * bar.get_height() for bar in drawn) == pytest.approx(1 - 4 * 0.008)


def test_a_group_that_is_never_safe_has_no_conditional():
    row = plot_thinking_by_answer(judged([True, True], [True, False])).data.set_index("measure")
    assert row.loc["answer_safe_given_thinking_safe", "n"] == 0
    with pytest.raises(ValueError, match="no trace has a judgement"):
        plot_thinking_by_answer(judged([None, True], [True, None]))


def test_outcome_bars_add_up():
    names = [
        "safe",
        "safe",
        "harm_misidentification",
        "self_jailbreak: fictional_licence",
        "unknown",
    ]
    table = judged([True] * 5, [True] * 5).assign(outcome=names)
    got = plot_outcomes(table).data.set_index("measure")["value"]
    assert got.sum() == 1
    assert got["safe"] == 0.5
    with pytest.raises(ValueError, match="no answer was judged"):
        plot_outcomes(table.assign(outcome="unknown"))


def test_onset_and_recovery_by_hand():
    """Onsets .2, .6 and none; recoveries after 3 steps and never: 1/3 by .5, 2/3 at the end; 1/2 within 3 steps."""
    table = judged([True] * 3, [True] * 3).assign(
        n_marked=5,
        onset=[0.2, 0.6, None],
        first_compliance=[0.2, None, None],
        recovery_steps=[3, None, None],
        any_unsafe=[1, 1, 0],
    )
    data = plot_onset_recovery(table, steps=4).data
    onset = data[data["measure"] == "onset"].set_index("at")["value"]
    assert onset[[0.0, 0.5, 1.0]].tolist() == pytest.approx([0, 1 / 3, 2 / 3])
    back = data[data["measure"] == "recovery_steps"].set_index("at")["value"]
    assert back.tolist() == [0, 0, 0, 0.5, 0.5]


def test_kinds_count_traces():
    """Two traces, one with two reframing steps, one with a step that is not unsafe: a half."""
    steps = pd.DataFrame(
        {
            "trace_id": ["a", "a", "b"],
            "prompt_id": ["p", "p", "q"],
            "model": "m",
            "is_self_jailbreak": [True, True, True],
            "is_unsafe": [True, True, False],
        }
    )
    kinds = dict.fromkeys(["warning_then_answer", "fictional_licence", "other_fallacy"], False)
    data = plot_self_jailbreak_kinds(
        steps.assign(benign_reframing=[True, True, True], **kinds)
    ).data
    assert data.set_index("measure")["value"].to_dict() == {
        "benign_reframing": 0.5,
        **dict.fromkeys(kinds, 0.0),
    }


def test_agreement_of_judges_by_hand():
    """20 texts: both unsafe 8, both safe 8, 2 and 2 apart: o = .8, e = .5, kappa = .6; an undecided one is left out."""
    a = [True] * 10 + [False] * 10 + [True]
    b = [True] * 8 + [False] * 2 + [True] * 2 + [False] * 8 + [None]
    rows = [
        {"trace_id": str(i), "prompt_id": str(i), "part": "answer", "judge": judge, "unsafe": flag}
        for judge, flags in (("a", a), ("b", b))
        for i, flag in enumerate(flags)
    ]
    table = pd.DataFrame(rows).astype({"unsafe": "boolean"})
    (row,) = plot_guard_agreement(table).data.to_dict("records")
    assert (row["n"], row["safe_safe"], row["unsafe_unsafe"]) == (20, 8, 8)
    assert row["kappa"] == pytest.approx(0.6)
    assert row["g_mean2"] == pytest.approx(0.8 * 0.8)
    assert not row["is_saturated"]
    with pytest.raises(ValueError, match="two judges"):
        plot_guard_agreement(table[table["judge"] == "a"])


def test_saturated_agreement_is_marked():
    """Judges that find 2 unsafe of 20, one of them the same: agreement 90%, kappa .44, marked in the figure.

    Thinking is all safe to both: one label, saturated without a coefficient.
    """
    a = [True, True] + [False] * 18
    b = [False, True, True] + [False] * 17
    flags = {("answer", "a"): a, ("answer", "b"): b, ("thinking", "a"): [False] * 20}
    flags["thinking", "b"] = flags["thinking", "a"]
    rows = [
        {"trace_id": str(i), "prompt_id": str(i), "part": part, "judge": judge, "unsafe": flag}
        for (part, judge), labels in flags.items()
        for i, flag in enumerate(labels)
    ]
    plot = plot_guard_agreement(pd.DataFrame(rows).astype({"unsafe": "boolean"}))
    answer, thinking = plot.data.to_dict("records")
    assert answer["kappa"] == pytest.approx((0.9 - 0.82) / 0.18)
    assert answer["g_mean2"] == pytest.approx(1 / 2 * 17 / 18)
    assert (answer["is_saturated"], thinking["is_saturated"]) == (True, True)
    assert math.isnan(thinking["kappa"])

    texts = [text.get_text() for axis in plot.figure.axes for text in axis.texts]
    assert sum(text.endswith("saturated") for text in texts) == 1


def test_the_detector_beside_the_judge():
    """Markers find 2 of 4 unsafe and 1 of 4 safe: precision 2/3, recall 1/2; rates 3/8 raw, 1/2 judged and corrected."""
    table = judged([True] * 4 + [False] * 4, [True] * 8).assign(any_unsafe=[1, 1, 0, 0, 1, 0, 0, 0])
    got = plot_detector(table).data.set_index("measure")["value"]
    assert got[["precision", "recall", "by_markers", "by_judge"]].tolist() == pytest.approx(
        [2 / 3, 0.5, 0.375, 0.5]
    )
    assert got["corrected"] == pytest.approx(0.5)


def test_draw_figures_draws_what_there_is(tmp_path):
    """Two judges on the samples: the figures of both, with the judge in the provenance."""
    run = analyze([SAMPLES], tmp_path / "run")
    ids = run.trace_table()["trace_id"]
    for judge in ("one", "two"):
        for part in ("thinking", "answer"):
            labels = ["unsafe" if (i + (judge == "two")) % 3 else "safe" for i in range(len(ids))]
            add_verdicts(run, pd.DataFrame({"trace_id": ids, "label": labels}), judge, part)
    paths = draw_figures([run], tmp_path / "f", judge="two")
    names = {path.stem for path in paths if path.parent.name == "judges"}
    assert names == {"outcomes", "thinking_by_answer", "safety_by_part", "agreement", "detector"}
    record = json.loads((tmp_path / "f" / "judges" / "outcomes.json").read_text())
    assert record["judges"] == "two"
    with pytest.raises(TraceError, match="no verdicts of three; judges: one, two"):
        draw_figures([run], tmp_path / "f", judge="three")


def drawn_names(paths, subject):
    return {path.stem for path in paths if path.parent.name == subject}


UNSAFE = {"position", "path", "risky_patterns", "onset_recovery", "self_jailbreak_kinds"}


def test_unsafe_exploration_is_drawn_for_requests_known_to_be_harmful(tmp_path):
    """No domain says so: none is drawn, and a line says why. With verdicts on the requests all are."""
    run = analyze([SAMPLES], tmp_path / "run")
    traces = run.trace_table()
    remarks = []
    paths = draw_figures([run], tmp_path / "none", say=remarks.append)
    assert drawn_names(paths, "unsafe") == set()
    (why,) = [remark for remark in remarks if "unsafe exploration" in remark]
    assert why.startswith("no figures of unsafe exploration: no trace")

    is_long = traces["model"] == "written-long"
    labels = is_long.map({True: "unsafe", False: "safe"})
    add_verdicts(run, traces[["trace_id"]].assign(label=labels), "source", "request")
    remarks = []
    paths = draw_figures([run], tmp_path / "all", say=remarks.append)
    assert drawn_names(paths, "unsafe") == UNSAFE
    assert drawn_names(paths, "judges") == set()
    record = json.loads((tmp_path / "all" / "unsafe" / "path.json").read_text())
    numbers = pd.read_csv(tmp_path / "all" / "unsafe" / "path.csv")
    assert record["requests"]["n_harmful"] == numbers["n"].iloc[0]
    assert "written-short" not in set(numbers["group"])


def traces_in(domain, lengths):
    """Traces whose only step is so long and notices no risk."""
    return [
        Trace(
            id=f"{domain}{i}",
            prompt_id=f"{domain}{i}",
            model="m",
            domain=domain,
            completion=f"<think>{'We add the two numbers. ' * n}</think>5",
        )
        for i, n in enumerate(lengths)
    ]


def test_the_baseline_is_harmless_and_as_long(tmp_path):
    """Ten harmful traces of 4 sentences; of harmless ones six have 4 and six have 40."""
    traces = [*traces_in("harmful", [4] * 10), *traces_in("maths", [4, 40] * 6)]
    path = tmp_path / "traces.jsonl"
    rows = [
        {
            "id": trace.id,
            "prompt_id": trace.prompt_id,
            "model": "m",
            "domain": trace.domain,
            "completion": trace.completion,
        }
        for trace in traces
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    run = analyze([path], tmp_path / "run")
    remarks = []
    draw_figures([run], tmp_path / "f", say=remarks.append)
    assert (
        "unsafe exploration: 10 traces on harmful requests; as a baseline 6 of 12 on harmless ones, "
        "of equal length; left out: 0 traces on requests of unknown kind"
    ) in remarks
    numbers = pd.read_csv(tmp_path / "f" / "unsafe" / "path.csv")
    assert numbers[["group", "measure", "n"]].values.tolist() == [
        ["m", "any_unsafe", 10],
        ["m", "recovered", 0],
        ["m", "last_word", 0],
        ["harmless, equal length", "any_unsafe", 6],
    ]

    # A run without a harmful request has no such figures.
    remarks = []
    paths = draw_figures([run], tmp_path / "maths", where={"domain": "maths"}, say=remarks.append)
    assert drawn_names(paths, "unsafe") == set()
    assert any("12 answer harmless ones" in remark for remark in remarks)


def test_the_mosaic_is_by_a_judge_of_the_thinking_where_there_is_one(tmp_path):
    """The first judge judged answers alone: the thinking is by markers, then by the second judge."""
    run = analyze([SAMPLES], tmp_path / "run")
    ids = run.trace_table()["trace_id"]
    safe = pd.DataFrame({"trace_id": ids, "label": "safe"})
    add_verdicts(run, safe, "a", "answer")
    assert mosaic_title(run) == (
        "Thinking by markers (any unsafe step), as no judge read it; answer judged by a"
    )

    add_verdicts(run, safe, "b", "thinking")
    assert mosaic_title(run) == "Thinking judged by b; answer judged by a"
    draw_figures([run], tmp_path / "f")
    numbers = pd.read_csv(tmp_path / "f" / "judges" / "thinking_by_answer.csv")
    assert numbers.set_index("measure")["value"]["thinking_unsafe"].tolist() == [0, 0]


def mosaic_title(run):
    """The title of the figure thinking_by_answer of a run."""
    selection = Selection({run: "run"}, "model", {})
    tables = join_runs([run], selection, "", "", print)
    plot = plot_thinking_by_answer(
        tables.with_thinking_verdicts(), "model", judges=tables.judges_of_parts
    )
    return plot.figure.legends[0].get_title().get_text()
