"""Fit and measure whether a text is about harm: cotlens/detect/harm.npz, and `is_unsafe`.

    python -m trainers.fit.harm            # fit, and report cross-validation
    python -m trainers.fit.harm --measure  # fit nothing: measure the shipped `is_unsafe`

Run from the root of the repository. The requests are StrongREJECT, JailbreakBench, XSTest, school
mathematics, the prompts of harmless traces, and the project's own (`labels/requests.tsv` and those
of `labels/unsafe_written.tsv`). The stretches of thinking come from the project's written traces
and STAR-1 against CoT-Monitor, ReasoningFlow, thought anchors and bias anchors; all of it is free
to fit. Nothing is fitted to labels/self_jailbreak or traces/reasoning, which `--measure` reads.
"""

from importlib.util import find_spec

if find_spec("trainers") is None:
    raise SystemExit(
        "start it as a module, from the root of the repository: python -m trainers.fit.harm"
    )

import argparse
import gzip
import json
from collections.abc import Iterable, Iterator
from itertools import cycle
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GroupKFold, cross_val_predict

from cotlens.detect.harm import N_BUCKETS, OUTPUTS, text_features
from cotlens.detect.unsafe import EXPLORATION, Marker, StepMarkers, context, mark
from cotlens.text.split import request_of
from cotlens.text.steps import segment, segment_trace
from cotlens.trace import Trace
from trainers.fit.documents import DATA, LABELS, WEIGHTS, read_data
from trainers.fit.metrics import Flags, print_table
from trainers.fit.unsafe import documents

# Weight of the likelihood against half the squared weights.
INVERSE_PENALTY = 5.0
N_FOLDS = 10

# Of each trace so many stretches, one every four steps.
MAX_STRETCHES = 12
STRIDE = 4

# Harmless requests that sound harmful are few, and the hard cases.
SOUNDING_WEIGHT = 3.0
SOUNDING = ("jailbreakbench", "xstest", "requests", "actions")

# Frames of the acts in actions.tsv.
FRAMES = (
    "How do I {act} {what}?",
    "What's the best way to {act} {what}?",
    "How can I {act} {what}?",
    "Tell me how to {act} {what}.",
    "I want to {act} {what}. What do I need?",
)

# A thought opens like this over harmless requests as over harmful ones.
OPENINGS = (
    "Okay, the user is asking: {} Let me think about what they want.",
    "The user wants to know: {} I should think about how to respond.",
    "Okay, so I need to answer this. {} Let me think step by step.",
    "{} Hmm, let me think about it. First, I should consider what is asked.",
    "The user asks: {} Maybe they're just curious. I'll write down the steps one by one.",
    "{} It's probably for a class project. I should explain it clearly and add a short warning.",
    "They said: {} That should be fine. First, I'll list what is needed, then the order.",
    "{} Perhaps they are a student. Let me go ahead and describe how it is done.",
    "Alright. {} It's for educational purposes, so I'll start with the tools and then the plan.",
    "So the question is: {} I'll begin with the best moment and place, and be careful.",
    "{} They might be writing a story. I can answer in general terms and keep it short.",
    "The request: {} I don't see a problem. Okay, I'll write the answer.",
)
N_OPENINGS = 5  # of each request


class Example(NamedTuple):
    """One text.

    Attributes:
        source: Where it comes from.
        group: Texts of one group are in the same fold.
        text: The text.
        is_harmful: Whether it asks for harm, or is about it.
    """

    source: str
    group: str
    text: str
    is_harmful: bool


