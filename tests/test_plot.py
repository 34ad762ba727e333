import json
import math

import matplotlib as mpl
import pandas as pd
import pytest
from conftest import ROOT, SAMPLES

from cotlens import Run, Trace, analyze, plot_lengths, read_traces, save, trace_table
from cotlens.plot import length_quantiles


def test_length_quantiles_by_hand():
    """Thinking of 1, 2, 3, 4 and 5 letters: median 3, quartiles 2 and 4, 5th percentile 1.2, 95th 4.8."""
    traces = [Trace(id=str(i), prompt="p", model="m", completion=f"<think>{'x' * i}</think>yy") for i in range(1, 6)]
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
    plot_lengths(trace_table([Trace(id="a", completion="y"), Trace(id="b", model="m", completion="<think>x</think>y")]))


def test_save_writes_picture_numbers_and_provenance_twice_the_same(tmp_path):
    table = trace_table(read_traces(SAMPLES))
    for folder in ("a", "b"):
        paths = save(plot_lengths(table), tmp_path / folder / "lengths", {"n": 14})
        assert [path.name for path in paths] == [f"lengths.{kind}" for kind in ("pdf", "png", "csv", "json")]
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes(), path.name
    numbers = pd.read_csv(tmp_path / "a" / "lengths.csv")
    assert numbers["median"].tolist() == plot_lengths(table).data["median"].tolist()
    record = json.loads((tmp_path / "a" / "lengths.json").read_text())
    assert record["n"] == 14
    assert record["versions"]["matplotlib"] == mpl.__version__


def test_drawing_leaves_the_users_style_alone():
    before = dict(mpl.rcParams)
    plot_lengths(trace_table(read_traces(SAMPLES)))
    assert dict(mpl.rcParams) == before


def test_figures_read_a_run_without_its_texts(tmp_path):
    run, light = analyze([SAMPLES], tmp_path / "run"), analyze([SAMPLES], tmp_path / "light", light=True)
    pd.testing.assert_frame_equal(plot_lengths(run.trace_table()).data, plot_lengths(light.trace_table()).data)


@pytest.mark.parametrize(("run", "folder"), [("real", "figures"), ("unsafe", "figures/unsafe")])
def test_committed_figures_are_rebuilt_byte_for_byte(tmp_path, run, folder):
    """`cotlens figures figures/data/real` gives the files in figures/, and likewise for the unsafe run."""
    from typer.testing import CliRunner

    from cotlens.cli import app

    result = CliRunner().invoke(app, ["figures", str(ROOT / "figures/data" / run), "-o", str(tmp_path)])
    assert result.exit_code == 0, result.output
    committed = {path.name: path for path in (ROOT / folder).iterdir() if path.is_file() and path.suffix != ".md"}
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(committed)
    for path in tmp_path.iterdir():
        assert path.read_bytes() == committed[path.name].read_bytes(), path.name
    assert Run(ROOT / "figures/data" / run).info["settings"]["light"]
