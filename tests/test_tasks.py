"""What all tasks share: ranges, draws, worked examples, styles, episodes; and each made task's own facts."""

from __future__ import annotations

import itertools
from collections import Counter

import pytest

from gnomon.errors import UserError
from gnomon.tasks.base import SingleTurn
from gnomon.tasks.capitals import Capitals
from gnomon.tasks.make import make_task
from gnomon.tasks.products import Products
from gnomon.tasks.prompts import continue_with
from gnomon.tasks.reasoning_gym import ReasoningGym
from gnomon.tasks.sums import Sums
from gnomon.types import Episode, Example

# ---------------------------------------------------------------- draws and ranges


def test_range_is_of_the_data_sets_order_and_leaves_the_end_out() -> None:
    everything = [e.id for e in Capitals().examples()]
    assert [e.id for e in Capitals(range="0-162").examples()] == everything[:162]
    assert [e.id for e in Capitals(range="50-100").examples()] == everything[50:100]
    assert [e.id for e in Capitals(range="190-").examples()] == everything[190:]
    assert Capitals(range="50-100").examples()[0].meta["index"] == 50


def test_a_smaller_draw_is_part_of_a_larger_one_in_order() -> None:
    small, large = ([e.id for e in Capitals().examples(n, seed=4)] for n in (40, 90))
    assert set(small) < set(large)
    everything = [e.id for e in Capitals().examples()]
    assert large == [i for i in everything if i in set(large)]
    assert set(small) != {e.id for e in Capitals().examples(40, seed=5)}


def test_generated_questions_are_a_prefix_of_more_of_them() -> None:
    assert [e.id for e in Sums().examples(50, 3)] == [e.id for e in Sums().examples(120, 3)][:50]
    assert [e.id for e in Sums(range="50-60").examples(seed=3)] == [e.id for e in Sums().examples(60, 3)][50:]
    assert {e.id for e in Sums().examples(50, 3)} != {e.id for e in Sums().examples(50, 4)}


def test_all_of_a_small_space_is_asked_once_each_and_no_more() -> None:
    task = Sums(digits="1")
    pairs = {tuple(e.meta["operands"]) for e in task.examples(81)}
    assert pairs == set(itertools.product(range(1, 10), repeat=2))
    with pytest.raises(UserError, match="81 exist"):
        task.examples(82)
    assert len(task.examples()) == 81


@pytest.mark.parametrize("text", ["162", "5-5", "9-2", "a-b", "-3", "1-2-3"])
def test_bad_ranges(text: str) -> None:
    with pytest.raises(UserError, match="range"):
        Sums(range=text)


def test_more_than_exist_is_refused() -> None:
    with pytest.raises(UserError, match="197 exist"):
        Capitals().examples(198)
    with pytest.raises(UserError, match="197 exist"):
        Capitals(range="100-300").examples()
    with pytest.raises(UserError, match="50 exist in range 0-50"):
        Capitals(range="0-50").examples(51)
    with pytest.raises(UserError, match="0 examples"):
        Capitals().examples(0)


# ---------------------------------------------------------------- styles and worked examples


def example(style: str, **options) -> Example:
    return next(e for e in Capitals(style=style, **options).examples() if e.id == "capitals:kenya:0")


def test_styles() -> None:
    ask, tell = "What is the capital of Kenya?", "Answer with the name of the city only."
    assert example("plain").prompt == f"{ask} {tell}\nAnswer:"
    assert example("chat").prompt == ({"role": "user", "content": f"{ask}\n{tell}"},)
    assert example("prefix").prompt == "The capital of Kenya is"
    assert example("chat_prefix").prompt[-1] == {"role": "assistant", "content": "The capital of Kenya is"}
    assert example("chat", instruction="", system="Be brief.").prompt == (
        {"role": "system", "content": "Be brief."}, {"role": "user", "content": ask}
    )  # fmt: skip


def test_worked_examples_take_the_style_of_the_question() -> None:
    plain = example("plain", shots=2, instruction="").prompt
    assert isinstance(plain, str)
    assert plain.count("Answer:") == 3
    assert plain.endswith("What is the capital of Kenya?\nAnswer:")
    prefix = example("prefix", shots=2).prompt
    assert isinstance(prefix, str)
    assert prefix.count("\n") == 2
    assert prefix.split("\n")[0].endswith(".")
    chat = example("chat_prefix", shots=1).prompt
    assert [m["role"] for m in chat if not isinstance(m, str)] == ["user", "assistant", "user", "assistant"]


