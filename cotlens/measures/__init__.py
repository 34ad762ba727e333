"""Tables in, tables out: one row per trace, position, word or group.

The docstring of each function defines its columns.

groups       estimates by group, and the checks that figures share
lengths      quantiles of lengths
reflection   how often, where and in what runs a trace reflects
unsafe       the path of a trace's markers, its outcome, risky patterns
requests     requests known to ask for harm, and harmless traces of equal length
scored       token scores of one trace at a time
entropy      token entropy by trace, step, position, word, and around reflections
bounds       the interval of an entropy of which only the top-k log-probs are known
likelihood   how likely each step is to a model
"""

from cotlens.measures.bounds import Bounds, entropy_bounds
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
from cotlens.measures.lengths import length_quantiles
from cotlens.measures.likelihood import nll_of_steps
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
    "Outcome",
    "asks_for_harm",
    "entropy_bounds",
    "entropy_survival",
    "entropy_threshold",
    "forking_tokens",
    "length_quantiles",
    "marker_agreement",
    "match_lengths",
    "nll_of_steps",
    "outcomes",
    "position_entropy",
    "reflection_dynamics",
    "reflection_entropy",
    "reflection_estimates",
    "risky_patterns",
    "safety_states",
    "step_entropy",
    "thinking_answer_estimates",
    "trace_entropy",
    "transitions",
    "unsafe_dynamics",
    "with_baseline",
    "word_entropy",
]
