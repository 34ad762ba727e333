r"""Numbers with what they count or measure: `$5`, `75\%`, `30^\circ`, `5 cm`, `5 apples`.

The rules by which two of them are the same stand in `same_quantity`.
"""

import re
from collections import Counter
from fractions import Fraction
from typing import NamedTuple

from cotlens.judges.numerals import Number, is_rounded, read_number, terminates


class Unit(NamedTuple):
    """What a number measures.

    Attributes:
        powers: base units and their powers, such as (("length", 1), ("time", -1)).
        factor: how many of the base units it is.
        is_ratio: whether it is itself a number: percent, degrees.
    """

    powers: tuple[tuple[str, int], ...]
    factor: Fraction = Fraction(1)
    is_ratio: bool = False


class Quantity(NamedTuple):
    """A number with its unit; None if it has none, or only words that say what is counted."""

    number: Number
    unit: Unit | None = None


# Base unit, its power, how many of it, and the names of the unit.
_TABLE = """
length 1 1/1000       mm millimeter millimetre
length 1 1/100        cm centimeter centimetre
length 1 1            m meter metre
length 1 1000         km kilometer kilometre
length 1 0.0254       in inch inches
length 1 0.3048       ft foot feet
length 1 0.9144       yd yard
length 1 1609.344     mi mile
mass 1 1/1000         mg milligram
mass 1 1              g gram
mass 1 1000           kg kilogram
mass 1 453.59237      lb lbs pound
mass 1 28.349523125   oz ounce
time 1 1              s sec second
time 1 60             min minute
time 1 3600           h hr hour
time 1 86400          day
time 1 604800         week wk
month 1 1             month
month 1 12            year yr
length 3 1/1000000    mL ml milliliter millilitre
length 3 1/1000       L l liter litre
dollar 1 1            ¤ US¤ dollar USD
dollar 1 1/100        cent ¢
euro 1 1              € euro EUR
sterling 1 1          £ GBP
yen 1 1               ¥ yen JPY
rupee 1 1             ₹ rupee INR Rs
yuan 1 1              yuan CNY RMB
celsius 1 1           °C Celsius celsius
fahrenheit 1 1        °F Fahrenheit fahrenheit
"""


def _read_table() -> dict[str, tuple[str, int, Fraction]]:
    units = {}
    for line in _TABLE.strip().splitlines():
        base, power, factor, *names = line.split()
        for name in names:
            units[name] = (base, int(power), Fraction(factor))
    return units


_UNITS = _read_table()
_PERCENT = Unit((), Fraction(1, 100), is_ratio=True)
DEGREE = Unit((("degree", 1),), is_ratio=True)
_PURE = (
    (re.compile(r"(?i)%|percent(?:age)?|per cent|pct|%age|percentage points?"), _PERCENT),
    (re.compile(r"(?i)°|degrees?|degs?"), DEGREE),
    (re.compile(r"(?i)rad(?:ian)?s?"), Unit(())),
)
_MULTIPLES = {
    "dozen": 12, "hundred": 100, "thousand": 1000, "million": 10**6, "billion": 10**9,
    "trillion": 10**12,
}  # fmt: skip

# After one of these words a number is not what it seems.
_CHANGES = frozenset(
    """
    and or to not less more least most than plus minus times over divided out squared cubed
    factorial choose mod modulo root power between but k bn mn half halves third thirds quarter
    quarters fourth fourths fifth fifths sixth sixths seventh sevenths eighth eighths ninth ninths
    tenth tenths hundredth hundredths thousandths pm am base if when unless up down left right
    north south east west pi e i sqrt infinity negative positive either nor
    """.split()  # noqa: SIM905
)
_CURRENCY = re.compile(r"([-+]?)\s?(US\s?¤|[¤€£¥₹]|USD|EUR|GBP|INR|JPY|CNY|Rs\.?)\s?(?=[-+\d.\\])")
_BEFORE_UNIT = re.compile(r"(?<=[\d.)}])\s?(?=[%°€£¥₹¢¤A-Za-z])")


def read_quantity(text: str) -> Quantity | None:
    """Return the number that a text is, with its unit; None if it is none.

    Raises:
        Unreadable: if it has the form of a number and is none, or may be one of two.
    """
    number = read_number(text)
    if number:
        return Quantity(number)

    # Money may come first.
    currency = _CURRENCY.match(text)
    if currency:
        return _with_currency(currency, text[currency.end() :])

    # A unit comes after a space, or is a sign or a word that touches the number.
    for border in _BEFORE_UNIT.finditer(text, 0, 200):
        number = read_number(text[: border.start()])
        unit_text = text[border.end() :]
        touches = border.start() == border.end()
        # 5m is five meters, or five times m.
        is_variable = touches and re.match(r"[A-Za-z](?![A-Za-z])", unit_text)
        if number and not is_variable:
            return _with_unit(number, unit_text)
    return None


def _with_currency(currency: re.Match[str], rest: str) -> Quantity | None:
    """Return an amount of money whose currency comes before the number."""
    quantity = read_quantity(currency[1] + rest)
    name = currency[2].replace(" ", "").rstrip(".")
    unit = read_unit(name)
    if quantity is None or quantity.unit not in (None, unit):
        return None
    return Quantity(quantity.number, unit)


