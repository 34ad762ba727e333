r"""What an answer is: a choice, a number, a list, an interval, an equation, a matrix, a formula.

`read` takes the text of an answer in one notation and gives one of the kinds below. Formulas stay
text: `equality` lets math-verify parse them.
"""

import re

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
from cotlens.judges.quantities import Unit, read_quantity, read_unit, says_what_is_counted

LONGEST = 1000  # characters of an answer that is read
_MOST_ITEMS = 64

_CHOICE = re.compile(
    r"(?:(?i:option|choice|answer) )?"
    r"(?:\(?([A-Ja-j])\)[.:]?|([A-J])[.:](?!\d)|([A-J])(?=$))(?:\s(.*)|$)",
    re.DOTALL,
)
_APPROXIMATELY = re.compile(
    r"(?:=|\\approx|~|(?i:about|approximately|around|roughly|exactly|only|just|a total of)\s)+\s?"
)
_RELATION = re.compile(r"\\le(?![A-Za-z])|\\ge(?![A-Za-z])|\\ne(?![A-Za-z])|<|>")
_EQUALS = re.compile(r"=|\\approx|\\equiv(?![A-Za-z])|:=")
_UNION = re.compile(r"\\cup(?![A-Za-z])|(?<=[\])}]) ?U ?(?=[\[({\\])")
_OR = re.compile(r",? (?:or|and) |\\(?:lor|vee)(?![A-Za-z])")
_AND = re.compile(r",? and |\\(?:land|wedge)(?![A-Za-z])")
_REALS = re.compile(r"\\mathbb\s?\{R\}|\\R|(?i:all|any|every) real numbers?|(?i:all reals)")
_EMPTY = re.compile(r"\\emptyset|\\\{\s?\\\}|(?i:(?:the )?empty set|no (?:real )?solutions?)")
_MATRIX = re.compile(
    r"\[?\(?\s?\\begin\s?\{([pbBv]?matrix|array|smallmatrix)\}(?:\{[clr|@ ]*\})?(.*)"
    r"\\end\s?\{\1\}\s?\)?\]?"
)
# A name is letters with indices and arguments: x, x_1, f(x), AB, \theta, m\angle ABC, P(X = 2).
_NAME = re.compile(
    r"(?:\\?[A-Za-z]++\s?|['|{}]"
    r"|_\s?\{[^{}]{1,20}\}|_\s?\w|\([^()+*/^]{1,20}\)){1,8}"
)
_WORDS = re.compile(r"[A-Za-z][A-Za-z '.,;:!?()\"-]*")
_SHORT_WORDS = re.compile(r"[A-Z][a-z]{1,2}|yes|no|odd|all|one|two|six|ten|red|nil")
_PROSE = re.compile(
    r"[A-Za-z]{2,} [A-Za-z]{2,}"
    r"|(?i:\b(?:is|it|of|an|the|to|by|in|or|if|on|at|as|we|so|no|and|not|are|for|but|was|has|its)\b)"
)
_LETTERS = re.compile(r"\\[A-Za-z]+|[A-Za-z]{2,}")
_FUNCTIONS = frozenset(
    """
    sin cos tan cot sec csc arcsin arccos arctan sinh cosh tanh log ln lg exp sqrt pi max min gcd
    lcm det mod sgn abs
    """.split()  # noqa: SIM905
)
_COMMANDS = frozenset(
    """
    frac sqrt binom cdot times over infty pm overline bar vec hat lfloor rfloor lceil rceil prime
    alpha beta gamma delta epsilon varepsilon zeta eta theta iota kappa lambda mu nu xi pi rho sigma
    tau phi varphi chi psi omega Gamma Delta Theta Lambda Xi Pi Sigma Phi Psi Omega angle triangle
    ell hbar cosec arccot arcsec sum prod int circ operatorname pmod bmod
    """.split()  # noqa: SIM905
)


def read(text: str) -> Answer:
    """Return what an answer in one notation is.

    Raises:
        Unreadable: if it is nothing that is known, or can be read in two ways.
    """
    text = text.strip()
    approximately = _APPROXIMATELY.match(text)
    if approximately:
        text = text[approximately.end() :].strip()
    if not text:
        raise Unreadable("the answer is empty")
    # Reading is not linear in the length of an answer.
    if len(text) > LONGEST:
        raise Unreadable(f"the answer is longer than {LONGEST:,} characters")

    for read_kind in _READERS:
        answer = read_kind(text)
        if answer is not None:
            return answer
    raise Unreadable("no mathematics that is known")


def _read_choice(text: str) -> Answer | None:
    match = _CHOICE.fullmatch(text)
    if match is None:
        return None
    letter = match[1] or match[2] or match[3]
    return Choice(letter.upper(), (match[4] or "").strip())


