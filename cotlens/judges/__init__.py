"""Is it unsafe, is it a refusal, is it right? Text is neutralised before a judge reads it.

guard        judge: items in, verdicts out, through a cache
verdict      Item, Part, Verdict: what a judge takes and gives
defuse       text made harmless for a judge's template
cache        verdicts kept, keyed by everything that made them
local        Llama Guard, WildGuard, Qwen3Guard on your own hardware
endpoint     a rubric, or StrongREJECT's grades, at an OpenAI-compatible server
grade        grade: is a stated answer the gold answer
"""
