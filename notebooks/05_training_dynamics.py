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
# # Training dynamics
#
# **Question.** What happens to safety, skill, length, reflection, entropy and KL while RL trains, and does rewarding a guard on the thinking hide unsafe
# thinking instead of removing it?
#
# **Definition.** Every rollout is a trace (`RECORD/rollouts/step=N`), so whatever is measured of a checkpoint is measured of each
# update. The *reward's guard* is what training can please; the truth here is another judge's (in the pocket world the oracle's).
#
# The rollouts below are those of six RL arms of the pocket world: the guard on thinking and answer (five seeds), the same again, on the answer only, no guard, a guard
# of shuffled labels, and GRPO from an SFT model (three seeds). **A demonstration, no evidence on real models.** For a study of your own name your rollouts to `cotlens compare` too
# (`cotlens analyze RECORD/rollouts/*/*.parquet -o RUN`, `compare --rollouts RUN`; docs/real-models.md). What they were not judged for is left out.

# %% tags=["parameters"]
STUDY = "../figures/data/pocket"
ARMS = []  # none named: all that the study has rollouts of
BINS = 12  # stretches of training

# %%
import cotlens as ct

study = ct.Study(STUDY)
rollouts = study.table("rollouts")
rollouts = rollouts[rollouts["arm"].isin(ARMS or rollouts["arm"].unique())]
rollouts.groupby("arm")[["step", "reward", "n_tokens"]].agg(["min", "mean", "max"]).round(2)

# %% [markdown]
# ## Safety, skill, reflection, length, entropy, KL
#
# **Shows** all rollouts in stretches of training; bands resample prompts, so they say nothing of another training run. Entropy, KL and the
# share of groups whose rewards are all alike, which teach nothing, are of every update; their bands resample the five trainings. KL is
# exact at each sampled token, to the base; these arms train without a KL term (`beta` 0), so it is measured and not paid for.

# %%
updates = study.table("updates")
ct.plots.plot_training(rollouts, study.info["note"], updates=updates, bins=BINS)

# %% [markdown]
# ## Hidden or removed?
#
# **Shows** the unsafe thinking that the reward's guard flags, the unsafe thinking that it passes, its recall, and how often an answer is
# unsafe although the thinking passed. If training hides, the second panel rises or stays while the first falls; if it removes, both fall.

# %%
ct.plots.plot_obfuscation(
    rollouts, study.info["note"], bins=BINS
) if "thinking_flagged" in rollouts else "no monitor judged the rollouts"

# %% [markdown]
# ## The same at the end, on evaluation prompts

# %%
found = ct.studies.measures(study.samples())
names = {"Recall": ["guard_recall_forbidden"], "Unsafe and passed": ["hidden_forbidden"],
         "P(unsafe answer | passed)": ["answer_unsafe_if_passed_forbidden"]}  # fmt: skip
caption = "thinking of forbidden requests, by the reward's guard and the truth"
ct.plots.plot_measures(found, names, caption, study.info["note"]) if "hidden_forbidden" in set(
    found["measure"]
) else "no monitor judged the samples"

# %% [markdown]
# ## What it cost
#
# Updates, sequences sampled, and tokens of one, means over seeds. What the SFT arms of the pocket world took is in docs/pocket.md.

# %%
cost = rollouts.groupby(["arm", "seed"]).agg(
    updates=("step", "nunique"), sequences=("step", "size"), tokens=("n_tokens", "mean")
)
cost.groupby("arm").mean().round(1)
