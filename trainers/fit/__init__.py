"""Fit the weights of `cotlens.detect` on labelled steps, and measure them on labels held back.

documents    labelled traces, read from `labels` and the data folder; the features of their steps
gold         traces that others labelled: their units, and what counts as reflection
metrics      cross-validation by document, F1 with its interval, calibration, tables
reflect      the classifier of kinds of step: cotlens/detect/reflect.npz, docs/detectors.md
unsafe       the markers of unsafe exploration: cotlens/detect/unsafe.npz, docs/unsafe.md
harm         whether a request and a thought are about harm: cotlens/detect/harm.npz, docs/unsafe.md
labels/      the project's own labels: offsets and labels in *.csv, written traces in *.tsv

The commands run from the root of the repository. They need scikit-learn (in the extra `dev`) and
the data folder (`COTLENS_DATA`, or `../shared/data`):

    python -m trainers.fit.reflect     # overwrites reflect.npz
    python -m trainers.fit.unsafe      # overwrites unsafe.npz
    python -m trainers.fit.harm        # overwrites harm.npz

With `--measure` they fit nothing and measure the weights that are there. After a refit:

1. Check that the thresholds in `cotlens.detect` are still the best ones in the cross-validation
   that the fit prints: they were set on it.
2. Measure, and put what is printed into docs/detectors.md and docs/unsafe.md.
3. Rebuild the committed figures and the data under them, as AGENTS.md describes.
"""
