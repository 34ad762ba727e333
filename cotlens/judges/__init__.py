"""Is it unsafe, is it a refusal, is it right? Text is neutralised before a judge reads it.

verdict      Item, Part, Verdict: what a judge takes and what it gives
defuse       break the delimiters of a judge's template inside a text
cache        verdicts on disk, keyed by everything they depend on
guard        judge: items in, verdicts out, through a cache
local        Llama Guard, WildGuard, Qwen3Guard on your own hardware
endpoint     a rubric, or StrongREJECT's grades, at an OpenAI-compatible server
grade        grade: whether a stated answer equals the gold answer
"""