def _read_region(text: str) -> Answer | None:
    """Intervals, unions of them, inequalities, and sets that are described by an inequality."""
    # x in an interval is that interval.
    member = re.fullmatch(r"([A-Za-z])\s?\\in(?![A-Za-z])(.*)", text)
    if member:
        region = _read_region(member[2].strip()) or _read_braces(member[2].strip())
        return region
    if _REALS.fullmatch(text):
        return Region((Piece(None, None, False, False),))

    described = re.fullmatch(
        r"\\\{\s?([A-Za-z])(?:\s?\\in\s?\\mathbb\s?\{R\})?\s?[|:]\s?(.*)\\\}", text
    )
    if described:
        return _read_region(described[2].strip())

    # A union, one interval, or inequalities.
    parts = _split(text, _UNION)
    if len(parts) > 1:
        return _read_union(parts)
    interval = _read_interval(text)
    if interval:
        return Region((interval,))
    return _read_inequalities(text)


def _read_union(parts: list[str]) -> Region:
    pieces = []
    for part in parts:
        answer = _read_interval(part, is_plain=True) or _read_braces(part)
        if isinstance(answer, Piece):
            pieces.append(answer)
        elif isinstance(answer, Listing) and answer.kind == "set":
            pieces += [Piece(item, item, True, True) for item in answer.items]
        else:
            raise Unreadable(f"{part!r} in a union is neither an interval nor a set")
    return Region(tuple(pieces))


def _read_interval(text: str, *, is_plain: bool = False) -> Piece | None:
    """Return an interval; (1, 2) is one only in a union (`is_plain`), elsewhere it is a pair."""
    match = re.fullmatch(r"([\[(\]])(.*)([\])\[])", text)
    if match is None:
        return None
    ends = _split(match[2], re.compile("[,;]"))
    if len(ends) != 2 or not all(ends):
        return None

    # (1, 2) is a pair, and (1, infinity) is none.
    low = _read_end(ends[0])
    high = _read_end(ends[1])
    is_pair = match[1] == "(" and match[3] == ")" and low is not None and high is not None
    if is_pair and not is_plain:
        return None
    return Piece(low, high, match[1] == "[", match[3] == "]")


def _read_end(text: str) -> Answer | None:
    """Return an end of an interval; None for infinity."""
    if re.fullmatch(r"[-+]?\s?\\infty", text.strip()):
        return None
    return read_value(text)


def _read_inequalities(text: str) -> Region | None:
    """Return the region of inequalities of one variable, joined by `or`."""
    if not _RELATION.search(text):
        return None
    both = _split(text, _AND)
    if len(both) == 2:
        return _read_both(*both)

    pieces = []
    variables = set()
    for part in _split(text, _OR):
        variable, part_pieces = _read_chain(part)
        variables.add(variable)
        pieces += part_pieces
    if len(variables) > 1:
        raise Unreadable("inequalities of several variables")
    return Region(tuple(pieces), variables.pop())


def _read_both(first: str, second: str) -> Region:
    """Return the region of two inequalities that both hold: a bound below, and one above."""
    variable, pieces = _read_chain(first)
    other_variable, other_pieces = _read_chain(second)
    if variable != other_variable or len(pieces + other_pieces) != 2:
        raise Unreadable("inequalities joined by `and`")

    # One of them bounds below, and the other above.
    lower = pieces[0]
    upper = other_pieces[0]
    if lower.low is None:
        lower = other_pieces[0]
        upper = pieces[0]
    is_range = lower.high is None and upper.low is None
    if not is_range or lower.low is None or upper.high is None:
        raise Unreadable("inequalities joined by `and`")
    piece = Piece(lower.low, upper.high, lower.has_low, upper.has_high)
    return Region((piece,), variable)


_FLIPPED = {"<": ">", ">": "<", r"\le": r"\ge", r"\ge": r"\le", r"\ne": r"\ne"}


def _read_chain(text: str) -> tuple[str, list[Piece]]:
    """Return the variable and the intervals of one inequality: x > 2, 2 < x, or 1 < x < 2."""
    # The variable is one side, or the middle of three.
    sides = [side.strip() for side in _RELATION.split(text)]
    signs = _RELATION.findall(text)
    places = [place for place, side in enumerate(sides) if re.fullmatch(r"\\?[A-Za-z]+", side)]
    if len(places) != 1 or len(sides) > 3 or (len(sides) == 3 and places != [1]):
        raise Unreadable("an inequality that is not solved for one variable")
    variable = sides[places[0]]

    # 2 < x is x > 2; the middle of a chain has a bound on each side.
    bounds = []
    if places[0] > 0:
        bounds.append((_FLIPPED[signs[places[0] - 1]], read_value(sides[places[0] - 1])))
    if places[0] < len(signs):
        bounds.append((signs[places[0]], read_value(sides[places[0] + 1])))

    # A sign says on which side the bound is, and whether it belongs to the interval.
    low = None
    high = None
    has_low = False
    has_high = False
    for sign, bound in bounds:
        if sign == r"\ne":
            if len(bounds) > 1:
                raise Unreadable("a chain with an unequal sign")
            below = Piece(None, bound, False, False)
            above = Piece(bound, None, False, False)
            return variable, [below, above]
        if sign in (">", r"\ge"):
            low = bound
            has_low = sign == r"\ge"
        else:
            high = bound
            has_high = sign == r"\le"
    if len(bounds) == 2 and (low is None or high is None):
        raise Unreadable("a chain whose signs point in two directions")
    return variable, [Piece(low, high, has_low, has_high)]


