"""Foreign rows become traces.

To add a format: one parser in one of these files, and one line in known.py.

read         read_traces: the entry; files in, traces out, rows that cannot be read reported
known        the list of formats, and how a row is recognised
conversations  files whose rows are the messages of one conversation
rows         rows of any container: which it is, folders, Inspect's logs
row          a row, and what stands for one that cannot be read
lines        rows of JSON lines and arrays
tables       rows of parquet and Arrow
stdin        rows that come in on stdin; no other pipes
finish       why a model stopped: one word for many spellings
fields       what rows have in common: ids, prompts, gold answers
content      what stands in a message: its text, its role, what each part is
blocks       a message whose content is typed parts (thinking, text, tool calls)
tokens       log-probs and offsets of tokens
exact        rows that cotlens wrote
taken        prompt and completion of a plain row
chat         plain rows and lists of messages
samples      rows of several samples, batches as columns, BFCL
servers      responses of OpenAI-compatible servers, vLLM, SGLang
nested       responses inside a row: batches, responses in a field
trl          TRL's completions, each rollout once
verifiers    rollouts of verifiers and prime-rl
trainers     rollouts of verl and open-instruct
harnesses    samples of lm-eval and LightEval
inspect_logs samples of Inspect, transcripts of Inspect Scout
labelled     data sets whose steps people labelled
memory       as_traces: traces, texts, rows and frames in memory
prompts      read_prompts: prompts to sample from
"""
