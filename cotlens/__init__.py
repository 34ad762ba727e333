"""cotlens: the dynamics of chain-of-thought. A trace goes in, one row per step comes out.

Public names in the order of the flow; each is loaded on first use, so that `import cotlens` is quick.
"""

from importlib import import_module

__version__ = "0.1.0"

_MODULES = {
    "trace": ("Label", "Origin", "Reasoning", "Span", "Trace", "TraceError"),
    "read": ("detect_format", "read_records", "read_traces"),
    "split": ("OpenedBy", "Split", "Status", "Tags", "split_think", "split_trace"),
    "steps": ("Step", "group_paragraphs", "group_runs", "segment", "segment_trace"),
    "reflect": (
        "Kind",
        "WORD_LISTS",
        "classify",
        "count_words",
        "count_token_ids",
        "reflection_dynamics",
        "transitions",
        "word_token_ids",
    ),
    "unsafe": (
        "MARKERS",
        "Marker",
        "Outcome",
        "Refusal",
        "classify_refusal",
        "mark",
        "outcomes",
        "risky_patterns",
        "thinking_by_answer",
        "unsafe_dynamics",
    ),
    "scores": ("Head", "Scores", "score_hidden", "score_logits"),
    "model": ("Model", "ScoredTrace", "answer_early", "load_model", "score_tokens", "wrap_model"),
    "guard": ("Cache", "Item", "Part", "Verdict", "judge"),
    "guard_models": ("LlamaGuard", "Qwen3Guard", "WildGuard", "load_guard"),
    "guard_endpoint": ("EndpointGuard", "StrongRejectGuard"),
    "table": ("SCHEMA", "step_table", "trace_table"),
    "run": ("Run", "add_verdicts", "analyze", "judge_run", "score"),
    "write": ("Export", "write_traces"),
    "generation": ("generate",),
    "entropy": (
        "entropy_bounds",
        "entropy_survival",
        "entropy_threshold",
        "forking_tokens",
        "position_entropy",
        "reflection_entropy",
        "step_entropy",
        "trace_entropy",
        "word_entropy",
    ),
    "stats": (
        "Agreement",
        "Detection",
        "Estimate",
        "agreement",
        "cliffs_delta",
        "compare",
        "corrected_rate",
        "curve",
        "detection",
        "difference",
        "hedges_g",
        "holm",
        "mean",
        "permutation_test",
        "proportion",
        "quantile",
        "ratio",
    ),
    "findings": ("Claim", "confounds", "differences", "measures", "recall_at_splits", "verdicts"),
    "study": ("Study", "read_updates", "study_from_runs", "write_study"),
    "figure": ("Plot", "save"),
    "plot": (
        "plot_lengths",
        "plot_marker_agreement",
        "plot_reflection",
        "plot_reflection_position",
        "plot_transitions",
    ),
    "plot_entropy": (
        "plot_entropy_distribution",
        "plot_entropy_parts",
        "plot_forking_tokens",
        "plot_position_entropy",
        "plot_reflection_entropy",
    ),
    "plot_unsafe": (
        "plot_onset_recovery",
        "plot_risky_patterns",
        "plot_self_jailbreak_kinds",
        "plot_unsafe_path",
        "plot_unsafe_position",
    ),
    "plot_guard": (
        "plot_detector",
        "plot_guard_agreement",
        "plot_outcomes",
        "plot_safety_by_part",
        "plot_thinking_by_answer",
        "thinking_answer_estimates",
    ),
    "plot_study": (
        "branching_measures",
        "plot_branching",
        "plot_confounds",
        "plot_early_answering",
        "plot_instruments",
        "plot_measures",
        "plot_obfuscation",
        "plot_safety_and_skill",
        "plot_training",
        "plot_tries",
    ),
    "gallery": ("draw_figures", "draw_study"),
    "view": ("Page", "show", "view_run"),
}
_HOME = {name: module for module, names in _MODULES.items() for name in names}

__all__ = list(_HOME)


def __getattr__(name: str):
    if name in _HOME:
        return getattr(import_module(f"cotlens.{_HOME[name]}"), name)
    raise AttributeError(f"module 'cotlens' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
