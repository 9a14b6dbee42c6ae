"""Small tokenizers of every kind that decodes differently, trained on a given text."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterable

import sentencepiece
from tokenizers import (
    AddedToken,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

SPECIAL = ["<s>", "</s>", "<unk>"]
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
SENTENCEPIECE_DECODER = [
    decoders.Replace("▁", " "),
    decoders.ByteFallback(),
    decoders.Fuse(),
    decoders.Strip(" ", 1, 0),
]


def _finished(tokenizer: Tokenizer) -> Tokenizer:
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in SPECIAL])
    return tokenizer


def byte_level_bpe(texts: Iterable[str]) -> Tokenizer:
    """GPT-2 style: merges of bytes, of which some are parts of characters."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=600, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    return _finished(tokenizer)


def single_bytes(_: Iterable[str]) -> Tokenizer:
    """One token a byte, so every character that is not ASCII is several tokens."""
    vocabulary = {c: i for i, c in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    return _finished(tokenizer)


def llama_bpe(texts: Iterable[str]) -> Tokenizer:
    """Llama style: BPE over text with a space put before it, bytes for unknown characters."""
    draft = Tokenizer(models.BPE())
    draft.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never")
    # New lines are bytes in these tokenizers, never parts of longer tokens.
    lines = [line for text in texts for line in text.split("\n")]
    draft.train_from_iterator(lines, trainers.BpeTrainer(vocab_size=500, show_progress=False))
    vocabulary = draft.get_vocab()
    merges = _merges(draft)
    for token in [*SPECIAL, *BYTES]:
        vocabulary.setdefault(token, len(vocabulary))
    tokenizer = Tokenizer(
        models.BPE(vocab=vocabulary, merges=merges, unk_token="<unk>", byte_fallback=True)
    )
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    tokenizer.decoder = decoders.Sequence(SENTENCEPIECE_DECODER)
    bos = tokenizer.token_to_id("<s>")
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", bos)]
    )
    return _finished(tokenizer)


def metaspace_unigram(texts: Iterable[str]) -> Tokenizer:
    """T5 style: Unigram with Metaspace on both sides."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="first", split=False)
    texts = list(texts)
    trainer = trainers.UnigramTrainer(
        vocab_size=400,
        special_tokens=SPECIAL,
        unk_token="<unk>",
        initial_alphabet=sorted(set("".join(texts))),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return _finished(tokenizer)


def sentencepiece_unigram(texts: Iterable[str]) -> Tokenizer:
    """A model that the sentencepiece package trained, converted piece by piece."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([line for text in texts for line in text.split("\n") if line]),
        model_writer=model,
        vocab_size=800,
        hard_vocab_limit=False,
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        minloglevel=2,
    )
    processor = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    pieces = [(processor.id_to_piece(i), processor.get_score(i)) for i in range(len(processor))]
    tokenizer = Tokenizer(models.Unigram(pieces, processor.unk_id(), True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always", split=False)
    tokenizer.decoder = decoders.Sequence(SENTENCEPIECE_DECODER)
    return _finished(tokenizer)


def _merges(tokenizer: Tokenizer) -> list[tuple[str, str]]:
    merges = json.loads(tokenizer.to_str())["model"]["merges"]
    return [tuple(merge) for merge in merges]


TOKENIZERS: dict[str, Callable[[Iterable[str]], Tokenizer]] = {
    "byte-level BPE": byte_level_bpe,
    "single bytes": single_bytes,
    "Llama-style BPE": llama_bpe,
    "Metaspace Unigram": metaspace_unigram,
    "SentencePiece Unigram": sentencepiece_unigram,
}
