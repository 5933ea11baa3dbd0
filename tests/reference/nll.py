"""The mean negative log-likelihood of a text under a GGUF model, in plain f32 numpy: the reference that
`tests/engine.rs` holds the engine against.

    pip install gguf==0.19.0 numpy tokenizers
    python nll.py MODEL.gguf TEXT TOKENS

Independent of the engine: weights are dequantised by the `gguf` package, the tokenizer is rebuilt with `tokenizers`,
the forward pass follows the paper. Prints the token ids' count, the first ids, and the mean over tokens 2 to n.
"""

import sys

import numpy as np
from gguf import GGUFReader, dequantize
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

path, text_file, most = sys.argv[1], sys.argv[2], int(sys.argv[3])
reader = GGUFReader(path)


def field(name):
    found = reader.fields[name]
    values = [found.parts[index] for index in found.data]
    if found.types[0].name == "ARRAY" and found.types[-1].name == "STRING":
        return [bytes(value).decode() for value in values]
    if found.types[0].name == "STRING":
        return bytes(values[0]).decode()
    return values[0][0] if len(values) == 1 else [value[0] for value in values]


tokens, merges = field("tokenizer.ggml.tokens"), field("tokenizer.ggml.merges")
bpe = Tokenizer(models.BPE({token: index for index, token in enumerate(tokens)}, [tuple(m.split(" ")) for m in merges]))
bpe.pre_tokenizer = pre_tokenizers.Sequence(
    [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
)
bpe.decoder = decoders.ByteLevel()
ids = bpe.encode(open(text_file, encoding="utf-8").read()).ids[:most]

weights = {t.name: dequantize(t.data, t.tensor_type).astype(np.float32) for t in reader.tensors}
layers, heads = int(field("llama.block_count")), int(field("llama.attention.head_count"))
kv_heads, eps = int(field("llama.attention.head_count_kv")), float(field("llama.attention.layer_norm_rms_epsilon"))
theta = float(field("llama.rope.freq_base"))
hidden = weights["token_embd.weight"].shape[1]
dim, count = hidden // heads, len(ids)


def norm(x, name):
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + eps) * weights[name]


def rotate(x):  # (heads, tokens, dim): GGUF stores rotated pairs side by side
    angles = np.arange(count)[:, None] * theta ** (-np.arange(0, dim, 2) / dim)
    cos, sin = np.cos(angles), np.sin(angles)
    out = np.empty_like(x)
    out[..., 0::2] = x[..., 0::2] * cos - x[..., 1::2] * sin
    out[..., 1::2] = x[..., 0::2] * sin + x[..., 1::2] * cos
    return out


x = weights["token_embd.weight"][ids]
mask = np.triu(np.full((count, count), -np.inf, np.float32), 1)
for layer in range(layers):
    w = lambda name: weights[f"blk.{layer}.{name}.weight"]
    y = norm(x, f"blk.{layer}.attn_norm.weight")
    split = lambda z, n: z.reshape(count, n, dim).transpose(1, 0, 2)
    q, k, v = split(y @ w("attn_q").T, heads), split(y @ w("attn_k").T, kv_heads), split(y @ w("attn_v").T, kv_heads)
    q, k = rotate(q), rotate(k)
    k, v = np.repeat(k, heads // kv_heads, 0), np.repeat(v, heads // kv_heads, 0)
    scores = q @ k.transpose(0, 2, 1) / np.sqrt(dim) + mask
    scores = np.exp(scores - scores.max(-1, keepdims=True))
    attended = (scores / scores.sum(-1, keepdims=True)) @ v
    x = x + attended.transpose(1, 0, 2).reshape(count, hidden) @ w("attn_output").T
    y = norm(x, f"blk.{layer}.ffn_norm.weight")
    gate = y @ w("ffn_gate").T
    x = x + (gate / (1 + np.exp(-gate)) * (y @ w("ffn_up").T)) @ w("ffn_down").T
logits = norm(x, "output_norm.weight") @ weights.get("output.weight", weights["token_embd.weight"]).T
logits = logits[:-1].astype(np.float64)
logits -= logits.max(-1, keepdims=True)
nll = np.log(np.exp(logits).sum(-1)) - logits[np.arange(count - 1), ids[1:]]
print(count, ids[:8], f"{nll.mean():.6f}")
