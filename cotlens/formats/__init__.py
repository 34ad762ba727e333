"""Foreign rows become traces.

To add a format: one parser in one of these files, and one line in known.py.

read         read_traces: the entry; files in, traces out, rows that cannot be read reported
known        the list of formats, and how a row is recognised
rows         rows of JSON lines, arrays, parquet and datasets on disk
fields       what rows have in common: ids, prompts, gold answers
blocks       a message whose content is typed blocks (thinking, text, tool calls)
chat         plain rows and lists of messages
servers      responses of OpenAI-compatible servers, batches, vLLM
trainers     rollouts of TRL, verl, open-instruct, verifiers, prime-rl
harnesses    samples of lm-eval, LightEval, Inspect, Inspect Scout
labelled     data sets whose steps people labelled
memory       as_traces: traces, texts, rows and frames in memory
prompts      read_prompts: prompts to sample from
"""
