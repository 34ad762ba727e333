"""Gains by teacher and student, by hand."""

import math

import pandas as pd
import pytest

from cotlens.measures import own_advantage, teacher_gains
from cotlens.plots import plot_teacher_gains


def trainings():
    """Rows are teachers, columns students: [[.5, .3], [.4, .6]], from a skill of .1."""
    return pd.DataFrame(
        {
            "teacher": ["a", "a", "b", "b"],
            "student": ["a", "b", "a", "b"],
            "value": [0.6, 0.4, 0.5, 0.7],
            "before": 0.1,
        }
    )


def test_own_data_against_that_of_others():
    """Student a: .5 - .4; student b: .6 - .3; the mean is .2."""
    gains = teacher_gains(trainings())
    assert gains["gain"].tolist() == pytest.approx([0.5, 0.3, 0.4, 0.6])
    assert gains["is_own"].tolist() == [True, False, False, True]
    assert own_advantage(gains) == pytest.approx(0.2)


def test_a_skill_that_all_had_before_changes_no_advantage():
    """The law: a constant on all trainings of a student cancels."""
    moved = trainings().assign(value=lambda rows: rows["value"] + 0.05)
    assert own_advantage(teacher_gains(moved)) == pytest.approx(0.2)


def test_a_student_without_other_teachers_is_left_out():
    alone = trainings().iloc[[0]]
    assert math.isnan(own_advantage(teacher_gains(alone)))


def test_a_pair_that_comes_twice():
    twice = pd.concat([trainings(), trainings()])
    with pytest.raises(ValueError, match="expected one row for each teacher and student"):
        teacher_gains(twice)


def test_the_figure_says_what_own_data_is_worth():
    plot = plot_teacher_gains(teacher_gains(trainings()))
    assert "own data (bold) less the mean of others: +0.20" in plot.figure.get_supxlabel()
    cells = [text.get_text() for text in plot.figure.axes[0].texts]
    assert cells == ["+0.50", "+0.30", "+0.40", "+0.60"]
