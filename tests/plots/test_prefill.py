"""Figures of injected thoughts show the numbers of their tables."""

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from cotlens.measures import by_length, prefill_matrix, reset_curve
from cotlens.plots import plot_prefill_length, plot_prefill_matrix, plot_reset

SHARES = {
    "base": {"none": 0.8, "far/base": 0.3, "far/aligned": 0.9},
    "sft": {"none": 0.6, "far/base": 0.35, "far/aligned": 0.7},
    "grpo": {"none": 0.9, "far/base": 0.85, "far/aligned": 0.88},
}


def traces(words=(200,)):
    rng = np.random.default_rng(0)
    rows = []
    for recipient, of_recipient in SHARES.items():
        for donor, share in of_recipient.items():
            for length in words if donor != "none" else (0,):
                toward = share + (of_recipient["none"] - share) * (1 - length / 500)
                for number in range(40):
                    rows.append(
                        {
                            "prompt_id": f"p{number}", "recipient": recipient, "donor": donor,
                            "words": length, "is_safe": bool(rng.random() < toward),
                        }
                    )  # fmt: skip
    return pd.DataFrame(rows)


def resets():
    rng = np.random.default_rng(0)
    rows = []
    for recipient, of_recipient in SHARES.items():
        for donor in ("far/base", "far/aligned"):
            for chain in range(40):
                for number in range(4):
                    is_safe = bool(rng.random() < of_recipient[donor] - 0.05 * number)
                    rows.append(
                        {
                            "prompt_id": f"p{chain}", "recipient": recipient, "donor": donor,
                            "chain": f"c{chain}", "round": number, "is_safe": is_safe,
                        }
                    )  # fmt: skip
    return pd.DataFrame(rows)


def texts_of(axis):
    return [text.get_text() for text in axis.texts]


def test_the_map_shows_its_numbers():
    plot = plot_prefill_matrix(prefill_matrix(traces()))
    axis = plot.figure.axes[0]
    (image,) = axis.images
    low, high = image.get_clim()
    assert low == -high
    assert high == pytest.approx(1.25 * np.abs(plot.data["delta"]).max())
    texts = " ".join(texts_of(axis))
    for row in plot.data.itertuples():
        assert f"{abs(row.delta):.2f}" in texts
        assert f"{row.clean:.2f} → {row.value:.2f}" in texts
    assert "\N{MINUS SIGN}0.28" in texts
    assert texts.count("n = 40") == len(plot.data) == 6
    assert "none" not in set(plot.data["donor"])


def test_a_cell_without_plain_samples_says_so():
    table = traces()
    matrix = prefill_matrix(table[~((table["donor"] == "none") & (table["recipient"] == "sft"))])
    texts = texts_of(plot_prefill_matrix(matrix).figure.axes[0])
    assert texts.count("no plain samples") == 2


def test_the_map_can_stand_next_to_others():
    figure = Figure()
    left, right = figure.subplots(1, 2)
    plot = plot_prefill_matrix(prefill_matrix(traces()), ax=right)
    assert plot.figure is figure
    assert not left.images


def test_nothing_but_plain_samples_is_no_figure():
    table = traces()
    with pytest.raises(ValueError, match="no rows"):
        plot_prefill_matrix(prefill_matrix(table[table["donor"] == "none"]))


def test_lines_show_their_numbers():
    plot = plot_prefill_length(by_length(traces((100, 200, 500))))
    axes = [axis for axis in plot.figure.axes if axis.get_visible()]
    assert [axis.get_title(loc="left") for axis in axes] == ["base", "sft", "grpo"]
    for axis in axes:
        recipient = axis.get_title(loc="left")
        of_recipient = plot.data[plot.data["recipient"] == recipient]
        line = of_recipient[of_recipient["donor"] == "far/base"]
        assert axis.lines[0].get_ydata().tolist() == line["value"].tolist()
        assert axis.lines[0].get_xdata().tolist() == [0, 100, 200, 500]
        assert {"far/base", "far/aligned"} <= set(texts_of(axis))


def test_resets_show_every_round_and_the_share_of_all():
    plot = plot_reset(reset_curve(resets()))
    axis = plot.figure.axes[0]
    of_arm = plot.data[(plot.data["donor"] == "far/base") & (plot.data["recipient"] == "base")]
    shown, _, persistent, diamond = axis.lines[:4]
    assert shown.get_ydata().tolist() == of_arm["value"].tolist()
    assert persistent.get_ydata().tolist() == of_arm["persistent"].tolist()
    assert diamond.get_ydata()[0] == of_arm["persistent"].iloc[-1]


def test_labels_of_lines_with_one_end_do_not_meet():
    table = resets()
    table["is_safe"] = True
    axis = plot_reset(reset_curve(table)).figure.axes[0]
    heights = sorted(text.xy[1] for text in axis.texts if hasattr(text, "xy"))
    assert len(heights) == 3
    assert np.diff(heights).min() > 0.05
    assert heights[-1] <= 1
