"""Agreement of word lists and the classifier, by hand."""

import math

import pandas as pd
import pytest

from cotlens.detect.words import WORD_LISTS
from cotlens.measures import marker_agreement


def test_marker_agreement_by_hand():
    """Of 10 known steps both find 3, the classifier alone 1, the list alone 1: o = .8, e = .52.

    Neither a step of unknown language counts nor one that rules decided on.
    """
    reflects = [True] * 4 + [False] * 6 + [None, True]
    n_words = [1, 2, 1, 0, 5, 0, 0, 0, 0, 0, 3, 0]
    steps = pd.DataFrame({"is_reflection": pd.array(reflects, dtype="boolean")})
    steps["p_reflect"] = [0.9] * 4 + [0.1] * 6 + [math.nan] * 2
    for name in WORD_LISTS:
        steps[f"n_{name}"] = n_words

    found = marker_agreement(steps)
    assert found["list"].tolist() == list(WORD_LISTS)
    for row in found.itertuples():
        assert row.n == 10
        assert row.both == 3
        assert row.classifier_only == 1
        assert row.list_only == 1
        assert row.kappa == pytest.approx((0.8 - 0.52) / 0.48)


def test_kappa_without_a_second_label_is_nan():
    """Neither the classifier nor a list finds anything: chance explains it all."""
    steps = pd.DataFrame({"is_reflection": [False, False], "p_reflect": [0.1, 0.1]})
    for name in WORD_LISTS:
        steps[f"n_{name}"] = 0
    assert marker_agreement(steps)["kappa"].isna().all()


def test_steps_of_unknown_language_give_no_agreement():
    steps = pd.DataFrame({"is_reflection": pd.array([None], dtype="boolean")})
    steps["p_reflect"] = math.nan
    for name in WORD_LISTS:
        steps[f"n_{name}"] = 0
    with pytest.raises(ValueError, match="no step is known to reflect or not"):
        marker_agreement(steps)
