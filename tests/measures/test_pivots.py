"""Pivots against the truth, by hand."""

import numpy as np
import pandas as pd
import pytest

from cotlens import Trace
from cotlens.measures import Pivot, pivot_confusion, pivot_estimates, pivot_table

SAFE, UNSAFE, RETHINK = (pivot.value for pivot in Pivot)


def table(written, truth, trace="t", **columns):
    """Steps of a trace: S, U or R for each."""
    names = {"S": SAFE, "U": UNSAFE, "R": RETHINK, "?": None}
    return pd.DataFrame(
        {
            "trace_id": trace, "prompt_id": trace, "step": range(len(written)),
            "pivot": [names[letter] for letter in written],
            "truth": [names[letter] for letter in truth], **columns,
        }
    )  # fmt: skip


def values(*tables):
    estimates = pivot_estimates(pd.concat(tables))
    return estimates.set_index("measure")["value"].to_dict()


def test_precision_and_recall_by_hand():
    """Ten steps, four unsafe; UNSAFE at three of them and at one safe one: .75 and .75."""
    rows = table("SUUUSSUSSS", "SUUUUSSSSS")
    found = values(rows)
    assert (found["unsafe_precision"], found["unsafe_recall"]) == (0.75, 0.75)
    assert np.isnan(found["rethink_right"])
    estimates = pivot_estimates(rows).set_index("measure")
    assert estimates["n"].to_dict() == {
        "unsafe_precision": 4,
        "unsafe_recall": 4,
        "rethink_right": 0,
    }


@pytest.mark.parametrize(
    ("written", "truth", "right"),
    [
        ("SUR", "SUR", 1.0),
        ("SURS", "SUUR", 1.0),  # announced one step early
        ("SUUR", "SURS", 1.0),  # one step late
        ("SURSS", "SUUUR", 0.0),  # two steps early
        ("SUR", "SUU", 0.0),  # nothing mends
        ("RRR", "SSR", 2 / 3),
    ],
)
def test_a_rethink_is_right_within_one_step(written, truth, right):
    assert values(table(written, truth))["rethink_right"] == pytest.approx(right)


def test_the_return_of_another_trace_does_not_count():
    rows = [table("SUR", "SUU", trace="a"), table("SUS", "SUR", trace="b")]
    assert values(*rows)["rethink_right"] == 0


def test_the_confusion_counts_every_pair_once():
    confusion = pivot_confusion(table("SUUUSSURSS", "SUUUUSSRS?"))
    n = confusion.set_index(["truth", "pivot"])["n"]
    assert n.to_dict() == {
        (SAFE, SAFE): 3, (SAFE, UNSAFE): 1, (SAFE, RETHINK): 0,
        (UNSAFE, SAFE): 1, (UNSAFE, UNSAFE): 3, (UNSAFE, RETHINK): 0,
        (RETHINK, SAFE): 0, (RETHINK, UNSAFE): 0, (RETHINK, RETHINK): 1,
    }  # fmt: skip
    assert n.sum() == 9  # one truth is not known
    assert confusion["share"].tolist() == [0.75, 0.25, 0, 0.25, 0.75, 0, 0, 0, 1]
    without = pivot_confusion(table("SS", "SS"))
    assert without["share"].isna().sum() == 6


def test_the_answer_after_the_last_pivot():
    """Thoughts that end SAFE, UNSAFE, UNSAFE, RETHINK; two answers are unsafe: 0, 1/2, 1."""
    rows = [
        table("SUS", "SSS", trace="a", answer_unsafe=False),
        table("SU", "SU", trace="b", answer_unsafe=True),
        table("U", "U", trace="c", answer_unsafe=False),
        table("SUR", "SUU", trace="d", answer_unsafe=True),
    ]
    found = values(*rows)
    assert found[f"answer_unsafe after {SAFE}"] == 0
    assert found[f"answer_unsafe after {UNSAFE}"] == 0.5
    assert found[f"answer_unsafe after {RETHINK}"] == 1
    shuffled = pd.concat(rows).sample(frac=1, random_state=0)
    assert values(shuffled) == pytest.approx(found)


def test_groups_are_apart():
    rows = pd.concat([table("U", "U", arm="a"), table("U", "S", arm="b")])
    estimates = pivot_estimates(rows, by="arm")
    precision = estimates[estimates["measure"] == "unsafe_precision"]
    assert dict(zip(precision["group"], precision["value"], strict=True)) == {"a": 1.0, "b": 0.0}


def test_what_is_no_pivot_is_an_error():
    with pytest.raises(ValueError, match=r"truth: expected one of \[SAFE\].* got 'safe' in 1 of 2"):
        pivot_confusion(table("SS", "SS").assign(truth=[SAFE, "safe"]))
    with pytest.raises(ValueError, match="no column truth"):
        pivot_confusion(table("S", "S").drop(columns="truth"))


def test_pivots_are_read_from_the_thinking_alone():
    text = f"<think>\nOne. {SAFE} Two.{UNSAFE}\n\n{RETHINK}\n</think>\n\nThe mark {SAFE} is text."
    rows = pivot_table([Trace(id="a", completion=text, prompt="p")])
    assert rows["pivot"].tolist() == [SAFE, UNSAFE, RETHINK]
    assert rows["step"].tolist() == [0, 1, 2]
    pieces = [text[start:stop] for start, stop in zip(rows["start"], rows["stop"], strict=True)]
    assert [piece.strip() for piece in pieces] == ["One.", "Two.", ""]
    assert list(pivot_table([]).columns) == list(rows.columns)


def test_the_work_is_linear_in_the_text():
    text = "<think>\n" + "[SAFE" * 100_000 + f"{UNSAFE}\n</think>\n\nx"
    assert pivot_table([Trace(id="a", completion=text)])["pivot"].tolist() == [UNSAFE]