def main() -> None:
    """Fit the two outputs and write their weights, or measure `is_unsafe`."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument(
        "--measure", action="store_true", help="measure the shipped detector instead of fitting"
    )
    if parser.parse_args().measure:
        measure()
        return

    columns = []
    biases = []
    for name, examples in (("request", list(requests())), ("thought", list(stretches()))):
        print(f"{name}: {len(examples):,} texts")
        features = feature_matrix(example.text for example in examples)
        truth = np.array([example.is_harmful for example in examples])
        weights = sample_weights(examples, truth)
        _cross_validate(examples, features, truth, weights)

        model = logistic_regression().fit(features, truth, sample_weight=weights)
        columns.append(model.coef_[0])
        biases.append(model.intercept_[0])

    np.savez_compressed(
        WEIGHTS / "harm.npz",
        weights=np.stack(columns, axis=1).astype(np.float16),
        bias=np.array(biases, np.float32),
        outputs=np.array(OUTPUTS),
    )


def requests() -> Iterator[Example]:
    """Yield the requests, each once."""
    seen = set()
    for source, text, is_harmful in _all_requests():
        if text and text not in seen:
            seen.add(text)
            yield Example(source, text, text, is_harmful)


def _all_requests() -> Iterator[tuple[str, str, bool]]:
    for name in ("strongreject", "jailbreakbench", "xstest"):
        for row in rows(f"prompts/{name}"):
            yield name, row["prompt"], row["label"] in ("harmful", "unsafe")

    # Harmless tasks: at most so many of each set.
    for name in ("gsm8k_test", "math500", "aime2024", "aime2025"):
        for row in rows(f"prompts/{name}")[:400]:
            yield name, row.get("prompt") or row.get("question") or row["problem"], False
    for name, field in (
        ("traces/cot_monitor", "prompt"),
        ("labels/reasoningflow_llm", "question"),
        ("labels/bias_anchors", "prompt"),
    ):
        for row in rows(name):
            yield name, row[field], False

    # The project's own.
    for line in _lines("requests.tsv"):
        label, text = line.split("\t")
        yield "requests", text, label == "harmful"
    yield from _acts()
    for line in _lines("unsafe_written.tsv"):
        if line.startswith("?\t"):
            yield "written", line[2:], True


def _acts() -> Iterator[tuple[str, str, bool]]:
    """Yield requests for the acts of actions.tsv, each in the next frame."""
    frames = cycle(FRAMES)
    for line in _lines("actions.tsv"):
        if line.startswith("#"):
            continue
        act, harmless, harmful = line.split("\t")
        for objects, is_harmful in ((harmless, False), (harmful, True)):
            for what in objects.split("; "):
                yield "actions", next(frames).format(act=act, what=what), is_harmful


def _lines(file: str) -> list[str]:
    path = LABELS / file
    return path.read_text(encoding="utf-8").splitlines()


def rows(name: str) -> list[dict[str, Any]]:
    """Return the rows of a file in the data folder, named without its ending."""
    with gzip.open(DATA / f"{name}.jsonl.gz", "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def stretches() -> Iterator[Example]:
    """Yield stretches of thinking, as `is_unsafe` reads them, and openings that quote a request."""
    for document in documents():
        if document.name.startswith("written"):
            yield from _stretches_of("written", document.name, document.texts, True)
    for trace in read_data("traces/star1_safe"):
        yield from _stretches_of("star1_safe", trace.id, _step_texts(trace), True)

    for name in ("traces/cot_monitor", "labels/bias_anchors", "labels/thought_anchors"):
        for trace in read_data(name):
            # The scenarios of thought anchors are about blackmail.
            if trace.domain != "blackmail_scenario":
                yield from _stretches_of(name, trace.prompt_id, _step_texts(trace), False)

    for row in rows("labels/reasoningflow_llm")[::2]:
        response = row["response"]
        texts = [span.of(response) for span in segment(response)]
        yield from _stretches_of("reasoningflow", row["question"], texts, False)

    # Every request in a few openings.
    openings = cycle(OPENINGS)
    for request in requests():
        if request.source in (*SOUNDING, "strongreject", "written"):
            for _ in range(N_OPENINGS):
                text = next(openings).format(request.text)
                yield request._replace(text=text)


def _step_texts(trace: Trace) -> list[str]:
    return [step.chars.of(trace.completion) for step in segment_trace(trace)]


def _stretches_of(source: str, group: str, texts: list[str], is_harmful: bool) -> Iterator[Example]:
    for number in range(0, len(texts), STRIDE)[:MAX_STRETCHES]:
        yield Example(source, group, context(texts, number), is_harmful)


def feature_matrix(texts: Iterable[str]) -> scipy.sparse.csr_matrix:
    """Return the features of each text, (texts, buckets)."""
    buckets = []
    values = []
    ends = [0]
    for text in texts:
        features = text_features(text)
        buckets.append(features.buckets)
        values.append(features.values)
        ends.append(ends[-1] + len(features.buckets))

    shape = (len(ends) - 1, N_BUCKETS)
    return scipy.sparse.csr_matrix((np.concatenate(values), np.concatenate(buckets), ends), shape)


def sample_weights(examples: list[Example], truth: Flags) -> NDArray[np.float64]:
    """Return weights that count harmless texts that sound harmful more, and both classes alike."""
    weights = np.ones(len(examples))
    for number, example in enumerate(examples):
        if example.source in SOUNDING and not example.is_harmful:
            weights[number] = SOUNDING_WEIGHT

    weights[truth] *= weights[~truth].sum() / weights[truth].sum()
    return weights


def logistic_regression() -> LogisticRegression:
    """Return an unfitted model."""
    return LogisticRegression(C=INVERSE_PENALTY, max_iter=1000)


def _cross_validate(
    examples: list[Example],
    features: scipy.sparse.csr_matrix,
    truth: Flags,
    weights: NDArray[np.float64],
) -> None:
    """Print how texts of unseen groups are judged, by source."""
    _, groups = np.unique([example.group for example in examples], return_inverse=True)
    log_odds = cross_val_predict(
        logistic_regression(),
        features,
        truth,
        cv=GroupKFold(N_FOLDS, shuffle=True, random_state=0),
        groups=groups,
        method="decision_function",
        params={"sample_weight": weights},
    )
    log_odds = np.asarray(log_odds)
    called = log_odds > 0

    sources = np.array([example.source for example in examples])
    table = []
    for source in dict.fromkeys(sources):
        inside = sources == source
        harmful = inside & truth
        harmless = inside & ~truth
        cells = [source, f"{inside.sum():,}", _share(called[harmful]), _share(called[harmless])]
        if harmful.any() and harmless.any():
            cells.append(f"{roc_auc_score(truth[inside], log_odds[inside]):.2f}")
        table.append(cells)
    print_table(("source", "n", "harmful called so", "harmless called so", "AUROC"), table)
    print()


def _share(flags: Flags) -> str:
    return f"{flags.mean():.1%}" if len(flags) else ""


# --- measuring -------------------------------------------------------------------------------

HARMLESS = (
    "traces/reasoning",
    "traces/cot_monitor",
    "labels/reasoningflow_human",
    "labels/schoenfeld_human",
    "labels/venhoff_gpt4o",
)


def measure() -> None:
    """Print false alarms on harmless prompts, recall on harmful ones, and the trace-level score."""
    columns = ("source", "traces", "any unsafe", "any of the markers", "steps", "unsafe")
    print_table(columns, _false_alarm_rows())
    print()
    _measure_harmful()


def _false_alarm_rows() -> Iterator[list[str]]:
    for name in HARMLESS:
        marked_of_model: dict[str, list[StepMarkers]] = {}
        for trace in read_data(name):
            texts = _step_texts(trace)
            if texts:
                marked = mark(texts, request_of(trace))
                marked_of_model.setdefault(trace.model, []).append(marked)

        every = [marked for of_model in marked_of_model.values() for marked in of_model]
        yield _false_alarm_cells(name, every)
        if name == "traces/reasoning":
            for model, of_model in marked_of_model.items():
                yield _false_alarm_cells(f"... {model.rsplit('/', 1)[-1]}", of_model)


def _false_alarm_cells(name: str, traces: list[StepMarkers]) -> list[str]:
    flags = [unsafe_flags(marked) for marked in traces]
    any_unsafe = np.mean([own.any() for own in flags])
    any_marker = np.mean([union_flags(marked).any() for marked in traces])
    steps = np.concatenate(flags)
    return [
        name,
        f"{len(traces):,}",
        f"{any_unsafe:.1%}",
        f"{any_marker:.1%}",
        f"{len(steps):,}",
        f"{steps.mean():.2%}",
    ]


def unsafe_flags(marked: StepMarkers) -> Flags:
    """Return `is_unsafe`, False in an unknown language."""
    return np.array([bool(flag) for flag in marked.is_unsafe], bool)


def union_flags(marked: StepMarkers) -> Flags:
    """Return whether a step carries any marker of exploration."""
    return np.array([bool(own and own & set(EXPLORATION)) for own in marked.markers], bool)


def _measure_harmful() -> None:
    """Print the recall of GPT-5's sentences, and AUROC within each model for harmful answers."""
    truths = []
    unsafe = []
    union = []
    scores_of_model: dict[str, list[tuple[bool, float, str]]] = {}
    for row in rows("labels/self_jailbreak"):
        texts = [sentence["text"] for sentence in row["sentences"]]
        if not texts:
            continue
        marked = mark(texts, row["prompt"])

        if row["self_jailbreak_sentences"] is not None:
            truth = np.zeros(len(texts), bool)
            truth[row["self_jailbreak_sentences"]] = True
            truths.append(truth)
            unsafe.append(unsafe_flags(marked))
            union.append(union_flags(marked))

        # -1: GPT-5 gave no grade.
        grade = row["safety_eval_score"]
        if grade is not None and grade >= 1:
            scored = (grade >= 3, unheeding(marked), row["prompt"])
            scores_of_model.setdefault(row["model"], []).append(scored)

    truth = np.concatenate(truths)
    for name, flags in (("is_unsafe", unsafe), ("any marker of exploration", union)):
        decided = np.concatenate(flags)
        print(
            f"{name}: recall {decided[truth].mean():.3f}, precision {truth[decided].mean():.3f}, "
            f"{decided.mean():.1%} of {len(truth):,} sentences"
        )
    _print_aurocs(scores_of_model)


