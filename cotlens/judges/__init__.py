"""Is it unsafe, is it a refusal, is it right? Text is neutralised before a judge reads it.

verdict      Item, Part, Verdict: what a judge takes and what it gives
defuse       break the delimiters of a judge's template inside a text
cache        verdicts on disk, keyed by everything they depend on
guard        judge: items in, verdicts out, through a cache
local        Llama Guard, WildGuard, Qwen3Guard on your own hardware
rubrics      what a judge at an endpoint is asked, and how its answer is read
requests     one request to a server, and the ways in which it fails
endpoint     rubrics at an OpenAI-compatible server: unsafe, StrongREJECT, reflection, behaviours
numerals     numbers as answers write them, exactly
quantities   numbers with units, and when two are the same
notation     LaTeX, Unicode and plain text in one notation
answer       which part of a text is its answer
kinds        the kinds of answers: a choice, a number, a list, an interval, a formula
reading      which of them a text is
formulas     whether two formulas are equal, by math-verify and sympy
equality     whether an answer states what its reference states
grade        grade: all of this in a worker with a limit of time
"""
