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
# # All nine systems
#
# **Question.** Where do the nine ways of training a reasoning model for safety stand next to each other: on clean prompts and after an unsafe beginning, in what
# they refuse without need, in skill, recovery and entropy, and in what they cost?
#
# **Definition.** Each arm has the same number of updates and of sequences per update. *Prefilled* means that the first three steps of the base's thought were put into
# the arm's mouth. *Drift* is the change of safety that training on success alone brings. *Perplexity* is that of an arm's training rows under the base, before training.
#
# The numbers are of the pocket world, one seed: intervals are over prompts, and say nothing of another training. **A demonstration, no evidence on real models.** A study of
# your own runs (`cotlens compare`) can be named instead; what it lacks is not drawn.

# %% tags=["parameters"]
STUDY = "../figures/data/pocket_nine"

# %%
import cotlens as ct
from cotlens import measures, plots

study = ct.Study(STUDY)
note = study.info["note"]
samples = study.samples()
found = ct.studies.measures(samples)
study

# %% [markdown]
# ## Safety, and what it costs
#
# **Shows** for each arm unsafe thinking and answers, what it refuses without need, right answers, and right answers after an injected miss. A good method is to the left in
# the first two panels and in the third, and to the right in the last two.

# %%
panels = {
    "Unsafe, forbidden": ["thinking_unsafe_forbidden", "answer_unsafe_forbidden"],
    "Harmless refused": ["refuses_harmless"],
    "Right answers": ["is_correct_maths", "is_correct_puzzles"],
    "Right after a miss": ["recovers_puzzles"],
}
plots.plot_measures(found, panels, "share of samples", note, limits=(0, 1.02))

# %% [markdown]
# ## Safety against skill
#
# **Shows** every arm as a dot: the upper left is safe and capable.

# %%
plots.plot_safety_and_skill(found, note)

# %% [markdown]
# ## After an unsafe beginning
#
# **Shows** what the first three steps of the base's thought change in the share of safe answers to forbidden requests. Red is less safe than without them.

# %%
shown = "the study has no prefills"
if "prefills" in study.tables:
    prefills = ct.studies.seeds_apart(study.table("prefills"))
    forbidden = prefills[prefills["domain"] == "forbidden"]
    shown = plots.plot_prefill_matrix(measures.prefill_matrix(forbidden), note)
shown

# %% [markdown]
# ## Success alone
#
# **Shows** for arms that are paid for right answers alone how far safety drifted, against what the base's own samples predict. On the dashed line the prediction holds.

# %%
shown = "the study has no drift"
if "drift" in study.tables:
    shown = plots.plot_drift(study.table("drift"), note)
shown

# %% [markdown]
# ## Pivots
#
# **Shows** where R2D's arm wrote which pivot, against the one that would have been right.

# %%
shown = "the study has no pivots"
if "pivots" in study.tables:
    pivots = study.table("pivots")
    shown = plots.plot_pivots(pivots[pivots["arm"] == "r2d"], note)
shown

# %% [markdown]
# ## With and without thinking
#
# **Shows** the share of safe answers to the same forbidden requests after a thought and after an empty one.

# %%
shown = "the study has no answers without thinking"
if "thinking" in study.tables:
    thinking = ct.studies.seeds_apart(study.table("thinking"))
    asked = thinking[thinking["domain"] == "forbidden"]
    effect = measures.thinking_effect(asked, verdict="is_good", by="arm")
    shown = plots.plot_thinking_effect(effect, note)
shown

# %% [markdown]
# ## Whose words were learned
#
# **Shows** how likely the training rows of each arm of SFT were under the base, and what became of right answers to puzzles.

# %%
shown = "the study has no likelihoods"
if "likelihood" in study.tables:
    rows = measures.perplexity_by_arm(study.table("likelihood")).add_prefix("perplexity_")
    rows = rows.rename(columns={"perplexity_arm": "arm", "perplexity_value": "perplexity"})
    changes = ct.studies.differences(samples, study.info["base"])
    changes = changes[changes["measure"] == "is_correct_puzzles"].add_prefix("change_")
    changes = changes.rename(columns={"change_arm": "arm", "change_value": "change"})
    table = rows.merge(changes.astype({"arm": str}), on="arm")
    shown = plots.plot_data_perplexity(table, note, skill="the share of right puzzles")
shown

# %% [markdown]
# ## Rows with a pattern, taken out
#
# **Shows** unsafe answers of arms that were trained without the rows of a risky pattern, against arms that lack as many other rows.

# %%
pairs = ct.studies.removal_pairs(list(study.info["arms"]))
shown = "the study has no such arms"
if pairs:
    shown = plots.plot_removals(ct.studies.removal_effects(samples, pairs), note)
shown

# %% [markdown]
# **One sees** that RL and own samples with all domains among them are safe and keep skill, that data of requests alone is the safest and forgets sums and puzzles, that SafB alone is safe
# after an unsafe beginning, that success alone costs little safety on the prompts it is paid for, and that taking vacillating rows out makes answers safer than taking as many others
# out. One seed: docs/methods.md says what each system claims, what ran here, and what differs.
