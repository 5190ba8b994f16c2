"""A llama.cpp server for tests: a tiny Llama as a GGUF file, and a process that serves it.

python tests/llama_cpp.py MODEL.gguf PORT [SLOTS]      serves until it is killed
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

_LAYER = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def write_gguf(model: Any, tokenizer: Any, path: Path) -> None:
    """Write a Llama of transformers and its byte-level BPE tokenizer as one GGUF file in float32."""
    import gguf

    config = model.config
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    _add_tokenizer(writer, tokenizer, config.vocab_size)
    heads = {"self_attn.q_proj": config.num_attention_heads, "self_attn.k_proj": config.num_key_value_heads}
    weights = dict(model.state_dict())
    writer.add_tensor("token_embd.weight", weights["model.embed_tokens.weight"].numpy())
    writer.add_tensor("output_norm.weight", weights["model.norm.weight"].numpy())
    if not config.tie_word_embeddings:
        writer.add_tensor("output.weight", weights["lm_head.weight"].numpy())
    for number in range(config.num_hidden_layers):
        for theirs, ours in _LAYER.items():
            weight = weights[f"model.layers.{number}.{theirs}.weight"]
            if theirs in heads:  # llama.cpp rotates neighbouring pairs, transformers the two halves of a head
                rows, columns = weight.shape
                split = weight.reshape(heads[theirs], 2, rows // heads[theirs] // 2, columns)
                weight = split.swapaxes(1, 2).reshape(rows, columns).contiguous()
            writer.add_tensor(f"blk.{number}.{ours}.weight", weight.numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _add_tokenizer(writer: Any, tokenizer: Any, size: int) -> None:
    import gguf

    inner = tokenizer.backend_tokenizer
    special = {number for number, token in inner.get_added_tokens_decoder().items() if token.special}
    tokens = [inner.id_to_token(number) or f"[unused{number}]" for number in range(size)]
    kinds = [gguf.TokenType.CONTROL if number in special else gguf.TokenType.NORMAL for number in range(size)]
    merges = [" ".join(pair) for pair in json.loads(inner.to_str())["model"]["merges"]]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    writer.add_token_merges(merges)
    writer.add_bos_token_id(tokenizer.bos_token_id)
    writer.add_eos_token_id(tokenizer.eos_token_id)
    writer.add_add_bos_token(False)


def serve(model: str, port: int, slots: int = 8) -> None:
    """Serve a GGUF file at 127.0.0.1, as the model `tiny`, until the process ends.

    slots: completions in one batch, each with a context of 512 tokens.
    """
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = model
    params.model_alias = {"tiny"}
    params.hostnames = ["127.0.0.1"]
    params.port = port
    params.n_ctx = slots * 512
    params.n_parallel = slots
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
    params.warmup = False
    server = xllamacpp.Server(params)
    print(server.listening_address, flush=True)
    while True:
        time.sleep(3600)


if __name__ == "__main__":
    serve(sys.argv[1], *map(int, sys.argv[2:]))
