"""Batches of equal cost, on the lengths of real traces."""

from cotlens import read_traces
from cotlens.models.batches import batches


def test_groups_of_like_length_waste_little(data):
    """Under a budget of 32,768 tokens, less than a tenth is padding."""
    traces = read_traces(data / "traces" / "reasoning.jsonl.gz")
    lengths = [len(trace.completion) // 4 + 1 for trace in traces]
    groups = batches(lengths, 32768)
    n_padded = sum(len(group) * lengths[group[0]] for group in groups)
    assert sorted(i for group in groups for i in group) == list(range(len(lengths)))
    assert 1 - sum(lengths) / n_padded < 0.10
