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
# # Reflection dynamics
#
# **Question.** How often do models look back at their own reasoning, where in the thought, and what do they do next?
#
# **Definition.** A step *reflects* when it doubts, backtracks, turns to an alternative, verifies or assesses (docs/codebook.md).
# The decision is a classifier's, whose precision and recall against people stand in docs/detectors.md: F1 0.64 on
# ReasoningFlow, 0.65 on Schoenfeld's set, where lists of words reach 0.43 and 0.36. The main paper's own way of counting is
# not public; this is a reconstruction.

# %% tags=["parameters"]
RUN = "../figures/data/real"  # a run directory, made by `cotlens analyze FILE -o RUN`
BY = "model"
PAIR = (
    "DeepSeek-R1-Distill-Llama-8B",
    "DeepSeek-R1-Distill-Qwen-1.5B",
)  # two groups of BY; if not there: the largest

# %%
import cotlens as ct

run = ct.open_run(RUN)
steps = run.step_table()
dynamics = ct.measures.reflection_dynamics(steps, run.trace_table())
dynamics[
    ["n_reflect", "share_reflect", "longest_run", "n_episodes", "mean_gap", "first_reflect"]
].describe().round(2)

# %% [markdown]
# ## How much
#
# **Shows** count, rate and share by model. **Does not show** that one model reflects more than another: each answered other
# prompts. For that, give every model the same prompts and use `compare`.

# %%
ct.plots.plot_reflection(dynamics, BY)

# %% [markdown]
# ## Where
#
# **Shows** the share of reflecting steps along the thinking, for the six groups with the most traces. The bands are pointwise.
# A trace that was cut off ends early, so its 1.0 is not the end of a thought.

# %%
ct.plots.plot_reflection_position(run.step_table(with_traces=["prompt_id", BY]), BY)

# %% [markdown]
# ## What next
#
# **Shows**, for each kind of step, what the next one is. The kinds left of and above the lines are reflection.

# %%
ct.plots.plot_transitions(steps)

# %% [markdown]
# ## Words against classifier
#
# **Shows** how many of the steps that either marks are marked by both. People side with the classifier more often than with
# the lists (docs/detectors.md), and with neither always.

# %%
ct.plots.plot_marker_agreement(steps)

# %% [markdown]
# ## A comparison that means something
#
# Two groups, raw, at equal length of thinking, and within each way the thought ended. `n_shared` counts prompts that both
# answered: where it is 0, nothing is paired and the difference may be one of prompts.

# %%
known = dynamics.loc[dynamics["share_reflect"].notna(), BY].value_counts()
pair = PAIR if set(PAIR) <= set(known.index) else known.index[:2]
ct.stats.matched_difference(dynamics, "share_reflect", *pair, by=BY).round(3) if len(
    pair
) == 2 else "one group: nothing to compare"
