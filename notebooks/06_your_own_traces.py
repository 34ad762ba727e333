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
# # Your own traces: from a file of any tool to a figure
#
# **Question.** What does cotlens make of the files that trainers, servers and harnesses leave, and what can each of them not tell?
#
# **Definition.** The first row of a file decides its *format* (docs/traces.md has the table). A reader keeps the text byte for byte, and token
# ids, log-probs and finish reasons where the source has them. The rows below say the same two sentences in the shapes of several tools;
# put a path of yours in `FILE`.

# %% tags=["parameters"]
FILE = "../figures/data/sample_traces.jsonl"  # JSON lines or an array, gzipped or not, parquet, a data set on disk, a folder
RUN = "../runs/your_traces"  # the run directory that is made of it

# %%
import pandas as pd

import cotlens as ct
from cotlens.formats.read import detect_format, read_records

detect_format(FILE).name, detect_format(FILE).lacks

# %% [markdown]
# ## One turn in many shapes
#
# **Shows** the format that is found, and what the split makes of it: `opened_by` says whether the thought was opened in the text, by the
# prompt, or by a source with separate fields; `status` whether it was closed.

# %%
THOUGHT, ANSWER, ASKED = "Let me see. Wait, is that right? Yes.", "It is 4.", "What is 2 + 2?"
TEXT = f"<think>\n{THOUGHT}\n</think>\n\n{ANSWER}"
rows = {
    "plain, tags in the text": {"prompt": ASKED, "completion": TEXT},
    "plain, opened in the prompt": {"prompt": f"<|User|>{ASKED}<|Assistant|><think>\n", "completion": TEXT[8:]},
    "plain, cut off": {"prompt": ASKED, "completion": TEXT[:30], "finish_reason": "length"},
    "fields": {"prompt": ASKED, "thinking": THOUGHT, "answer": ANSWER},
    "chat messages": {"messages": [{"role": "user", "content": ASKED}, {"role": "assistant", "reasoning_content": THOUGHT, "content": ANSWER}]},
    "typed blocks": {"messages": [{"role": "user", "content": ASKED}, {"role": "assistant", "content": [{"type": "thinking", "thinking": THOUGHT}, {"type": "text", "text": ANSWER}]}]},
    "a server's response": {"choices": [{"message": {"role": "assistant", "content": TEXT}, "finish_reason": "stop"}], "model": "m"},
    "gpt-oss": {"prompt": ASKED, "completion": f"<|channel|>analysis<|message|>{THOUGHT}<|end|><|start|>assistant<|channel|>final<|message|>{ANSWER}<|return|>"},
    "verl": {"input": ASKED, "output": TEXT, "score": 1.0, "step": 3},
    "TRL's log": {"step": 3, "prompt": ASKED, "completion": TEXT, "accuracy_reward": 1.0, "advantage": 0.5},
}  # fmt: skip
traces = {name: next(iter(read_records([row]))) for name, row in rows.items()}

# %%
table = []
for name, trace in traces.items():
    split = ct.split_trace(trace)
    thinking = "".join(span.of(trace.completion) for span in split.think).strip()
    table.append({"shape": name, "status": split.status.value, "opened_by": split.opened_by, "thinking": thinking, "answer": split.answer.of(trace.completion).strip()})  # fmt: skip
pd.DataFrame(table)

# %% [markdown]
# ## A trace, as a notebook shows it
#
# Escaped, whatever it holds.

# %%
traces["TRL's log"]

# %% [markdown]
# ## From the file to a run, and to figures
#
# `analyze` works a shard at a time and goes on where it was killed; a bad row stops it with its line, or is kept apart with
# `on_error="skip"`. On the command line: `cotlens info FILE`, `cotlens analyze FILE -o RUN`, `cotlens figures RUN -o FOLDER`.

# %%
run = ct.analyze([FILE], RUN, force=True)
run

# %%
dynamics = ct.measures.reflection_dynamics(run.step_table(), run.trace_table())
ct.plots.plot_lengths(dynamics)

# %%
ct.plots.plot_reflection(dynamics, "model")
