r"""One notation for a mathematical answer: `½`, `\dfrac12` and `\tfrac{1}{2}` become `\frac{1}{2}`.

What is written in LaTeX, in Unicode or in plain text comes out in the same LaTeX. Nothing is
evaluated here, and a text is never made to mean something else.
"""

import re
import unicodedata

_MINUS = dict.fromkeys(map(ord, "−‒–﹣－‐‑"), "-")
_SPACES = dict.fromkeys(map(ord, "\u00a0\u2007\u2008\u2009\u200a\u202f\u205f\u3000\t\r"), " ")
_INVISIBLE = dict.fromkeys(map(ord, "\u200b\u200c\u200d\u2060\u2061\u2062\u2063\ufeff"), "")
_SYMBOLS = {
    "×": r"\times ", "·": r"\cdot ", "⋅": r"\cdot ", "∙": r"\cdot ", "÷": "/", "⁄": "/", "∕": "/",
    "≤": r"\le ", "⩽": r"\le ", "≥": r"\ge ", "⩾": r"\ge ", "≠": r"\ne ", "≈": r"\approx ",
    "∞": r"\infty ", "∪": r"\cup ", "∩": r"\cap ", "∈": r"\in ", "∅": r"\emptyset ",
    "±": r"\pm ", "…": "...", "⟨": r"\langle ", "⟩": r"\rangle ", "∣": "|", "ℝ": r"\mathbb{R}",
    "（": "(", "）": ")", "［": "[", "］": "]", "，": ", ", "：": ":", "＝": "=", "％": "%",
    "α": r"\alpha ", "β": r"\beta ", "γ": r"\gamma ", "δ": r"\delta ", "θ": r"\theta ",
    "λ": r"\lambda ", "μ": r"\mu ", "π": r"\pi ", "ρ": r"\rho ", "σ": r"\sigma ", "τ": r"\tau ",
    "φ": r"\phi ", "ω": r"\omega ", "“": '"', "”": '"', "‘": "'", "’": "'", "º": "°", "˚": "°",
}  # fmt: skip
_Match = re.Match[str]
_TRANSLATION = (
    _MINUS | _SPACES | _INVISIBLE | {ord(symbol): text for symbol, text in _SYMBOLS.items()}
)

# What TeX writes in several ways, in the order in which it is replaced.
_REWRITES = [
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        # space, size and style mean nothing
        (r"\\!", ""),
        (r"\\(?:left|right|[bB]igg?[lrm]?)(?![A-Za-z])\.?", ""),
        (r"\\(?:displaystyle|textstyle|limits|nolimits)(?![A-Za-z])", " "),
        (r"\\[,;:>]|\\(?:quad|qquad|thinspace|enspace|space)(?![A-Za-z])", " "),
        (r"(?<!\\)\\ |(?<!\\)~", " "),
        (r"\\mathord\{(.)\}", r"\1"),
        # one name for one sign
        (r"\\[dtc]frac(?![A-Za-z])", r"\\frac"),
        (r"\\l(?:eqslant|eqq|eq|e)(?![A-Za-z])|<=|=<", r"\\le "),
        (r"\\g(?:eqslant|eqq|eq|e)(?![A-Za-z])|>=", r"\\ge "),
        (r"\\(?:neq|ne|not\s?=)(?![A-Za-z])|!=", r"\\ne "),
        (r"\\lt(?![A-Za-z])", "<"),
        (r"\\gt(?![A-Za-z])", ">"),
        (r"\\(?:approx|simeq|thickapprox)(?![A-Za-z])", r"\\approx "),
        (r"\\(?:l|c|d)?dots[cbmio]?(?![A-Za-z])", "..."),
        (r"\\(?:varnothing|emptyset)(?![A-Za-z])", r"\\emptyset "),
        (r"\\(?:lbrace)(?![A-Za-z])", r"\\{"),
        (r"\\(?:rbrace)(?![A-Za-z])", r"\\}"),
        (r"\\(?:lbrack)(?![A-Za-z])", "["),
        (r"\\(?:rbrack)(?![A-Za-z])", "]"),
        (r"\\(?:mid|vert)(?![A-Za-z])", "|"),
        (r"\\div(?![A-Za-z])", "/"),
        (r"\\(?:degree|textdegree)(?![A-Za-z])", "°"),
        (r"\^\s?\{?\s?(?:\\circ|°)(?![A-Za-z])\s?\}?", "°"),
        (r"\\minus(?![A-Za-z])", "-"),
        (r"(?<![A-Za-z])\{([-+])\}", r"\1"),
        # the signs that TeX escapes; \$ is money
        (r"\\([%#_&])", r"\1"),
        (r"\\\$", "¤"),
        (r"\\(?:pounds|euro|EUR)(?![A-Za-z])", "€"),
        # a power of plain text
        (r"\*\*", "^"),
        (r"\^\s?([-+]?\d+)", r"^{\1}"),
        (r"(?i)(?<![A-Za-z\\])(?:\+\s?)?(?:infinity|oo)(?![A-Za-z])", r"\\infty "),
        (r"\+\s?(?=\\infty)", ""),
    )
]

