"""Whether two formulas are equal. math-verify parses them, sympy computes them.

Decimals go to the parser as fractions, so that nothing is rounded, and formulas with variables are
compared at several places with forty digits.
"""

import re
from collections.abc import Mapping
from fractions import Fraction
from functools import lru_cache
from typing import Any

from cotlens.judges.numerals import Number, Unreadable, is_rounded

_DIGITS = 40
_N_PLACES = 6
_MOST_VARIABLES = 8
_LONGEST = 400  # characters of a formula: the parser is slow


@lru_cache(maxsize=64)
def parse_formula(text: str) -> Any:
    """Return the sympy expression of a formula.

    Raises:
        Unreadable: if math-verify cannot parse it, or finds something else than an expression.
    """
    import sympy
    from math_verify import LatexExtractionConfig, parse

    if len(text) > _LONGEST:
        raise Unreadable(f"a formula of more than {_LONGEST} characters")
    # Degrees become a number, and a decimal a fraction.
    exact = _DEGREES.sub(r"\\frac{\1 \\pi}{180}", text)
    exact = _DECIMAL.sub(_as_fraction, exact)
    exact = _GROUPS.sub("", exact)
    config = [LatexExtractionConfig()]
    parsed = parse(
        f"${exact}$",
        config,
        fallback_mode="no_fallback",
        parsing_timeout=0,
    )
    if not parsed or not is_expression(parsed[0]):
        raise Unreadable(f"math-verify cannot parse {text!r}")

    # math-verify leaves the imaginary unit a variable.
    expression = parsed[0]
    units = [symbol for symbol in expression.free_symbols if str(symbol) == "i"]
    return expression.subs(dict.fromkeys(units, sympy.I))


_DEGREES = re.compile(r"(\d+(?:\.\d+)?)\s?°")
_DECIMAL = re.compile(r"(?<![\d.])(\d*)\.(\d+)(?![\d.])")
_GROUPS = re.compile(r"(?<=\d)[, ](?=\d{3}(?!\d))")


def _as_fraction(match: re.Match[str]) -> str:
    digits = int(match[1] + match[2])
    denominator = 10 ** len(match[2])
    return rf"\frac{{{digits}}}{{{denominator}}}"


def is_expression(value: Any) -> bool:
    """Whether a sympy object has a number as its value, and is no set, relation or matrix."""
    import sympy

    return isinstance(value, sympy.Expr) and not isinstance(value, sympy.MatrixExpr)


def as_rational(value: Fraction) -> Any:
    """Return a fraction as a number of sympy."""
    import sympy

    return sympy.Rational(value.numerator, value.denominator)


def same_expression(gold: Any, answer: Any) -> bool:
    """Whether two expressions are equal: as numbers, or at several places of their variables.

    Raises:
        Unreadable: if they have no value anywhere.
    """
    gold = gold.doit()
    answer = answer.doit()
    symbols = gold.free_symbols | answer.free_symbols
    names = sorted(set(map(str, symbols)))
    if len(names) > _MOST_VARIABLES:
        raise Unreadable(f"a formula with more than {_MOST_VARIABLES} variables")

    # Numbers need one comparison, formulas with variables several.
    n_compared = 0
    for place in range(_N_PLACES if names else 1):
        values = {}
        for number, name in enumerate(names):
            values[name] = _coordinate(number, place)
        gold_value = _value_at(gold, values)
        answer_value = _value_at(answer, values)

        # Both may be undefined at a place, but not one of them.
        if gold_value is None and answer_value is None:
            continue
        if gold_value is None or answer_value is None:
            return False
        if not _is_close(gold_value, answer_value):
            return False
        n_compared += 1

    if n_compared == 0:
        raise Unreadable("the formulas have no value that can be computed")
    return True


def _coordinate(number: int, place: int) -> Fraction:
    """Return a value for a variable: of both signs, small and large, and never a special one."""
    sign = -1 if (number + place) % 2 else 1
    numerator = 7 * number + 3 * place**2 + 2
    denominator = 5 + 2 * place + 3 * number
    size = Fraction(numerator, denominator)
    return sign * size


def _value_at(expression: Any, values: Mapping[str, Fraction]) -> Any:
    """Return the value of an expression; None if it has none there."""
    import sympy

    replaced = {}
    for symbol in expression.free_symbols:
        name = str(symbol)
        replaced[symbol] = as_rational(values[name])

    exact = expression.subs(replaced)
    value = sympy.N(exact, _DIGITS)
    if not value.is_number or value.has(sympy.nan, sympy.zoo, sympy.oo):
        return None
    return value


def _is_close(gold: Any, answer: Any) -> bool:
    """Whether two values are equal but for the rounding of their last digits."""
    import sympy

    distance = sympy.Abs(gold - answer)
    gold_size = sympy.Abs(gold)
    answer_size = sympy.Abs(answer)
    size = sympy.Max(gold_size, answer_size)

    # The last five digits may differ.
    ten = sympy.Float(10, _DIGITS)
    limit = ten ** (5 - _DIGITS)
    return bool(distance <= limit * size)


def same_rounded(exact: Any, decimal: Number) -> bool:
    """Whether a decimal is the value of a formula without variables, rounded (`is_rounded`)."""
    if exact.free_symbols:
        return False
    value = _value_at(exact.doit(), {})
    if value is None or not value.is_real:
        return False
    return is_rounded(Fraction(str(value)), decimal)


def is_multiple(gold: Any, answer: Any) -> bool:
    """Whether one expression is the other times a number that is not 0."""
    import sympy

    if not gold.free_symbols or gold.free_symbols != answer.free_symbols:
        return False
    # A ratio without variables is the number.
    ratio = sympy.simplify(gold / answer)
    if ratio.free_symbols:
        return False
    return ratio.is_zero is False and ratio.is_finite is True
