r"""Is what an answer states what its reference states?

Numbers, choices, lists, intervals and words are compared here, exactly; only formulas go to
`formulas`. Whatever is not the same in kind is not the same.
"""

import re
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

from cotlens.judges.formulas import (
    as_rational,
    is_expression,
    is_multiple,
    parse_formula,
    same_expression,
    same_rounded,
)
from cotlens.judges.kinds import (
    Answer,
    Choice,
    Equation,
    Formula,
    Listing,
    Matrix,
    Named,
    Piece,
    Region,
    Words,
)
from cotlens.judges.numerals import Unreadable
from cotlens.judges.quantities import DEGREE, Quantity, Unit, same_quantity
from cotlens.judges.reading import read


def same(gold: Answer, answer: Answer) -> bool:
    """Whether an answer states what its reference states.

    Raises:
        Unreadable: if a formula of one of them cannot be parsed.
    """
    if gold == answer:
        return True
    kinds = (type(gold), type(answer))
    if Choice in kinds:
        return _same_choice(gold, answer)
    if Words in kinds:
        return False

    # An equation of numbers states its value. A name counts only where both have one.
    gold = _value_of_equation(gold, answer)
    answer = _value_of_equation(answer, gold)
    if isinstance(gold, Equation) or isinstance(answer, Equation):
        return _same_equation(gold, answer)
    if isinstance(gold, Named) and isinstance(answer, Named):
        return _same_name(gold.name, answer.name) and same(gold.value, answer.value)
    if isinstance(gold, Named):
        return same(gold.value, answer)
    if isinstance(answer, Named):
        return same(gold, answer.value)

    # What has parts is compared part by part.
    if Region in kinds:
        return _same_region(gold, answer)
    if Matrix in kinds:
        return _same_matrix(gold, answer)
    if Listing in kinds:
        return _same_listing(gold, answer)
    if isinstance(gold, Quantity) and isinstance(answer, Quantity):
        return same_quantity(gold, answer)
    return _same_formula(gold, answer)


# --- choices and names ----------------------------------------------------------------------------


def _same_choice(gold: Answer, answer: Answer) -> bool:
    """Compare letters of a multiple choice; where one has none, compare what comes after it."""
    if isinstance(gold, Choice) and isinstance(answer, Choice):
        # A right letter with the text of another option contradicts itself.
        return gold.letter == answer.letter and _same_option(gold.rest, answer.rest)

    if isinstance(answer, Choice):
        if answer.rest:
            return same(gold, read(answer.rest))
        return isinstance(gold, Formula) and gold.text == answer.letter

    assert isinstance(gold, Choice)
    if isinstance(answer, Formula) and answer.text.upper() == gold.letter:
        return True
    return bool(gold.rest) and same(read(gold.rest), answer)


def _same_option(gold: str, answer: str) -> bool:
    """Whether the texts of two options do not contradict each other."""
    if not gold or not answer or gold.lower() == answer.lower():
        return True
    try:
        return same(read(gold), read(answer))
    except Unreadable:
        return True


def _same_name(gold: str, answer: str) -> bool:
    """Whether two names may mean the same: x and X, or y and f(x)."""
    names = {gold.lower().lstrip("\\"), answer.lower().lstrip("\\")}
    if len(names) == 1:
        return True
    names.discard("y")
    return len(names) == 1 and re.fullmatch(r"[a-z]\(x\)", names.pop()) is not None


# --- equations ------------------------------------------------------------------------------------


def _value_of_equation(answer: Answer, other: Answer) -> Answer:
    """Return what an equation states as a value, where the other answer is a value.

    1/2 = 0.5 is one half. x + y = 5 says what x + y is; x + 3 = 5 says something about x.

    Raises:
        Unreadable: if its sides are numbers that differ.
    """
    if not isinstance(answer, Equation) or isinstance(other, Equation | Named):
        return answer

    # Without variables both sides are numbers, and must be the same one.
    left = read(answer.left)
    right = read(answer.right)
    names = _variables(left) | _variables(right)
    if not names:
        if not same(left, right):
            raise Unreadable(f"{answer.left} does not equal {answer.right}")
        return left

    # A side of several variables is what the question asks for.
    has_digits = re.search(r"\d", answer.left)
    says_value = len(_variables(left)) > 1 and not has_digits
    return right if says_value else answer


def _variables(answer: Answer) -> set[str]:
    if not isinstance(answer, Formula):
        return set()
    return {str(symbol) for symbol in parse_formula(answer.text).free_symbols}


