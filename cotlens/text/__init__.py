"""Where is the thinking, where are its steps? Everything that is known of reasoning model families.

split        split_trace: thinking and answer, and whether the thought was closed
families     one table: delimiters, templates, turns, calls and wrappers, a row a family
tags         what a row of the table holds, and what a completion is split into
tagged       completions whose thought stands between a pair of delimiters
headed       completions whose messages have a header each
channels     formats in which each message has a header: gpt-oss's Harmony and its like
prompts      whether a rendered prompt ends inside a thought
rules        which rules of the table hold for one completion
delimiters   where the delimiters of the table stand in a text
response     the delimiters that a tokenizer brings
unknown      delimiters that are not in the table, and what to do about them
tokens       word_starts: which token belongs to which stretch of text
steps        segment_trace: steps that tile the thinking, byte for byte
"""
