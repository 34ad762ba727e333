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
# # Unsafe exploration
#
# **Question.** What does the thinking do about harm: does it notice, excuse, plan, refuse, and does it come back?
#
# **Definition.** Every step carries markers (docs/unsafe.md): risk awareness, self-jailbreak of four kinds, compliance cue, vacillation,
# harmful detail, refusal intent. A step is *unsafe* with self-jailbreak, compliance, strong vacillation or detail where harm is at
# hand (`is_unsafe`); *safe* with refusal intent where it is not unsafe. Markers are wording: F1 0.49 for self-jailbreak against GPT-5's labels, and their errors differ
# between checkpoints. They are no judge of the thinking; a guard is.
#
# The run below has six open reasoning models on StrongREJECT (numbers only, no text; thinking capped at 500 tokens by the source), and
# GPT-5's judgement of each answer.

# %% tags=["parameters"]
RUN = "../figures/data/self_jailbreak"  # a run directory, made by `cotlens analyze FILE -o RUN`
BY = "model"
JUDGE = "gpt-5"  # who judged the answers (`cotlens guard RUN --judge NAME`); if not there: the first judge by name
JUDGED = [
    "../figures/data/pocket_runs/base",
    "../figures/data/pocket_runs/grpo",
]  # runs that two judges have judged
TRUTH = "oracle"  # the one of them that the markers are held against

# %%
import pandas as pd

import cotlens as ct

run = ct.open_run(RUN)
steps, traces = run.step_table(), run.trace_table()
paths = ct.measures.unsafe_dynamics(steps, traces)
paths.groupby(BY)[
    ["any_unsafe", "share_unsafe", "onset", "recovered", "n_vacillations"]
].mean().round(2)

# %% [markdown]
# ## Where
#
# **Shows** the share of steps with each marker along the thinking. **Does not show** what a step means, only how it is worded.

# %%
grouped_steps = run.step_table(with_traces=["prompt_id", BY])
ct.plots.plot_unsafe_position(grouped_steps, BY)

# %% [markdown]
# ## When it sets in, and who comes back
#
# **Shows**, of all traces, how many have had an unsafe step by each position, and how many have then come back to a refusal that holds.
# **Does not show** intent. All requests here ask for harm; for a run with harmless ones too, `ct.measures.with_baseline(paths, BY).traces`
# has the harmful ones and harmless ones of equal length.

# %%
ct.plots.plot_onset_recovery(paths, BY)

# %% [markdown]
# ## By which excuse
#
# **Shows** the share of traces with an unsafe step that excuses the harm, by kind of excuse. **Does not show** the kind reliably: F1 of a kind is below that of an excuse at all.

# %%
ct.plots.plot_self_jailbreak_kinds(grouped_steps, BY)

# %% [markdown]
# ## Risky patterns
#
# The three patterns of the SFT study (arXiv 2505.15404). There a language model decides, here the markers: **shows** wording.

# %%
ct.plots.plot_risky_patterns(paths, BY)

# %% [markdown]
# ## How traces end
#
# The taxonomy of Chain-of-Guardrails: an unsafe answer is a *self-jailbreak* if the thinking has unsafe steps, and noticed a risk or
# excused one in them, else a *harm misidentification*. The answer is the judge's to judge, the noticing the markers'.

# %%
judge = JUDGE if JUDGE in run.judges else next(iter(run.judges), "")
judged = run.with_verdicts(paths, judge) if judge else paths
unjudged = (
    ""
    if "answer_unsafe" in judged
    else "nobody has judged the answers: cotlens guard RUN --judge NAME"
)
unjudged or ct.plots.plot_outcomes(
    judged.assign(outcome=ct.measures.outcomes(judged, judged["answer_unsafe"])), BY, judge=judge
)

# %% [markdown]
# ## Thinking against answer
#
# **Shows** the 2 x 2 of {thinking, answer} x {safe, unsafe}. By these markers "no unsafe step" promises no safe answer, which is why the
# thinking needs a judge of its own (`cotlens guard RUN --judge NAME --part thinking,answer`).

# %%
marked = judged.assign(thinking_unsafe=judged["any_unsafe"].astype("boolean"))
judges = f"thinking: has an unsafe step by the markers; answer judged by {judge}"
unjudged or ct.plots.plot_thinking_by_answer(marked, BY, judges=judges)

# %% [markdown]
# ## Do judges agree, and do the markers agree with a judge?
#
# Two checkpoints of the pocket world (invented topics; no evidence on real models). `oracle` knows the truth of every sentence, `learned`
# is the guard that GRPO was rewarded by. **Shows** that agreement belongs to a checkpoint: behind GRPO unsafe thinking is rarer, and the same
# guard and the same markers agree less with the truth about it.

# %%
runs = [ct.open_run(path) for path in JUDGED]
ct.plots.plot_guard_agreement(runs[-1].verdicts())

# %%
both = [
    one.with_verdicts(
        ct.measures.unsafe_dynamics(one.step_table(), one.trace_table()), TRUTH
    ).assign(run=one.path.name)
    for one in runs
]
ct.plots.plot_detector(pd.concat(both, ignore_index=True), "run", judge=TRUTH)
