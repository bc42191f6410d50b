# ruff: noqa: E501  (a problem is told in one line)
"""Problems about strings; the notation is told in functions_data.py."""

PROBLEMS = r"""
shout(text) | Return text in upper case with an exclamation mark at the end.
    return text.upper() + "!"
"hi" -> "HI!"
"Go on" -> "GO ON!"
"" -> "!"
"a1" -> "A1!"

count_vowels(text) | Return how many vowels (a, e, i, o, u) are in text, which is in lower case.
    return sum(c in "aeiou" for c in text)
"hello" -> 2
"rhythm" -> 0
"aeiou" -> 5
"banana" -> 3

reverse_text(text) | Return text spelled backwards.
    return text[::-1]
"abc" -> "cba"
"" -> ""
"a b" -> "b a"
"level!" -> "!level"

first_word(sentence) | Return the first word of a sentence whose words are separated by spaces.
    return sentence.split()[0]
"hello world" -> "hello"
"one" -> "one"
"  two words" -> "two"
"a b c" -> "a"

last_word(sentence) | Return the last word of a sentence whose words are separated by spaces.
    return sentence.split()[-1]
"hello world" -> "world"
"one" -> "one"
"two words " -> "words"
"a b c" -> "c"

count_words(sentence) | Return the number of words in a sentence. Words are separated by one or more spaces.
    return len(sentence.split())
"hello world" -> 2
"" -> 0
"a  b   c" -> 3
"one" -> 1

longest_word(sentence) | Return the longest word of a sentence, and the first of them if several are equally long.
    return max(sentence.split(), key=len)
"a bird flew" -> "bird"
"one two six" -> "one"
"hippopotamus ate it" -> "hippopotamus"
"go away" -> "away"

is_palindrome(text) | Return True if text reads the same forwards and backwards, otherwise False.
    return text == text[::-1]
"level" -> True
"hello" -> False
"" -> True
"ab" -> False

initials(name) | Return the first letters of the words of a name in upper case, without spaces or dots.
    return "".join(word[0].upper() for word in name.split())
"ada lovelace" -> "AL"
"Alan Turing" -> "AT"
"plato" -> "P"
"john ronald reuel tolkien" -> "JRRT"

remove_spaces(text) | Return text without its spaces.
    return text.replace(" ", "")
"a b c" -> "abc"
"" -> ""
"  x  " -> "x"
"no\tspace" -> "no\tspace"

count_letter(text, letter) | Return how often letter occurs in text.
    return text.count(letter)
"banana", "a" -> 3
"banana", "n" -> 2
"", "x" -> 0
"Anna", "a" -> 1

surround(text, mark) | Return text with mark put before and after it.
    return mark + text + mark
"hi", "*" -> "*hi*"
"", "-" -> "--"
"a", "bc" -> "bcabc"
"x y", "" -> "x y"

middle_character(text) | Return the middle character of text, whose length is odd.
    return text[len(text) // 2]
"abc" -> "b"
"x" -> "x"
"hello" -> "l"
"1234567" -> "4"

ends_with_vowel(word) | Return True if the last letter of word is a vowel (a, e, i, o, u) and False otherwise.
    return word[-1] in "aeiou"
"banana" -> True
"cat" -> False
"o" -> True
"sky" -> False

title_words(sentence) | Return the sentence with the first letter of each word in upper case. Words are separated by one space.
    return " ".join(word[0].upper() + word[1:] for word in sentence.split())
"hello big world" -> "Hello Big World"
"it's me" -> "It's Me"
"A b" -> "A B"
"uSA" -> "USA"

snake_to_camel(name) | Convert a name like some_long_name to someLongName.
    first, *rest = name.split("_")
    return first + "".join(part.capitalize() for part in rest)
"some_long_name" -> "someLongName"
"x" -> "x"
"get_item" -> "getItem"
"a_b_c" -> "aBC"

strip_digits(text) | Return text without the digits 0 to 9.
    return "".join(c for c in text if c not in "0123456789")
"a1b2" -> "ab"
"2024" -> ""
"none" -> "none"
"7 up" -> " up"

digits_only(text) | Return the digits of text as a string, in their order.
    return "".join(c for c in text if c.isdigit())
"a1b2" -> "12"
"none" -> ""
"2024-05" -> "202405"
" 7" -> "7"

swap_ends(text) | Return text with its first and last characters exchanged. A text shorter than two stays as it is.
    if len(text) < 2:
        return text
    return text[-1] + text[1:-1] + text[0]
"abcd" -> "dbca"
"ab" -> "ba"
"x" -> "x"
"" -> ""

double_letters(text) | Return text with each of its characters written twice.
    return "".join(c * 2 for c in text)
"abc" -> "aabbcc"
"" -> ""
"a a" -> "aa  aa"
"!" -> "!!"

every_other_character(text) | Return the characters of text at the places 0, 2, 4 and so on.
    return text[::2]
"abcdef" -> "ace"
"a" -> "a"
"" -> ""
"12345" -> "135"

count_upper(text) | Return the number of upper-case letters in text.
    return sum(c.isupper() for c in text)
"Hello World" -> 2
"none" -> 0
"ABC" -> 3
"1A" -> 1

vowels_removed(word) | Return word, which is in lower case, without its vowels a, e, i, o and u.
    return "".join(c for c in word if c not in "aeiou")
"banana" -> "bnn"
"sky" -> "sky"
"aeiou" -> ""
"outside" -> "tsd"

same_letters(first, second) | Return True if the two words are made of the same letters, each as often, in any order.
    return sorted(first) == sorted(second)
"listen", "silent" -> True
"aab", "abb" -> False
"", "" -> True
"abc", "ab" -> False

acronym_dots(phrase) | Return the first letter of each word in upper case, each followed by a dot.
    return "".join(word[0].upper() + "." for word in phrase.split())
"united nations" -> "U.N."
"as soon as possible" -> "A.S.A.P."
"x" -> "X."
"Very Important Person" -> "V.I.P."

caesar_shift(word, shift) | Shift each letter of a lower-case word forward in the alphabet by shift places, from z on to a.
    out = ""
    for c in word:
        out += chr((ord(c) - ord("a") + shift) % 26 + ord("a"))
    return out
"abc", 1 -> "bcd"
"xyz", 3 -> "abc"
"hello", 0 -> "hello"
"b", 27 -> "c"

most_common_letter(word) | Return the letter that occurs most often in word; of several, the one that comes first in the alphabet.
    return min(set(word), key=lambda c: (-word.count(c), c))
"banana" -> "a"
"abab" -> "a"
"zzy" -> "z"
"cba" -> "a"

run_lengths(text) | Describe the runs of equal characters: "aaab" becomes "a3b1".
    out = ""
    i = 0
    while i < len(text):
        j = i
        while j < len(text) and text[j] == text[i]:
            j += 1
        out += text[i] + str(j - i)
        i = j
    return out
"aaab" -> "a3b1"
"" -> ""
"abc" -> "a1b1c1"
"zzzz" -> "z4"

collapse_repeats(text) | Replace every run of the same character by a single one: "aabbb" becomes "ab".
    out = ""
    for c in text:
        if not out or out[-1] != c:
            out += c
    return out
"aabbb" -> "ab"
"abab" -> "abab"
"" -> ""
"mississippi" -> "misisipi"

is_heading(line) | Return True if line begins with "# ", as a heading does, and False otherwise.
    return line.startswith("# ")
"# Title" -> True
"#Title" -> False
"Title # one" -> False
"# " -> True

file_extension(name) | Return what follows the last dot of a file name, or an empty string if it has no dot.
    if "." not in name:
        return ""
    return name.split(".")[-1]
"notes.txt" -> "txt"
"archive.tar.gz" -> "gz"
"README" -> ""
"a.b" -> "b"

mask_number(number) | Replace all but the last four characters of a string by stars.
    return "*" * (len(number) - 4) + number[-4:]
"123456789" -> "*****6789"
"1234" -> "1234"
"55551" -> "*5551"
"ab" -> "ab"

pad_left(text, width) | Return text with zeros put before it until it is width characters long.
    return "0" * (width - len(text)) + text
"7", 3 -> "007"
"1234", 2 -> "1234"
"", 2 -> "00"
"42", 2 -> "42"

common_prefix(first, second) | Return the longest text that both strings begin with.
    i = 0
    while i < min(len(first), len(second)) and first[i] == second[i]:
        i += 1
    return first[:i]
"flower", "flow" -> "flow"
"dog", "cat" -> ""
"axc", "ayc" -> "a"
"abc", "abd" -> "ab"
"", "x" -> ""

count_differences(first, second) | Return at how many places two strings of the same length differ.
    return sum(a != b for a, b in zip(first, second))
"karolin", "kathrin" -> 3
"abc", "abc" -> 0
"ab", "ba" -> 2
"", "" -> 0

each_word_reversed(sentence) | Return the sentence with each word spelled backwards and the words in their old order.
    return " ".join(word[::-1] for word in sentence.split(" "))
"hello world" -> "olleh dlrow"
"abc" -> "cba"
"on no" -> "no on"
"a b" -> "a b"

words_backwards(sentence) | Return the sentence with its words in the opposite order.
    return " ".join(sentence.split()[::-1])
"hello big world" -> "world big hello"
"one" -> "one"
"a b" -> "b a"
"on no on" -> "on no on"

is_balanced(text) | Return True if every ( in text is closed by a ) that comes after it, and no ) is left over.
    depth = 0
    for c in text:
        if c == "(":
            depth += 1
        elif c == ")":
            depth -= 1
            if depth < 0:
                return False
    return depth == 0
"(a(b))" -> True
")(" -> False
"((" -> False
"" -> True
"())" -> False
"(ab)" -> True
"x" -> True

deepest_nesting(text) | Return how deeply the parentheses of text are nested: 2 for "((a)b)", 0 without any.
    depth = best = 0
    for c in text:
        if c == "(":
            depth += 1
            best = max(best, depth)
        elif c == ")":
            depth -= 1
    return best
"((a)b)" -> 2
"(())(())" -> 2
"((((" -> 4
"()(((" -> 3
"none" -> 0
"()()" -> 1
"(((x)))" -> 3

plural(noun) | Return the plural: -y after a consonant becomes -ies, -s, -x and -ch take -es, all others take -s.
    if noun[-1] == "y" and noun[-2] not in "aeiou":
        return noun[:-1] + "ies"
    if noun.endswith(("s", "x", "ch")):
        return noun + "es"
    return noun + "s"
"city" -> "cities"
"boy" -> "boys"
"box" -> "boxes"
"church" -> "churches"
"cat" -> "cats"

every_letter_once(word) | Return True if no letter occurs twice in word, otherwise False.
    return len(set(word)) == len(word)
"world" -> True
"hello" -> False
"" -> True
"aa" -> False

alternate_case(text) | Return text in upper case at the places 0, 2, 4, ... and in lower case at the others.
    return "".join(c.upper() if i % 2 == 0 else c.lower() for i, c in enumerate(text))
"hello" -> "HeLlO"
"AB" -> "Ab"
"" -> ""
"xyz w" -> "XyZ W"

between_brackets(text) | Return what stands between the first [ and the first ] of text.
    return text[text.index("[") + 1 : text.index("]")]
"a[bc]d" -> "bc"
"[]" -> ""
"x [1] [2]" -> "1"
"[word]" -> "word"
"""
