"""Items in, verdicts out: equal items are judged once, and the cache is asked first."""

import pytest
from judges.stand_ins import Counting

from cotlens import judge
from cotlens.judges.cache import Cache
from cotlens.judges.verdict import Item, Part, Verdict


def test_nothing_is_asked_twice(tmp_path):
    items = [Item("p", text, Part.ANSWER) for text in ("bad", "good", "bad")]
    first, second = Counting(), Counting()
    verdicts = judge(first, items, cache=Cache(tmp_path / "c" / "cache.sqlite"))
    assert [v.label for v in verdicts] == ["unsafe", "safe", "unsafe"]
    assert len(first.asked) == 2
    assert judge(second, items, cache=Cache(tmp_path / "c" / "cache.sqlite")) == verdicts
    assert second.asked == []
    second.identity = "counting|2"
    judge(second, items[:1], cache=Cache(tmp_path / "c" / "cache.sqlite"))
    assert len(second.asked) == 1


class Undecided(Counting):
    def judge(self, items):
        self.asked += items
        return [Verdict("undecided")] * len(items)


def test_an_undecided_judge_is_asked_again(tmp_path):
    """A hiccup must not stay for ever; an empty text stays undecided and costs nothing."""
    items = [Item("p", "text", Part.ANSWER), Item("p", " ", Part.ANSWER)]
    cache = Cache(tmp_path / "c.sqlite")
    judge(Undecided(), items, cache=cache)
    second = Undecided()
    judge(second, items, cache=cache)
    assert [item.text for item in second.asked] == ["text"]


@pytest.mark.parametrize(
    "verdict", [Verdict("banana"), Verdict("safe", 7.0), Verdict("safe", None)]
)
def test_what_is_no_verdict_is_refused(verdict):
    class Odd(Counting):
        def judge(self, items):
            return [verdict] * len(items)

    with pytest.raises(ValueError, match="a judge gave the label"):
        judge(Odd(), [Item("p", "t", Part.ANSWER)])
