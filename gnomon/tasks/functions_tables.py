# ruff: noqa: E501  (a problem is told in one line)
"""Problems about dictionaries, sets, tuples and records; the notation is told in functions_data.py."""

PROBLEMS = r"""
count_items(items) | Return a dictionary from each item to how often it occurs in the list.
    counts = {}
    for item in items:
        counts[item] = counts.get(item, 0) + 1
    return counts
["a", "b", "a"] -> {"a": 2, "b": 1}
[] -> {}
[1, 1, 1] -> {1: 3}
[2, 3] -> {2: 1, 3: 1}

invert(mapping) | Return a dictionary from the values of mapping, which are all different, to their keys.
    return {value: key for key, value in mapping.items()}
{"a": 1, "b": 2} -> {1: "a", 2: "b"}
{} -> {}
{1: "x"} -> {"x": 1}
{"k": "v", "m": "n"} -> {"v": "k", "n": "m"}

total_price(prices, basket) | Return the sum of the prices of all items in the list basket, where prices maps items to prices.
    return sum(prices[item] for item in basket)
{"tea": 2, "cake": 3}, ["tea", "cake"] -> 5
{"tea": 2}, [] -> 0
{"tea": 2}, ["tea", "tea"] -> 4
{"a": 1, "b": 10}, ["b"] -> 10

key_of_largest(scores) | Return the key that has the largest value in a non-empty dictionary.
    return max(scores, key=scores.get)
{"ann": 3, "bob": 5} -> "bob"
{"x": 1} -> "x"
{"a": -1, "b": -2} -> "a"
{"p": 2, "q": 9, "r": 4} -> "q"

merge_counts(first, second) | Return a dictionary in which the numbers of both dictionaries are added for each key.
    out = dict(first)
    for key, value in second.items():
        out[key] = out.get(key, 0) + value
    return out
{"a": 1}, {"a": 2, "b": 3} -> {"a": 3, "b": 3}
{}, {"x": 1} -> {"x": 1}
{"y": 4}, {} -> {"y": 4}
{"a": 5, "c": 1}, {"c": -1} -> {"a": 5, "c": 0}

group_by_length(words) | Return a dictionary from each length to the list of the words of that length, in their order.
    groups = {}
    for word in words:
        groups.setdefault(len(word), []).append(word)
    return groups
["a", "bb", "c"] -> {1: ["a", "c"], 2: ["bb"]}
[] -> {}
["xyz"] -> {3: ["xyz"]}
["on", "to", "cat"] -> {2: ["on", "to"], 3: ["cat"]}

group_by_first_letter(words) | Return a dictionary from each first letter to the list of the words that begin with it.
    groups = {}
    for word in words:
        groups.setdefault(word[0], []).append(word)
    return groups
["ant", "bee", "ape"] -> {"a": ["ant", "ape"], "b": ["bee"]}
[] -> {}
["x"] -> {"x": ["x"]}
["cat", "cow"] -> {"c": ["cat", "cow"]}

values_above(mapping, limit) | Return the dictionary of the entries whose value is greater than limit.
    return {key: value for key, value in mapping.items() if value > limit}
{"a": 1, "b": 5}, 2 -> {"b": 5}
{"a": 2}, 2 -> {}
{}, 0 -> {}
{"x": 3, "y": 4}, 0 -> {"x": 3, "y": 4}

sorted_keys(mapping) | Return the list of the keys of a dictionary in ascending order.
    return sorted(mapping)
{"b": 1, "a": 2} -> ["a", "b"]
{} -> []
{3: "x", 1: "y", 2: "z"} -> [1, 2, 3]
{"k": 0} -> ["k"]

keys_by_value(scores) | Return the keys of a dictionary, ordered from the largest value to the smallest.
    return sorted(scores, key=lambda key: -scores[key])
{"a": 1, "b": 3, "c": 2} -> ["b", "c", "a"]
{} -> []
{"x": 5} -> ["x"]
{"m": -1, "n": 0} -> ["n", "m"]

lookup(mapping, key, default) | Return the value of key in mapping, or default where it has no such key.
    return mapping.get(key, default)
{"a": 1}, "a", 0 -> 1
{"a": 1}, "b", 0 -> 0
{}, "x", "none" -> "none"
{1: "one"}, 1, "" -> "one"

zip_to_dict(keys, values) | Return a dictionary from each key to the value at the same place.
    return dict(zip(keys, values))
["a", "b"], [1, 2] -> {"a": 1, "b": 2}
[], [] -> {}
[1], ["x"] -> {1: "x"}
["p", "q", "r"], [3, 2, 1] -> {"p": 3, "q": 2, "r": 1}

swap_pair(pair) | Return the tuple with its two items exchanged.
    return (pair[1], pair[0])
(1, 2) -> (2, 1)
("a", "b") -> ("b", "a")
(0, 0) -> (0, 0)
(5, "x") -> ("x", 5)

min_and_max(numbers) | Return a tuple of the smallest and the largest number of a non-empty list.
    return (min(numbers), max(numbers))
[3, 1, 2] -> (1, 3)
[5] -> (5, 5)
[-1, -4] -> (-4, -1)
[0, 10, 5] -> (0, 10)

sum_of_seconds(pairs) | Return the sum of the second items of a list of pairs.
    return sum(second for _, second in pairs)
[("a", 1), ("b", 2)] -> 3
[] -> 0
[("x", -5)] -> -5
[(9, 1), (9, 1), (9, 1)] -> 3

sort_by_second(pairs) | Return the list of pairs sorted by their second items in ascending order.
    return sorted(pairs, key=lambda pair: pair[1])
[("a", 2), ("b", 1)] -> [("b", 1), ("a", 2)]
[] -> []
[(1, 3), (2, 2), (3, 1)] -> [(3, 1), (2, 2), (1, 3)]
[(5, 0), (4, 9)] -> [(5, 0), (4, 9)]

names_of_adults(people) | Return the names of those who are 18 or older; people is a list of tuples (name, age).
    return [name for name, age in people if age >= 18]
[("Ann", 20), ("Bob", 17)] -> ["Ann"]
[("Cy", 18)] -> ["Cy"]
[] -> []
[("Di", 40), ("Ed", 3), ("Fay", 19)] -> ["Di", "Fay"]

oldest_person(people) | Return the name of the oldest; people is a non-empty list of tuples (name, age).
    return max(people, key=lambda person: person[1])[0]
[("Ann", 20), ("Bob", 37)] -> "Bob"
[("Cy", 18)] -> "Cy"
[("Zoe", 50), ("Al", 49)] -> "Zoe"
[("A", 1), ("B", 3), ("C", 2)] -> "B"

average_grade(grades, name) | Return the mean of the list of grades that the dictionary grades has for name, or 0 if it has none.
    marks = grades.get(name, [])
    if not marks:
        return 0
    return sum(marks) / len(marks)
{"ann": [1, 2]}, "ann" -> 1.5
{"ann": [1, 2]}, "bob" -> 0
{"bob": []}, "bob" -> 0
{"cy": [4, 4, 1]}, "cy" -> 3

best_student(grades) | Return the name whose list of grades has the largest mean; grades maps names to non-empty lists.
    return max(grades, key=lambda name: sum(grades[name]) / len(grades[name]))
{"ann": [1, 2], "bob": [3]} -> "bob"
{"cy": [5]} -> "cy"
{"a": [4, 4], "b": [1, 1, 1, 1, 1, 1, 1, 1, 1]} -> "a"
{"x": [2, 4], "y": [1, 4]} -> "x"

stock_after(stock, sold) | Return the stock as a dictionary after the numbers in sold are taken off; items that reach 0 are left out.
    out = {}
    for item, count in stock.items():
        left = count - sold.get(item, 0)
        if left > 0:
            out[item] = left
    return out
{"a": 3, "b": 1}, {"b": 1} -> {"a": 3}
{"a": 3}, {"a": 2} -> {"a": 1}
{"a": 3}, {"a": 1} -> {"a": 2}
{}, {} -> {}
{"x": 5, "y": 2}, {} -> {"x": 5, "y": 2}

shared_keys(first, second) | Return the sorted list of the keys that both dictionaries have.
    return sorted(key for key in first if key in second)
{"a": 1, "b": 2}, {"b": 3, "c": 4} -> ["b"]
{}, {"x": 1} -> []
{"q": 1, "p": 2}, {"p": 0, "q": 0} -> ["p", "q"]
{1: 0}, {2: 0} -> []

changed_keys(old, new) | Return the sorted list of the keys that are in both dictionaries with different values.
    return sorted(key for key in old if key in new and old[key] != new[key])
{"a": 1, "b": 2}, {"a": 1, "b": 3} -> ["b"]
{"a": 1}, {} -> []
{"y": 1, "x": 1}, {"x": 2, "y": 2} -> ["x", "y"]
{}, {"k": 1} -> []

count_types(values) | Return a tuple: how many of the values are whole numbers, and how many are strings.
    numbers = sum(isinstance(v, int) for v in values)
    texts = sum(isinstance(v, str) for v in values)
    return (numbers, texts)
[1, "a", 2] -> (2, 1)
[] -> (0, 0)
["x", "y", 1.5] -> (0, 2)
[7] -> (1, 0)

letter_positions(word) | Return a dictionary from each letter of word to the list of the places (from 0) where it stands.
    places = {}
    for i, c in enumerate(word):
        places.setdefault(c, []).append(i)
    return places
"aba" -> {"a": [0, 2], "b": [1]}
"" -> {}
"x" -> {"x": [0]}
"noon" -> {"n": [0, 3], "o": [1, 2]}

most_frequent(items) | Return the item that occurs most often in a non-empty list; of several, the one that comes first.
    return max(items, key=items.count)
[1, 2, 2] -> 2
["a", "b"] -> "a"
[3] -> 3
[4, 5, 5, 4, 4] -> 4

unique_count(items) | Return the number of different items in a list.
    return len(set(items))
[1, 2, 1] -> 2
[] -> 0
["a", "b", "c"] -> 3
[7, 7, 7] -> 1

is_subset(first, second) | Return True if every item of the first list is also in the second, otherwise False.
    return all(item in second for item in first)
[1, 2], [2, 1, 3] -> True
[1, 4], [1, 2] -> False
[], [1] -> True
["a"], [] -> False

only_once(items) | Return the items that occur exactly once in the list, in their order.
    return [item for item in items if items.count(item) == 1]
[1, 2, 1, 3] -> [2, 3]
[5, 5] -> []
[] -> []
["a"] -> ["a"]

parse_settings(text) | Turn a text like "a=1;b=2" into a dictionary from names to texts; an empty text gives an empty one.
    out = {}
    for part in text.split(";"):
        if "=" in part:
            name, value = part.split("=")
            out[name] = value
    return out
"a=1;b=2" -> {"a": "1", "b": "2"}
"" -> {}
"x=yes" -> {"x": "yes"}
"k=v;m=n;p=q" -> {"k": "v", "m": "n", "p": "q"}

format_scores(scores) | Turn a dictionary into a text like "ann: 3, bob: 5", with the names in alphabetical order.
    return ", ".join(f"{name}: {scores[name]}" for name in sorted(scores))
{"bob": 5, "ann": 3} -> "ann: 3, bob: 5"
{} -> ""
{"x": 0} -> "x: 0"
{"c": 1, "a": 2, "b": 3} -> "a: 2, b: 3, c: 1"

path_value(tree, path) | Follow a list of keys into nested dictionaries and return the value; None where a key is missing.
    for key in path:
        if not isinstance(tree, dict) or key not in tree:
            return None
        tree = tree[key]
    return tree
{"a": {"b": 1}}, ["a", "b"] -> 1
{"a": 1}, ["x"] -> None
{"a": 1}, [] -> {"a": 1}
{"a": 1}, ["a", "b"] -> None

depth_of(value) | Return how deeply lists are nested: 0 for a value that is no list, 1 for [] and [1], 2 for [[1]].
    if not isinstance(value, list):
        return 0
    return 1 + max([depth_of(v) for v in value], default=0)
5 -> 0
[] -> 1
[[1], 2] -> 2
[1, [2, [3]]] -> 3

sum_nested(values) | Return the sum of all numbers in a list that may hold lists of numbers, nested to any depth.
    total = 0
    for value in values:
        if isinstance(value, list):
            total += sum_nested(value)
        else:
            total += value
    return total
[1, [2, 3]] -> 6
[] -> 0
[[[4]], 1] -> 5
[[], [[]], 7] -> 7

balance_after(start, moves) | Begin with start; each move is a tuple ("in", amount) or ("out", amount). Return the final balance.
    for kind, amount in moves:
        start += amount if kind == "in" else -amount
    return start
10, [("in", 5), ("out", 3)] -> 12
0, [] -> 0
7, [("out", 7)] -> 0
1, [("in", 1), ("in", 1)] -> 3
"""
