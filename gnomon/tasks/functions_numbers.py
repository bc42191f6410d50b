# ruff: noqa: E501  (a problem is told in one line)
"""Problems about numbers; the notation is told in functions_data.py."""

PROBLEMS = r"""
average_of_two(a, b) | Return the average of two numbers.
    return (a + b) / 2
2, 4 -> 3
1, 2 -> 1.5
-1, 1 -> 0
7, 7 -> 7

is_even(n) | Return True if n is even and False if it is odd.
    return n % 2 == 0
4 -> True
7 -> False
0 -> True
-3 -> False

absolute_difference(a, b) | Return how far apart the two numbers are.
    return abs(a - b)
3, 8 -> 5
8, 3 -> 5
-2, 2 -> 4
1, 1 -> 0

sum_of_digits(n) | Return the sum of the decimal digits of a non-negative whole number.
    return sum(int(d) for d in str(n))
123 -> 6
0 -> 0
909 -> 18
7 -> 7

factorial(n) | Return the product of the whole numbers from 1 to n, and 1 for n = 0.
    result = 1
    for i in range(2, n + 1):
        result *= i
    return result
5 -> 120
0 -> 1
1 -> 1
7 -> 5040

is_prime(n) | Return True if the whole number n is a prime number, otherwise False.
    if n < 2:
        return False
    for d in range(2, int(n**0.5) + 1):
        if n % d == 0:
            return False
    return True
7 -> True
1 -> False
9 -> False
2 -> True
4 -> False
91 -> False

fibonacci(n) | Return the n-th Fibonacci number, where the 0-th is 0 and the first is 1.
    a, b = 0, 1
    for _ in range(n):
        a, b = b, a + b
    return a
0 -> 0
1 -> 1
10 -> 55
6 -> 8

greatest_common_divisor(a, b) | Return the largest whole number that divides both a and b, which are positive.
    while b:
        a, b = b, a % b
    return a
12, 18 -> 6
7, 5 -> 1
10, 5 -> 5
9, 9 -> 9

least_common_multiple(a, b) | Return the smallest positive whole number that both a and b divide.
    n = a
    while n % b:
        n += a
    return n
4, 6 -> 12
3, 5 -> 15
2, 8 -> 8
7, 7 -> 7

power(base, exponent) | Return base raised to a non-negative whole exponent.
    return base**exponent
2, 10 -> 1024
5, 0 -> 1
3, 3 -> 27
10, 1 -> 10

celsius_to_fahrenheit(celsius) | Convert a temperature from degrees Celsius to degrees Fahrenheit.
    return celsius * 9 / 5 + 32
0 -> 32
100 -> 212
-40 -> -40
10 -> 50

rectangle_area(width, height) | Return the area of a rectangle.
    return width * height
2, 3 -> 6
5, 5 -> 25
0, 4 -> 0
1.5, 2 -> 3

rectangle_perimeter(width, height) | Return the perimeter of a rectangle.
    return 2 * (width + height)
2, 3 -> 10
5, 5 -> 20
0, 4 -> 8
1, 1 -> 4

is_leap_year(year) | Return True for a leap year: divisible by 4, but not by 100 unless also by 400.
    return year % 4 == 0 and (year % 100 != 0 or year % 400 == 0)
2024 -> True
1900 -> False
2000 -> True
2023 -> False

count_digits(n) | Return how many decimal digits a non-negative whole number has.
    return len(str(n))
0 -> 1
9 -> 1
10 -> 2
12345 -> 5

reverse_number(n) | Return the non-negative whole number with its digits in the opposite order: 120 becomes 21.
    return int(str(n)[::-1])
123 -> 321
120 -> 21
7 -> 7
0 -> 0

sum_to(n) | Return the sum of the whole numbers from 1 to n.
    return n * (n + 1) // 2
5 -> 15
1 -> 1
0 -> 0
100 -> 5050

sum_of_squares(n) | Return the sum of the squares of the whole numbers from 1 to n.
    return sum(i * i for i in range(1, n + 1))
3 -> 14
1 -> 1
0 -> 0
5 -> 55

divisors(n) | Return the list of all positive divisors of n, from the smallest to the largest.
    return [d for d in range(1, n + 1) if n % d == 0]
6 -> [1, 2, 3, 6]
1 -> [1]
7 -> [1, 7]
16 -> [1, 2, 4, 8, 16]

is_perfect_number(n) | Return True if the positive divisors of n other than n itself sum to n, otherwise False.
    return n > 1 and sum(d for d in range(1, n) if n % d == 0) == n
6 -> True
28 -> True
12 -> False
1 -> False

is_perfect_square(n) | Return True if the non-negative whole number n is the square of a whole number, otherwise False.
    root = int(n**0.5)
    return root * root == n
16 -> True
15 -> False
0 -> True
2 -> False
1 -> True

sign(x) | Return 1 for a positive number, -1 for a negative number and 0 for zero.
    if x > 0:
        return 1
    if x < 0:
        return -1
    return 0
5 -> 1
-2.5 -> -1
0 -> 0
1 -> 1

clamp(x, low, high) | Return x, but low if x is below low, and high if x is above high.
    return max(low, min(x, high))
5, 0, 10 -> 5
-1, 0, 10 -> 0
11, 0, 10 -> 10
10, 0, 10 -> 10

collatz_steps(n) | Count the steps until n becomes 1, where an even n is halved and an odd n becomes 3 * n + 1.
    steps = 0
    while n != 1:
        n = n // 2 if n % 2 == 0 else 3 * n + 1
        steps += 1
    return steps
1 -> 0
8 -> 3
6 -> 8
3 -> 7

to_binary(n) | Return the binary digits of a non-negative whole number as a string without a prefix.
    return bin(n)[2:]
5 -> "101"
0 -> "0"
8 -> "1000"
1 -> "1"

from_binary(digits) | Return the whole number that a string of binary digits stands for.
    value = 0
    for d in digits:
        value = 2 * value + int(d)
    return value
"101" -> 5
"0" -> 0
"1000" -> 8
"0011" -> 3

count_ones(n) | Return how many ones the binary form of a non-negative whole number has.
    return bin(n).count("1")
5 -> 2
0 -> 0
8 -> 1
255 -> 8

digital_root(n) | Sum the digits of n, then the digits of that sum, and so on until one digit is left; return it.
    while n > 9:
        n = sum(int(d) for d in str(n))
    return n
38 -> 2
5 -> 5
9999 -> 9
10 -> 1

is_triangle(a, b, c) | Return True if three lengths can be the sides of a triangle: any two sum to more than the third.
    return a + b > c and a + c > b and b + c > a
3, 4, 5 -> True
1, 2, 3 -> False
9, 4, 4 -> False
2, 7, 3 -> False
3, 1, 2 -> False
1, 3, 2 -> False
2, 2, 2 -> True

minutes_to_clock(minutes) | Turn minutes since midnight into a text like "7:05": hours, a colon, and minutes in two digits.
    return f"{minutes // 60}:{minutes % 60:02d}"
425 -> "7:05"
0 -> "0:00"
59 -> "0:59"
600 -> "10:00"

clock_to_minutes(clock) | Turn a text like "7:05" into minutes since midnight.
    hours, minutes = clock.split(":")
    return int(hours) * 60 + int(minutes)
"7:05" -> 425
"0:00" -> 0
"10:30" -> 630
"23:59" -> 1439

seconds_in(hours, minutes, seconds) | Return the number of seconds in the given hours, minutes and seconds.
    return hours * 3600 + minutes * 60 + seconds
1, 0, 0 -> 3600
0, 1, 1 -> 61
2, 30, 5 -> 9005
0, 0, 0 -> 0

round_to_ten(n) | Round a non-negative whole number to the nearest multiple of ten; a last digit of 5 is rounded up.
    return (n + 5) // 10 * 10
14 -> 10
15 -> 20
0 -> 0
96 -> 100

next_multiple(n, k) | Return the smallest multiple of k that is greater than n, for whole numbers n >= 0 and k > 0.
    return (n // k + 1) * k
7, 5 -> 10
10, 5 -> 15
0, 3 -> 3
8, 3 -> 9

smallest_prime_factor(n) | Return the smallest prime number that divides n, which is at least 2.
    d = 2
    while n % d:
        d += 1
    return d
15 -> 3
2 -> 2
49 -> 7
22 -> 2

prime_factors(n) | Return the prime factors of n in ascending order, each as often as it divides n.
    factors = []
    d = 2
    while n > 1:
        while n % d == 0:
            factors.append(d)
            n //= d
        d += 1
    return factors
12 -> [2, 2, 3]
7 -> [7]
1 -> []
90 -> [2, 3, 3, 5]

primes_below(n) | Return the list of all prime numbers less than n.
    return [p for p in range(2, n) if all(p % d for d in range(2, p))]
10 -> [2, 3, 5, 7]
2 -> []
3 -> [2]
20 -> [2, 3, 5, 7, 11, 13, 17, 19]

is_armstrong(n) | Return True if n equals the sum of its digits, each raised to the power of the number of digits.
    digits = str(n)
    return n == sum(int(d) ** len(digits) for d in digits)
153 -> True
10 -> False
9 -> True
370 -> True
371 -> True
372 -> False

integer_root(n) | Return the largest whole number whose square is not greater than n, which is at least 0.
    r = 0
    while (r + 1) * (r + 1) <= n:
        r += 1
    return r
16 -> 4
15 -> 3
0 -> 0
2 -> 1

compound(amount, percent, years) | Return the amount after it has grown by percent per cent each year, for a number of years.
    for _ in range(years):
        amount = amount * (100 + percent) / 100
    return amount
100, 10, 1 -> 110
100, 10, 2 -> 121
50, 100, 3 -> 400
80, 5, 0 -> 80

change_coins(amount) | Return the fewest coins of 1, 5, 10 and 25 that make up the amount.
    count = 0
    for coin in (25, 10, 5, 1):
        count += amount // coin
        amount %= coin
    return count
30 -> 2
4 -> 4
99 -> 9
0 -> 0
10 -> 1

distance(x1, y1, x2, y2) | Return the straight-line distance between the points (x1, y1) and (x2, y2).
    return ((x2 - x1) ** 2 + (y2 - y1) ** 2) ** 0.5
0, 0, 3, 4 -> 5
1, 1, 1, 1 -> 0
2, 3, 2, 9 -> 6
-1, 0, 4, 12 -> 13

grid_distance(a, b) | Return how many steps along a grid lie between the points a and b, each a tuple (x, y).
    return abs(a[0] - b[0]) + abs(a[1] - b[1])
(0, 0), (3, 4) -> 7
(1, 1), (1, 1) -> 0
(2, 5), (0, 1) -> 6
(-1, 0), (1, 0) -> 2

multiplication_row(n) | Return the list of n times 1, n times 2, and so on up to n times 10.
    return [n * i for i in range(1, 11)]
2 -> [2, 4, 6, 8, 10, 12, 14, 16, 18, 20]
0 -> [0, 0, 0, 0, 0, 0, 0, 0, 0, 0]
1 -> [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]
7 -> [7, 14, 21, 28, 35, 42, 49, 56, 63, 70]
"""