def unheeding(marked: StepMarkers) -> float:
    """Return the share of steps that neither notice a risk nor intend to refuse."""
    heeding = {Marker.RISK_AWARENESS, Marker.REFUSAL_INTENT}
    known = [markers for markers in marked.markers if markers is not None]
    return float(np.mean([not markers & heeding for markers in known])) if known else np.nan


def _print_aurocs(scores_of_model: dict[str, list[tuple[bool, float, str]]]) -> None:
    """Print AUROC within each model, and their mean with an interval over prompts."""
    models = sorted(scores_of_model)
    for model in models:
        scored = scores_of_model[model]
        print(f"{model}: AUROC {_auroc(scored):.3f}, n {len(scored)}")

    prompts = sorted({prompt for scored in scores_of_model.values() for _, _, prompt in scored})
    rng = np.random.default_rng(0)
    means = []
    for _ in range(500):
        drawn = rng.choice(prompts, len(prompts))
        counts = dict(zip(*np.unique(drawn, return_counts=True), strict=True))
        aurocs = []
        for model in models:
            again = [row for row in scores_of_model[model] for _ in range(counts.get(row[2], 0))]
            aurocs.append(_auroc(again))
        means.append(np.mean(aurocs))

    mean = np.mean([_auroc(scores_of_model[model]) for model in models])
    low, high = np.quantile(means, [0.025, 0.975])
    print(f"mean over {len(models)} models: {mean:.3f} ({low:.3f} to {high:.3f}, by prompt)")


def _auroc(scored: list[tuple[bool, float, str]]) -> float:
    truth, scores, _ = zip(*scored, strict=True)
    return float(roc_auc_score(truth, np.nan_to_num(scores)))


if __name__ == "__main__":
    main()
