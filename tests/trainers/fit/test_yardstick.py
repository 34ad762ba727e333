"""The yardstick for step detectors: boundaries, reflection and pairs of annotators by hand."""

import numpy as np
import pytest

from benchmarks.detectors import Unit, annotator_pairs, boundary_flags, reflection_flags
from trainers.fit.gold import Gold

TEXT = "One. Two. Three."


@pytest.fixture
def gold():
    """Three units, of which the second reflects; the first space belongs to no unit."""
    return Gold("q", TEXT, [(0, 4, False), (5, 9, True), (10, 16, False)])


def test_white_space_before_a_unit_makes_no_difference(gold):
    """Detected at 0, 4 (which is 5) and 12: two of three right, one missed."""
    units = [Unit(0), Unit(4), Unit(12)]
    (truth,), (decided,) = boundary_flags([gold], [units])
    assert truth.tolist() == [True, True, True, False]  # 0, 5, 10, 12
    assert decided.tolist() == [True, True, False, True]


def test_a_labelled_unit_takes_the_decision_that_covers_most_of_it(gold):
    """Detected 0 to 8 and 8 to 16: of "Two." three characters are in the first."""
    units = [Unit(0, True, 0.9), Unit(8, False, 0.1)]
    (truth,), (decided,), scores = reflection_flags([gold], [units])
    assert truth.tolist() == [False, True, False]
    assert decided.tolist() == [True, True, False]
    assert scores == [0.9, 0.9, 0.1]


def test_annotators_are_paired_by_their_text(gold):
    """Each stands once as the truth; a text with one annotator has no pair."""
    other = Gold("q", TEXT, [(0, 9, True), (10, 16, False)])
    alone = Gold("p", "Four.", [(0, 5, False)])
    golds, found = annotator_pairs([gold, alone, other])
    assert golds == [gold, other]
    assert found[0] == [Unit(0, True), Unit(10, False)]
    assert [unit.start for unit in found[1]] == [0, 5, 10]

    (truth, _), (decided, _), scores = reflection_flags(golds, found)
    assert np.flatnonzero(truth & decided).tolist() == [1]
    assert scores == []
