"""Kinds of steps, and the dynamics of reflection over a trace."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from places import ROOT, SAMPLES, read_rows

from cotlens import Trace, classify, read_traces, step_table, trace_table
from cotlens.detect.features import feature_sums
from cotlens.detect.reflect import (
    KINDS,
    N_REFLECTIVE,
    THRESHOLD,
    Kind,
    decision_inputs,
    quadratic_terms,
    reflect_weights,
)
from cotlens.detect.tokens import read_steps
from cotlens.measures.reflection import reflection_dynamics, transitions
from cotlens.text.steps import segment


def test_kind_and_decision_agree():
    """A step reflects exactly when its kind is one of the five reflective ones and p_reflect reaches the threshold.

    Where there is no probability, rules decide, and name a kind only if the step reflects.
    """
    for trace in read_traces(SAMPLES):
        texts = [span.of(trace.completion) for span in segment(trace.completion)]
        found = classify(texts)
        for kind, p, reflects in zip(*found, strict=True):
            if np.isnan(p):
                assert (kind != "") == (reflects is True)
                assert kind == "" or KINDS.index(Kind(kind)) < N_REFLECTIVE
            else:
                assert reflects == (p >= THRESHOLD) == (KINDS.index(Kind(kind)) < N_REFLECTIVE)
                assert 0 <= p <= 1


@given(st.lists(st.text(min_size=1), max_size=12))
def test_any_texts_are_classified(texts):
    """One entry a step, whatever it holds."""
    found = classify(texts)
    assert len(found.kind) == len(found.p_reflect) == len(found.is_reflection) == len(texts)


def test_kinds_depend_on_neighbours_only():
    """What lies further off than the next step changes the place in the trace, and nothing else."""
    texts = [
        "Let x be 2. ",
        "Then 2x = 4. ",
        "Wait, is that right? ",
        "Let me check. ",
        "Yes. ",
        "So the answer is 4. ",
    ]
    (alone,) = feature_sums(read_steps([texts[1:4]]), reflect_weights())
    (among,) = feature_sums(read_steps([texts]), reflect_weights())
    assert among[2] == pytest.approx(alone[1])


def test_the_decision_by_hand():
    """Inputs 3 and -1, first of two steps: place 0.25, log(1 + 2); standardised, and their products."""
    inputs = decision_inputs(
        np.array([[3.0, -1.0], [0.0, 0.0]]), np.array([0, 1]), np.array([2, 2])
    )
    assert inputs[0] == pytest.approx([3, -1, 0.25, np.log(3)])
    assert inputs[1] == pytest.approx([0, 0, 0.75, np.log(3)])

    terms = quadratic_terms(np.array([[3.0, 100.0]]), np.array([1.0, 0.0]), np.array([2.0, 1.0]))
    assert terms.tolist() == [[1, 3, 1, 3, 9]]  # 100 counts as three standard deviations


def test_the_gates_against_people(data):
    """F1 and AUROC of the shipped weights, on labels that people made and nothing was fitted to."""
    from sklearn.metrics import f1_score, roc_auc_score

    from trainers.fit.gold import gold_sets, score_units

    documents = gold_sets()["Schoenfeld, people"]
    results = [score_units(gold, lambda texts: classify(texts).p_reflect) for gold in documents]
    truth, score = (np.concatenate(part) for part in zip(*results, strict=True))
    assert f1_score(truth, score >= THRESHOLD) > 0.68
    assert roc_auc_score(truth, score) > 0.84


def test_labels_lie_on_steps_of_free_sets_only(data):
    """Every label of the project names a free file, a row that is there, and characters inside it."""
    import csv

    free = {
        "labels/thought_anchors",
        "labels/bias_anchors",
        "traces/star1_safe",
        "traces/cot_monitor",
    }
    rows = {name: read_rows(data / f"{name}.jsonl.gz") for name in free}
    with (ROOT / "trainers" / "fit" / "labels" / "reflection.csv").open(newline="") as file:
        labels = list(csv.DictReader(file))
    assert len(labels) > 9000
    for label in labels:
        row = rows[label["file"]][int(label["row"])]
        text = row.get("solution") or row.get("raw") or row["thinking"]
        assert 0 <= int(label["start"]) < int(label["stop"]) <= len(text)
        assert label["kind"] in set(Kind)


def by_hand(flags, answers=None, tokens=None):
    """Dynamics of one trace whose steps reflect as given, ten characters each."""
    text = "<think>" + "x" * 10 * len(flags) + "</think>y"
    table = trace_table([Trace(id="t", completion=text)])
    steps = pd.DataFrame(
        {
            "trace_id": "t",
            "is_reflection": pd.array(flags, dtype=object),
            "position": [(i + 0.5) / len(flags) for i in range(len(flags))],
            "start": [7 + 10 * i for i in range(len(flags))],
            "stop": [17 + 10 * i for i in range(len(flags))],
            "token_start": tokens[0] if tokens else np.nan,
            "token_stop": tokens[1] if tokens else np.nan,
            "answer": answers or [""] * len(flags),
        }
    )
    return reflection_dynamics(steps, table).iloc[0]


def test_dynamics_by_hand():
    """. R R . . R . : 3 of 7; runs of 2 and 1, 2 steps apart; 3 per 70 characters; first at 1.5 / 7."""
    row = by_hand([False, True, True, False, False, True, False])
    assert (
        row.n_known,
        row.n_reflect,
        row.longest_run,
        row.n_episodes,
        row.revisits,
        row.mean_gap,
    ) == (
        7,
        3,
        2,
        2,
        1,
        2,
    )
    assert row.share_reflect == pytest.approx(3 / 7)
    assert row.reflect_per_1000_chars == pytest.approx(1000 * 3 / 70)
    assert row.n_known_chars == 70
    assert row.first_reflect == pytest.approx(1.5 / 7)
    assert row.any_reflect == 1
    assert np.isnan(row.reflect_per_1000_tokens)


def test_rates_per_token_where_there_are_offsets():
    """The one step has tokens 1 to 3: one reflecting step in two tokens is 500 per 1,000."""
    assert by_hand([True], tokens=([1], [3])).reflect_per_1000_tokens == 500


def test_steps_of_unknown_language_break_runs_and_do_not_count():
    """R ? ? R . : two runs of one, two steps apart; 2 of 3 known steps; 2 per 30 known characters."""
    row = by_hand([True, None, None, True, False])
    assert (row.n_known, row.n_reflect, row.longest_run, row.n_episodes, row.mean_gap) == (
        3,
        2,
        1,
        2,
        2,
    )
    assert row.share_reflect == pytest.approx(2 / 3)
    assert row.reflect_per_1000_chars == pytest.approx(1000 * 2 / 30)


def test_measuring_twice_changes_nothing():
    traces = list(read_traces(SAMPLES))
    once = reflection_dynamics(step_table(traces), trace_table(traces))
    pd.testing.assert_frame_equal(reflection_dynamics(step_table(traces), once), once)
    with pytest.raises(ValueError, match="a trace id occurs twice"):
        reflection_dynamics(step_table(traces), pd.concat([once, once]))


def test_order_of_steps_does_not_matter():
    traces = list(read_traces(SAMPLES))
    table, steps = trace_table(traces), step_table(traces)
    pd.testing.assert_frame_equal(
        reflection_dynamics(steps.sample(frac=1, random_state=0), table),
        reflection_dynamics(steps, table),
    )


def test_no_reflection_is_zero_and_no_language_is_nan():
    row = by_hand([False, False])
    assert (row.n_reflect, row.any_reflect, row.longest_run, row.revisits) == (0, 0, 0, 0)
    assert np.isnan(row.first_reflect)
    assert np.isnan(by_hand([None, None]).n_reflect)
    assert by_hand([None, True]).n_known == 1


def test_what_follows_a_reflection():
    """Answer 4, doubt, answer 5: changed. Answer 5, check, answer 5: not. A check before any answer: not judged."""
    flags = [True, False, True, False, True, False]
    row = by_hand(flags, answers=["", "4", "", "5", "", "5"])
    assert (row.n_judged, row.n_changed) == (2, 1)
    row = by_hand(
        flags, answers=["4", "", "", "", "", "5"]
    )  # two episodes between the same two statements: one pair
    assert (row.n_judged, row.n_changed) == (1, 1)


def test_summarised_reasoning_is_left_out():
    from cotlens import Span
    from cotlens.trace import Origin, Reasoning

    trace = Trace(
        id="t",
        completion="xy",
        origin=Origin.FIELDS,
        think=(Span(0, 1),),
        reasoning=Reasoning.SUMMARY,
    )
    steps = step_table([trace])
    assert steps["is_reflection"].isna().all()
    assert np.isnan(reflection_dynamics(steps, trace_table([trace])).iloc[0].n_reflect)


def test_transitions_by_hand():
    """One pair: the others hold an unknown kind, a rule's, or the end of a trace."""
    steps = pd.DataFrame({"trace_id": list("aaabbb")})
    steps["kind"] = ["plan", "infer", "", "plan", "doubt", "doubt"]
    steps["p_reflect"] = [0.1, 0.1, np.nan, 0.1, np.nan, np.nan]
    table = transitions(steps)
    assert table.loc["plan", "infer"] == 1
    assert table.to_numpy().sum() == 1


def test_a_table_without_the_columns_says_what_to_do():
    with pytest.raises(ValueError, match="analyze the traces again"):
        reflection_dynamics(pd.DataFrame({"trace_id": []}), pd.DataFrame())
