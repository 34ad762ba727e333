"""A corpus on disk, one shard at a time. A run is one folder per checkpoint and set of prompts.

run          Run: opens a run's tables; `open_run` is where reading begins
schema       every column of every table, with its type and meaning
by_shard     the tables of a run a shard at a time
tables       traces become rows: one per trace, one per step
analyze      files of traces become a run
score        adds token scores by a model
stamped      scores that a trainer left in its own files
judge        adds verdicts by a judge, or verdicts made elsewhere
generate     samples a model's traces into shards
probe        cuts and changes a run's traces, and lets a model go on from there
shards       what these share: finished shards are kept, anything else refused or removed
messages     a trace as chat messages
transcripts  a trace as a transcript of Inspect Scout
export       traces in the formats of other tools
"""
