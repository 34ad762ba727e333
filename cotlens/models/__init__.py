"""Ask a model: score a text token by token, or sample one. torch is loaded here.

load         load_model: a checkpoint, checked, ready to score
encode       a trace becomes token ids, and tokens find their characters
batches      batches of equal cost, halved when memory runs out
scores       entropy, log-prob, rank and KL from hidden states, without holding the logits
score        score_tokens: traces in, one table row a trace out
sample       sampling with transformers, one random stream a sample
vllm         the same with vLLM
"""
