"""The fits: labelled documents become features, the model is the one documented, metrics by hand."""

import joblib
import numpy as np
import pytest
import scipy.sparse

from cotlens.detect.features import OFFSETS, Weights, feature_sums
from cotlens.detect.reflect import KINDS, Kind
from cotlens.detect.tokens import read_steps
from cotlens.detect.unsafe import LEARNED, MARKERS
from trainers.fit import documents, gold, metrics, reflect, unsafe
from trainers.fit.documents import (
    Document,
    Steps,
    labelled_steps,
    pack_weights,
    written_documents,
)

# --- documents -------------------------------------------------------------------------------------------------


def test_a_written_trace_is_read_as_its_writer_cut_it(tmp_path, monkeypatch):
    """Two sentences that `segment` cuts in two, but the writer did not, keep their text and have no label."""
    lines = [
        "# sum of two",
        "?\tWhat is 2 + 2?",
        "plan\tFirst I add the numbers.",
        "infer\tThat makes four. So the sum is even.",
        "",
        "verify\tLet me check this again.",
        "# second",
        "doubt\tIs this right?",
    ]
    (tmp_path / "traces.tsv").write_text("\n".join(lines) + "\n")
    monkeypatch.setattr(documents, "LABELS", tmp_path)

    first, second = written_documents("traces.tsv", str.upper)
    assert first.name == "written:sum of two"
    assert "".join(first.texts) == (
        "First I add the numbers. That makes four. So the sum is even.\n\nLet me check this again."
    )
    assert first.numbers == [0, 3]
    assert first.labels == ["PLAN", "VERIFY"]
    assert second == Document("written:second", ["Is this right?"], [0], ["DOUBT"])


def test_steps_without_a_label_are_context_only():
    """A step has a row for each of its labels: its own features, and next to them its neighbours'."""
    texts = ["We add. ", "Wait, no. ", "It is four."]
    n_buckets = 2**10
    steps = labelled_steps(
        [Document("a", texts, [1], [3]), Document("b", texts, [0, 1, 1], [1, 2, 3])], n_buckets
    )
    assert steps.features.shape == (4, len(OFFSETS) * n_buckets)
    assert steps.labels.tolist() == [3, 1, 2, 3]
    assert steps.documents.tolist() == ["a", "b", "b", "b"]
    assert steps.places.tolist() == [[1, 3], [0, 3], [1, 3], [1, 3]]

    # Step 1 sees step 0 at the offset -1: what step 0 has itself.
    dense = steps.features.toarray()
    itself = dense[1, :n_buckets]
    before = dense[0, n_buckets : 2 * n_buckets]
    assert itself.tolist() == before.tolist()
    assert (dense[0] == dense[2]).all()


def test_fitted_and_shipped_weights_give_the_same_sums():
    """The fit multiplies a matrix, the package sums a table: for every step the same number."""
    rng = np.random.default_rng(0)
    texts = ["Let x be 2. ", "", "Wait, is that right? ", "Let me check: x = 2, x = 2. "]
    n_buckets = 2**6
    fitted = rng.normal(size=(2, len(OFFSETS) * n_buckets)).astype(np.float16)
    steps = labelled_steps([Document("a", texts, [0, 1, 2, 3], [0] * 4)], n_buckets)

    table = pack_weights(fitted, n_buckets).astype(np.float32)
    model = Weights(table, np.zeros(2, np.float32))
    (sums,) = feature_sums(read_steps([texts]), model)
    np.testing.assert_allclose(sums, steps.features @ fitted.T.astype(float), atol=1e-4)


def test_codes_become_outputs():
    """F is one of the four kinds of self-jailbreak, A is not; a hyphen and an empty field are no marker."""
    fictional = dict(zip(LEARNED, unsafe._outputs("F"), strict=True))
    assert [name for name, carried in fictional.items() if carried] == [
        "self_jailbreak",
        "fictional_licence",
    ]
    assert unsafe._outputs("A") == [False, True] + [False] * (len(MARKERS) - 1)
    assert unsafe._outputs("-") == unsafe._outputs("") == [False] * len(LEARNED)


# --- the model -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_classes", [2, 4])
@pytest.mark.parametrize("penalty", [1.0, 3.0])
def test_the_fit_is_where_the_documented_loss_is_flat(n_classes, penalty, monkeypatch):
    """Gradient of the negative log-likelihood plus penalty / 2 * squared weights; the bias bears no penalty."""
    monkeypatch.setattr(metrics, "TOLERANCE", 1e-7)
    rng = np.random.default_rng(0)
    x = scipy.sparse.csr_matrix((rng.random((300, 20)) < 0.3).astype(float))
    classes = rng.integers(n_classes, size=300)
    model = metrics.logistic_regression(penalty).fit(x, classes)

    residual = model.predict_proba(x) - np.eye(n_classes)[classes]
    if n_classes == 2:
        residual = residual[:, 1:]
    gradient = x.T @ residual + penalty * model.coef_.T
    np.testing.assert_allclose(gradient, 0, atol=1e-3)
    np.testing.assert_allclose(residual.sum(axis=0), 0, atol=1e-3)


