r"""Numbers as answers write them, exactly: `12,345`, `3\frac{1}{2}`, `0.\overline{3}`, `101_2`.

A number is a fraction and never a float: what is equal is equal, and what differs in the tenth
digit differs.
"""

import re
from collections.abc import Callable
from fractions import Fraction
from typing import NamedTuple


class Unreadable(Exception):  # noqa: N818
    """A text cannot be read as an answer, or can be read in two ways."""


class Number(NamedTuple):
    """A number as it is written.

    Attributes:
        value: what it is.
        n_digits: significant digits, if it is a decimal; else 0.
        is_cut: whether further digits of the decimal are left out: 3.14159...
    """

    value: Fraction
    n_digits: int = 0
    is_cut: bool = False


_Match = re.Match[str]
_LONGEST = 2000  # digits of a number, and of its power of ten
_FLOAT_DIGITS = 15
ROUNDED_DIGITS = 6  # a decimal with as many significant digits may be a rounded value


def is_rounded(exact: Fraction, decimal: Number) -> bool:
    """Whether a decimal is another number, rounded to as many digits or cut off after them.

    Only a decimal of `ROUNDED_DIGITS` digits or more may be: 0.333333 is 1/3, and 0.333 is not.
    """
    is_long = decimal.n_digits >= ROUNDED_DIGITS
    is_same_sign = exact * decimal.value > 0
    if not is_long or not is_same_sign:
        return False

    # The last digit that is written; there may be zeros after the last that is not zero.
    whole = str(abs(int(decimal.value)))
    n_places = max(0, decimal.n_digits - len(whole))
    while (decimal.value * 10**n_places).denominator != 1:
        n_places += 1
    last = Fraction(1, 10**n_places)
    # A float has no more than fifteen digits that are right.
    n_surplus = max(0, decimal.n_digits - _FLOAT_DIGITS)
    last *= 10**n_surplus

    distance = abs(exact) - abs(decimal.value)
    if decimal.is_cut:
        return 0 <= distance < last
    return abs(distance) <= last / 2


def terminates(value: Fraction) -> bool:
    """Whether a number has a finite decimal: no prime but 2 and 5 divides its denominator."""
    denominator = value.denominator
    for prime in (2, 5):
        while denominator % prime == 0:
            denominator //= prime
    return denominator == 1


# --- forms ----------------------------------------------------------------------------------------

# Groups of three digits follow a comma, a space or an apostrophe, always the same one.
_GROUPED = r"[1-9]\d{0,2}(?:,\d{3})+|[1-9]\d{0,2}(?: \d{3})+|[1-9]\d{0,2}(?:'\d{3})+"
_INTEGER = rf"(?:{_GROUPED}|\d+)"
_DECIMAL = rf"(?:{_INTEGER}(?:\.\d*)?|\.\d+)"
_SIGN = r"[-+]?\s?"


def _plain(text: str) -> str:
    """Return digits without what groups them."""
    plain = re.sub(r"[, ']", "", text)
    if len(plain) > _LONGEST:
        raise Unreadable("the number is too long")
    return plain


def _fraction(text: str) -> Fraction:
    """Return the value of a decimal, which may end with its point."""
    plain = _plain(text)
    return Fraction(plain.rstrip("."))


def _read_decimal(match: _Match) -> Number:
    digits = _plain(match[1])
    value = _fraction(digits)

    n_digits = 0
    if "." in digits:
        significant = digits.replace(".", "").lstrip("0")
        n_digits = len(significant)
    return Number(value, n_digits)


def _read_european(match: _Match) -> Number:
    """A number with points between thousands, such as 1.234.567 or 1.234,5."""
    whole = match[1].replace(".", "")
    decimals = match[2] or "0"
    return Number(Fraction(f"{whole}.{decimals}"))


def _read_repeating(match: _Match) -> Number:
    r"""A decimal whose last digits repeat without end: 0.1\overline{6}, 0.1(6)."""
    whole = _plain(match[1])
    return _repeat(whole, match[2], match[3])


def _repeat(whole: str, fixed: str, unit: str) -> Number:
    """Return whole.fixed, and the unit repeated after it."""
    start = Fraction(f"{whole or 0}.{fixed or 0}")
    nines = 10 ** len(unit) - 1
    scale = 10 ** len(fixed)
    tail = Fraction(int(unit), nines * scale)
    return Number(start + tail)


