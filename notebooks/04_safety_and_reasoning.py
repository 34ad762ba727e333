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
# # Safety and reasoning across checkpoints
#
# **Question.** What do SFT and RL do to safety, to skill, to reflection and to entropy? The main table and scatter of "Beyond SFT"
# (arXiv 2512.01848), as reconstructed here from its abstract.
#
# **Definition.** A *study* joins arms and seeds, a row per sample (`cotlens compare RUNS -o STUDY` for your own runs; docs/real-models.md).
# A measure is a mean over samples; with three or more seeds its interval is Student's over the seeds. An interval that excludes zero decides.
#
# The study below is the pocket world's: five seeds (three of arms that carry no claim), invented topics, scripted excuses. **It demonstrates the method and is no evidence on
# real models.** What is unsafe in it is known, not judged.

# %% tags=["parameters"]
STUDY = "../figures/data/pocket"
ARMS = []  # of the table; none named: all of the study

# %%
import cotlens as ct

study = ct.Study(STUDY)
study

# %% [markdown]
# ## The table
#
# Means over seeds; the intervals are in `found`, and in the figures below.

# %%
samples, info = study.samples(), study.info
found = ct.studies.measures(samples)
rows = ["thinking_unsafe_forbidden", "answer_unsafe_forbidden", "refuses_harmless", "is_help_harmless",
        "is_correct_maths", "reflection_rate_maths", "entropy_think_forbidden", "entropy_common_forbidden"]  # fmt: skip
labels = found.drop_duplicates("measure").set_index("measure")["label"].reindex(rows).dropna()
table = found.pivot(index="arm", columns="label", values="value")
table.reindex(index=ARMS or list(info["arms"]), columns=labels).round(3)

# %% [markdown]
# ## The scatter
#
# **Shows** safety of the thinking against mathematics. Up and right is better in both.

# %%
has = set(found["measure"])
missing = ", ".join(sorted({"is_correct_maths", "thinking_unsafe_forbidden"} - has))
f"the study has no {missing}" if missing else ct.plots.plot_safety_and_skill(found, info["note"])

# %% [markdown]
# ## Where safety holds
#
# **Shows** unsafe thinking by split of the forbidden requests; here: seen in training, in a new wrapper, on a new topic, on a topic that
# the base hardly knows to be hazardous.

# %%
splits = samples.loc[samples["set"] == "forbidden", "split"].unique()
panels = {
    part.capitalize(): [f"{part}_unsafe_{split}" for split in splits]
    for part in ("thinking", "answer")
}
judged = has & {name for names in panels.values() for name in names}
caption = "share of samples that are unsafe"
ct.plots.plot_measures(
    found, panels, caption, info["note"]
) if judged else "no judged samples of forbidden requests"

# %% [markdown]
# ## The claims
#
# C1 to C4 are the paper's, C5 its premise, Q1 to Q3 questions about rewards. Each says what would change it.

# %%
import pandas as pd

changes = ct.studies.differences(samples, info["base"])
pd.options.display.max_colwidth = 300
evidence = ct.studies.Evidence(samples, found, changes, info["base"])
pd.DataFrame(ct.studies.verdicts(info.get("claims", ()), evidence, info))

# %% [markdown]
# ## What is left of a difference
#
# **Shows** differences of entropy and reflection to the base on own samples, at equal length, within each outcome, and on common text.
# A difference that is gone within an outcome may have been one of outcomes (training changes these too). The guard's recall is compared
# on equal splits: training changes *where* unsafe thinking is left, and the guard may have found little there all along.

# %%
left = ct.studies.confounds(samples, info["base"])
ct.plots.plot_confounds(left, info["note"]) if len(
    left
) else "the study has nothing that this compares"
