"""Training methods of papers: each builds the rows that a trainer takes.

recap    RECAP: prompts of GRPO that end inside a flawed thought
"""
