"""Where is the thinking, where are its steps? Everything that is known of reasoning model families.

families     delimiters, templates and turns of each family: one row a family
split        split_trace: thinking and answer, and whether the thought was closed
tokens       word_starts: which token belongs to which stretch of text
steps        segment_trace: steps that tile the thinking, byte for byte
"""
