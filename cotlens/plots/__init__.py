"""Tables become figures.

`draw_figures` draws all that a run has data for; each `plot_*` draws one from a table.

of_runs      draw_figures, and the list of figures of runs
run_tables   the tables of several runs as one
step_sums    what figures need of the steps, in sums by shard
of_studies   draw_study, and the list of figures of studies
style        Plot, save, and how a figure looks
parts        what figures share: bands, dots, legends, notes
lengths reflection entropy unsafe judges      figures of runs
cognition    self-reflection by a judge; cognitive behaviours, judge against kinds of steps
study        measures of all arms; safety against skill
claims       skill and recovery at equal safety; recovery after an injected fault
training     curves by update; unsafe thinking that the guard does not see
confounds    raw and matched differences to the base
probes       early answering
continuation continuation safety by step, cues against turns, harm by replaced steps
prefill      safety after a donor's thought: matrix, lengths, rounds of a reset
pivots       R2D's marks of steps: against the truth, and step by step
thinking     the same prompts with and without thinking
hidden       hidden states of prompts, in two dimensions and from the boundary
data         training data: patterns taken out, perplexity against skill, teachers and students
drift        safety after training on success, predicted and observed

To find a figure's code, search its name (training/obfuscation) in of_runs.py, of_studies.py or
trainers/pocket/figures.py: its entry names the function that draws it. The commands:

    cotlens figures RUN -o DIR        one run, or several side by side
    cotlens figures STUDY -o DIR      one study of `cotlens compare`
    python -m trainers.pocket.report STUDY -o DIR      a pocket study, with figures of its truth
"""

from cotlens.plots.claims import (
    plot_frontier,
    plot_recovery,
)
from cotlens.plots.cognition import (
    plot_behaviours,
    plot_self_reflection,
)
from cotlens.plots.confounds import (
    plot_confounds,
)
from cotlens.plots.continuation import (
    plot_continuation_safety,
    plot_cue_against_turn,
    plot_harm_by_round,
)
from cotlens.plots.data import (
    plot_data_perplexity,
    plot_removals,
    plot_teacher_gains,
)
from cotlens.plots.drift import (
    plot_drift,
)
from cotlens.plots.entropy import (
    plot_entropy_distribution,
    plot_entropy_parts,
    plot_forking_tokens,
    plot_position_entropy,
    plot_reflection_entropy,
)
from cotlens.plots.hidden import (
    plot_hidden_states,
)
from cotlens.plots.judges import (
    plot_detector,
    plot_guard_agreement,
    plot_outcomes,
    plot_safety_by_part,
    plot_thinking_by_answer,
)
from cotlens.plots.lengths import (
    plot_lengths,
)
from cotlens.plots.of_runs import (
    draw_figures,
)
from cotlens.plots.of_studies import (
    draw_study,
)
from cotlens.plots.pivots import (
    plot_pivots,
)
from cotlens.plots.prefill import (
    plot_prefill_length,
    plot_prefill_matrix,
    plot_reset,
)
from cotlens.plots.probes import (
    plot_early_answering,
    plot_probe,
)
from cotlens.plots.reflection import (
    plot_marker_agreement,
    plot_reflection,
    plot_reflection_position,
    plot_transitions,
)
from cotlens.plots.study import (
    plot_measures,
    plot_safety_and_skill,
)
from cotlens.plots.style import (
    Plot,
    save,
)
from cotlens.plots.thinking import (
    plot_thinking_effect,
)
from cotlens.plots.training import (
    plot_obfuscation,
    plot_training,
)
from cotlens.plots.unsafe import (
    plot_onset_recovery,
    plot_risky_patterns,
    plot_self_jailbreak_kinds,
    plot_unsafe_path,
    plot_unsafe_position,
)

__all__ = [
    "Plot",
    "draw_figures",
    "draw_study",
    "plot_behaviours",
    "plot_confounds",
    "plot_continuation_safety",
    "plot_cue_against_turn",
    "plot_data_perplexity",
    "plot_detector",
    "plot_drift",
    "plot_early_answering",
    "plot_entropy_distribution",
    "plot_entropy_parts",
    "plot_forking_tokens",
    "plot_frontier",
    "plot_guard_agreement",
    "plot_harm_by_round",
    "plot_hidden_states",
    "plot_lengths",
    "plot_marker_agreement",
    "plot_measures",
    "plot_obfuscation",
    "plot_onset_recovery",
    "plot_outcomes",
    "plot_pivots",
    "plot_position_entropy",
    "plot_prefill_length",
    "plot_prefill_matrix",
    "plot_probe",
    "plot_recovery",
    "plot_reflection",
    "plot_reflection_entropy",
    "plot_reflection_position",
    "plot_removals",
    "plot_reset",
    "plot_risky_patterns",
    "plot_safety_and_skill",
    "plot_safety_by_part",
    "plot_self_jailbreak_kinds",
    "plot_self_reflection",
    "plot_teacher_gains",
    "plot_thinking_by_answer",
    "plot_thinking_effect",
    "plot_training",
    "plot_transitions",
    "plot_unsafe_path",
    "plot_unsafe_position",
    "save",
]
