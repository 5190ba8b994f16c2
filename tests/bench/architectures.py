"""Every architecture of the installed transformers that writes text, once at a small size: exact, or refused?

    python tests/bench/architectures.py          # about 3 minutes of one core; use it after an update of transformers

For each class two questions are answered by comparison with the model's own forward pass, one row at a time: are packed
prompt trees exact, and is continuous batching (greedy)? An architecture that is neither exact nor refused is a fault,
and the exit status is 1. Weights are random, and sliding windows are shorter than the rows. A class that cannot be
built from the small sizes here is listed as not built.
"""

from __future__ import annotations

import sys
import warnings
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING
from transformers.utils import logging

import align.tree.attention
from align.errors import AlignError, CheckError
from align.generation.local import LocalBackend
from align.models.exactness import own_implementation, refuse_config, refuse_untrainable, require_open_attention
from align.models.logps import TreePolicy
from align.settings import SamplingConfig
from align.trainers.checks import check_packing

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.trees import SHORT_AND_LONG, VOCABULARY

LARGEST = 10_000_000  # parameters
TOKENS = 12
SIZES = {
    **{"vocab_size": VOCABULARY, "hidden_size": 32, "intermediate_size": 48, "moe_intermediate_size": 16},
    **{"num_hidden_layers": 2, "n_layer": 2, "n_layers": 2, "decoder_layers": 2, "encoder_layers": 2},
    **{"num_attention_heads": 4, "n_head": 4, "n_heads": 4, "decoder_attention_heads": 4, "encoder_attention_heads": 4},
    **{"num_key_value_heads": 2, "head_dim": 8, "sliding_window": 16, "max_position_embeddings": 256},
    **{"n_embd": 32, "d_model": 32, "word_embed_proj_dim": 32, "n_positions": 256, "rotary_dim": 4},
    **{"ffn_dim": 48, "d_ff": 48, "decoder_ffn_dim": 48, "encoder_ffn_dim": 48, "first_k_dense_replace": 1},
    **{"num_local_experts": 4, "num_experts": 4, "n_routed_experts": 4, "num_experts_per_tok": 2},
    **{"n_group": 1, "topk_group": 1, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2},
    **{"q_lora_rank": 16, "kv_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 8},
}
"""Names of sizes over all config classes; each class is given those that it has."""


PROMPTS = [np.random.default_rng(length).integers(3, VOCABULARY, length).tolist() for length in (30, 7, 3, 22, 12)]


def small(config: type, attention: str | None) -> Any:
    """A model with random weights that are large enough for a wrong mask or position to show."""
    fields = {name for kind in config.__mro__ for name in getattr(kind, "__annotations__", {})}
    sizes = {name: size for name, size in SIZES.items() if name in fields}
    if "kv_lora_rank" in fields:
        sizes["num_key_value_heads"] = sizes["num_attention_heads"]  # latent attention has a key for each head
    made = config(**sizes)
    kinds = MODEL_FOR_CAUSAL_LM_MAPPING[config]
    kind = kinds[0] if isinstance(kinds, tuple) else kinds
    made._attn_implementation = attention or own_implementation(kind)
    with torch.device("meta"):
        count = sum(weight.numel() for weight in kind(made).parameters())
    if count > LARGEST:
        raise ValueError(f"{count:,} parameters")
    torch.manual_seed(0)
    model = kind(made).eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for _, weight in sorted(model.named_parameters()):
            if weight.ndim >= 2:
                weight.normal_(std=0.3, generator=generator)
    return model


def training(config: type) -> None:
    refuse_config(config(), config.__name__, "scoring")
    require_open_attention(config(), config.__name__)
    model = small(config, align.tree.attention.NAME)
    policy = TreePolicy(model)
    refuse_untrainable(model)
    with torch.no_grad():
        check_packing(policy, SHORT_AND_LONG, low_precision=False)


def generation(config: type) -> None:
    refuse_config(config(), config.__name__, "generation")
    model = small(config, None)
    protocol = SimpleNamespace(stop_ids=(), pad_id=0)
    sampling = SamplingConfig(temperature=0, max_completion_tokens=TOKENS, batch_size=3, dtype="float32")
    backend = LocalBackend(model, protocol, sampling)  # type: ignore[arg-type]
    for prompt, [completion] in zip(PROMPTS, backend.complete(PROMPTS, [[0]] * len(PROMPTS)), strict=True):
        ids = list(prompt)
        for token in completion.ids:
            with torch.no_grad():
                best = model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1].argmax().item()
            if token != best:
                raise CheckError(config.__name__, "completions differ from the model's own forward pass", "Refuse it")
            ids.append(token)


def answer(question: Callable[[type], None], config: type) -> str:
    try:
        question(config)
    except CheckError as error:
        return f"DIFFERS: {error}"
    except AlignError as error:
        return f"refused: {error}"
    except Exception as error:  # of any kind: the small sizes do not fit the class
        return f"not built: {type(error).__name__}"
    return "exact"


def main() -> int:
    warnings.filterwarnings("ignore")
    logging.set_verbosity_error()
    wrong = 0
    for question in (training, generation):
        found = defaultdict(list)
        for config in sorted(MODEL_FOR_CAUSAL_LM_MAPPING, key=lambda each: str(each.model_type)):
            said = answer(question, config)
            found[said.partition(":")[0]].append(str(config.model_type))
            print(f"{question.__name__:10} {config.model_type:24} {said[:160]}", flush=True)
        for kind, names in found.items():
            print(f"{question.__name__}: {len(names)} {kind}: {' '.join(names)}")
        wrong += len(found["DIFFERS"])
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
