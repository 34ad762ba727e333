"""What does a text do? Texts in, labels out.

This package reads no trace, no run, and no file but its own weights.

tokens       the words of steps, of many traces at once, as numbers
features     hashed words and word pairs of steps, which both classifiers read
language     is_english, languages: the classifiers are not valid on other languages
rules        decide_by_rules: does a step in Chinese or Spanish reflect (phrases: reflection.tsv)
reflect      classify, and decide_kinds for tables: the kind of each step (weights: reflect.npz)
harm         request_harm, thought_harm: is a text about harm (weights: harm.npz; words: topics.tsv)
unsafe       mark: safety markers of each step (weights: unsafe.npz; phrases: cues.tsv)
words        count_words: occurrences of the literature's word lists
answers      stated_answer: the answer that a step states
refusal      classify_refusal: whether an answer refuses
"""