def _same_equation(gold: Answer, answer: Answer) -> bool:
    """Compare equations: their sides may be exchanged, moved over, and multiplied by a number."""
    differences = []
    for equation in (gold, answer):
        if isinstance(equation, Equation):
            left = parse_formula(equation.left)
            right = parse_formula(equation.right)
        elif isinstance(equation, Named):
            left = parse_formula(equation.name)
            right = _expression(equation.value)
        else:
            return False
        differences.append(left - right)

    if not all(is_expression(difference) for difference in differences):
        raise Unreadable("an equation of something else than numbers")
    return is_multiple(*differences)


# --- lists and matrices ---------------------------------------------------------------------------


def _same_listing(gold: Answer, answer: Answer) -> bool:
    """Compare lists: tuples in order, sets without, and bare lists as what the other one is."""
    if not isinstance(gold, Listing):
        assert isinstance(answer, Listing)
        return _same_ratio(gold, answer) or (_is_single(answer) and same(gold, answer.items[0]))
    if not isinstance(answer, Listing):
        return _same_ratio(answer, gold) or (_is_single(gold) and same(gold.items[0], answer))

    kinds = {gold.kind, answer.kind}
    if "ratio" in kinds:
        return kinds == {"ratio"} and _same_ratios(gold, answer)
    if kinds == {"set", "tuple"}:
        return False

    # Names give an order: x = 1, y = 2 is (1, 2). Where both have names, their order is free.
    n_named = _has_names(gold) + _has_names(answer)
    if n_named == 1:
        return _same_in_order(_by_name(gold), _by_name(answer))
    if n_named == 2 or "tuple" not in kinds:
        return _same_without_order(gold.items, answer.items)
    return _same_in_order(gold.items, answer.items)


def _is_single(listing: Listing) -> bool:
    """Whether it is a set of one: a solution is often written as such."""
    return listing.kind == "set" and len(listing.items) == 1


def _same_ratio(number: Answer, listing: Listing) -> bool:
    """Whether a ratio of two, 3:4, is a number."""
    values = _values(listing)
    is_ratio = listing.kind == "ratio" and len(values) == 2 and values[1] != 0
    if not is_ratio or not isinstance(number, Quantity):
        return False
    return number.number.value == values[0] / values[1]


def _same_ratios(gold: Listing, answer: Listing) -> bool:
    """Whether two ratios are proportional; what may be a time of the day must be the same."""
    gold_values = _values(gold)
    answer_values = _values(answer)
    if len(gold_values) != len(answer_values):
        return False
    if _may_be_a_time(gold_values) or _may_be_a_time(answer_values):
        return gold_values == answer_values

    for gold_value, answer_value in zip(gold_values, answer_values, strict=True):
        if gold_value * answer_values[0] != answer_value * gold_values[0]:
            return False
    return True


def _values(listing: Listing) -> list[Fraction]:
    values = []
    for item in listing.items:
        if isinstance(item, Quantity):
            values.append(item.number.value)
    return values


def _may_be_a_time(values: Sequence[Fraction]) -> bool:
    return len(values) == 2 and values[0] < 24 and 10 <= values[1] < 60


def _has_names(listing: Listing) -> bool:
    """Whether all items have names, and different ones."""
    names = {item.name for item in listing.items if isinstance(item, Named)}
    return len(names) == len(listing.items) > 1


def _by_name(listing: Listing) -> list[Answer]:
    """Return the items in the order of their names; in their own if they have none."""
    if not _has_names(listing):
        return list(listing.items)
    value_of = {}
    for item in listing.items:
        if isinstance(item, Named):
            value_of[item.name] = item.value
    return [value_of[name] for name in sorted(value_of)]


def _same_in_order(gold: Sequence[Answer], answer: Sequence[Answer]) -> bool:
    if len(gold) != len(answer):
        return False
    for gold_item, answer_item in zip(gold, answer, strict=True):
        if not same(gold_item, answer_item):
            return False
    return True


def _same_without_order(gold: Sequence[Answer], answer: Sequence[Answer]) -> bool:
    """Whether each item of one list is in the other."""
    # Which of the answer's items some item of the reference equals.
    is_met = [False] * len(answer)
    for gold_item in gold:
        is_stated = False
        for place, answer_item in enumerate(answer):
            if same(gold_item, answer_item):
                is_stated = True
                is_met[place] = True
        if not is_stated:
            return False
    return all(is_met)


