"""The easiest problems: mostly one expression; the notation is told in functions_data.py."""

PROBLEMS = r"""
add(a, b) | Return the sum of a and b.
    return a + b
1, 2 -> 3
0, 0 -> 0
-1, 1 -> 0
10, 5 -> 15

subtract(a, b) | Return a minus b.
    return a - b
5, 2 -> 3
2, 5 -> -3
0, 0 -> 0
1, -1 -> 2

multiply(a, b) | Return the product of a and b.
    return a * b
2, 3 -> 6
0, 5 -> 0
-2, 4 -> -8
1, 9 -> 9

divide(a, b) | Return a divided by b.
    return a / b
6, 3 -> 2
1, 2 -> 0.5
-8, 2 -> -4
0, 5 -> 0

double(x) | Return twice x.
    return 2 * x
3 -> 6
0 -> 0
-4 -> -8
1.5 -> 3

square(x) | Return the square of x.
    return x * x
3 -> 9
0 -> 0
-4 -> 16
1 -> 1

cube(x) | Return the cube of x.
    return x**3
3 -> 27
0 -> 0
-2 -> -8
1 -> 1

half(x) | Return half of x.
    return x / 2
6 -> 3
1 -> 0.5
0 -> 0
-4 -> -2

remainder(a, b) | Return the remainder of a divided by b.
    return a % b
7, 3 -> 1
6, 3 -> 0
2, 5 -> 2
10, 4 -> 2

is_odd(n) | Return True if n is odd.
    return n % 2 == 1
3 -> True
4 -> False
0 -> False
11 -> True

is_positive(x) | Return True if x is positive.
    return x > 0
3 -> True
-1 -> False
0 -> False
0.5 -> True

is_negative(x) | Return True if x is negative.
    return x < 0
-3 -> True
1 -> False
0 -> False
-0.5 -> True

absolute_value(x) | Return the absolute value of x.
    return abs(x)
-3 -> 3
3 -> 3
0 -> 0
-1.5 -> 1.5

maximum(a, b) | Return the larger of a and b.
    return max(a, b)
1, 2 -> 2
5, 3 -> 5
-1, -2 -> -1
4, 4 -> 4

minimum(a, b) | Return the smaller of a and b.
    return min(a, b)
1, 2 -> 1
5, 3 -> 3
-1, -2 -> -2
4, 4 -> 4

is_equal(a, b) | Return True if a and b are equal.
    return a == b
1, 1 -> True
1, 2 -> False
"a", "a" -> True
"a", "b" -> False

is_between(x, low, high) | Return True if x is at least low and at most high.
    return low <= x <= high
5, 1, 10 -> True
1, 1, 10 -> True
10, 1, 10 -> True
0, 1, 10 -> False
11, 1, 10 -> False

add_three(a, b, c) | Return the sum of three numbers.
    return a + b + c
1, 2, 3 -> 6
0, 0, 0 -> 0
-1, 1, 5 -> 5
10, 20, 30 -> 60

average_of_three(a, b, c) | Return the average of three numbers.
    return (a + b + c) / 3
1, 2, 3 -> 2
0, 0, 0 -> 0
3, 3, 6 -> 4
1, 1, 2.5 -> 1.5

length(items) | Return the number of items in a list.
    return len(items)
[1, 2, 3] -> 3
[] -> 0
["a"] -> 1
[0, 0] -> 2

first_item(items) | Return the first item of a list.
    return items[0]
[1, 2, 3] -> 1
["a"] -> "a"
[0, 5] -> 0
["x", "y"] -> "x"

last_item(items) | Return the last item of a list.
    return items[-1]
[1, 2, 3] -> 3
["a"] -> "a"
[0, 5] -> 5
["x", "y"] -> "y"

smallest(numbers) | Return the smallest number in a list.
    return min(numbers)
[3, 1, 2] -> 1
[5] -> 5
[-1, -4] -> -4
[0, 7] -> 0

is_empty(items) | Return True if the list is empty.
    return len(items) == 0
[] -> True
[1] -> False
[0, 0] -> False
[[]] -> False

contains(items, item) | Return True if item is in items.
    return item in items
[1, 2], 1 -> True
[1, 2], 3 -> False
[], 1 -> False
["a", "b"], "b" -> True

count_item(items, item) | Return how many times item occurs in items.
    return items.count(item)
[1, 2, 1], 1 -> 2
[1, 2], 3 -> 0
[], 1 -> 0
["a", "b", "b"], "b" -> 2

sort_ascending(numbers) | Return the numbers sorted in ascending order.
    return sorted(numbers)
[3, 1, 2] -> [1, 2, 3]
[] -> []
[5, -5] -> [-5, 5]
[1, 1, 0] -> [0, 1, 1]

sort_descending(numbers) | Return the numbers sorted in descending order.
    return sorted(numbers, reverse=True)
[3, 1, 2] -> [3, 2, 1]
[] -> []
[-5, 5] -> [5, -5]
[1, 1, 4] -> [4, 1, 1]

evens(numbers) | Return a list of the even numbers.
    return [n for n in numbers if n % 2 == 0]
[1, 2, 3, 4] -> [2, 4]
[] -> []
[5] -> []
[0, 8] -> [0, 8]

odds(numbers) | Return a list of the odd numbers.
    return [n for n in numbers if n % 2 == 1]
[1, 2, 3, 4] -> [1, 3]
[] -> []
[6] -> []
[7, 9] -> [7, 9]

positives(numbers) | Return a list of the positive numbers.
    return [n for n in numbers if n > 0]
[1, -2, 3] -> [1, 3]
[] -> []
[0] -> []
[5, 6] -> [5, 6]

count_positives(numbers) | Return the number of positive numbers in a list.
    return sum(n > 0 for n in numbers)
[1, -2, 3] -> 2
[] -> 0
[0] -> 0
[5, 6, 7] -> 3

count_evens(numbers) | Return the number of even numbers in a list.
    return sum(n % 2 == 0 for n in numbers)
[1, 2, 3, 4] -> 2
[] -> 0
[5] -> 0
[0, 8, 6] -> 3

sum_of_evens(numbers) | Return the sum of the even numbers in a list.
    return sum(n for n in numbers if n % 2 == 0)
[1, 2, 3, 4] -> 6
[] -> 0
[5] -> 0
[-2, 8] -> 6

squares(numbers) | Return a list of the squares of the numbers.
    return [n * n for n in numbers]
[1, 2, 3] -> [1, 4, 9]
[] -> []
[-3] -> [9]
[0, 10] -> [0, 100]

doubles(numbers) | Return a list with every number doubled.
    return [2 * n for n in numbers]
[1, 2, 3] -> [2, 4, 6]
[] -> []
[-3] -> [-6]
[0, 10] -> [0, 20]

all_positive(numbers) | Return True if all numbers are positive.
    return all(n > 0 for n in numbers)
[1, 2] -> True
[1, -2] -> False
[0, 1] -> False
[] -> True

any_negative(numbers) | Return True if any number is negative.
    return any(n < 0 for n in numbers)
[1, -2] -> True
[1, 2] -> False
[0] -> False
[] -> False

join_lists(first, second) | Return one list with the items of both lists.
    return first + second
[1], [2] -> [1, 2]
[], [] -> []
["a"], [] -> ["a"]
[3, 2], [1, 0] -> [3, 2, 1, 0]

without_first(items) | Return the list without its first item.
    return items[1:]
[1, 2, 3] -> [2, 3]
["a"] -> []
[0, 5] -> [5]
["x", "y"] -> ["y"]

without_last(items) | Return the list without its last item.
    return items[:-1]
[1, 2, 3] -> [1, 2]
["a"] -> []
[0, 5] -> [0]
["x", "y"] -> ["x"]

to_upper(text) | Return the text in upper case.
    return text.upper()
"abc" -> "ABC"
"" -> ""
"Hi!" -> "HI!"
"x1" -> "X1"

to_lower(text) | Return the text in lower case.
    return text.lower()
"ABC" -> "abc"
"" -> ""
"Hi!" -> "hi!"
"X1" -> "x1"

text_length(text) | Return the number of characters in a text.
    return len(text)
"abc" -> 3
"" -> 0
"a b" -> 3
"hello" -> 5

first_character(text) | Return the first character of a text.
    return text[0]
"abc" -> "a"
"x" -> "x"
" y" -> " "
"Zoo" -> "Z"

last_character(text) | Return the last character of a text.
    return text[-1]
"abc" -> "c"
"x" -> "x"
"y " -> " "
"Zoo" -> "o"

starts_with(text, prefix) | Return True if text starts with prefix.
    return text.startswith(prefix)
"hello", "he" -> True
"hello", "lo" -> False
"", "a" -> False
"abc", "" -> True

ends_with(text, suffix) | Return True if text ends with suffix.
    return text.endswith(suffix)
"hello", "lo" -> True
"hello", "he" -> False
"", "a" -> False
"abc", "" -> True

concatenate(first, second) | Return the two strings joined together.
    return first + second
"ab", "cd" -> "abcd"
"", "" -> ""
"x", "" -> "x"
"a ", "b" -> "a b"

join_with_space(first, second) | Return the two strings joined with a space.
    return first + " " + second
"ab", "cd" -> "ab cd"
"a", "b" -> "a b"
"good", "day" -> "good day"
"1", "2" -> "1 2"

greet(name) | Return "Hello, " followed by the name.
    return "Hello, " + name
"Ann" -> "Hello, Ann"
"Bob" -> "Hello, Bob"
"" -> "Hello, "
"you all" -> "Hello, you all"

trim(text) | Return the text without spaces at the start and the end.
    return text.strip()
"  a " -> "a"
"b" -> "b"
"" -> ""
" c d " -> "c d"

split_words(sentence) | Return a list of the words in a sentence.
    return sentence.split()
"a b" -> ["a", "b"]
"one" -> ["one"]
"" -> []
"the old man" -> ["the", "old", "man"]

split_commas(text) | Split a text at its commas and return the list of parts.
    return text.split(",")
"a,b" -> ["a", "b"]
"one" -> ["one"]
"1,2,3" -> ["1", "2", "3"]
"x,,y" -> ["x", "", "y"]

is_digit_text(text) | Return True if the text consists of digits only.
    return text.isdigit()
"123" -> True
"12a" -> False
"7" -> True
"-1" -> False

text_to_number(text) | Convert a text to a whole number.
    return int(text)
"12" -> 12
"-3" -> -3
"007" -> 7
"0" -> 0

number_to_text(number) | Convert a number to a text.
    return str(number)
12 -> "12"
-3 -> "-3"
0 -> "0"
1.5 -> "1.5"

letters_list(word) | Return a list of the letters of a word.
    return list(word)
"abc" -> ["a", "b", "c"]
"" -> []
"x" -> ["x"]
"noon" -> ["n", "o", "o", "n"]

sorted_letters(word) | Return a list of the letters of a word in alphabetical order.
    return sorted(word)
"cab" -> ["a", "b", "c"]
"" -> []
"x" -> ["x"]
"noon" -> ["n", "n", "o", "o"]

unique_sorted(items) | Return a sorted list of the unique items.
    return sorted(set(items))
[2, 1, 2] -> [1, 2]
[] -> []
["b", "a"] -> ["a", "b"]
[8, 3, 8, 1] -> [1, 3, 8]

dictionary_size(mapping) | Return the number of keys in a dictionary.
    return len(mapping)
{"a": 1} -> 1
{} -> 0
{1: 2, 3: 4} -> 2
{"x": 0, "y": 0, "z": 0} -> 3

has_key(mapping, key) | Return True if the dictionary has the key.
    return key in mapping
{"a": 1}, "a" -> True
{"a": 1}, "b" -> False
{}, "a" -> False
{1: 0}, 1 -> True

values_sum(mapping) | Return the sum of the values of a dictionary.
    return sum(mapping.values())
{"a": 1, "b": 2} -> 3
{} -> 0
{"x": -1} -> -1
{5: 5, 6: 6} -> 11

keys_list(mapping) | Return a list of the keys of a dictionary.
    return list(mapping.keys())
{"a": 1, "b": 2} -> ["a", "b"]
{} -> []
{3: "x"} -> [3]
{"z": 0, "y": 1} -> ["z", "y"]

values_list(mapping) | Return a list of the values of a dictionary.
    return list(mapping.values())
{"a": 1, "b": 2} -> [1, 2]
{} -> []
{3: "x"} -> ["x"]
{"z": 0, "y": 1} -> [0, 1]

largest_value(mapping) | Return the largest value in a dictionary.
    return max(mapping.values())
{"a": 1, "b": 2} -> 2
{"x": -1} -> -1
{"p": 9, "q": 3} -> 9
{1: 0, 2: 5, 3: 4} -> 5

circle_diameter(radius) | Return the diameter of a circle from its radius.
    return 2 * radius
1 -> 2
0 -> 0
2.5 -> 5
7 -> 14

square_area(side) | Return the area of a square.
    return side * side
2 -> 4
0 -> 0
1.5 -> 2.25
7 -> 49

cube_volume(side) | Return the volume of a cube.
    return side**3
2 -> 8
0 -> 0
1 -> 1
5 -> 125

triangle_area(base, height) | Return the area of a triangle.
    return base * height / 2
2, 3 -> 3
5, 1 -> 2.5
0, 4 -> 0
10, 10 -> 50

box_volume(length, width, height) | Return the volume of a box.
    return length * width * height
1, 2, 3 -> 6
2, 2, 2 -> 8
5, 0, 1 -> 0
4, 1, 1 -> 4

speed(distance, time) | Return the speed from distance and time.
    return distance / time
10, 2 -> 5
1, 4 -> 0.25
0, 3 -> 0
100, 1 -> 100

last_digit(n) | Return the last digit of n.
    return n % 10
123 -> 3
7 -> 7
0 -> 0
40 -> 0

numbers_to(n) | Return a list of the numbers from 1 to n.
    return list(range(1, n + 1))
3 -> [1, 2, 3]
0 -> []
1 -> [1]
5 -> [1, 2, 3, 4, 5]

zeros(n) | Return a list of n zeros.
    return [0] * n
3 -> [0, 0, 0]
0 -> []
1 -> [0]
2 -> [0, 0]

negate(x) | Return the negative of x.
    return -x
3 -> -3
-2 -> 2
0 -> 0
1.5 -> -1.5

both_true(a, b) | Return True if both a and b are True.
    return a and b
True, True -> True
True, False -> False
False, True -> False
False, False -> False

either_true(a, b) | Return True if a or b is True.
    return a or b
True, True -> True
True, False -> True
False, True -> True
False, False -> False

is_vowel(letter) | Return True if the letter is a vowel.
    return letter in "aeiou"
"a" -> True
"b" -> False
"u" -> True
"z" -> False

can_vote(age) | Return True if age is at least 18.
    return age >= 18
18 -> True
17 -> False
50 -> True
3 -> False
"""
