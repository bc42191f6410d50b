"""Programs read from what a model wrote: every layout, and nothing made up where there is none."""

from __future__ import annotations

import ast

import pytest

from gnomon.tasks.code_extract import defines, extract

BODY = "    total = 0\n    for n in xs:\n        total += n\n    return total"
DEF = f"def f(xs):\n{BODY}\n"
HEAD = 'def f(xs):\n    """Sum."""'
IMPORT = "import math\n\n\ndef f(x):\n    return math.floor(x)\n"


def program(text: str, head: str = "", opened: bool = False, entry: str = "f") -> str | None:
    """The program as Python's parser sees it (docstrings and layout aside); its span is checked on the way."""
    code = extract(text, entry, head, opened)
    if code is None:
        return None
    assert 0 <= code.start < code.end <= len(text)
    assert text[code.start : code.end].strip(), "a span covers something"
    assert text[code.start : code.end] == text[code.start : code.end].rstrip(), "and ends where the program does"
    assert (
        text[code.start : code.end].replace("\r", "").strip("\n") in code.program
        or "\t" in text
        or head
        or "  " in text
    )
    try:
        return ast.unparse(ast.parse(code.program))
    except SyntaxError:
        return "not Python"


WANTED = ast.unparse(ast.parse(DEF))

WHOLE = {
    "bare": DEF,
    "a blank before": " " + DEF,
    "line ends of Windows": DEF.replace("\n", "\r\n"),
    "tabs": DEF.replace("    ", "\t"),
    "chat": f"Sure! Here is the function:\n\n```python\n{DEF}```\n\nIt adds the numbers up.",
    "short tag": f"```py\n{DEF}```",
    "capital tag": f"```Python\n{DEF}\n```",
    "no tag": f"```\n{DEF}```",
    "tildes": f"~~~\n{DEF}~~~\nDone.",
    "four ticks": f"````python\n{DEF}````",
    "unclosed": f"Here:\n```python\n{DEF}",
    "fence of Windows": f"Here:\n```python\n{DEF}```\nDone.\n".replace("\n", "\r\n"),
    "indented fence": "1. Do this:\n   ```python\n" + "".join(f"   {line}\n" for line in DEF.splitlines()) + "   ```\n",
    "second fence": f"First install:\n```bash\npip install x\n```\nThen:\n```python\n{DEF}```",
    "usage fence after": f"```python\n{DEF}```\nUse it:\n```python\nprint(f([1]))\n```",
    "another function first": f"```python\ndef g(x):\n    return x\n```\nand\n```python\n{DEF}```",
    "trials in the fence": f"```python\n{DEF}\nprint(f([1, 2]))\nassert f([]) == 0\n```",
    "main in the fence": f"```python\n{DEF}\nif __name__ == '__main__':\n    print(f([1]))\n```",
    "prose around bare code": f"Here is the function:\n\n{DEF}\nThis function adds the numbers.\nIt is fast.\n",
    "prose that looks like code": f"def is the keyword; import what you need.\n\n{DEF}\nThe end.",
    "behind a word": f"Answer: {DEF}",
    "end of turn": f"{DEF}<|im_end|>\n<|im_start|>user\ndef f(): return 3",
    "done mark": f"{DEF}[DONE]\nmore",
    "bare, then a fence of output": f"{DEF}\n```\n6\n```\n",
}


@pytest.mark.parametrize("case", WHOLE)
def test_whole_programs(case: str) -> None:
    assert program(WHOLE[case]) == WANTED


@pytest.mark.parametrize("case", WHOLE)
def test_whole_programs_where_a_body_was_asked_for(case: str) -> None:
    if case not in ("behind a word",):
        assert program("\n" + WHOLE[case], HEAD) == WANTED


def test_a_later_block_counts_where_the_first_is_taken_back() -> None:
    wrong = DEF.replace("+=", "-=")
    assert program(f"```python\n{wrong}```\nWait, that is wrong:\n```python\n{DEF}```") == WANTED
    assert program(f"```python\n{DEF}```\nAnother way:\n```python\n{wrong}```") == WANTED


