#!/usr/bin/env python3
"""Writes a GGUF file with the shapes of Llama 3 8B and random weights, to measure speed with.

What an engine computes for each token is that of the real model: shapes, formats, vocabulary and merges are the
same. What it says is noise. No float copy of a weight is ever made: a block of a quantised format is random bytes, of
which only the scales are chosen, so that values have the spread that a real layer has and activations stay finite.
The same seed gives the same file.

    make_llama3.py --format q4_0 --tokenizer FOLDER --out FILE [--layers 4]
"""

import argparse
import json
import os
import pathlib
import sys
import time

import gguf
import numpy as np

# What Meta published as Llama 3 8B; only the number of layers can be changed.
HIDDEN, HEADS, KV_HEADS, FEED_FORWARD, VOCABULARY, CONTEXT = 4096, 32, 8, 14336, 128256, 8192
ROPE_BASE, EPSILON = 500000.0, 1e-5
BEGIN_OF_TEXT, END_OF_TEXT, END_OF_TURN = 128000, 128001, 128009

# Bytes made at once: what bounds the memory of this program beside one tensor.
PIECE = 64 << 20


class Format:
    """A block format: its size, where its f16 scales are, and the spread of its values for a scale of 1."""

    def __init__(self, kind, scales, spread):
        self.kind = kind
        self.weights, self.bytes = gguf.GGML_QUANT_SIZES[kind]
        self.scales = scales  # byte offset of each f16 field -> factor on the scale
        self.spread = spread


Q = gguf.GGMLQuantizationType
FORMATS = {
    # d * (q - 8), q even over 0..15
    "q4_0": Format(Q.Q4_0, {0: 1.0}, 4.64),
    # d * q, q even over -127..127
    "q8_0": Format(Q.Q8_0, {0: 1.0}, 73.6),
    # d * s * q - m * t, s and t even over 0..63, q over 0..15; m = 7.5 d makes the mean 0
    "q4_k": Format(Q.Q4_K, {0: 1.0, 2: 7.5}, 255.5),
    # d * s * (q - 32), s even over -128..127, q over 0..63
    "q6_k": Format(Q.Q6_K, {208: 1.0}, 1366.0),
}

# The file type that a loader prints: `LLAMA_FTYPE_MOSTLY_…`.
MIXES = {"q4_0": 2, "q8_0": 7, "q4_k_m": 15}


def format_of(mix, tensor, layer, layers):
    """The format that llama.cpp's quantiser gives a tensor in this mix."""
    if mix == "q8_0":
        return FORMATS["q8_0"]
    if tensor == "output":
        return FORMATS["q6_k"]
    if mix == "q4_0":
        return FORMATS["q4_0"]
    # Two of its tensors keep more bits in the first and last eighth of the layers, and in every third between.
    eighth = layers // 8
    sensitive = layer < eighth or layer >= 7 * eighth or (layer - eighth) % 3 == 2
    return FORMATS["q6_k" if tensor in ("attn_v", "ffn_down") and sensitive else "q4_k"]


def tensors(mix, layers):
    """Every tensor in file order: name, rows, columns, format (`None` is f32), spread."""
    kv = HIDDEN // HEADS * KV_HEADS
    # Each layer adds two terms to the residual stream: this keeps their sum near 1.
    into_residual = (2.0 * layers) ** -0.5
    yield "token_embd", VOCABULARY, HIDDEN, format_of(mix, "token_embd", 0, layers), 0.02
    for layer in range(layers):
        for name, rows, columns, gain in (
            ("attn_norm", 1, HIDDEN, None),
            ("attn_q", HIDDEN, HIDDEN, 1.0),
            ("attn_k", kv, HIDDEN, 1.0),
            ("attn_v", kv, HIDDEN, 1.0),
            ("attn_output", HIDDEN, HIDDEN, into_residual),
            ("ffn_norm", 1, HIDDEN, None),
            ("ffn_gate", FEED_FORWARD, HIDDEN, 1.0),
            ("ffn_up", FEED_FORWARD, HIDDEN, 1.0),
            ("ffn_down", HIDDEN, FEED_FORWARD, into_residual),
        ):
            full = f"blk.{layer}.{name}"
            if gain is None:
                yield full, rows, columns, None, 0.0
            else:
                yield full, rows, columns, format_of(mix, name, layer, layers), gain * columns**-0.5
    yield "output_norm", 1, HIDDEN, None, 0.0
    yield "output", VOCABULARY, HIDDEN, format_of(mix, "output", 0, layers), HIDDEN**-0.5


