# ruff: noqa: E501  (a problem is told in one line)
"""Problems about conditions, loops and small simulations; the notation is told in functions_data.py."""

PROBLEMS = r"""
grade_letter(points) | Return "A" for 90 points or more, "B" for 80 or more, "C" for 70 or more, and "F" for fewer.
    if points >= 90:
        return "A"
    if points >= 80:
        return "B"
    if points >= 70:
        return "C"
    return "F"
95 -> "A"
90 -> "A"
85 -> "B"
80 -> "B"
70 -> "C"
69 -> "F"

ticket_price(age) | Return the price of a ticket: 0 below the age of 6, 5 below 18, 7 from 65 on, and 10 otherwise.
    if age < 6:
        return 0
    if age < 18:
        return 5
    if age >= 65:
        return 7
    return 10
5 -> 0
6 -> 5
18 -> 10
64 -> 10
65 -> 7

fizz(n) | Return "Fizz" if 3 divides n, "Buzz" if 5 does, "FizzBuzz" if both do, and otherwise n as a string.
    if n % 15 == 0:
        return "FizzBuzz"
    if n % 3 == 0:
        return "Fizz"
    if n % 5 == 0:
        return "Buzz"
    return str(n)
3 -> "Fizz"
10 -> "Buzz"
30 -> "FizzBuzz"
7 -> "7"

larger_of_three(a, b, c) | Return the largest of three numbers.
    return max(a, b, c)
1, 2, 3 -> 3
5, 4, 1 -> 5
2, 9, 4 -> 9
-1, -2, -3 -> -1

middle_of_three(a, b, c) | Return the number that is neither the smallest nor the largest of three different numbers.
    return sorted([a, b, c])[1]
1, 2, 3 -> 2
5, 4, 1 -> 4
9, 2, 4 -> 4
-1, -3, -2 -> -2

exactly_one(a, b) | Return True if exactly one of two truth values is True, otherwise False.
    return a != b
True, False -> True
False, True -> True
True, True -> False
False, False -> False

triangle_kind(a, b, c) | Return "equilateral" for three equal sides, "isosceles" for exactly two, and otherwise "scalene".
    if a == b == c:
        return "equilateral"
    if a == b or b == c or a == c:
        return "isosceles"
    return "scalene"
2, 2, 2 -> "equilateral"
2, 3, 2 -> "isosceles"
3, 4, 5 -> "scalene"
5, 4, 4 -> "isosceles"
4, 4, 5 -> "isosceles"

season(month) | Return the season of a month number: "winter" for 12, 1 and 2, then "spring", "summer" and "autumn".
    if month in (12, 1, 2):
        return "winter"
    if month <= 5:
        return "spring"
    if month <= 8:
        return "summer"
    return "autumn"
12 -> "winter"
2 -> "winter"
1 -> "winter"
5 -> "spring"
3 -> "spring"
8 -> "summer"
9 -> "autumn"

days_in_month(month) | Return how many days a month has, from its number 1 to 12, in a year that is no leap year.
    if month == 2:
        return 28
    if month in (4, 6, 9, 11):
        return 30
    return 31
1 -> 31
2 -> 28
4 -> 30
6 -> 30
9 -> 30
11 -> 30
12 -> 31

quadrant(x, y) | Return the number (1 to 4) of the quadrant of a point, counted from the upper right against the clock, or 0 on an axis.
    if x == 0 or y == 0:
        return 0
    if x > 0:
        return 1 if y > 0 else 4
    return 2 if y > 0 else 3
1, 1 -> 1
-1, 1 -> 2
-1, -1 -> 3
1, -1 -> 4
0, 5 -> 0

parking_fee(hours) | The first hour of parking costs 3, every further one 2, and no stay more than 15. Return the fee for whole hours.
    if hours == 0:
        return 0
    return min(3 + 2 * (hours - 1), 15)
0 -> 0
1 -> 3
4 -> 9
7 -> 15
24 -> 15

tax(income) | Nothing is taken of the first 1000 of an income, 10 per cent of the next 1000, and 20 per cent of the rest. Return the tax.
    if income <= 1000:
        return 0
    if income <= 2000:
        return (income - 1000) * 0.1
    return 100 + (income - 2000) * 0.2
!    return income * 0.1
1000 -> 0
500 -> 0
1500 -> 50
3000 -> 300

roman(n) | Return the Roman numeral of a whole number from 1 to 39.
    out = ""
    for value, letters in ((10, "X"), (9, "IX"), (5, "V"), (4, "IV"), (1, "I")):
        while n >= value:
            out += letters
            n -= value
    return out
1 -> "I"
4 -> "IV"
19 -> "XIX"
38 -> "XXXVIII"

rock_paper_scissors(a, b) | Return 1 if a beats b, 2 if b beats a, and 0 for a draw; each is "rock", "paper" or "scissors".
    if a == b:
        return 0
    beats = {"rock": "scissors", "paper": "rock", "scissors": "paper"}
    return 1 if beats[a] == b else 2
"rock", "scissors" -> 1
"rock", "paper" -> 2
"paper", "paper" -> 0
"scissors", "paper" -> 1
"paper", "rock" -> 1

walk(steps) | Begin at (0, 0); each letter of steps moves by one: N adds to y, S takes from it, E adds to x, W takes from it. Return (x, y).
    x = y = 0
    for step in steps:
        if step == "N":
            y += 1
        elif step == "S":
            y -= 1
        elif step == "E":
            x += 1
        elif step == "W":
            x -= 1
    return (x, y)
"NNE" -> (1, 2)
"" -> (0, 0)
"NSEW" -> (0, 0)
"WWS" -> (-2, -1)

count_down(n) | Return the list of the whole numbers from n down to 0.
    return list(range(n, -1, -1))
3 -> [3, 2, 1, 0]
0 -> [0]
1 -> [1, 0]
5 -> [5, 4, 3, 2, 1, 0]

first_repeat(items) | Return the first item that has already occurred before it, or None if all are different.
    seen = []
    for item in items:
        if item in seen:
            return item
        seen.append(item)
    return None
[1, 2, 1, 2] -> 1
[1, 2, 3] -> None
["b", "a", "a", "b"] -> "a"
[] -> None

first_negative_place(numbers) | Return the place (from 0) of the first negative number, or -1 if there is none.
    for i, n in enumerate(numbers):
        if n < 0:
            return i
    return -1
[1, -2, 3] -> 1
[1, 2] -> -1
[0, -1] -> 1
[-5, -6] -> 0

steps_to_zero(n) | Count the steps until n is 0, where an even n is halved and an odd n is made smaller by one.
    steps = 0
    while n > 0:
        n = n // 2 if n % 2 == 0 else n - 1
        steps += 1
    return steps
0 -> 0
1 -> 1
8 -> 4
14 -> 6

days_to_reach(start, daily, goal) | Money grows by daily each day. Return after how many whole days start has grown to goal or more.
    days = 0
    while start < goal:
        start += daily
        days += 1
    return days
0, 5, 20 -> 4
0, 5, 21 -> 5
10, 1, 10 -> 0
3, 4, 8 -> 2

bounces(height, limit) | A ball is dropped and bounces back to half its height each time. Count the bounces that are higher than limit.
    count = 0
    height /= 2
    while height > limit:
        count += 1
        height /= 2
    return count
16, 1 -> 3
2, 1 -> 0
10, 1 -> 3
1, 5 -> 0

staircase(n) | Return a list of n strings: one star, two stars and so on, up to n stars.
    return ["*" * i for i in range(1, n + 1)]
3 -> ["*", "**", "***"]
0 -> []
1 -> ["*"]
4 -> ["*", "**", "***", "****"]

is_valid_password(text) | Return True if text has at least 8 characters, a digit and an upper-case letter, otherwise False.
    return len(text) >= 8 and any(c.isdigit() for c in text) and any(c.isupper() for c in text)
"Secret123" -> True
"secret123" -> False
"Secretive" -> False
"Ab1" -> False
"ABCDEFG1" -> True

next_light(color) | Return the traffic light that follows: "green" after "red", "yellow" after "green", "red" after "yellow".
    if color == "red":
        return "green"
    if color == "green":
        return "yellow"
    return "red"
"red" -> "green"
"green" -> "yellow"
"yellow" -> "red"
next_light("red") -> "yellow"

vending(coins, price) | Coins are put in one after the other until they make up the price. Return the change, or None if they do not.
    paid = 0
    for coin in coins:
        paid += coin
        if paid >= price:
            return paid - price
    return None
[5, 5, 5], 10 -> 0
[10, 10], 15 -> 5
[1, 2], 4 -> None
[20, 5], 15 -> 5
[], 1 -> None

evaluate(tokens) | Compute a list like [2, "+", 3, "-", 1], numbers with "+" or "-" between them, from left to right.
    result = tokens[0]
    for i in range(1, len(tokens), 2):
        if tokens[i] == "+":
            result += tokens[i + 1]
        else:
            result -= tokens[i + 1]
    return result
[2, "+", 3, "-", 1] -> 4
[7] -> 7
[1, "-", 5] -> -4
[1, "+", 1, "+", 1] -> 3
[9, "-", 4, "-", 3] -> 2

score_game(rolls) | Each roll of a die adds its number to the score, but a 1 sets the score back to 0. Return the final score.
    score = 0
    for roll in rolls:
        score = 0 if roll == 1 else score + roll
    return score
[3, 4] -> 7
[6, 1, 2] -> 2
[] -> 0
[5, 1] -> 0

elevator_moves(floors) | Return how many floors an elevator passes when it visits the given floors in order, beginning at the first.
    return sum(abs(b - a) for a, b in zip(floors, floors[1:]))
[0, 3, 1] -> 5
[4] -> 0
[] -> 0
[2, 2, 5] -> 3
"""
