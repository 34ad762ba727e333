"""Methods of other papers, each a file that reads as its algorithm.

rlvr         rewards that can be verified, and nothing on safety (arXiv 2511.21050)
losses       two losses that TRL does not have: an anchor to the reference, and pivot contrast
"""