def test_imports_constants_helpers_and_decorators_belong_to_it() -> None:
    for text in (
        IMPORT, "LIMIT = 3\ndef f(x):\n    return x < LIMIT\n",
        "def g(x):\n    return x\n\ndef f(x):\n    return g(x)\n",
        "from functools import cache\n\n@cache\ndef f(x):\n    return x\n", "f = lambda x: x + 1\n",
        "def f(x):\n    return g(x)\n\n\ndef g(x):\n    return x\n", "class A:\n    pass\n\ndef f():\n    return A()\n",
    ):  # fmt: skip
        whole = ast.unparse(ast.parse(text))
        assert program(text) == whole
        assert program(f"Like this:\n```python\n{text}```") == whole
        assert program(f"Like this:\n\n{text}\nThat is all.\n") == whole


def test_an_opened_fence_is_continued() -> None:
    assert program(f"\n{DEF}```\nIt adds.", opened=True) == WANTED
    assert program(DEF, opened=True) == WANTED
    assert program(f"```python\n{DEF}```", opened=True) == WANTED, "it opens the fence again"
    assert program("def f(xs):\n    return sum(xs", opened=True) is None


CONTINUED = {
    "the body": "\n" + BODY,
    "one more line": f"\n{BODY}\n",
    "line ends of Windows": f"\n{BODY}".replace("\n", "\r\n"),
    "tabs": f"\n{BODY}".replace("    ", "\t"),
    "prose after": f"\n{BODY}\n\nThis function adds.",
    "a fence after": f"\n{BODY}\n```\n\nThis function adds.",
    "the next function": f"\n{BODY}\n\n\ndef other(x):\n    return x\n",
    "a trial": f"\n{BODY}\n\nprint(f([1, 2]))\n",
    "a class": f"\n{BODY}\n\n\nclass A:\n    pass\n",
    "a comment after": f"\n{BODY}\n# Test it\nprint(f([1]))\n",
}


@pytest.mark.parametrize("case", CONTINUED)
def test_a_body_ends_where_it_is_left(case: str) -> None:
    wanted = ast.unparse(ast.parse(f"{HEAD}\n{BODY}\n"))
    assert program(CONTINUED[case], HEAD) == wanted
    code = extract(CONTINUED[case], "f", HEAD)
    assert code is not None
    assert code.how == "continued"
    assert CONTINUED[case][code.start : code.end].replace("\r", "").replace("\t", "    ") == BODY
    with_line_end = CONTINUED[case].removeprefix("\r").removeprefix("\n")
    assert program(with_line_end, HEAD + "\n") == wanted, "a head that ends its line"


def test_a_body_keeps_what_stands_in_the_first_column_within_it() -> None:
    texts = (
        '\n    text = """\nin the first column\n"""\n    return text',
        "\n    x = 1\n# a note\n    return x",
        "\n    return [\n1,\n2,\n]",
    )
    for text in texts:
        assert program(f"{text}\n\nprint(1)\n", HEAD) == ast.unparse(ast.parse(f"{HEAD}{text}\n"))


def test_a_body_takes_along_the_function_that_it_needs() -> None:
    text = "\n    return g(xs)\n\n\ndef g(xs):\n    return sum(xs)\n\n\ndef h(xs):\n    return 0\n"
    kept = text.partition("\n\n\ndef h")[0]
    assert program(text, HEAD) == ast.unparse(ast.parse(HEAD + kept))


def test_a_statement_that_was_cut_in_two_is_left_off() -> None:
    for tail in ("    print(", "    print('", "    if tot", "    for x in", "    x = [1,\n         2,", "    if x:\n"):
        text = f"\n    return 1\n{tail}"
        if tail != "    if tot":  # what parses stays as it is
            code = extract(text, "f", HEAD)
            assert code is not None
            assert code.how == "continued, cut", tail
            assert program(text, HEAD) == ast.unparse(ast.parse(f"{HEAD}\n    return 1\n")), tail
        bare = f"def f(xs):\n    return 1\n{tail}"
        if tail != "    if tot":
            assert program(bare) == ast.unparse(ast.parse("def f(xs):\n    return 1\n")), tail


