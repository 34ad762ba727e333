"""Cut a trace, change it, and ask the model again; and how deep does its reflection go?

cut          cut_thought, step_cuts: where a thought can be cut between two tokens
early        answer_early, early_answers: what would the model answer, had it stopped thinking here
prefix       thought_prefixes: beginnings of a thought, inside it and between two tokens
intervene    intervene: replace a step, go on from there, look again
continuation continue_steps: continuations from the end of each step
prefill      prefill, hijack, reset: the thought of one model in the mouth of another
recovery     recover: after an injected mistake, does it go back, and is it right
cues         first_cue, no_cue_left, TRIGGERS: interventions where a thought means to comply
payoff       pay_off: how much less often it is right without the first tokens of reflections
returns      miss_table, return_table: returns per miss, depth, counts, of what it writes itself
hidden       prompt_states: the hidden state of a prompt's last token, before a model thinks

recovery, payoff and returns measure reflective depth, in the order of what they prove.
"""

from cotlens.probes.continuation import (
    continue_steps,
)
from cotlens.probes.cues import (
    TRIGGERS,
    first_cue,
    no_cue_left,
    say,
)
from cotlens.probes.cut import (
    cut_thought,
    end_of_step,
    joined,
    step_cuts,
    thought_until,
)
from cotlens.probes.early import (
    answer_early,
    early_answers,
)
from cotlens.probes.hidden import (
    prompt_states,
)
from cotlens.probes.intervene import (
    Attempt,
    intervene,
)
from cotlens.probes.payoff import (
    PayOff,
    first_token_ids,
    pay_off,
)
from cotlens.probes.prefill import (
    hijack,
    prefill,
    reset,
)
from cotlens.probes.prefix import (
    thought_prefixes,
)
from cotlens.probes.recovery import (
    Recovery,
    grade_answer,
    recover,
    recovery_table,
    reflects_next,
)
from cotlens.probes.returns import (
    miss_table,
    return_table,
)

__all__ = [
    "TRIGGERS",
    "Attempt",
    "PayOff",
    "Recovery",
    "answer_early",
    "continue_steps",
    "cut_thought",
    "early_answers",
    "end_of_step",
    "first_cue",
    "first_token_ids",
    "grade_answer",
    "hijack",
    "intervene",
    "joined",
    "miss_table",
    "no_cue_left",
    "pay_off",
    "prefill",
    "prompt_states",
    "recover",
    "recovery_table",
    "reflects_next",
    "reset",
    "return_table",
    "say",
    "step_cuts",
    "thought_prefixes",
    "thought_until",
]
