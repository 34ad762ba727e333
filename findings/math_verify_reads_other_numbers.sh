#!/bin/bash
# math-verify 0.9.0 (with latex2sympy2-extended 1.11.0, sympy 1.14.0).
#
# Expected: verify(parse(gold), parse(answer)) is true for equal numbers and false for others, and what cannot be
# read gives an empty list.
#
# Seen, with the documented defaults:
# - two decimals that differ in their third digit are equal if both are small: floats are rounded to six places after
#   the point, not to six digits. A reference of MATH-500 is .0000672; .0000674 is called equal to it.
# - 12\,345 is 357, the sum of its groups: the thin space between thousands is read as in a mixed number.
# - the mixed number 3 1/2 is not 7/2.
# - the subscript of a base is dropped: 101_2 equals 101, and 101_3 equals 101_2.
# - x \ge 2 is not [2,\infty), while [2,\infty) is x \ge 2: the order of the two matters.
#
# Why it matters: accuracy and rewards count wrong answers as right, and right ones as wrong, by how they are written.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q math-verify==0.9.0 latex2sympy2-extended==1.11.0 sympy==1.14.0 antlr4-python3-runtime==4.13.2
"$folder/venv/bin/python" - <<'PYTHON'
import sys

from math_verify import parse, verify

# gold, answer, what a reader would say, what was seen
ROWS = [
    ("$.0000672$", "$.0000674$", False, True),
    ("$12345$", r"$12\,345$", True, False),
    ("$357$", r"$12\,345$", False, True),
    (r"$\frac{7}{2}$", "$3 1/2$", True, False),
    ("$101_2$", "$101_3$", False, True),
    (r"$[2,\infty)$", r"$x \ge 2$", True, False),
    (r"$x \ge 2$", r"$[2,\infty)$", True, True),
]
is_as_seen = True
for gold, answer, expected, seen in ROWS:
    equal = verify(parse(gold), parse(answer))
    is_as_seen = is_as_seen and equal == seen
    print(f"gold {gold:16} answer {answer:16} equal: {equal!s:6} expected: {expected}")
sys.exit(0 if is_as_seen else 1)
PYTHON
