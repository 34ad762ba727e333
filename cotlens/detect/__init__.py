"""What does a text do? Texts in, labels out. Knows no trace, no run and no file but its own weights.

reflect      classify: the kind of each step, and whether it reflects (weights: reflect.npz)
unsafe       mark: safety markers of each step (weights: unsafe.npz; phrases: cues.tsv)
refusal      classify_refusal: does an answer refuse
answers      stated_answer: the answer that a step states
words        named word lists, counted
features     hashed words and word pairs: what both classifiers read
language     is_english: where the classifiers have no ground
"""
