"""Tables in, tables out: one row per trace, position, word or group.

The docstring of each function defines its columns.

groups       estimates by group, and the checks that figures share
lengths      quantiles of lengths
reflection   how often, where and in what runs a trace reflects
unsafe       the path of a trace's markers, its outcome, risky patterns
requests     requests known to ask for harm, and harmless traces of equal length
scored       token scores of one trace at a time
entropy      token entropy by trace, step, position, word, and around reflections
perplexity   how likely training rows are under the model that is to learn them
few          nested subsets of training rows, and how few samples reach half of the gain
drift        what the covariance of success and safety within prompts predicts of RL's safety
bounds       the interval of an entropy of which only the top-k log-probs are known
"""

from cotlens.measures.bounds import Bounds, entropy_bounds
from cotlens.measures.drift import (
    Drift,
    mean_covariance,
    predict_drift,
    success_safety_covariance,
    tilted_drift,
)
from cotlens.measures.entropy import (
    entropy_survival,
    entropy_threshold,
    forking_tokens,
    position_entropy,
    reflection_entropy,
    step_entropy,
    trace_entropy,
    word_entropy,
)
from cotlens.measures.few import n50, nested
from cotlens.measures.lengths import length_quantiles
from cotlens.measures.perplexity import perplexity, row_likelihood
from cotlens.measures.reflection import (
    marker_agreement,
    reflection_dynamics,
    reflection_estimates,
    transitions,
)
from cotlens.measures.requests import BASELINE, asks_for_harm, match_lengths, with_baseline
from cotlens.measures.unsafe import (
    Outcome,
    outcomes,
    risky_patterns,
    safety_states,
    thinking_answer_estimates,
    unsafe_dynamics,
)

__all__ = [
    "BASELINE",
    "Bounds",
    "Drift",
    "Outcome",
    "asks_for_harm",
    "entropy_bounds",
    "entropy_survival",
    "entropy_threshold",
    "forking_tokens",
    "length_quantiles",
    "marker_agreement",
    "match_lengths",
    "mean_covariance",
    "n50",
    "nested",
    "outcomes",
    "perplexity",
    "position_entropy",
    "predict_drift",
    "reflection_dynamics",
    "reflection_entropy",
    "reflection_estimates",
    "risky_patterns",
    "row_likelihood",
    "safety_states",
    "step_entropy",
    "success_safety_covariance",
    "thinking_answer_estimates",
    "tilted_drift",
    "trace_entropy",
    "transitions",
    "unsafe_dynamics",
    "with_baseline",
    "word_entropy",
]
