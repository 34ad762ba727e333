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

from collections.abc import Iterable, Iterator
from itertools import chain, cycle
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.sparse import csr_matrix
from sklearn.metrics import roc_auc_score

from cotlens.detect.harm import N_BUCKETS, OUTPUTS, text_features
from cotlens.detect.tokens import read_steps
from cotlens.detect.unsafe import EXPLORATION, Marker, StepMarkers, context, mark
from cotlens.text.split import request_of
from cotlens.text.steps import segment
from trainers.fit.documents import LABELS, read_data, read_rows, save_weights, step_texts
from trainers.fit.metrics import Flags, fit_output, only_measures, predict_unseen, print_table
from trainers.fit.unsafe import documents, gold

PENALTY = 0.2  # of half the squared weights, against the sum of log-likelihoods

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
    if only_measures(__doc__):
        measure()
        return

    examples_of_output = {"request": list(requests()), "thought": list(stretches())}
    columns = []
    biases = []
    for name in OUTPUTS:
        examples = examples_of_output[name]
        print(f"{name}: {len(examples):,} texts")
        weights, bias = fit(examples)
        columns.append(weights)
        biases.append(bias)

    by_bucket = np.stack(columns, axis=1)
    save_weights("harm.npz", OUTPUTS, by_bucket, np.array(biases))


def fit(examples: list[Example]) -> tuple[NDArray, float]:
    """Return the weights and the bias of one output; print how it judges unseen texts."""
    texts = [example.text for example in examples]
    features = feature_matrix(texts)
    truth = np.array([example.is_harmful for example in examples])
    weights = sample_weights(examples, truth)

    # All texts of a group are in the same fold.
    groups = [example.group for example in examples]
    p_of_classes = predict_unseen(features, truth, groups, PENALTY, weights)
    p = p_of_classes[:, 1]

    columns = ("source", "n", "harmful called so", "harmless called so", "AUROC")
    rows = _unseen_rows(examples, truth, p)
    print_table(columns, rows)
    print()
    return fit_output(features, truth, PENALTY, weights)


# --- requests --------------------------------------------------------------------------------

# Questions of school mathematics: at most so many of each set.
HARMLESS_TASKS = ("gsm8k_test", "math500", "aime2024", "aime2025")
MAX_TASKS = 400

# The prompts of harmless traces, and the field that holds them.
HARMLESS_PROMPTS = {
    "traces/cot_monitor": "prompt",
    "labels/reasoningflow_llm": "question",
    "labels/bias_anchors": "prompt",
}


def requests() -> Iterator[Example]:
    """Yield the requests, each once."""
    seen = set()
    for source, text, is_harmful in _all_requests():
        if text and text not in seen:
            seen.add(text)
            yield Example(source, text, text, is_harmful)


Request = tuple[str, str, bool]  # its source, its text, and whether it is harmful


def _all_requests() -> Iterator[Request]:
    # Labelled sets.
    for name in ("strongreject", "jailbreakbench", "xstest"):
        for row in read_rows(f"prompts/{name}"):
            is_harmful = row["label"] in ("harmful", "unsafe")
            yield name, row["prompt"], is_harmful

    # Harmless tasks, whose text has several names.
    for name in HARMLESS_TASKS:
        tasks = read_rows(f"prompts/{name}")
        for row in tasks[:MAX_TASKS]:
            text = row.get("prompt") or row.get("question") or row["problem"]
            yield name, text, False
    for name, field in HARMLESS_PROMPTS.items():
        for row in read_rows(name):
            yield name, row[field], False

    # The project's own.
    for line in _lines("requests.tsv"):
        label, text = line.split("\t")
        yield "requests", text, label == "harmful"
    yield from _acts()
    for line in _lines("unsafe_written.tsv"):
        if line.startswith("?\t"):
            text = line.removeprefix("?\t")
            yield "written", text, True


def _acts() -> Iterator[Request]:
    """Yield requests for the acts of actions.tsv, each in the next frame."""
    frames = cycle(FRAMES)
    for line in _lines("actions.tsv"):
        if line.startswith("#"):
            continue

        # An act, what is done to harmless objects, and to others.
        act, *both_objects = line.split("\t")
        for objects, is_harmful in zip(both_objects, (False, True), strict=True):
            for what in objects.split("; "):
                frame = next(frames)
                text = frame.format(act=act, what=what)
                yield "actions", text, is_harmful


