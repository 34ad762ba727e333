"""Load the tokenizer that was saved, not one that the library puts in its place.

transformers chooses a tokenizer by the model's type. For some types (qwen2 and qwen3_5 in 5.23) it
replaces the pre-tokenizer and the decoder that tokenizer.json names: other ids come out, which
decode to the same text, or none at all.
"""

import warnings
from pathlib import Path
from typing import Any

from cotlens.trace import TraceError

# Digits, blanks, scripts and signs on which pre-tokenizers differ.
_PROBE = (
    "The 7 cats cost 12345.67, don't they?  Two  spaces\tand a tab\n\n\n  new line\r\n"
    "你好，世界 こんにちは 안녕 é e\u0301 Ünï 🙂👍🏽 x_1 = \\frac{3}{4}; "
    "def f(x):\n    return x**2 "
)
_MOST_SPECIAL = 8  # special tokens in the probe


def load_tokenizer(name: str, *, revision: str | None = None) -> Any:
    """Return the tokenizer of a folder or a Hub repository, as its tokenizer.json says.

    What transformers loads is compared with what `tokenizers` reads from the file, on a probe text.
    Where they differ, the file's is taken, and a warning says so. A tokenizer without the file is
    taken as it loads.

    Raises:
        TraceError: if even the file's own does not encode as the file says.
        OSError, ValueError, KeyError, ImportError: from transformers, if nothing can be loaded.
    """
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    options = {"revision": revision, "trust_remote_code": False}
    loaded = AutoTokenizer.from_pretrained(name, **options)
    path = _tokenizer_file(name, revision)
    if path is None or encodes_as(loaded, path):
        return loaded

    saved = PreTrainedTokenizerFast.from_pretrained(name, **options)
    kind = type(loaded).__name__
    if not encodes_as(saved, path):
        raise TraceError(
            f"{name}: its tokenizer.json encodes a text in another way than {kind} and "
            "PreTrainedTokenizerFast of transformers do; save the tokenizer again"
        )
    saved.chat_template = saved.chat_template or loaded.chat_template
    warnings.warn(
        f"{name}: transformers loads {kind}, which encodes text in another way than the "
        "tokenizer.json that was saved; the saved one is used",
        stacklevel=3,
    )
    return saved


def _tokenizer_file(name: str, revision: str | None) -> str | None:
    """Return the path of a tokenizer.json; None if there is none."""
    from transformers.utils.hub import cached_file

    if Path(name).is_dir():
        path = Path(name) / "tokenizer.json"
        return str(path) if path.is_file() else None
    return cached_file(
        name,
        "tokenizer.json",
        revision=revision,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
        _raise_exceptions_for_gated_repo=False,
    )


def encodes_as(tokenizer: Any, path: str) -> bool:
    """Return whether a tokenizer gives the ids, and the text back, that a tokenizer.json gives."""
    from tokenizers import Tokenizer

    saved = Tokenizer.from_file(path)
    saved.no_truncation()
    saved.no_padding()

    # Special tokens of the file stand between words.
    added = saved.get_added_tokens_decoder()
    special = [token.content for token in added.values() if token.special]
    probe = _PROBE + " and ".join(special[:_MOST_SPECIAL]) + " end"

    saved_ids = saved.encode(probe, add_special_tokens=False).ids
    ids = tokenizer(probe, add_special_tokens=False, verbose=False)["input_ids"]
    if ids != saved_ids:
        return False

    # The decoder may have been replaced too.
    saved_text = saved.decode(ids, skip_special_tokens=False)
    text = tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
    return text == saved_text
