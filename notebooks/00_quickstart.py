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
# # Quickstart: from a file of traces to a figure
#
# **Question.** What is in a reasoning trace, and how does it become a table?
#
# **Definition.** A *trace* is one assistant turn: a prompt and a completion, kept byte for byte. Its completion is *split*
# into thinking and answer, the thinking is *segmented* into steps that tile it exactly, and every step is a row.

# %% tags=["parameters"]
TRACES = "../figures/data/sample_traces.jsonl"  # any file or folder that `cotlens info` understands
TRACE_ID = "tank-cut-off"  # in a file that does not have it: the first

# %%
import cotlens as ct

traces = {trace.id: trace for trace in ct.read_traces(TRACES)}
len(traces)

# %% [markdown]
# ## One trace
#
# The status says how the thought ended: `closed`, `open` (cut off before the closing tag, so that there is no answer) or
# `absent`. The one named above ran into its length limit.

# %%
trace = traces[TRACE_ID] if TRACE_ID in traces else next(iter(traces.values()))
split = ct.split_trace(trace)
split

# %% [markdown]
# Its steps. White space belongs to the step before it, a formula stays whole, and an abbreviation ends nothing.

# %%
for step in ct.segment_trace(trace, split):
    print(
        f"{step.index:2}  {step.chars.start:4}:{step.chars.stop:<4}  {step.chars.of(trace.completion)!r}"
    )

# %% [markdown]
# ## All traces
#
# One row per trace, one row per step. `start` and `stop` index the completion; `position` is the middle of the step as a
# share of the thinking.

# %%
table = ct.trace_table(traces.values())
table[["trace_id", "model", "status", "opened_by", "n_think_chars", "n_answer_chars", "n_steps"]]

# %%
steps = ct.step_table(traces.values())
steps[
    ["trace_id", "step", "start", "stop", "kind", "p_reflect", "is_reflection", "is_self_jailbreak"]
].head()

# %% [markdown]
# ## A figure
#
# **What it shows.** Median (dot), quartiles (bar) and 5th to 95th percentile (line) of three lengths, for the two writing
# styles of the sample traces. **What it does not show.** Anything about a model: these traces were written by hand to
# exercise the tool. Replace `TRACES` by a file of yours.

# %%
plot = ct.plots.plot_lengths(table)
plot

# %%
plot.data.round(2)