def _read_braces(text: str) -> Answer | None:
    """Sets in braces, and tuples in parentheses, brackets or angle brackets."""
    if _EMPTY.fullmatch(text):
        return Listing((), "set")

    # What stands inside of them, if they belong together.
    for start, stop, kind in _BRACKETS:
        if not (text.startswith(start) and text.endswith(stop)):
            continue
        inside = text[len(start) : len(text) - len(stop)]
        if not _is_balanced(inside):
            continue
        items = _split(inside, re.compile("[,;]"))
        if len(items) > 1 or kind == "set":
            return Listing(_read_items(items), kind)
    return None


_BRACKETS = (
    (r"\{", r"\}", "set"),
    ("{", "}", "set"),
    ("(", ")", "tuple"),
    ("[", "]", "tuple"),
    (r"\langle", r"\rangle", "tuple"),
)


def _read_items(texts: list[str]) -> tuple[Answer, ...]:
    if len(texts) > _MOST_ITEMS:
        raise Unreadable(f"more than {_MOST_ITEMS} answers")
    items = []
    for text in texts:
        items += _expand_signs(text)
    return tuple(items)


def _expand_signs(text: str) -> list[Answer]:
    r"""Return the answers of a text: two where it has one \pm."""
    if text.count(r"\pm") != 1:
        return [read(text)]
    plus, minus = (text.replace(r"\pm", sign) for sign in ("+", "-"))
    return [read(re.sub(r"(^|[=(,])\s?\+\s?", r"\1", plus)), read(minus)]


def _read_matrix(text: str) -> Answer | None:
    match = _MATRIX.fullmatch(text)
    if match is None:
        # A matrix of plain text: [[1, 2], [3, 4]].
        rows_text = re.fullmatch(r"\[\s?(\[.*\])\s?\]", text)
        if rows_text is None or not _is_balanced(rows_text[1]):
            return None
        rows = _split(rows_text[1], re.compile(","))
        cells = [_split(row.strip()[1:-1], re.compile(",")) for row in rows]
    else:
        # Bars make a determinant, which is a number.
        if match[1] == "vmatrix":
            raise Unreadable("a determinant")
        rows = [row for row in re.split(r"\\\\(?:\[[^\]]*\])?|\\cr", match[2]) if row.strip()]
        cells = [row.split("&") for row in rows]

    if sum(map(len, cells)) > _MOST_ITEMS:
        raise Unreadable(f"a matrix with more than {_MOST_ITEMS} entries")
    return Matrix(tuple(tuple(read_value(cell) for cell in row) for row in cells))


def _read_list(text: str) -> Answer | None:
    """Answers with commas, `and` or `or` between them, and two answers in one with plus or minus.

    A comma between digits without a space is also a decimal point: `equality` decides.
    """
    # Words and signs separate alike, also together: 1, 2, and 3.
    parts = []
    for part in _split(text, _OR):
        parts += _split(part, re.compile("[,;]"))
    parts = [re.sub(r"^(?:and|or) ", "", part) for part in parts]
    if len(parts) == 1 and text.count(r"\pm") == 1:
        return Listing(tuple(_expand_signs(text)), "bare")
    if len(parts) < 2 or not all(parts):
        return None
    # Words with commas are one answer; letters of options are several.
    if _WORDS.fullmatch(text) and not all(len(part) == 1 for part in parts):
        return None
    return Listing(_read_items(parts), "bare")


def _read_ratio(text: str) -> Answer | None:
    parts = re.split(r"\s?(?::|\\colon)\s?", text)
    if len(parts) < 2 or not all(re.fullmatch(r"\d+(?:\.\d+)?", part) for part in parts):
        return None
    return Listing(_read_items(parts), "ratio")


