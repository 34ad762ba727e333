"""What is fit to be shown: no control characters at a terminal, no key or password anywhere.

Names, fields and the bodies of replies are written by strangers. A terminal obeys escape sequences,
and a server may repeat the key that it was sent, as it is or in another form.
"""

import base64
import json
import re
import urllib.parse

from cotlens.trace import TraceError

MASK = "***"
_LEAST_KEY = 4  # characters: what is shorter cannot be told from other text

# Control characters but the line break and the tab; marks that turn the direction of writing;
# halves of pairs, which no terminal can print.
_UNPRINTABLE = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)
_URL_PASSWORD = re.compile(r"(\w+://)[^\s/@]+@")


def printable(text: object) -> str:
    r"""The text with what a terminal would obey written as an escape.

    >>> printable("red \x1b[31m")
    'red \\x1b[31m'
    """
    return _UNPRINTABLE.sub(lambda match: _escape(match.group()), str(text))


def _escape(character: str) -> str:
    point = ord(character)
    return f"\\x{point:02x}" if point < 256 else f"\\u{point:04x}"


def clean_key(key: str) -> str:
    """A key without the white space around it, which files and shells leave there.

    Raises:
        TraceError: if it cannot stand in a header. The message does not hold it.
    """
    stripped = key.strip()
    if not stripped.isascii() or re.search(r"[\x00-\x20\x7f]", stripped):
        raise TraceError(
            f"the key of {len(stripped)} characters has white space or other signs inside that no "
            "header takes; check the variable that it comes from"
        )
    return stripped


def masked(text: str, key: str = "") -> str:
    """The text without passwords in addresses and without a key, in any form it is sent in.

    The forms are the key as it is, in an address, in JSON, and in base64, by itself or after the
    name of a basic authorisation.

    >>> masked("Bearer sk-1234 failed", "sk-1234")
    'Bearer *** failed'
    >>> masked("http://me:secret@host/v1")
    'http://***@host/v1'
    """
    text = _URL_PASSWORD.sub(rf"\1{MASK}@", text)
    key = key.strip()
    if len(key) < _LEAST_KEY:
        return text

    for form in sorted(_forms(key), key=len, reverse=True):
        text = text.replace(form, MASK)
    return text


def _forms(key: str) -> set[str]:
    """The texts that a key may be repeated as."""
    forms = {key, urllib.parse.quote(key, safe=""), urllib.parse.quote_plus(key)}
    forms.add(json.dumps(key)[1:-1])
    forms.add(repr(key)[1:-1])

    # In base64 a text looks different at each of three places within what is encoded; the first and
    # the last sign of it also depend on what stands around.
    for n_before in range(3):
        data = b"\0" * n_before + key.encode()
        encoded = base64.b64encode(data).decode()
        first = -(-n_before * 8 // 6)
        last = len(data) * 8 // 6
        if last - first >= _LEAST_KEY:
            forms.add(encoded[first:last])
            forms.add(encoded[first:last].replace("+", "-").replace("/", "_"))
    return forms
