"""Methods of other papers, each a file that reads as its algorithm.

selfgen      own samples, filtered: what is kept, and why the rest is not
thinksafe    own safe samples, drawn with an instruction that is not stored
dgr          external traces that the student rewrites itself
command      what the commands of these two share
losses       two losses that TRL does not have: an anchor to the reference, and pivot contrast
"""
