"""Cut a trace, change it, and ask the model again; and how deep does its reflection go?

early        answer_early: what would the model answer, had it stopped thinking here
prefix       thought_prefixes: beginnings of a thought, inside it and between two tokens
recovery     recover: after an injected mistake, does it go back, and is it right
payoff       pay_off: how much less often it is right without the first tokens of reflections
returns      miss_table, return_table: returns per miss, depth, counts, of what it writes itself
hidden       prompt_states: the hidden state of a prompt's last token, before a model thinks

recovery, payoff and returns measure reflective depth, in the order of what they prove.
"""

from cotlens.probes.early import answer_early
from cotlens.probes.hidden import prompt_states
from cotlens.probes.payoff import PayOff, first_token_ids, pay_off
from cotlens.probes.recovery import (
    Recovery,
    grade_answer,
    recover,
    recovery_table,
    reflects_next,
)
from cotlens.probes.returns import miss_table, return_table

__all__ = [
    "PayOff",
    "Recovery",
    "answer_early",
    "first_token_ids",
    "grade_answer",
    "miss_table",
    "pay_off",
    "prompt_states",
    "recover",
    "recovery_table",
    "reflects_next",
    "return_table",
]