def _read_equation(text: str) -> Answer | None:
    r"""A value with its name, an equation, or a chain of equal values.

    A rounded value after \approx adds nothing to an exact one.
    """
    if not _EQUALS.search(text):
        return None
    sides = [side.strip() for side in _split(text, _EQUALS)]
    signs = _EQUALS.findall(text)
    if len(sides) != len(signs) + 1 or not all(sides) or r"\equiv" in signs:
        raise Unreadable("an equation with an empty side, or a congruence")

    # One sign: a name and its value, or an equation.
    is_named = _is_name(sides[0])
    if len(sides) == 2:
        if is_named:
            return Named(_plain_name(sides[0]), read(sides[1]))
        if _is_name(sides[1]):
            return Named(_plain_name(sides[1]), read(sides[0]))
        if signs[0] == r"\approx":
            return read(sides[0])
        return Equation(sides[0], sides[1])

    # A chain: what comes after the last exact sign is the value.
    if r"\approx" in signs and not (is_named and signs[0] == r"\approx"):
        stop = signs.index(r"\approx")
        return read(" = ".join(sides[: stop + 1]))
    value = read(sides[-1])
    return Named(_plain_name(sides[0]), value) if is_named else value


def _is_name(text: str) -> bool:
    """Whether a side of an equation is only a name. A constant such as e or pi is none."""
    if text in (r"\pi", r"\infty") or not _NAME.fullmatch(text):
        return False
    commands = re.findall(r"\\([A-Za-z]+)", text)
    return not _FUNCTIONS & set(commands) and "frac" not in commands


def _plain_name(text: str) -> str:
    return re.sub(r"[\s{}]", "", text)


def _read_words(text: str) -> Answer | None:
    r"""An answer in words: letters that are neither a product of variables nor a function."""
    if not _WORDS.fullmatch(text):
        return None
    # Up to three letters may be a product: xyz.
    words = re.findall(r"[A-Za-z]+", text)
    is_product = text == words[0] and len(text) <= 3 and not _SHORT_WORDS.fullmatch(text)
    if is_product or text in _FUNCTIONS:
        return None
    return Words(normal_words(text))


def normal_words(text: str) -> str:
    """Return words without case, punctuation and articles."""
    words = re.findall(r"[a-z0-9]+", text.lower())
    return " ".join(word for word in words if word not in ("a", "an", "the"))


def _read_formula(text: str) -> Answer | None:
    """An expression. Text with words in it is none, and neither are half a bracket or a remark."""
    if not re.search(r"[A-Za-z0-9]", text) or not _is_balanced(text) or '"' in text:
        return None
    if re.search(r"(?<![\\A-Za-z])[A-Za-z]\.|[.?!]\s|\.\.\.|[^\x00-\x7f°]", text):
        return None
    # Letters are variables, functions or commands; words are prose.
    text, unit = _split_unit(text)
    if _PROSE.search(text):
        return None
    for letters in _LETTERS.findall(text):
        is_word = not letters.startswith("\\") and len(letters) > 3
        if is_word and letters.lower() not in _FUNCTIONS:
            return None
        is_unknown = letters.startswith("\\") and letters[1:] not in _COMMANDS | _FUNCTIONS
        if is_unknown:
            return None
    return Formula(text, unit)


def _split_unit(text: str) -> tuple[str, Unit | None]:
    r"""Return a formula without the unit after it, and the unit: 12\pi cm^{2}, \sqrt{2} units."""
    for border in re.finditer(r" (?=[A-Za-z]{2})", text):
        words = text[border.end() :]
        unit = read_unit(words)
        is_label = len(words) > 3 and says_what_is_counted(words)
        if unit or (is_label and not set(words.split()) & _FUNCTIONS):
            return text[: border.start()], unit
    return text, None


def read_value(text: str) -> Answer:
    """Return one number or formula.

    Raises:
        Unreadable: if the text is neither.
    """
    answer = read_quantity(text.strip()) or _read_formula(text.strip())
    if answer is None or not text.strip():
        raise Unreadable(f"{text!r} is neither a number nor a formula")
    return answer


# In this order: 12,345 is a number before it is a list, and (1, 2) is a pair before a formula.
_READERS = (
    _read_choice,
    read_quantity,
    _read_matrix,
    _read_region,
    _read_braces,
    _read_ratio,
    _read_list,
    _read_equation,
    _read_words,
    _read_formula,
)


def _is_balanced(text: str) -> bool:
    depth = 0
    for character in text:
        if character in "([{":
            depth += 1
        elif character in ")]}":
            depth -= 1
        if depth < 0:
            return False
    return depth == 0


def _split(text: str, separator: re.Pattern[str]) -> list[str]:
    """Return the parts of a text between separators that are outside of brackets, stripped."""
    parts = []
    start = 0
    depth = 0
    place = 0
    separators = {match.start(): match.end() for match in separator.finditer(text)}
    while place < len(text):
        character = text[place]
        if character in "([{":
            depth += 1
        elif character in ")]}":
            depth -= 1
        elif depth == 0 and place in separators and separators[place] > place:
            parts.append(text[start:place].strip())
            place = separators[place]
            start = place
            continue
        place += 1
    parts.append(text[start:].strip())
    return parts