def _lines(file: str) -> list[str]:
    path = LABELS / file
    return path.read_text(encoding="utf-8").splitlines()


# --- stretches of thinking -------------------------------------------------------------------


def stretches() -> Iterator[Example]:
    """Yield stretches of thinking, as `is_unsafe` reads them, and openings that quote a request."""
    # Thinking about harm.
    for document in documents():
        if document.name.startswith("written"):
            yield from _stretches_of("written", document.name, document.texts, True)
    for trace in read_data("traces/star1_safe"):
        yield from _stretches_of("star1_safe", trace.id, step_texts(trace), True)

    # Harmless thinking; the scenarios of thought anchors are about blackmail.
    for name in ("traces/cot_monitor", "labels/bias_anchors", "labels/thought_anchors"):
        for trace in read_data(name):
            if trace.domain != "blackmail_scenario":
                yield from _stretches_of(name, trace.prompt_id, step_texts(trace), False)

    # Of ReasoningFlow's responses every other one.
    responses = read_rows("labels/reasoningflow_llm")
    for row in responses[::2]:
        response = row["response"]
        texts = [span.of(response) for span in segment(response)]
        yield from _stretches_of("reasoningflow", row["question"], texts, False)

    # Every request in a few openings.
    openings = cycle(OPENINGS)
    for request in requests():
        if request.source in (*SOUNDING, "strongreject", "written"):
            for _ in range(N_OPENINGS):
                opening = next(openings)
                text = opening.format(request.text)
                yield request._replace(text=text)


def _stretches_of(source: str, group: str, texts: list[str], is_harmful: bool) -> Iterator[Example]:
    steps = read_steps([texts])
    numbers = range(0, len(texts), STRIDE)
    for number in numbers[:MAX_STRETCHES]:
        text = context(steps, number)
        yield Example(source, group, text, is_harmful)


# --- fitting ---------------------------------------------------------------------------------


def feature_matrix(texts: Iterable[str]) -> csr_matrix:
    """Return the features of each text, (texts, buckets)."""
    # The features of all texts, and where those of each text end.
    buckets = []
    values = []
    ends = [0]
    for text in texts:
        features = text_features(text)
        buckets.append(features.buckets)
        values.append(features.values)
        ends.append(ends[-1] + len(features.buckets))

    n_texts = len(ends) - 1
    entries = (np.concatenate(values), np.concatenate(buckets), ends)
    return csr_matrix(entries, (n_texts, N_BUCKETS))


def sample_weights(examples: list[Example], truth: Flags) -> NDArray[np.float64]:
    """Return weights that count harmless texts that sound harmful more, and both classes alike."""
    weights = np.ones(len(examples))
    for number, example in enumerate(examples):
        if example.source in SOUNDING and not example.is_harmful:
            weights[number] = SOUNDING_WEIGHT

    n_harmful = weights[truth].sum()
    n_harmless = weights[~truth].sum()
    weights[truth] *= n_harmless / n_harmful
    return weights


def _unseen_rows(examples: list[Example], truth: Flags, p: NDArray) -> Iterator[list[str]]:
    """Yield how texts of unseen groups are judged: a row of cells for each source."""
    called = p > 0.5
    sources = np.array([example.source for example in examples])
    for source in dict.fromkeys(sources):
        inside = sources == source
        harmful = inside & truth
        harmless = inside & ~truth

        n = inside.sum()
        cells = [source, f"{n:,}", _share(called[harmful]), _share(called[harmless])]
        if harmful.any() and harmless.any():
            auroc = roc_auc_score(truth[inside], p[inside])
            cells.append(f"{auroc:.2f}")
        yield cells


def _share(flags: Flags) -> str:
    if len(flags) == 0:
        return ""
    return f"{flags.mean():.1%}"


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
    """Yield the cells of a row for each set, and for each model of the first one."""
    for name in HARMLESS:
        marked_of_model: dict[str, list[StepMarkers]] = {}
        for trace in read_data(name):
            texts = step_texts(trace)
            if texts:
                marked = mark(texts, request_of(trace))
                marked_of_model.setdefault(trace.model, []).append(marked)

        every = list(chain.from_iterable(marked_of_model.values()))
        yield _false_alarm_cells(name, every)
        if name == "traces/reasoning":
            for model, marked_traces in marked_of_model.items():
                short_name = model.rsplit("/", 1)[-1]
                yield _false_alarm_cells(f"... {short_name}", marked_traces)


