"""Tables in, tables out: one row per trace, position, word or group.

The docstring of each function defines its columns.

groups       estimates by group, and the checks that figures share
lengths      quantiles of lengths
reflection   how often, where and in what runs a trace reflects
behaviours   cognitive behaviours that a judge lists, beside the kinds of steps
self_reflection    does a thinking go back on itself, by a judge; how soon after a prefix
unsafe       the path of a trace's markers, its outcome, risky patterns
places       where steps lie, as sums by trace
requests     requests known to ask for harm, and harmless traces of equal length
scored       token scores of one trace at a time
entropy      token entropy by trace, step, position, word, and around reflections
perplexity   how likely training rows are under the model that is to learn them
gains        what students gain from the data of teachers, their own among them
few          nested subsets of training rows, and how few samples reach half of the gain
drift        what the covariance of success and safety within prompts predicts of RL's safety
prefill      safety after the thought of a donor: matrix, means, lengths, rounds of a reset
bounds       the interval of an entropy of which only the top-k log-probs are known
probes       traces of probes as rows
continuation safety of continuations by step, triggers, turning points, cues
interventions  harm against the number of replaced steps
boundary     the boundary between harmful and reasoning prompts among hidden states
pivots       R2D's marks of steps against the truth
thinking     the same prompts with and without thinking
hidden       how far models' hidden states of prompts move: distances, shifts, a picture in 2-D
likelihood   how likely each step is to a model
"""

from cotlens.measures.behaviours import (
    BEHAVIOURS,
    behaviour_agreement,
    behaviour_counts,
    behaviour_means,
)
from cotlens.measures.boundary import (
    Boundary,
    Plane,
    fit_boundary,
    held_out_distances,
    signed_distances,
)
from cotlens.measures.bounds import (
    Bounds,
    entropy_bounds,
)
from cotlens.measures.continuation import (
    CueAgainstTurn,
    continuation_safety,
    cue_against_turn,
    find_triggers,
    turning_points,
)
from cotlens.measures.drift import (
    Drift,
    drift_estimates,
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
from cotlens.measures.few import (
    n50,
    nested,
)
from cotlens.measures.gains import (
    own_advantage,
    teacher_gains,
)
from cotlens.measures.hidden import (
    Projection,
    distance_table,
    project,
    shift_table,
)
from cotlens.measures.interventions import (
    attempt_table,
    attempt_traces,
    harm_by_round,
)
from cotlens.measures.lengths import (
    length_quantiles,
)
from cotlens.measures.likelihood import (
    nll_of_steps,
)
from cotlens.measures.perplexity import (
    SkillByPerplexity,
    perplexity,
    perplexity_by_arm,
    row_likelihood,
    skill_by_perplexity,
)
from cotlens.measures.pivots import (
    Pivot,
    pivot_confusion,
    pivot_estimates,
    pivot_table,
)
from cotlens.measures.prefill import (
    by_length,
    donor_effects,
    prefill_matrix,
    reset_curve,
    susceptibility,
)
from cotlens.measures.probes import (
    probe_table,
)
from cotlens.measures.reflection import (
    marker_agreement,
    reflection_dynamics,
    reflection_estimates,
    transitions,
)
from cotlens.measures.requests import (
    BASELINE,
    asks_for_harm,
    match_lengths,
    with_baseline,
)
from cotlens.measures.self_reflection import (
    first_reflections,
    prefix_stop,
    reflection_agreement,
    self_reflection_share,
)
from cotlens.measures.thinking import (
    thinking_effect,
)
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
    "BEHAVIOURS",
    "Boundary",
    "Bounds",
    "CueAgainstTurn",
    "Drift",
    "Outcome",
    "Pivot",
    "Plane",
    "Projection",
    "SkillByPerplexity",
    "asks_for_harm",
    "attempt_table",
    "attempt_traces",
    "behaviour_agreement",
    "behaviour_counts",
    "behaviour_means",
    "by_length",
    "continuation_safety",
    "cue_against_turn",
    "distance_table",
    "donor_effects",
    "drift_estimates",
    "entropy_bounds",
    "entropy_survival",
    "entropy_threshold",
    "find_triggers",
    "first_reflections",
    "fit_boundary",
    "forking_tokens",
    "harm_by_round",
    "held_out_distances",
    "length_quantiles",
    "marker_agreement",
    "match_lengths",
    "mean_covariance",
    "n50",
    "nested",
    "nll_of_steps",
    "outcomes",
    "own_advantage",
    "perplexity",
    "perplexity_by_arm",
    "pivot_confusion",
    "pivot_estimates",
    "pivot_table",
    "position_entropy",
    "predict_drift",
    "prefill_matrix",
    "prefix_stop",
    "probe_table",
    "project",
    "reflection_agreement",
    "reflection_dynamics",
    "reflection_entropy",
    "reflection_estimates",
    "reset_curve",
    "risky_patterns",
    "row_likelihood",
    "safety_states",
    "self_reflection_share",
    "shift_table",
    "signed_distances",
    "skill_by_perplexity",
    "step_entropy",
    "success_safety_covariance",
    "susceptibility",
    "teacher_gains",
    "thinking_answer_estimates",
    "thinking_effect",
    "tilted_drift",
    "trace_entropy",
    "transitions",
    "turning_points",
    "unsafe_dynamics",
    "with_baseline",
    "word_entropy",
]
