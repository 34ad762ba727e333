"""Methods of other papers, each a file that reads as its algorithm.

losses       two losses that TRL does not have: an anchor to the reference, and pivot contrast
"""