def test_worked_examples_follow_their_seed_only() -> None:
    shots = [example("plain", shots=3, shot_seed=s).meta["shots"] for s in (0, 0, 1)]
    assert shots[0] == shots[1] != shots[2]
    alike = Counter(tuple(e.meta["shots"]) for e in Capitals(shots=3).examples())
    assert alike.most_common(1)[0][1] > 190, "all but the shown ones get the same worked examples"


def test_worked_examples_never_come_from_the_group() -> None:
    task = Sums(digits="1", formats=("symbol", "words"), shots=5)
    for e in task.examples(162):
        assert e.group not in e.meta["shot_groups"]
        reverse = "{} + {}".format(*reversed(e.meta["operands"]))
        shown = "".join(m["content"] for m in e.prompt[:-2] if not isinstance(m, str))
        assert f"is {reverse}?" not in shown, "3 + 5 gives 5 + 3 away"


def test_too_few_for_the_worked_examples() -> None:
    with pytest.raises(UserError, match="lower shots"):
        Sums(digits="1", terms=8, shots=2, range="0-1").variant(digits="1x1", shots=60).examples()


def test_length_and_stop_follow_the_style_unless_given() -> None:
    assert Sums(style="prefix").stop == ("\n",)
    assert Sums(style="chat").stop == ()
    assert Sums(style="chat").max_new_tokens > Sums(style="prefix").max_new_tokens
    assert Sums(style="prefix", stop="X", max_new_tokens=3).stop == ("X",)
    assert (
        Sums(style="prefix", max_new_tokens=3).variant(style="chat").max_new_tokens == Sums(style="chat").max_new_tokens
    )


def test_continuing_a_prompt() -> None:
    assert continue_with("The answer is", "True") == " True"
    assert continue_with("The answer is\n", "True") == "True"
    assert continue_with(({"role": "user", "content": "Well?"},), "True") == "True"
    assert (
        continue_with(({"role": "user", "content": "?"}, {"role": "assistant", "content": "It is"}), "True") == " True"
    )


def test_a_question_is_an_episode_of_one_turn() -> None:
    task = Sums()
    e = task.examples(1)[0]
    play = task.episode(e)
    assert isinstance(play, Episode)
    assert play.first() == e.prompt
    assert play.grade().label is None
    assert play.reply(e.target).prompt is None
    assert play.grade().label is True
    assert isinstance(play, SingleTurn)


def test_baselines_say_what_can_be_seen_from_outside() -> None:
    e = Products(digits="2").examples(1)[0]
    seen = Products(digits="2").baselines(e)
    assert seen["difficulty"] == e.difficulty
    assert seen["steps"] == 4.0
    assert seen["prompt_chars"] == sum(len(m["content"]) for m in e.prompt if not isinstance(m, str)) + 2
    assert {"largest_log10", "smallest_log10", "carries", "target_chars", "prompt_words"} <= set(seen)


# ---------------------------------------------------------------- building


def test_ways_to_name_a_task() -> None:
    assert make_task({"name": "sums", "digits": 3}) == make_task({"sums": {"digits": 3}}) == Sums(digits=3)
    assert make_task("reasoning_gym:leg_counting") == ReasoningGym(dataset="leg_counting")


@pytest.mark.parametrize(("spec", "said"), [
    ("summs", "did you mean 'sums'"), ({"sums": {"digit": 2}}, "did you mean 'digits'"),
    ({"sums": {"digits": "x"}}, "cannot be read"),
    ({"sums": {"terms": 1}}, "terms"), ({"sums": {"style": "loud"}}, "style"),
    ({"sums": {"mode": "choices"}}, "no mode"),
    ("sums:3", "nothing after a colon"), ({"a": {}, "b": {}}, "a name"), ("jsonl", "lacks 'path'"),
    ("gnomon.types:Grade", "is not a task"), ("no_such_module:Task", "cannot import"),
    ({"logic": {"depth": "9"}}, "depth"),
    ({"logic": {"kind": "syllogism", "depth": 5}}, "at most 3"), ({"capitals": {"templates": "Which?"}}, "{country}"),
    ({"sums": {"formats": []}}, "at least one"), ({"sums": {"digits": "3-1"}}, "the smaller first"),
])  # fmt: skip
def test_mistakes_are_named(spec, said: str) -> None:
    with pytest.raises(UserError) as raised:
        make_task(spec)
    assert said in str(raised.value)
