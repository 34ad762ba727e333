# ---
# jupyter:
#   jupytext:
#     formats: py:percent,ipynb
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Token entropy
#
# **Question.** Where in its thinking is a model uncertain, and what does training do to that?
#
# **Definition.** H = -sum p ln p over the whole vocabulary, at each token of the completion, in nats, from raw logits at temperature 1
# (docs/entropy.md). A scored run holds it for every token; `cotlens score RUN --model MODEL` makes one. How the main paper computes and
# plots entropy is not public; this is a reconstruction.
#
# The runs below are of the pocket world (docs/pocket.md): a base model and two checkpoints trained from it, on the same forbidden
# requests. Put your own scored runs in their place.

# %% tags=["parameters"]
RUNS = [
    f"../figures/data/pocket_runs/{arm}" for arm in ("base", "teacher_mixed_sft", "grpo")
]  # the base first
SCORER = "own"  # whose scores: each checkpoint's own, on its own samples; if not there: the only scorer's

# %%
from pathlib import Path

import pandas as pd

import cotlens as ct

runs = {Path(path).name: ct.open_run(path) for path in RUNS}
assert len(runs) == len(RUNS), "two runs have the same name"
scores = {
    arm: run.score_table(SCORER if SCORER in run.scorers else "") for arm, run in runs.items()
}
tables = {
    arm: (run.trace_table().assign(arm=arm), run.step_table(), scores[arm])
    for arm, run in runs.items()
}
names = list(runs)
base, last = names[0], names[-1]
runs[base]

# %% [markdown]
# ## How much, in which part
#
# **Shows** the mean entropy of thinking and answer, each trace counting alike. **Does not show** that a checkpoint is more certain about
# the same text: each wrote its own.

# %%
traces = pd.concat(
    [ct.measures.trace_entropy(*three) for three in tables.values()], ignore_index=True
)
traces["trace_id"] = traces["arm"] + ":" + traces["trace_id"]
ct.plots.plot_entropy_parts(traces, "arm")

# %% [markdown]
# ## Where
#
# **Shows** mean entropy along the thinking. High points are places where the writer chooses, low stretches are spelled out.

# %%
position = pd.concat(
    [
        ct.measures.position_entropy(t, own).merge(
            t[["trace_id", "prompt_id", "arm"]], on="trace_id"
        )
        for t, _, own in tables.values()
    ]
)
ct.plots.plot_position_entropy(position, "arm")

# %% [markdown]
# ## Around reflections
#
# **Shows** entropy before, at and after the first token of a reflecting step, less that of other steps' first tokens. Whether
# a step reflects is the classifier's word (docs/detectors.md).

# %%
around = pd.concat(
    [
        ct.measures.reflection_entropy(steps, own).merge(
            t[["trace_id", "prompt_id", "arm"]], on="trace_id"
        )
        for t, steps, own in tables.values()
    ]
)
ct.plots.plot_reflection_entropy(around, "arm")

# %% [markdown]
# ## Forking tokens
#
# **Shows** the words at which the base is most uncertain. A token above the base's 80th percentile counts as high-entropy, for every
# checkpoint, so that the share can move.

# %%
texts = runs[base].trace_table(["trace_id", "think_spans", "completion"])
ct.plots.plot_forking_tokens(
    ct.measures.forking_tokens(ct.measures.word_entropy(texts, scores[base]))
)

# %%
high = ct.measures.entropy_threshold(scores[base])
shares = {
    arm: ct.measures.trace_entropy(*three, high=high)["share_high"].mean()
    for arm, three in tables.items()
}
pd.Series(shares, name=f"share of thinking tokens above {high:.3f} nats").round(3)

# %% [markdown]
# ## A difference, and what is left of it
#
# The last checkpoint's less the base's mean entropy of thinking: raw, at equal length, and within each way the thought ended. The
# same prompts, so pairs. On one common text, see notebook 04.

# %%
ct.stats.matched_difference(traces, "entropy_think", last, base, by="arm").round(
    3
) if last != base else "one run: nothing to compare"