def _same_matrix(gold: Answer, answer: Answer) -> bool:
    """Compare matrices entry by entry. A tuple may stand for a column."""
    gold_rows = _rows(gold)
    answer_rows = _rows(answer)
    if len(gold_rows) != len(answer_rows):
        return False
    for gold_row, answer_row in zip(gold_rows, answer_rows, strict=True):
        if not _same_in_order(gold_row, answer_row):
            return False
    return True


def _rows(answer: Answer) -> Sequence[Sequence[Answer]]:
    if isinstance(answer, Matrix):
        return answer.rows
    if isinstance(answer, Listing) and answer.kind == "tuple":
        return [(item,) for item in answer.items]
    return []


# --- regions --------------------------------------------------------------------------------------


def _same_region(gold: Answer, answer: Answer) -> bool:
    """Compare sets of numbers, whether inequalities, intervals or braces describe them."""
    # x > 2 is not y > 2; an interval has no variable.
    if isinstance(gold, Region) and isinstance(answer, Region):
        variables = {gold.variable, answer.variable} - {""}
        if len(variables) > 1:
            return False

    gold_pieces = _pieces(gold)
    answer_pieces = _pieces(answer)
    if gold_pieces is None or answer_pieces is None:
        return False
    return _union(gold_pieces) == _union(answer_pieces)


def _pieces(answer: Answer) -> Sequence[Piece] | None:
    """Return the intervals of a region, of an open interval that looks like a pair, or of a set."""
    if isinstance(answer, Region):
        return answer.pieces
    if not isinstance(answer, Listing):
        return None
    if answer.kind == "tuple" and len(answer.items) == 2:
        low, high = answer.items
        return [Piece(low, high, False, False)]
    if answer.kind == "set":
        return [Piece(item, item, True, True) for item in answer.items]
    return None


def _union(pieces: Sequence[Piece]) -> Any:
    """Return the union of intervals as sympy has it."""
    import sympy

    union = sympy.S.EmptySet
    for piece in pieces:
        # An end without bound is infinite.
        low = -sympy.oo
        high = sympy.oo
        if piece.low is not None:
            low = _expression(piece.low)
        if piece.high is not None:
            high = _expression(piece.high)
        if low.free_symbols or high.free_symbols:
            raise Unreadable("an interval with a variable at its end")
        interval = sympy.Interval(low, high, not piece.has_low, not piece.has_high)
        union = union.union(interval)
    return union


# --- formulas -------------------------------------------------------------------------------------


def _same_formula(gold: Answer, answer: Answer) -> bool:
    """Compare two expressions, at least one of which is no plain number."""
    gold_expression = _expression(gold, is_angle=_has_pi(answer))
    answer_expression = _expression(answer, is_angle=_has_pi(gold))

    # Where both have a unit, the answer is converted.
    gold_unit = _unit_of(gold)
    answer_unit = _unit_of(answer)
    if gold_unit and answer_unit and gold_unit != answer_unit:
        if gold_unit.powers != answer_unit.powers:
            return False
        ratio = answer_unit.factor / gold_unit.factor
        answer_expression *= as_rational(ratio)

    # A decimal may be the other one rounded.
    if isinstance(gold, Quantity) and same_rounded(answer_expression, gold.number):
        return True
    if isinstance(answer, Quantity) and same_rounded(gold_expression, answer.number):
        return True
    return same_expression(gold_expression, answer_expression)


def _unit_of(answer: Answer) -> Unit | None:
    if isinstance(answer, Formula | Quantity):
        return answer.unit
    return None


def _has_pi(answer: Answer) -> bool:
    return isinstance(answer, Formula) and r"\pi" in answer.text


def _expression(answer: Answer, *, is_angle: bool = False) -> Any:
    r"""Return a number or a formula as an expression of sympy.

    Args:
        answer: the number or formula.
        is_angle: whether degrees are an angle in radians: 30° is \pi/6.

    Raises:
        Unreadable: if it is neither.
    """
    import sympy

    if isinstance(answer, Formula):
        return parse_formula(answer.text)
    if not isinstance(answer, Quantity):
        raise Unreadable("neither a number nor a formula")

    expression = as_rational(answer.number.value)
    if answer.unit == DEGREE and is_angle:
        return expression * sympy.pi / 180
    if answer.unit and answer.unit.is_ratio:
        return expression * as_rational(answer.unit.factor)
    return expression