def _with_unit(number: Number, text: str) -> Quantity | None:
    """Return a number with the unit or words after it; None if they are neither."""
    first, _, rest = text.partition(" ")
    multiple = _MULTIPLES.get(first.lower())
    if multiple:
        number = Number(number.value * multiple)
        return _with_unit(number, rest.strip()) if rest.strip() else Quantity(number)

    unit = read_unit(text)
    if unit:
        return Quantity(number, unit)

    # 75% of the eggs is a percentage, and 5 hours of work are hours.
    percent = _PURE[0][0].match(text)
    if percent and says_what_is_counted(text[percent.end() :]):
        return Quantity(number, _PERCENT)
    if not says_what_is_counted(text):
        return None
    unit = read_unit(first) if len(first) > 2 else None
    return Quantity(number, unit)


def says_what_is_counted(text: str) -> bool:
    """Whether words after a number leave it as it is."""
    words = re.sub(r"[()\[\],.]", " ", text).split()
    # One letter is a variable.
    is_letter = len(words) == 1 and len(words[0]) == 1
    if len(words) > 6 or is_letter:
        return False
    for word in words:
        is_word = re.fullmatch(r"[A-Za-z][A-Za-z'-]*", word)
        if not is_word or word.lower() in _CHANGES:
            return False
    return True


# --- units ----------------------------------------------------------------------------------------

_UNIT_REWRITES = [
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"(?<=°) (?=[CF]\b)", ""),
        (r"(?i)\bmph\b", "mi/h"),
        (r"(?i)\b(?:kph|kmh)\b", "km/h"),
        (r" per |(?<=\w)/(?=[A-Za-z])| / ", " / "),
        (r"(?i)\bsq(?:uare)?\.? (\w+)", r"\1^2"),
        (r"(?i)\bcu(?:bic)?\.? (\w+)", r"\1^3"),
        (r"(?i)(\w+) squared", r"\1^2"),
        (r"(?i)(\w+) cubed", r"\1^3"),
        (r"\s?\^\s?\{\s?(-?\d)\s?\}", r"^\1"),
    )
]
_FACTOR = re.compile(r"([^\s^]+)(?:\^(-?\d))?")


def read_unit(text: str) -> Unit | None:
    r"""Return the unit that a text is; None if it is none of the table.

    >>> read_unit("km/h").powers
    (('length', 1), ('time', -1))
    """
    text = text.strip(" .")
    for names, pure_unit in _PURE:
        if names.fullmatch(text):
            return pure_unit
    for pattern, replacement in _UNIT_REWRITES:
        text = pattern.sub(replacement, text)

    powers: Counter[str] = Counter()
    factor = Fraction(1)
    side = 1
    for token in re.split(r"\s+|\\cdot|\*", text):
        # What comes after a stroke divides.
        if token == "/":
            side = -1
            continue
        match = _FACTOR.fullmatch(token)
        unit = _lookup(match[1]) if match else None
        if match is None or unit is None:
            return None

        base, power, n_base = unit
        times = side * int(match[2] or 1)
        powers[base] += power * times
        factor *= n_base**times

    named = [(base, power) for base, power in powers.items() if power]
    return Unit(tuple(sorted(named)), factor)


def _lookup(name: str) -> tuple[str, int, Fraction] | None:
    """Return a unit of the table, also for its plural and in capitals."""
    if name in _UNITS or len(name) <= 2:
        return _UNITS.get(name)
    singular = name.lower().removesuffix("s")
    return _UNITS.get(name.lower()) or _UNITS.get(singular)


def same_quantity(gold: Quantity, answer: Quantity) -> bool:
    r"""Whether two numbers with their units are the same.

    - Both have a unit: they are converted, and `500 cm` equals `5 m`.
    - One has none: the numbers are compared, since references leave units out: `5` equals `5 cm`.
    - A percentage is also a number: `75%` equals `75` and `0.75`, but `75` does not equal `0.75`.
    """
    is_same = same_number(gold.number, answer.number)
    gold_value = gold.number.value
    answer_value = answer.number.value

    if gold.unit and answer.unit:
        if gold.unit.powers != answer.unit.powers:
            return False
        if gold.unit.factor == answer.unit.factor:
            return is_same
        return gold_value * gold.unit.factor == answer_value * answer.unit.factor
    if is_same:
        return True

    # Without the sign, 75% is 0.75.
    if gold.unit and gold.unit.is_ratio:
        gold_value *= gold.unit.factor
    if answer.unit and answer.unit.is_ratio:
        answer_value *= answer.unit.factor
    return gold_value == answer_value


def same_number(gold: Number, answer: Number) -> bool:
    """Whether two numbers are equal, or one is the other rounded (`is_rounded`).

    Only what no finite decimal can state may be rounded.
    """
    if gold.value == answer.value:
        return True
    if not terminates(gold.value):
        return is_rounded(gold.value, answer)
    return not terminates(answer.value) and is_rounded(answer.value, gold)
