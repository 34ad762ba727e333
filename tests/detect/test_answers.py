"""The answer that a step states."""

import pytest

from cotlens.detect.answers import stated_answer


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("So the answer is 42.", "42"),
        ("The answer should be C.", "C"),
        (r"Thus \boxed{\frac{1}{2}} holds.", r"\frac{1}{2}"),
        ("**Answer:** 3/4", "3/4"),
        ("x = 3", ""),
        ("The answer depends on Cats.", ""),
        ("the answer is 1,234.5 or so", "1234.5"),
        ("The answer is -5.", "-5"),
        ("The answer is $-3$", "-3"),
        ("The answer is −.5, so", "-.5"),
        ("The answer is **(B)**.", "B"),
        (r"\boxed{\frac{\sqrt{2}}{2}}", r"\frac{\sqrt{2}}{2}"),
        (r"\boxed{1,000}", "1000"),
        (r"\boxed{7", ""),
        ("The answer is 3x+1", ""),
        ("The answer is 2^10", ""),
        ("The answer is 1e5", ""),
        ("The answer is 5-2.", ""),
        ('The answer is "A corner."', ""),
        ("The answer is D-shaped", ""),
        ("The answer is A good idea", ""),
    ],
)
def test_stated_answer(text, answer):
    assert stated_answer(text) == answer
