"""Methods of other papers, each a file that reads as its algorithm.

losses       two losses that TRL does not have: an anchor to the reference, and pivot contrast
Methods of papers that build their training rows from a model's own traces.

ipo: Intervened Preference Optimization, pairs that differ from the step on at which a thought went
wrong; pairs: how such pairs are cut; kl: where in a thought training moved a model.
Training methods of papers: each builds the rows that a trainer takes.

recap    RECAP: prompts of GRPO that end inside a flawed thought
Training methods of papers: each builds the rows that a trainer takes.

masks    which spans of a completion carry loss
causes   why a trace failed: the risk was not noticed, or it was noticed and overridden
checks   self-checks and repaired steps of thinking, and how the student writes its own
fates    what becomes of the traces that are repaired, and a guard as their judge
cog      Chain-of-Guardrails: repair the bad part of a thought, or append a check to it
"""