def random_blocks(random, form, weights, spread):
    """`weights` random weights as raw blocks, (blocks, bytes of a block)."""
    out = np.empty((weights // form.weights, form.bytes), dtype=np.uint8)
    step = PIECE // form.bytes
    for start in range(0, len(out), step):
        piece = out[start : start + step]
        piece[:] = np.frombuffer(random.bytes(piece.size), dtype=np.uint8).reshape(piece.shape)
        if form.kind == Q.Q8_0:
            # -128 does not occur in a real file, and a kernel may rely on that.
            quants = piece[:, 2:].view(np.int8)
            np.maximum(quants, -127, out=quants)
        scale = random.uniform(0.8, 1.2, len(piece)) * spread / form.spread
        for offset, factor in form.scales.items():
            field = (scale * factor).astype("<f2")
            piece[:, offset : offset + 2] = field.view(np.uint8).reshape(-1, 2)
    return out


def write_vocabulary(writer, folder):
    """The tokenizer of `folder`, which holds Hugging Face's `tokenizer.json` and `tokenizer_config.json`."""
    tokenizer = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    settings = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    names = [f"<|unused_{index}|>" for index in range(VOCABULARY)]
    kinds = [gguf.TokenType.NORMAL] * VOCABULARY
    for text, index in tokenizer["model"]["vocab"].items():
        names[index] = text
    for added in tokenizer["added_tokens"]:
        names[added["id"]] = added["content"]
        kinds[added["id"]] = gguf.TokenType.CONTROL
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in tokenizer["model"]["merges"]]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("llama-bpe")
    writer.add_token_list(names)
    writer.add_token_types(kinds)
    writer.add_token_merges(merges)
    writer.add_bos_token_id(BEGIN_OF_TEXT)
    writer.add_eos_token_id(END_OF_TEXT)
    writer.add_eot_token_id(END_OF_TURN)
    writer.add_add_bos_token(True)
    writer.add_chat_template(settings["chat_template"])


def write(path, mix, layers, folder, seed):
    """Writes the file at `path`, one tensor at a time."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_type("model")
    writer.add_name(f"Llama 3 8B shapes, {layers} layers, random weights")
    writer.add_block_count(layers)
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(HIDDEN)
    writer.add_feed_forward_length(FEED_FORWARD)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_rope_dimension_count(HIDDEN // HEADS)
    writer.add_rope_freq_base(ROPE_BASE)
    writer.add_layer_norm_rms_eps(EPSILON)
    writer.add_vocab_size(VOCABULARY)
    writer.add_file_type(MIXES[mix])
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    write_vocabulary(writer, folder)

    plan = list(tensors(mix, layers))
    for name, rows, columns, form, _ in plan:
        if form is None:
            writer.add_tensor_info(f"{name}.weight", [columns], np.dtype(np.float32), columns * 4)
        else:
            width = columns // form.weights * form.bytes
            writer.add_tensor_info(
                f"{name}.weight", [rows, width], np.dtype(np.uint8), rows * width, raw_dtype=form.kind
            )
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for index, (_, rows, columns, form, spread) in enumerate(plan):
        random = np.random.default_rng([seed, index])
        if form is None:
            writer.write_tensor_data(random.normal(1.0, 0.05, columns).astype(np.float32))
        else:
            writer.write_tensor_data(random_blocks(random, form, rows * columns, spread).reshape(rows, -1))
    writer.close()


def main():
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--format", choices=sorted(MIXES), default="q4_0")
    arguments.add_argument("--layers", type=int, default=32)
    arguments.add_argument("--seed", type=int, default=1)
    arguments.add_argument("--tokenizer", type=pathlib.Path, required=True)
    arguments.add_argument("--out", type=pathlib.Path, required=True)
    given = arguments.parse_args()
    if given.layers < 1:
        arguments.error("a model has at least one layer")
    started = time.monotonic()
    # A run that is broken off must not leave half a file under the final name.
    partial = given.out.with_name(given.out.name + ".partial")
    write(partial, given.format, given.layers, given.tokenizer, given.seed)
    os.replace(partial, given.out)
    print(f"{given.out}: {given.out.stat().st_size / 1e9:.2f} GB in {time.monotonic() - started:.0f} s", file=sys.stderr)


if __name__ == "__main__":
    main()
