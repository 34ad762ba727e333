"""Beginnings of a thought, put into a model's mouth: inside the thought, and between two tokens."""

from collections.abc import Mapping, Sequence
from typing import Any

from cotlens.files import short_name
from cotlens.formats.prompts import Prompt
from cotlens.models.encode import ends_in_thought, tags_of
from cotlens.models.engine import Engine
from cotlens.models.sample import render_job
from cotlens.text.delimiters import pairs_in
from cotlens.text.prompts import prompt_closes
from cotlens.text.response import new_tags
from cotlens.text.split import split_trace
from cotlens.text.tags import Status
from cotlens.trace import Trace, TraceError

# How a model may carry on. A blank belongs to the word after it, a line break to the text before.
_RESTS = ("Wait", "So", "3")


def thought_prefixes(
    engine: Engine,
    prompts: Sequence[Prompt],
    thoughts: Sequence[str],
    template_args: Mapping[str, Any] | None = None,
) -> list[str]:
    """The beginnings of completions, one for each beginning of a thought.

    The tag that opens the thought is put before a text, unless the text or the chat template has
    it. An empty text stays empty: the model then begins by itself.

    A text must end where two tokens meet, whatever the model writes next: ids(prefix) + ids(rest)
    = ids(prefix + rest). Otherwise the model would read tokens that no text of its own has. So it
    ends after its line breaks, and before a blank. This is tried with a few words as the rest; that
    a text does not end inside a word is the caller's care.

    Args:
        engine: what will write, with a tokenizer.
        prompts: as `as_prompts` returns them.
        thoughts: beginnings of the thinking, one for each prompt.
        template_args: variables of the chat template.

    Raises:
        TraceError: if there are not as many thoughts as prompts, or if a text ends inside a token
            or outside of the thought; it names the prompt.
    """
    if len(thoughts) != len(prompts):
        raise TraceError(
            f"prefixes: expected one text, or one for each of the {len(prompts)} prompts; "
            f"got {len(thoughts)}"
        )
    if not any(thoughts):
        return list(thoughts)
    if engine.tokenizer is None:
        raise TraceError(
            f"{engine.name}: an endpoint cannot carry a prefix of thinking on; "
            "load the model, or take VllmEngine"
        )

    # Empty ones are plain sampling.
    prefixes = []
    for prompt, thought in zip(prompts, thoughts, strict=True):
        prefix = thought
        if thought:
            prefix = _open_thought(engine, prompt, thought, template_args or {})
            _check_end(engine, prompt, prefix, template_args or {})
        prefixes.append(prefix)
    return prefixes


def _open_thought(
    engine: Engine, prompt: Prompt, thought: str, template_args: Mapping[str, Any]
) -> str:
    """The beginning of a completion that begins with this thought."""
    # Who opens the thought: the template, the text, or nobody yet.
    rendered = render_job(engine, prompt, "", template_args).text
    tag = tags_of(engine.tokenizer).open
    has_tag = thought.lstrip().startswith(tag.strip())
    is_open = ends_in_thought(rendered, engine.tokenizer)
    if has_tag and is_open:
        raise TraceError(
            f"{prompt.place}: its prefix begins with {tag.strip()!r}, and so does the thought that "
            "the chat template opens; give the prefix without it"
        )

    if prompt_closes(rendered, pairs_in(rendered)):
        raise TraceError(
            f"{prompt.place}: the chat template closes the thought ({rendered[-20:]!r}); "
            "switch thinking on, or the prefix would stand after it"
        )

    # The line break after the tag must not be doubled.
    prefix = thought
    if not has_tag and not is_open:
        ending = tag.rstrip("\n") if thought.startswith("\n") else tag
        prefix = ending + thought

    # The text may close the thought itself.
    trace = Trace(
        id=prompt.id,
        prompt=rendered,
        completion=prefix,
        model=short_name(engine.name),
        finish_reason="length",
    )
    split = split_trace(trace, tags=new_tags(engine.tokenizer))
    if split.status is not Status.OPEN:
        raise TraceError(
            f"{prompt.place}: its prefix ends in {prefix[-20:]!r}, outside of the thought; "
            "end it in the thinking"
        )
    return prefix


def _check_end(
    engine: Engine, prompt: Prompt, prefix: str, template_args: Mapping[str, Any]
) -> None:
    """Raise TraceError if the tokens of a prefix change with the text after it."""
    rest = changing_rest(engine, prompt, prefix, template_args)
    if rest is not None:
        raise TraceError(
            f"{prompt.place}: its prefix ends in {prefix[-20:]!r}, which is encoded in another way "
            f"before {rest!r}; end it after its line breaks, or before a blank"
        )


def changing_rest(
    engine: Engine, prompt: Prompt, prefix: str, template_args: Mapping[str, Any]
) -> str | None:
    """A text before which the tokens of a prefix are others than alone; None if none was found."""
    # A word that follows brings its blank, if there is none.
    before = "" if prefix[-1].isspace() else " "
    ids = list(render_job(engine, prompt, prefix, template_args).ids)
    for word in _RESTS:
        rest = before + word
        longer_ids = list(render_job(engine, prompt, prefix + rest, template_args).ids)
        if longer_ids[: len(ids)] != ids:
            return rest
    return None