# Commands whose argument is all that is meant.
_WRAPPERS = re.compile(
    r"\\(?:text(?:bf|it|rm|normal|sf|tt|up|sc)?|mathrm|mathbf|mathit|mathsf|mathtt|mathnormal"
    r"|boldsymbol|bm|pmb|mbox|hbox|operatorname\*?|emph|underline|unit|mathopen|mathclose|mathrel"
    r"|mathbin)\s{0,3}\{([^{}]*)\}"
)
_OLD_STYLES = re.compile(r"\{?\\(?:bf|rm|it|cal|tt)(?![A-Za-z])\s?([^{}\\$]*)\}?")
_DEPTH = 4  # wrappers inside each other

# `$` delimits a formula if it touches what is inside and no digit comes after; else it is money.
_DOLLARS = re.compile(r"\$\$([^$]+)\$\$|(?<![\d¤])\$(?=\S)([^$\n]*[^$\s])\$(?!\d)")
_BARE_ARGUMENT = re.compile(r"\\(frac|sqrt)(?![A-Za-z])")
_ROOT_INDEX = re.compile(r"\s?\[[^\[\]]{1,9}\]")
_DIGITS = re.compile(r"\d+")
_ROOT = re.compile(r"([√∛])\s?")


def one_notation(text: str) -> str:
    r"""Return an answer in one notation, without delimiters of formulas, markup and end mark.

    >>> one_notation("**$\\dfrac12$**.")
    '\\frac{1}{2}'
    >>> one_notation("x² ≤ 3½")
    'x^{2} \\le 3\\frac{1}{2}'
    """
    text = _without_unicode(text)
    text = _strip_marks(text)

    # Money that is escaped is set aside before dollars are taken for delimiters.
    text = text.replace(r"\$", "¤")
    text = re.sub(r"\\[()\[\]]", " ", text)
    text = _DOLLARS.sub(lambda match: f" {match[1] or match[2]} ", text)
    text = text.replace("$", "¤")

    for pattern, replacement in _REWRITES:
        text = pattern.sub(replacement, text)
    for _ in range(_DEPTH):
        text = _WRAPPERS.sub(r" \1 ", text)
    text = _OLD_STYLES.sub(r" \1 ", text)
    text = _brace_arguments(text)
    text = _decimal_braces(text)

    text = re.sub(r"\s+", " ", text)
    return _strip_marks(text)


def _without_unicode(text: str) -> str:
    """Return the text with signs and digits of Unicode in LaTeX."""
    pieces = []
    for character in text.translate(_TRANSLATION):
        if character.isascii() or character in "°√∛":
            pieces.append(character)
        else:
            pieces.append(_decompose(character))
    plain = "".join(pieces)

    # Raised and lowered digits come one by one: 10⁻³ is 10^{-}^{3} so far.
    plain = re.sub(r"\}\^\{", "", plain)
    plain = re.sub(r"\}_\{", "", plain)

    # A bar or dot over a digit stands after it.
    plain = re.sub(r"((?:\d[\u0305\u0304])+)", _bar, plain)
    plain = re.sub(r"(\d)\u0307", r"\\dot{\1}", plain)
    return _ROOT.sub(_root, plain)


