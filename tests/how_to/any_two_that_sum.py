"""Accepts any two different indices of numbers that add up to the target."""


def check(input, expected, got):
    """Return whether `got` answers f(numbers, target) = [i, j], or None where no two do."""
    if expected is None:
        return got is None
    numbers, target = input
    if not (isinstance(got, (list, tuple)) and len(got) == 2 and all(type(i) is int for i in got)):
        return False
    i, j = got
    if i == j or not all(0 <= place < len(numbers) for place in got):
        return False
    return numbers[i] + numbers[j] == target