def test_a_kind_without_a_step_is_an_error():
    labels = np.array([[0, True], [1, True]])
    names = np.array(["a", "b"])
    places = np.array([[0, 1], [0, 1]])
    steps = Steps(scipy.sparse.csr_matrix(np.eye(2)), labels, names, places)
    with pytest.raises(ValueError, match="no labelled step is of the kind alternative"):
        reflect.fit({"own": steps})


def test_what_reflects_in_the_wide_sense():
    """A first conclusion does not; one soon after a check or after a conclusion does; conjectures do."""
    names = "infer conjecture verify infer conclude plan infer conclude other"
    kinds = [Kind(name) for name in names.split()]
    numbers = [KINDS.index(kind) for kind in kinds]
    document = Document("a", [""] * 9, list(range(9)), numbers)

    wide = dict.fromkeys((1, 2, 4, 7), True)
    expected = [wide.get(place, False) for place in range(9)]
    labels = reflect.with_wide_labels(document).labels
    assert [is_wide for _, is_wide in labels] == expected
    assert [number for number, _ in labels] == numbers

    # Without a check before it, the first conclusion is none.
    first = Document("b", [""] * 2, [0, 1], [KINDS.index("plan"), KINDS.index("conclude")])
    assert [is_wide for _, is_wide in reflect.with_wide_labels(first).labels] == [False, False]


def test_a_document_is_never_seen_by_the_fit_that_predicts_it():
    """The only feature says which document it is: useless where the document was not trained on."""
    names = np.repeat([f"document {number}" for number in range(30)], 4)
    x = scipy.sparse.csr_matrix(np.repeat(np.eye(30), 4, axis=0))
    truth = np.repeat(np.arange(30) % 2 == 0, 4)
    with joblib.parallel_config(backend="threading"):
        p = metrics.predict_unseen(x, truth, names, penalty=1.0)

    assert p.shape == (120, 2)
    assert len(np.unique(p[:, 1].round(6))) <= metrics.N_FOLDS


# --- metrics ---------------------------------------------------------------------------------------------------


def test_the_best_threshold():
    """From 0.3 on: 2 of 2 found, 3 decided, F1 = 4/5. From 0.36 on: 1 and 2, 2/4. From 0.5 on: 1 and 1, 2/3."""
    truth = np.array([False, False, True, True])
    p = np.array([0.1, 0.4, 0.35, 0.8])
    found = metrics.best_threshold(truth, p, np.array([0.5, 0.36, 0.3, 0.31]))
    assert found == (0.3, pytest.approx(0.8))


def test_the_interval_of_f1():
    """Documents on one question are drawn together: one question alone has no spread."""
    truths = [np.array([True, True, False]), np.array([True, False, False])]
    decisions = [np.array([True, False, False]), np.array([True, True, False])]

    f1 = 2 * 2 / (3 + 3)
    assert metrics.f1_interval(["a", "a"], truths, decisions) == pytest.approx((f1, f1))

    # Each document alone has F1 = 2/3, and so has every mixture.
    assert metrics.f1_interval(["a", "b"], truths, decisions) == pytest.approx((f1, f1))

    # One is right and one is missed: draws of only the one or only the other are the extremes.
    decisions = [truths[0], np.array([False, False, False])]
    assert metrics.f1_interval(["a", "b"], truths, decisions) == (0.0, 1.0)


def test_the_calibration_error():
    """Bins: 0 to 0.1 has 1 positive of p 0.05 + 0.05, and 0.9 to 1 has 2 of p 0.95 + 1."""
    truth = np.array([False, True, True, True])
    p = np.array([0.05, 0.05, 0.95, 1.0])
    assert metrics.calibration_error(truth, p) == pytest.approx((0.9 + 0.05) / 4)
    assert metrics.calibration_error(truth, truth.astype(float)) == 0


def test_a_table_fills_short_rows(capsys):
    metrics.print_table(["a", "b", "c"], [["1", "2", "3"], ["1"]])
    assert capsys.readouterr().out == "| a | b | c |\n|---|---|---|\n| 1 | 2 | 3 |\n| 1 | | |\n"


# --- measuring -------------------------------------------------------------------------------------------------


def test_a_unit_takes_the_score_of_the_step_that_covers_most_of_it():
    """Steps at 0, 14 and 33; the last has no score."""
    text = "First we add. Then we subtract. Then we stop here."
    units = [(0, 13, True), (10, 30, False), (31, len(text), True)]

    def scorer(texts):
        assert texts == ["First we add. ", "Then we subtract. ", "Then we stop here."]
        return np.array([0.1, 0.2, np.nan])

    truth, scores = gold.score_units(gold.Gold("q", text, units), scorer)
    assert truth.tolist() == [True, False, True]
    assert scores.tolist() == [0.1, 0.2, 0.0]
