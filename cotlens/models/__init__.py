"""Ask a model: score a text token by token, or sample one. torch is loaded here.

In reading order:

tokenizer    load the tokenizer that was saved, not one that the library puts in its place
load         load_model: a checkpoint, checked, ready to score
template     the chat template, and the token that begins a sequence
encode       encode_trace: a trace as token ids, and where its tokens begin in the text
opening      encode_opening: what a model reads before it carries a cut trace on
batches      batches of equal cost, halved when memory runs out
scores       entropy, log-prob, rank and KL from hidden states, without holding the logits
sums         the running sums over tiles of logits that `scores` keeps
score        score_tokens: the scores of every token of traces
engine       what writes completions, and what it is asked for
decode       a batch written token by token, with little more work than the network's own
local        transformers: one random stream a sample
vllm         vLLM
in_flight    several requests to a server at once
endpoint     an OpenAI-compatible endpoint
sample       sample: prompts become traces; continue_trace: a cut trace is carried on
"""
