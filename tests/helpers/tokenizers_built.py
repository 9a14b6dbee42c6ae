"""Small tokenizers of every kind that decodes differently, trained on a given text."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterable

import sentencepiece
from tokenizers import (
    AddedToken,
    Regex,
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
    return _byte_level_bpe(texts, pre_tokenizers.ByteLevel(add_prefix_space=False))


def _byte_level_bpe(texts: Iterable[str], *pieces: pre_tokenizers.PreTokenizer) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(list(pieces))
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=600, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    return _finished(tokenizer)


def smollm_bpe(texts: Iterable[str]) -> Tokenizer:
    """SmolLM2's and StarCoder2's: GPT-2's pieces, with single digits."""
    digits = pre_tokenizers.Digits(individual_digits=True)
    return _byte_level_bpe(texts, digits, pre_tokenizers.ByteLevel(add_prefix_space=False))


def qwen_bpe(texts: Iterable[str]) -> Tokenizer:
    """Qwen2's pieces: newlines stay with the punctuation before them."""
    return _with_newlines_after_punctuation(texts, r"\p{N}")


def llama3_bpe(texts: Iterable[str]) -> Tokenizer:
    """Llama-3's pieces: as Qwen2's, but numbers of three digits; a token opens the text."""
    tokenizer = _with_newlines_after_punctuation(texts, r"\p{N}{1,3}")
    bos = tokenizer.token_to_id("<s>")
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", bos)]
    )
    return tokenizer


def _with_newlines_after_punctuation(texts: Iterable[str], digits: str) -> Tokenizer:
    pieces = (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
        + digits
        + r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    )
    split = pre_tokenizers.Split(Regex(pieces), behavior="isolated")
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    return _byte_level_bpe(texts, split, byte_level)


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
    """T5 style: Unigram with Metaspace on both sides; a token ends every text.

    Its pieces are short. One such as "\\r        case " joins three words over the end of a line,
    which a trainer that splits at spaces, as T5's did, never makes.
    """
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="first", split=False)
    texts = list(texts)
    trainer = trainers.UnigramTrainer(
        vocab_size=400,
        special_tokens=SPECIAL,
        unk_token="<unk>",
        initial_alphabet=sorted(set("".join(texts))),
        max_piece_length=6,
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    eos = tokenizer.token_to_id("</s>")
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", eos)]
    )
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
    "SmolLM2-style BPE": smollm_bpe,
    "Qwen2-style BPE": qwen_bpe,
    "Llama-3-style BPE": llama3_bpe,
    "single bytes": single_bytes,
    "Llama-style BPE": llama_bpe,
    "Metaspace Unigram": metaspace_unigram,
    "SentencePiece Unigram": sentencepiece_unigram,
}
