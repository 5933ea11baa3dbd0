#!/usr/bin/env python3
"""The mean negative log-likelihood of a text under a Llama-family GGUF file, by a plain f32 forward pass.

Independent of the engine: weights are expanded to f32 by ggml's own Python package, the pass is written in
numpy from the papers, attention sees the whole text at once. Prints what `smollm2.json` beside it records.

    pip install gguf==0.19.0 numpy==2.4.6 tokenizers
    python3 nll.py MODEL.gguf text.txt > smollm2.json
"""

import hashlib
import json
import sys

import gguf
import numpy as np
from tokenizers import Tokenizer, models, pre_tokenizers


def main(model_path, text_path):
    reader = gguf.GGUFReader(model_path)
    text = open(text_path, encoding="utf-8").read()
    tokens = tokenizer(reader).encode(text).ids
    nll = negative_log_likelihoods(reader, tokens)
    digest = hashlib.sha256(open(model_path, "rb").read()).hexdigest()
    record = {"model_sha256": digest, "tokens": tokens, "mean_nll": round(float(nll.mean()), 6)}
    print(json.dumps(record))


def field(reader, key):
    return reader.fields[key].contents()


def tokenizer(reader):
    """Byte-level BPE with the pre-tokeniser `smollm`: single digits, then GPT-2's pattern."""
    assert field(reader, "tokenizer.ggml.pre") == "smollm"
    vocabulary = {token: index for index, token in enumerate(field(reader, "tokenizer.ggml.tokens"))}
    merges = [tuple(merge.split(" ")) for merge in field(reader, "tokenizer.ggml.merges")]
    bpe = Tokenizer(models.BPE(vocabulary, merges))
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    return bpe


def negative_log_likelihoods(reader, tokens):
    weights = {t.name: gguf.quants.dequantize(t.data, t.tensor_type).astype(np.float32) for t in reader.tensors}
    layers = field(reader, "llama.block_count")
    heads, kv_heads = field(reader, "llama.attention.head_count"), field(reader, "llama.attention.head_count_kv")
    eps = field(reader, "llama.attention.layer_norm_rms_epsilon")
    embedding = weights["token_embd.weight"]
    width = embedding.shape[1] // heads
    count = len(tokens)

    # GGUF permutes the rows of q and k so that rotated pairs are neighbours.
    frequency = field(reader, "llama.rope.freq_base") ** (-np.arange(0, width, 2) / width)
    angle = np.arange(count)[:, None] * frequency
    cos, sin = np.cos(angle).astype(np.float32)[:, None], np.sin(angle).astype(np.float32)[:, None]

    def rotate(x):
        even, odd = x[..., 0::2], x[..., 1::2]
        out = np.empty_like(x)
        out[..., 0::2], out[..., 1::2] = even * cos - odd * sin, even * sin + odd * cos
        return out

    def norm(x, name):
        return x / np.sqrt((x * x).mean(-1, keepdims=True) + eps) * weights[name]

    future = np.triu(np.full((count, count), -np.inf, np.float32), 1)
    x = embedding[tokens]
    for layer in range(layers):
        w = lambda name: weights[f"blk.{layer}.{name}.weight"]
        h = norm(x, f"blk.{layer}.attn_norm.weight")
        q = rotate((h @ w("attn_q").T).reshape(count, heads, width))
        k = rotate((h @ w("attn_k").T).reshape(count, kv_heads, width)).repeat(heads // kv_heads, axis=1)
        v = (h @ w("attn_v").T).reshape(count, kv_heads, width).repeat(heads // kv_heads, axis=1)
        scores = np.einsum("qhd,khd->hqk", q, k) / np.sqrt(width) + future
        scores = np.exp(scores - scores.max(-1, keepdims=True))
        scores /= scores.sum(-1, keepdims=True)
        x = x + np.einsum("hqk,khd->qhd", scores, v).reshape(count, -1) @ w("attn_output").T
        h = norm(x, f"blk.{layer}.ffn_norm.weight")
        gate = h @ w("ffn_gate").T
        x = x + (gate / (1 + np.exp(-gate)) * (h @ w("ffn_up").T)) @ w("ffn_down").T
    logits = (norm(x, "output_norm.weight") @ weights.get("output.weight", embedding).T).astype(np.float64)
    logits = logits[:-1] - logits[:-1].max(-1, keepdims=True)
    return np.log(np.exp(logits).sum(-1)) - logits[np.arange(count - 1), tokens[1:]]


if __name__ == "__main__":
    main(*sys.argv[1:])
