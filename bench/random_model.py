"""Writes a decoder with random weights and its tokenizer, as a folder for `model.path`.

python bench/random_model.py FOLDER [layers width heads kv_heads]; by default 1.5 billion weights.
For time and memory only: what it generates is noise, of full length.
"""

from __future__ import annotations

import sys

import torch

from stepcoder.config import DataConfig, ModelConfig
from stepcoder.models.embedded import small_decoder, train_tokenizer
from stepcoder.run.data import load_data

SHAPE = (34, 2048, 16, 4)

if __name__ == "__main__":
    folder, *shape = sys.argv[1:]
    layers, width, heads, kv_heads = map(int, shape or SHAPE)
    texts = [problem.prompt for problem in load_data(DataConfig(), 1.0).train]
    tokenizer = train_tokenizer(texts, 32768)
    torch.set_default_dtype(torch.bfloat16)
    config = ModelConfig(layers=layers, width=width, heads=heads, kv_heads=kv_heads)
    model = small_decoder(config, tokenizer, seed=0)
    for kept in (tokenizer, model):
        kept.save_pretrained(folder)
    count = sum(p.numel() for p in model.parameters())
    print(f"{count / 1e9:.2f} billion parameters, {len(tokenizer)} tokens, {model.dtype}")
