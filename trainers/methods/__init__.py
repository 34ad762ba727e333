"""Methods of other papers, each a file that reads as its algorithm and builds a trainer's rows.

recap    RECAP: prompts of GRPO that end inside a flawed thought
ipo      Intervened Preference Optimization: pairs that differ from the cue of compliance on
pairs    preference pairs cut at a step, between two tokens
kl       where in a thought training moved a model
cog      Chain-of-Guardrails: repair the bad part of a thought, or append a check to it
causes   why a trace failed: the risk was not noticed, or it was noticed and overridden
checks   self-checks and repaired steps of thinking, and how the student writes its own
fates    what becomes of the traces that are repaired, and a guard as their judge
masks    which spans of a completion carry loss
thinksafe  own safe samples, drawn with an instruction that is not stored
dgr      external traces that the student rewrites itself
sft_study  six kinds of response to the same prompts, and rows with a pattern taken out
selfgen  own samples, filtered: what is kept, and why the rest is not
command  what the commands of these share
rlvr     rewards that can be verified, and nothing on safety
r2d      Reasoning-to-Defend: thoughts whose steps end with a verdict on them
pivots   R2D's pivots as words of a tokenizer and its network, and margins between them
losses   two losses that TRL does not have: an anchor to the reference, and pivot contrast
"""