def _read_dots(match: _Match) -> Number:
    """A decimal with three dots.

    The shortest stretch that stands at its end at least twice repeats, and so does a single digit
    after the point. Where nothing repeats, the digits are known up to the dots.
    """
    whole = _plain(match[1])
    digits = _plain(match[2])
    if len(digits) == 1:
        return _repeat(whole, "", digits)

    # What stands there twice may be chance, as in 2.718281828..., but not three times.
    longest = min(20, len(digits) // 2)
    for length in range(1, longest + 1):
        unit = digits[-length:]
        n_times = 0
        start = len(digits)
        while digits.endswith(unit, 0, start):
            start -= length
            n_times += 1

        is_whole = start == 0
        is_short = length <= 2 and start <= length
        if n_times >= 3 or (n_times == 2 and (is_whole or is_short)):
            return _repeat(whole, digits[:start], unit)

    significant = (whole + digits).lstrip("0")
    if len(significant) < ROUNDED_DIGITS:
        raise Unreadable(f"which digits of {match[0]} repeat is not clear")
    value = Fraction(f"{whole or 0}.{digits}")
    return Number(value, len(significant), is_cut=True)


def _read_fraction(match: _Match) -> Number:
    numerator = _fraction(match[1])
    denominator = _fraction(match[2])
    if denominator == 0:
        raise Unreadable("division by zero")
    return Number(numerator / denominator)


def _read_mixed(match: _Match) -> Number:
    whole = int(_plain(match[1]))
    numerator = int(_plain(match[2]))
    denominator = int(_plain(match[3]))
    # 3 5/2 may be a product, a sum or a slip.
    if not 0 < numerator < denominator:
        raise Unreadable(f"{match[0]} may be a mixed number, and may be a product")
    part = Fraction(numerator, denominator)
    return Number(whole + part)


def _read_scientific(match: _Match) -> Number:
    factor = Fraction(1)
    if match[1]:
        factor = _fraction(match[1])
    exponent = int(_plain(match[2]))
    if abs(exponent) > _LONGEST:
        raise Unreadable("the power of ten is too large")
    return Number(factor * Fraction(10) ** exponent)


_NAMED_BASES = {
    "two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8, "nine": 9,
    "ten": 10, "twelve": 12, "sixteen": 16,
}  # fmt: skip
_BASE = rf"(\d{{1,3}}|{'|'.join(_NAMED_BASES)})"


def _read_base(match: _Match) -> Number:
    """A whole number in the base of its subscript."""
    digits = _plain(match[1])
    name = match[2].lower()
    base = _NAMED_BASES.get(name) or int(name)
    if not 2 <= base <= 36:
        raise Unreadable(f"{base} is no base")
    try:
        value = int(digits, base)
    except ValueError:
        raise Unreadable(f"{digits} is no number in base {base}") from None
    return Number(Fraction(value))


# A form of numbers, and what reads it. Signs are read before.
_FORMS: list[tuple[re.Pattern[str], Callable[[_Match], Number]]] = [
    (re.compile(pattern), read)
    for pattern, read in (
        (rf"({_DECIMAL})", _read_decimal),
        (r"([1-9]\d{0,2}(?:\.\d{3}){2,}|[1-9]\d{0,2}(?:\.\d{3})+(?=,))(?:,(\d+))?", _read_european),
        (rf"({_INTEGER}?)\.(\d*)\\(?:overline|bar|dot)\s?\{{(\d+)\}}", _read_repeating),
        (rf"({_INTEGER}?)\.(\d*)\((\d+)\)(?:\.\.\.)?", _read_repeating),
        (rf"({_INTEGER}?)\.(\d+)\s?(?:\.\.\.|\(\.\.\.\))", _read_dots),
        (
            rf"\\frac\s?\{{\s?({_SIGN}{_DECIMAL})\s?\}}\s?\{{\s?({_SIGN}{_DECIMAL})\s?\}}",
            _read_fraction,
        ),
        (rf"({_DECIMAL})\s?/\s?({_DECIMAL})", _read_fraction),
        (rf"\(\s?({_SIGN}{_DECIMAL})\s?/\s?({_DECIMAL})\s?\)", _read_fraction),
        (rf"({_INTEGER})\s?\\frac\s?\{{\s?(\d+)\s?\}}\s?\{{\s?(\d+)\s?\}}", _read_mixed),
        (rf"({_INTEGER}) (\d+)\s?/\s?(\d+)", _read_mixed),
        (rf"({_DECIMAL})[eE]({_SIGN}\d{{1,5}})", _read_scientific),
        (
            rf"({_DECIMAL})\s?(?:\\times|\\cdot|\*|x)\s?10\s?\^\s?\{{\s?({_SIGN}\d{{1,5}})\s?\}}",
            _read_scientific,
        ),
        (rf"()10\s?\^\s?\{{\s?({_SIGN}\d{{1,5}})\s?\}}", _read_scientific),
        (
            rf"\(?([0-9A-Za-z][0-9A-Z ,]*)\)?\s?_\s?\{{?\s?\(?(?:base )?{_BASE}\)?\s?\}}?",
            _read_base,
        ),
        (rf"([0-9][0-9A-Z]*) \(?(?:in )?base[- ]{_BASE}\)?", _read_base),
    )
]


def read_number(text: str) -> Number | None:
    """Return the number that a text is; None if it is none.

    Raises:
        Unreadable: if it has the form of a number and is none, or may be one of two.
    """
    body = text.strip()
    sign = 1
    # Signs, and parentheses around all of it: -(5).
    for _ in range(3):
        if body.startswith("-"):
            sign = -sign
        if body.startswith(("-", "+")):
            body = body[1:].lstrip()
            continue

        closing = body.find(")")
        is_enclosed = body.startswith("(") and closing == len(body) - 1
        if is_enclosed:
            body = body[1:-1].strip()

    for pattern, read_form in _FORMS:
        match = pattern.fullmatch(body)
        if match:
            number = read_form(match)
            return number._replace(value=sign * number.value)
    return None
