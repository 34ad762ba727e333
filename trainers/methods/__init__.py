"""Training methods of papers: each builds the rows that a trainer takes.

masks    which spans of a completion carry loss
causes   why a trace failed: the risk was not noticed, or it was noticed and overridden
checks   self-checks and repaired steps of thinking, and how the student writes its own
fates    what becomes of the traces that are repaired, and a guard as their judge
cog      Chain-of-Guardrails: repair the bad part of a thought, or append a check to it
"""