def _decompose(character: str) -> str:
    """Return what a character stands for: ½ is a fraction, ² a power, 𝑥 a letter, ٣ a digit."""
    kind, *codes = unicodedata.decomposition(character).split(" ")
    letters = ""
    for code in codes:
        letters += chr(int(code, 16))
    letters = letters.replace("\u2044", "/")
    letters = letters.replace("\u2212", "-")

    # ½ has both numbers, and ⅟ only one.
    if kind == "<fraction>" and not letters.endswith("/"):
        numerator, _, denominator = letters.partition("/")
        return rf"\frac{{{numerator}}}{{{denominator}}}"
    if kind == "<super>":
        return rf"^{{{letters}}}"
    if kind == "<sub>":
        return rf"_{{{letters}}}"
    if kind in ("<wide>", "<font>", "<compat>", "<circle>"):
        return letters

    # A digit of another script.
    digit = unicodedata.decimal(character, None)
    if digit is None:
        return character
    return str(digit)


def _bar(match: _Match) -> str:
    digits = re.sub(r"\D", "", match[1])
    return rf"\overline{{{digits}}}"


def _root(match: _Match) -> str:
    if match[1] == "√":
        return r"\sqrt "
    return r"\sqrt[3] "


def _strip_marks(text: str) -> str:
    """Return an answer without quotation marks, markup and end marks around it."""
    text = text.strip()
    # Nothing is stripped that is part of an answer: 0.33..., 5!, and `2.` before a blank.
    while True:
        bare = text.strip(" \n\"'`")
        for mark in ("**", "__", "*", "_"):
            if len(bare) > 2 * len(mark) and bare.startswith(mark) and bare.endswith(mark):
                bare = bare[len(mark) : -len(mark)]
        # What opened before the answer closes after it.
        if bare.count("**") == 1:
            bare = bare.removesuffix("**")
        if not bare.endswith(".."):
            bare = bare.rstrip(".")
        bare = bare.rstrip(",;:\n ")
        if bare.endswith("\\"):
            bare = bare[:-1]
        if re.fullmatch(r"\{[^{},]*\}", bare):
            bare = bare[1:-1]
        if bare == text:
            return text
        text = bare


def _brace_arguments(text: str) -> str:
    r"""Return the text with braces around arguments that have none: \frac12, \sqrt 3."""
    pieces = []
    start = 0
    while match := _BARE_ARGUMENT.search(text, start):
        pieces.append(text[start : match.end()])
        place = match.end()

        # A root may have an index in brackets.
        index = _ROOT_INDEX.match(text, place)
        if match[1] == "sqrt" and index:
            pieces.append(index[0].strip())
            place = index.end()

        n_arguments = 2 if match[1] == "frac" else 1
        for _ in range(n_arguments):
            argument = _ARGUMENT.match(text, place)
            if argument is None:
                break
            inside = argument[1] or argument[2] or argument[3]
            pieces.append("{" + inside + "}")
            place = argument.end()

            # A root of plain text is of a whole number: √12.
            digits = _DIGITS.match(text, place)
            if match[1] == "sqrt" and digits:
                pieces[-1] = pieces[-1].removesuffix("}") + digits[0] + "}"
                place = digits.end()
        start = place
    pieces.append(text[start:])

    # The second argument alone may lack its braces.
    return re.sub(r"(\\frac\{[^{}]*\})\s?([0-9A-Za-z])", r"\1{\2}", "".join(pieces))


# An argument without braces is one digit, one letter, or one command such as \pi. A root of plain
# text has parentheses. What begins with a brace has its braces.
_ARGUMENT = re.compile(r"\s?(?:([0-9A-Za-z])|(\\[A-Za-z]+)(?!\{)|\(([^()]{1,200})\))")


def _decimal_braces(text: str) -> str:
    r"""Return the text without braces around a comma: 12{,}345 has thousands, 3{,}14 a decimal."""
    text = re.sub(r"(?<![\d.])([1-9]\d{0,2})((?:\s?\{,\}\s?\d{3})+)(?![\d{])", _thousands, text)
    return re.sub(r"(?<=\d)\{,\}(?=\d)", ".", text)


def _thousands(match: _Match) -> str:
    groups = re.sub(r"[\s{}]", "", match[2])
    return match[1] + groups
