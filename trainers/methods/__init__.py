"""Methods of other papers, each a file that reads as its algorithm.

losses       two losses that TRL does not have: an anchor to the reference, and pivot contrast
pivots       R2D's pivots as words of a tokenizer and its network, and margins between them
r2d          Reasoning-to-Defend: thoughts whose steps end with a verdict on them
"""
