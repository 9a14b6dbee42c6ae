"""Judges one program with an installed stepcoder, whatever else is installed (cibuildwheel)."""

from stepcoder.adapters import compute_score

TESTS = {"kind": "call", "inputs": [[1, 2]], "outputs": [3]}

if __name__ == "__main__":
    found = compute_score("", "def add(a, b):\n    return a + b\n", TESTS, {"entry_point": "add"})
    assert found["score"] == 1, found