def _false_alarm_cells(name: str, traces: list[StepMarkers]) -> list[str]:
    unsafe = list(map(unsafe_flags, traces))
    union = list(map(union_flags, traces))
    any_unsafe = np.mean(list(map(np.any, unsafe)))
    any_marker = np.mean(list(map(np.any, union)))

    steps = np.concatenate(unsafe)
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
    return np.array(list(map(bool, marked.is_unsafe)), bool)


def union_flags(marked: StepMarkers) -> Flags:
    """Return whether a step carries any marker of exploration."""
    flags = []
    for markers in marked.markers:
        carried = markers or frozenset()
        flags.append(not carried.isdisjoint(EXPLORATION))
    return np.array(flags, bool)


def _measure_harmful() -> None:
    """Print the recall of GPT-5's sentences, and AUROC within each model for harmful answers."""
    truths = []
    decisions = {"is_unsafe": [], "any marker of exploration": []}
    scored = []
    for trace in gold():
        if not trace.texts:
            continue

        # Its sentences, and its answer.
        marked = mark(trace.texts, trace.prompt)
        if trace.truth is not None:
            truths.append(trace.truth)
            decisions["is_unsafe"].append(unsafe_flags(marked))
            decisions["any marker of exploration"].append(union_flags(marked))
        if trace.grade is not None:
            is_harmful = trace.grade >= 3
            scored.append((trace.model, trace.prompt, is_harmful, unheeding(marked)))

    truth = np.concatenate(truths)
    for name, flags in decisions.items():
        decided = np.concatenate(flags)
        recall = decided[truth].mean()
        precision = truth[decided].mean()
        share = f"{decided.mean():.1%} of {len(truth):,} sentences"
        print(f"{name}: recall {recall:.3f}, precision {precision:.3f}, {share}")

    # A trace without a known step counts as heeding.
    columns = ["model", "prompt", "is_harmful", "score"]
    table = pd.DataFrame(scored, columns=columns)
    _print_aurocs(table.fillna({"score": 0}))


def unheeding(marked: StepMarkers) -> float:
    """Return the share of steps that neither notice a risk nor intend to refuse."""
    heeding = {Marker.RISK_AWARENESS, Marker.REFUSAL_INTENT}
    flags = []
    for markers in marked.markers:
        if markers is not None:
            flags.append(markers.isdisjoint(heeding))
    return float(np.mean(flags)) if flags else np.nan


N_RESAMPLES = 500


def _print_aurocs(scored: pd.DataFrame) -> None:
    """Print AUROC within each model, and their mean with an interval over prompts."""
    by_model = dict(iter(scored.groupby("model")))
    for model, rows in by_model.items():
        print(f"{model}: AUROC {_auroc(rows):.3f}, n {len(rows)}")

    # A prompt that is drawn twice counts twice.
    prompts = np.unique(scored["prompt"].to_numpy(str))
    rng = np.random.default_rng(0)
    means = []
    for _ in range(N_RESAMPLES):
        drawn = rng.choice(prompts, len(prompts))
        counts = pd.Series(drawn).value_counts()
        aurocs = [_auroc(rows, counts) for rows in by_model.values()]
        means.append(np.mean(aurocs))

    aurocs = [_auroc(rows) for rows in by_model.values()]
    mean = np.mean(aurocs)
    low, high = np.quantile(means, [0.025, 0.975])
    interval = f"{low:.3f} to {high:.3f}, by prompt"
    print(f"mean over {len(aurocs)} models: {mean:.3f} ({interval})")


def _auroc(rows: pd.DataFrame, counts: pd.Series | None = None) -> float:
    """Return AUROC, with each row as often as its prompt was drawn; once by default."""
    n_drawn = None
    if counts is not None:
        n_drawn = rows["prompt"].map(counts).fillna(0)

    truth = rows["is_harmful"]
    score = rows["score"]
    auroc = roc_auc_score(truth, score, sample_weight=n_drawn)
    return float(auroc)


if __name__ == "__main__":
    main()
