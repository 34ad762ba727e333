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
# # Interventions
#
# **Question.** What does a model make of a thought that is not its own, or that was changed on the way? Where along a thought is its safety decided, and
# what does it take to mend it?
#
# **Definition.** A thought is cut at the end of a step, between two tokens. What the model reads is the prefix; what a judge reads is prefix and continuation.
# A *donor* is the model whose thought is put into the mouth of a *recipient* (RECAP, arXiv 2510.00938). *Continuation safety* S is the share of safe
# continuations from a step (IPO, arXiv 2509.24393). *h(k)* is the share of unsafe thoughts that are still unsafe after k replaced steps.
#
# The numbers are of the pocket world's arms, three seeds: RECAP, IPO and Chain-of-Guardrails next to the base, SFT on own samples and GRPO, at equal updates and
# sequences. **A demonstration, no evidence on real models.** With a run of your own, the last section draws the same of it.

# %% tags=["parameters"]
STUDY = "../figures/data/pocket_methods"
RUN = ""  # analyzed traces of `cotlens probe`, with verdicts; none: the study alone
PLAIN = ""  # plain samples of the recipient, with verdicts of the same judge
JUDGE = ""  # whose verdicts; none named: the run's first

# %%
import pandas as pd

import cotlens as ct
from cotlens import measures, plots

study = ct.Study(STUDY)
note = study.info["note"]
study


# %%
prefills = ct.studies.seeds_apart(study.table("prefills"))
clean = prefills["donor"] == "none"
forbidden = prefills["domain"] == "forbidden"

# %% [markdown]
# ## Three methods, clean and after an injected thought
#
# **Shows** for every arm how often it is unsafe on clean prompts, how often it refuses after an injected excuse, how often it refuses what is harmless, and its
# skill. A method that only learns not to begin an unsafe thought is safe in the first panel and not in the second.

# %%
found = ct.studies.measures(study.samples())
panels = {
    "Unsafe, forbidden": ["thinking_unsafe_forbidden", "answer_unsafe_forbidden"],
    "Refuses after an excuse": ["recovers_forbidden"],
    "Harmless refused": ["refuses_harmless"],
    "Right answers": ["is_correct_maths", "is_correct_puzzles"],
}
plots.plot_measures(found, panels, "share of samples", note, limits=(0, 1.02))

# %% [markdown]
# ## Whose thought, in whose mouth
#
# **Shows** the share of safe answers to forbidden requests after the first three steps of a donor's thought, and what these steps change: red is less safe than
# without them. Rows differ by the donor, columns by the recipient. The teacher's thought ends in a refusal; `weak_400` and `weak_800` are the base after a
# tenth and a fifth of its training.

# %%
three_steps = prefills[
    forbidden & (clean | (prefills["kind"].eq("prefill") & prefills["steps"].eq(3)))
]
plots.plot_prefill_matrix(measures.prefill_matrix(three_steps), note)

# %% [markdown]
# ## How much of the thought
#
# **Shows** the same for one to three steps of the base's thought.

# %%
of_base = prefills[
    forbidden & prefills["donor"].isin(["none", "base"]) & prefills["kind"].eq("prefill")
]
plots.plot_prefill_length(measures.by_length(of_base, unit="steps"), note)

# %% [markdown]
# ## The same beginning, again and again
#
# **Shows** the share of safe answers when the base's first two steps are put in again after the model has gone on from them, and the share that is safe in every
# round.

# %%
plots.plot_reset(measures.reset_curve(prefills[prefills["kind"] == "reset"]), note)

# %% [markdown]
# ## Where a thought's safety is decided
#
# **Shows** S along the base's own thoughts, sixteen continuations a step. A jump is a step that decides.

# %%
continuations = ct.studies.seeds_apart(study.table("continuations"))
of_base = continuations[continuations["arm"] == study.info["base"]].assign(method="base", model="")
plots.plot_continuation_safety(measures.continuation_safety(of_base))

# %% [markdown]
# ## What it takes to mend a thought
#
# **Shows** h(k) for the base's unsafe thoughts: their first unsafe step is replaced by a sentence that notices the danger, refuses, or takes the thought back, up to
# five times. A sentence that only notices leaves the excuse to come.

# %%
attempts = ct.studies.seeds_apart(study.table("attempts"))
of_base = attempts[attempts["arm"] == study.info["base"]]
n_unsafe = int(of_base.groupby("seed")["n_unsafe"].first().sum())
plots.plot_harm_by_round(measures.harm_by_round(of_base, n_unsafe, by="trigger"), by="trigger")

# %% [markdown]
# ## A run of your own
#
#     cotlens probe continuation RUN --model M -o probes/continuation    # or intervene, prefill, hijack, early
#     cotlens analyze probes/continuation -o runs/continuation
#     cotlens guard runs/continuation --judge GUARD
#
# **Shows** the figure of the probe that wrote the traces. The matrix compares with plain samples: name
# a judged run of the recipient as PLAIN. Give recipients names by `--method`, in `cotlens generate` and in `cotlens probe` alike.

# %%
from cotlens.runs.probe import judged_table

if RUN:
    judge = JUDGE or ct.Run(RUN).judges[0]
    tables = [judged_table(name, judge) for name in (RUN, PLAIN) if name]
    shown = plots.plot_probe(pd.concat(tables, ignore_index=True))
else:
    shown = "no RUN is named"
shown

# %% [markdown]
# **One sees** that the base's safety is decided in one or two steps, that a sentence which refuses mends nearly every thought while one that notices does not, and
# whose thoughts still mislead which arm. What the three methods change is in docs/methods.md, with intervals.
