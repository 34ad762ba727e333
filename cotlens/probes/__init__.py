"""Cut a trace, change it, and ask the model again.

early        answer_early: what would the model answer, had it stopped thinking here
"""

from cotlens.probes.early import answer_early

__all__ = ["answer_early"]
