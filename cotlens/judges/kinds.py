"""The kinds of answers that are told apart. Formulas are text here."""

from typing import NamedTuple

from cotlens.judges.quantities import Quantity, Unit


class Choice(NamedTuple):
    """An option of a multiple choice, with what is written after its letter."""

    letter: str
    rest: str = ""


class Words(NamedTuple):
    """An answer in words."""

    text: str


class Formula(NamedTuple):
    """An expression in LaTeX that is no plain number, with its unit if it has one."""

    text: str
    unit: Unit | None = None


class Named(NamedTuple):
    """A value with a name: x = 5."""

    name: str
    value: "Answer"


class Equation(NamedTuple):
    """Two formulas that are equal, neither of which is only a name."""

    left: str
    right: str


class Listing(NamedTuple):
    """Several answers.

    Attributes:
        items: the answers.
        kind: `set` in braces, `tuple` in parentheses or brackets, `bare` with commas alone,
            `ratio` with colons.
    """

    items: "tuple[Answer, ...]"
    kind: str


class Piece(NamedTuple):
    """An interval; an end without bound is None."""

    low: "Answer | None"
    high: "Answer | None"
    has_low: bool
    has_high: bool


class Region(NamedTuple):
    """A set of real numbers: what an inequality or a union of intervals and sets describes.

    Attributes:
        pieces: its intervals, as written.
        variable: of the inequality; empty for intervals.
    """

    pieces: tuple[Piece, ...]
    variable: str = ""


class Matrix(NamedTuple):
    """Rows of a matrix."""

    rows: "tuple[tuple[Answer, ...], ...]"


Answer = Choice | Words | Quantity | Formula | Named | Equation | Listing | Region | Matrix