def test_what_is_cut_before_anything_stands_is_no_code() -> None:
    for text in ("\n    return (1 +", "\n    x = [", "\n    for x in", "", "\n", "    ", "\n\n\nThis function adds."):
        assert extract(text, "f", HEAD) is None, text
    for text in ("def f(xs):\n    return (1 +", "def f(", "```python\ndef f(xs):", "```python\n", "import math\n"):
        code = extract(text, "f")
        assert code is None, text


def test_a_fault_in_the_middle_is_kept_for_the_tests_to_refuse() -> None:
    broken = "\n    total = = 0\n    for n in xs:\n        total += n\n    return total"
    assert program(broken, HEAD) == "not Python"
    assert program(f"```python\ndef f(xs):{broken}\n```") == "not Python"
    assert program(f"def f(xs):{broken}\n") == "not Python"


def test_a_fault_in_the_only_statement_is_a_fault_and_no_cut() -> None:
    for line in (
        "    return xs +* 2",
        "    return xs +* 2\n",
        "    return 1 if “a” else 0\n",
        "\u00a0\u00a0return 1\n",
        "    return True if xs == 1\n",  # at the end of a line, which was therefore not cut
    ):
        assert program(f"\n{line}", HEAD) == "not Python", line
        for text in (f"def f(xs):\n{line}", f"```python\ndef f(xs):\n{line}", f"```python\ndef f(xs):\n{line}\n```"):
            assert program(text) == "not Python", text
    assert program("```python\ndef f(xs):\n    return (1 +\n```") == "not Python", "no limit cuts what a fence closes"
    for words in ("\n    The function adds.", " This function adds.", "\nThe function adds."):
        assert extract(words, "f", HEAD) is None, words
    for words in ("def f(xs) is a function that adds.", "You write def f(xs): and go on.\nGood luck."):
        assert extract(words, "f") is None, words


def test_what_follows_a_function_in_its_fence_does_not_spoil_it() -> None:
    for after in (">>> f([1])\n1", "Example usage follows.", "1. It adds"):
        assert program(f"```python\n{DEF}{after}\n```") == WANTED, after
    inside = 'def f(xs):\n    """\n    ```\n    f([1])\n    ```\n    """\n' + BODY
    assert program(f"```python\n{inside}\n```") == ast.unparse(ast.parse(inside))


def test_a_method_is_not_torn_out_of_its_class() -> None:
    text = "class Solution:\n    @staticmethod\n    def f(xs):\n        return sum(xs)\n"
    for whole in (text, f"```python\n{text}```", f"Here it is:\n\n{text}\nDone.\n"):
        code = extract(whole, "f")
        assert code is not None
        assert not defines(code.program, "f"), whole
        assert code.program.startswith("class Solution")


def test_words_between_two_versions_take_back_only_what_they_say_is_wrong() -> None:
    wrong = DEF.replace("+=", "-=")
    for words in ("This actually works. Without a fixed size:", "Another way:"):
        assert program(f"```python\n{DEF}```\n{words}\n```python\n{wrong}```") == WANTED, words
    for words in ("Actually, it must add:", "The fixed version:", "Fixed:", "Oops."):
        assert program(f"```python\n{wrong}```\n{words}\n```python\n{DEF}```") == WANTED, words


def test_another_name_is_code_too() -> None:
    code = extract("```python\ndef g(xs):\n    return 1\n```", "f")
    assert code is not None
    assert not defines(code.program, "f")


@pytest.mark.parametrize(
    "text",
    ["", "  \n", "I don't know.", "I'm sorry, but I cannot answer that question.", "def", "The answer is 5.",
     "```\nno code here, only words\n```", "```bash\npip install numpy -q\n```", "You should define the function f."],
)  # fmt: skip
def test_no_code(text: str) -> None:
    for head in ("", HEAD, HEAD + "\n"):
        assert extract(text, "f", head) is None


def test_odd_characters_do_no_harm() -> None:
    assert program("```python\ndef f(x):\n    return 'é\u2028ü'\n```") is not None
    for text in (
        "def f(x):\n    return '\0'\n",
        "def f(x):\n    return " + "(" * 500,
        "\ud800def f(x):\n    return 1\n",
    ):
        extract(text, "f")
        extract("\n    return " + text, "f", HEAD)
