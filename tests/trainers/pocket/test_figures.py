"""What only the pocket world knows: corrections, and branching points, against values derived by hand."""

import numpy as np
import pandas as pd
import pytest

from cotlens.studies import write_study
from trainers.pocket.figures import branching_measures, samples_of


def test_the_share_of_reflections_that_mend(tmp_path):
    """One of three reflections, and none where there are no reflections."""
    table = pd.DataFrame(
        {
            "arm": "base",
            "seed": 0,
            "set": "maths",
            "split": "maths",
            "prompt_id": ["a", "b"],
            "thinking_unsafe": False,
            "answer_unsafe": False,
            "n_reflections": [3, 0],
            "n_corrections": [1, 0],
            "n_steps": 4,
        }
    )
    study = write_study(tmp_path, {"samples": table}, {"arms": {"base": ""}, "base": "base"})
    corrective = samples_of(study)["corrective"]
    assert corrective[0] == pytest.approx(1 / 3)
    assert np.isnan(corrective[1])


def test_entropy_finds_branching_points():
    """Branchings at .3 and .5, others at .1 and .4: of four pairs three are in order, AUROC 3/4.

    Means: decision .3, wording .5, determined .25. Pearson's correlation with (0, 0, 1, 1): covariance .0375 x 4 / 3 over
    the deviations gives .5071.
    """
    tokens = pd.DataFrame(
        {
            "arm": "base", "seed": 0, "prompt_id": list("abab"),
            "kind": ["determined", "determined", "decision", "wording"],
            "policy_entropy": [0.0, 0.0, 1.0, 1.0], "entropy": [0.1, 0.4, 0.3, 0.5],
        }
    )  # fmt: skip
    found = branching_measures(tokens).set_index("measure")["value"]
    assert found["auroc"] == 0.75
    assert found["correlation"] == pytest.approx(0.5071, abs=1e-4)
    assert found[["mean_decision", "mean_wording", "mean_determined"]].tolist() == pytest.approx(
        [0.3, 0.5, 0.25]
    )
