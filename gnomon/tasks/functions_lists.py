# ruff: noqa: E501  (a problem is told in one line)
"""Problems about lists; the notation is told in functions_data.py."""

PROBLEMS = r"""
total(numbers) | Return the sum of a list of numbers, which is 0 for an empty list.
    return sum(numbers)
[1, 2, 3] -> 6
[] -> 0
[-1, 1] -> 0
[5] -> 5

product(numbers) | Return the product of a list of numbers, which is 1 for an empty list.
    result = 1
    for n in numbers:
        result *= n
    return result
[2, 3, 4] -> 24
[] -> 1
[5, 0] -> 0
[-2, 3] -> -6

largest(numbers) | Return the largest number of a non-empty list.
    return max(numbers)
[1, 5, 3] -> 5
[-2, -7] -> -2
[4] -> 4
[2, 2] -> 2

mean(numbers) | Return the mean of a non-empty list of numbers.
    return sum(numbers) / len(numbers)
[1, 2, 3] -> 2
[1, 2] -> 1.5
[4] -> 4
[-1, 1, 3, 5] -> 2

median(numbers) | Return the median of a non-empty list: the middle of the sorted numbers, or the mean of the two in the middle.
    ordered = sorted(numbers)
    middle = len(ordered) // 2
    if len(ordered) % 2:
        return ordered[middle]
    return (ordered[middle - 1] + ordered[middle]) / 2
[3, 1, 2] -> 2
[4, 1, 3, 2] -> 2.5
[7] -> 7
[5, 1] -> 3

second_largest(numbers) | Return the second largest of the different numbers in a list.
    return sorted(set(numbers))[-2]
[1, 5, 3] -> 3
[4, 4, 2] -> 2
[-1, -2, -3] -> -2
[9, 8, 9, 7] -> 8

spread(numbers) | Return the difference between the largest and the smallest number of a non-empty list.
    return max(numbers) - min(numbers)
[1, 5, 3] -> 4
[2] -> 0
[-3, 3] -> 6
[10, 4, 4] -> 6

reversed_list(items) | Return a new list with the items in the opposite order.
    return items[::-1]
[1, 2, 3] -> [3, 2, 1]
[] -> []
["a", "b"] -> ["b", "a"]
[7] -> [7]

without_duplicates(items) | Return the items in their order, each only where it occurs first.
    out = []
    for item in items:
        if item not in out:
            out.append(item)
    return out
[1, 2, 1, 3] -> [1, 2, 3]
[3, 3, 3] -> [3]
[] -> []
["b", "a", "b"] -> ["b", "a"]

running_totals(numbers) | Return the list of sums of the first one, two, three and so on of the numbers.
    out, total = [], 0
    for n in numbers:
        total += n
        out.append(total)
    return out
[1, 2, 3] -> [1, 3, 6]
[] -> []
[5] -> [5]
[4, -4, 2] -> [4, 0, 2]

differences(numbers) | Return the list of each number minus the one before it; it is one shorter than numbers.
    return [b - a for a, b in zip(numbers, numbers[1:])]
[1, 4, 9] -> [3, 5]
[5] -> []
[3, 3, 1] -> [0, -2]
[0, 10] -> [10]

flatten(lists) | Return one list with the items of all the lists in their order.
    return [item for inner in lists for item in inner]
[[1, 2], [3]] -> [1, 2, 3]
[] -> []
[[], [4], []] -> [4]
[["a"], ["b", "c"]] -> ["a", "b", "c"]

chunks(items, size) | Cut a list into lists of the given size; the last one may be shorter.
    return [items[i : i + size] for i in range(0, len(items), size)]
[1, 2, 3, 4, 5], 2 -> [[1, 2], [3, 4], [5]]
[1, 2], 3 -> [[1, 2]]
[], 2 -> []
[1, 2, 3], 1 -> [[1], [2], [3]]

rotate_left(items, k) | Return the list with its first k items moved to the end, where k is at most its length.
    return items[k:] + items[:k]
[1, 2, 3, 4], 1 -> [2, 3, 4, 1]
[1, 2, 3], 0 -> [1, 2, 3]
[1, 2, 3], 3 -> [1, 2, 3]
["a", "b", "c"], 2 -> ["c", "a", "b"]

interleave(first, second) | Merge two lists of the same length by taking items in turn, beginning with the first list.
    out = []
    for a, b in zip(first, second):
        out.append(a)
        out.append(b)
    return out
[1, 2], [3, 4] -> [1, 3, 2, 4]
[], [] -> []
["a"], ["b"] -> ["a", "b"]
[1, 1, 1], [0, 0, 0] -> [1, 0, 1, 0, 1, 0]

is_sorted(numbers) | Return True if no number in the list is smaller than the one before it, otherwise False.
    return all(a <= b for a, b in zip(numbers, numbers[1:]))
[1, 2, 2, 5] -> True
[3, 1] -> False
[] -> True
[1, 3, 2] -> False

index_of_largest(numbers) | Return the place (from 0) of the largest number, the first one if it occurs several times.
    return numbers.index(max(numbers))
[1, 5, 3] -> 1
[7, 2, 7] -> 0
[4] -> 0
[-3, -1] -> 1

all_positions(items, wanted) | Return the list of places (from 0) at which wanted stands in items.
    return [i for i, item in enumerate(items) if item == wanted]
[1, 2, 1], 1 -> [0, 2]
[1, 2], 3 -> []
["a", "b", "b"], "b" -> [1, 2]
[], 0 -> []

common_items(first, second) | Return the items of the first list that are also in the second, in the order of the first.
    return [item for item in first if item in second]
[1, 2, 3], [3, 1] -> [1, 3]
[1, 2], [4] -> []
["x", "y"], ["y", "x"] -> ["x", "y"]
[], [1] -> []

only_in_one(first, second) | Return the sorted list of the items that are in exactly one of two lists of different items.
    return sorted(set(first) ^ set(second))
[1, 2, 3], [2, 3, 4] -> [1, 4]
[1], [1] -> []
[8, 1], [] -> [1, 8]
[], [2] -> [2]

pairs_with_sum(numbers, target) | Return how many pairs of numbers at two different places add up to target.
    count = 0
    for i in range(len(numbers)):
        for j in range(i + 1, len(numbers)):
            if numbers[i] + numbers[j] == target:
                count += 1
    return count
[1, 2, 3, 4], 5 -> 2
[1, 1, 1], 2 -> 3
[], 0 -> 0
[5, 5], 9 -> 0

count_matching_ends(words) | Return how many of the non-empty words begin and end with the same letter.
    return sum(word[0] == word[-1] for word in words)
["abba", "cat", "noon"] -> 2
["a"] -> 1
[] -> 0
["ab", "ba"] -> 0

word_lengths(words) | Return the list of the lengths of the words.
    return [len(word) for word in words]
["a", "bcd"] -> [1, 3]
[] -> []
["", "xy"] -> [0, 2]
["hello", "world"] -> [5, 5]

shortest_word(words) | Return the shortest word in a list; of several equally short, the first.
    return min(words, key=len)
["apple", "fig", "pear"] -> "fig"
["cat", "dog"] -> "cat"
["x"] -> "x"
["aa", "b", "c"] -> "b"

sort_by_length(words) | Return the words sorted from the shortest to the longest; equally long ones keep their order.
    return sorted(words, key=len)
["ccc", "a", "bb"] -> ["a", "bb", "ccc"]
["b", "a"] -> ["b", "a"]
[] -> []
["dog", "is", "cat"] -> ["is", "dog", "cat"]

sort_by_last_letter(words) | Return the words sorted by their last letters; words with the same last letter keep their order.
    return sorted(words, key=lambda word: word[-1])
["ab", "ba"] -> ["ba", "ab"]
["xz", "yz"] -> ["xz", "yz"]
[] -> []
["dog", "apple", "kiwi"] -> ["apple", "dog", "kiwi"]

join_with_and(words) | Join words with commas, and the last two with " and ": ["a", "b", "c"] becomes "a, b and c".
    if len(words) < 2:
        return "".join(words)
    return ", ".join(words[:-1]) + " and " + words[-1]
["a", "b", "c"] -> "a, b and c"
["tea", "cake"] -> "tea and cake"
["one"] -> "one"
[] -> ""

move_zeros(numbers) | Return the numbers with all zeros moved to the end; the others keep their order.
    return [n for n in numbers if n != 0] + [0] * numbers.count(0)
[0, 1, 0, 2] -> [1, 2, 0, 0]
[1, 2] -> [1, 2]
[0] -> [0]
[3, 0, 1] -> [3, 1, 0]

split_even_odd(numbers) | Return a tuple of two lists: the even numbers and the odd numbers, each in their order.
    return ([n for n in numbers if n % 2 == 0], [n for n in numbers if n % 2 == 1])
[1, 2, 3, 4] -> ([2, 4], [1, 3])
[] -> ([], [])
[5] -> ([], [5])
[8, 0] -> ([8, 0], [])

longest_increase(numbers) | Return the length of the longest run of neighbours in which each number is larger than the one before.
    best = length = 1 if numbers else 0
    for a, b in zip(numbers, numbers[1:]):
        length = length + 1 if b > a else 1
        best = max(best, length)
    return best
[1, 2, 3, 1, 2] -> 3
[3, 2, 1] -> 1
[] -> 0
[1, 1, 2] -> 2
[5, 1, 2, 3, 9] -> 4

longest_run(items) | Return the length of the longest run of equal neighbours, which is 0 for an empty list.
    best = length = 0
    for i in range(len(items)):
        length = length + 1 if i > 0 and items[i] == items[i - 1] else 1
        best = max(best, length)
    return best
[1, 1, 2, 2, 2] -> 3
[] -> 0
[1, 2, 3] -> 1
["a", "a", "b"] -> 2

count_peaks(numbers) | Return how many numbers are larger than both of their neighbours; the first and the last do not count.
    return sum(a < b > c for a, b, c in zip(numbers, numbers[1:], numbers[2:]))
[1, 3, 2, 5, 4] -> 2
[1, 2, 3] -> 0
[] -> 0
[1, 2, 2, 1] -> 0
[0, 9, 0] -> 1

best_streak_sum(numbers) | Return the largest sum of one or more neighbouring numbers of a non-empty list.
    best = current = numbers[0]
    for n in numbers[1:]:
        current = max(n, current + n)
        best = max(best, current)
    return best
[1, -2, 3, 4] -> 7
[-3, -1, -2] -> -1
[5] -> 5
[2, -1, 2] -> 3

merge_sorted(first, second) | Merge two sorted lists of numbers into one sorted list.
    return sorted(first + second)
[1, 4], [2, 3] -> [1, 2, 3, 4]
[], [1] -> [1]
[5], [5] -> [5, 5]
[0, 9], [] -> [0, 9]

transpose(rows) | Turn a list of equally long rows into the list of their columns.
    return [list(column) for column in zip(*rows)]
[[1, 2], [3, 4]] -> [[1, 3], [2, 4]]
[[1, 2, 3]] -> [[1], [2], [3]]
[] -> []
[["a"], ["b"]] -> [["a", "b"]]

row_sums(rows) | Return the list of the sums of the rows.
    return [sum(row) for row in rows]
[[1, 2], [3, 4]] -> [3, 7]
[] -> []
[[5]] -> [5]
[[], [1, -1], [2]] -> [0, 0, 2]

diagonal_sum(rows) | Return the sum of the numbers on the main diagonal of a square list of rows.
    return sum(rows[i][i] for i in range(len(rows)))
[[1, 2], [3, 4]] -> 5
[[7]] -> 7
[] -> 0
[[1, 0, 9], [9, 2, 9], [0, 0, 3]] -> 6

dot_product(first, second) | Return the sum of the products of the numbers at equal places in two lists of the same length.
    return sum(a * b for a, b in zip(first, second))
[1, 2], [3, 4] -> 11
[], [] -> 0
[2], [5] -> 10
[1, 0, -1], [4, 5, 6] -> -2

every_nth(items, n) | Return every n-th item of a list, beginning with the first.
    return items[::n]
[1, 2, 3, 4, 5], 2 -> [1, 3, 5]
[1, 2, 3], 1 -> [1, 2, 3]
[], 3 -> []
["a", "b", "c", "d"], 3 -> ["a", "d"]

drop_ends(items) | Return the list without its first and its last item.
    return items[1:-1]
[1, 2, 3] -> [2]
[1, 2] -> []
["a", "b", "c", "d"] -> ["b", "c"]
[] -> []

swap_neighbours(items) | Exchange the first item with the second, the third with the fourth and so on; an item left over stays.
    out = items[:]
    for i in range(0, len(out) - 1, 2):
        out[i], out[i + 1] = out[i + 1], out[i]
    return out
[1, 2, 3, 4] -> [2, 1, 4, 3]
[1, 2, 3] -> [2, 1, 3]
[] -> []
[7] -> [7]

missing_number(numbers) | A list holds all whole numbers from 1 to its length plus one but one of them; return the missing one.
    n = len(numbers) + 1
    return n * (n + 1) // 2 - sum(numbers)
[1, 2, 4] -> 3
[2] -> 1
[1] -> 2
[3, 1, 5, 2] -> 4
"""
