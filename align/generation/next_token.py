"""The next token of each row of a batch, from its logits: greedy, or by inverse CDF with temperature and top_p.

Dimension letters: N rows, V vocabulary, M rows whose nucleus is not found yet, K likeliest tokens of a row.
"""

from __future__ import annotations

import torch

from align.settings import SamplingConfig

_FIRST_SORTED = 64  # the likeliest tokens that are looked at first; most nuclei of a trained model are smaller


def choose(
    logits_NV: torch.Tensor,
    uniforms_N: torch.Tensor,
    sampling: SamplingConfig,
    temperatures_N: torch.Tensor | None = None,
) -> torch.Tensor:
    """The next token of each row.

    Shapes: logits [N, V], uniforms [N] in [0, 1), temperatures [N] (None: sampling.temperature for all), result [N].
    Temperature 0 takes the likeliest token. Otherwise a token is chosen by inverse CDF, after temperature and after
    keeping the likeliest tokens that make up top_p (the one that crosses it included). For example, with probabilities
    0.5, 0.3, 0.2 the CDF is 0.5, 0.8, 1.0, and a uniform of 0.6 chooses token 1, the first whose CDF is above 0.6.
    """
    if temperatures_N is not None:
        is_greedy_N = temperatures_N == 0
        divisors_N = torch.where(is_greedy_N, 1.0, temperatures_N)
        probabilities_NV = torch.softmax(logits_NV.float() / divisors_N[:, None], dim=-1)
    elif sampling.temperature == 0:
        return logits_NV.argmax(dim=-1)
    else:
        probabilities_NV = torch.softmax(logits_NV.float() / sampling.temperature, dim=-1)
    if sampling.top_p < 1:
        chosen_N = _from_nucleus(probabilities_NV, uniforms_N, sampling.top_p)
    else:
        chosen_N = _inverse_cdf(probabilities_NV, uniforms_N)
    return chosen_N if temperatures_N is None else torch.where(is_greedy_N, logits_NV.argmax(dim=-1), chosen_N)


def _inverse_cdf(weights_NK: torch.Tensor, uniforms_N: torch.Tensor) -> torch.Tensor:
    """The place of each row at which its cumulative weight exceeds the uniform's part of the total. Result [N]."""
    cdf_NK = weights_NK.cumsum(dim=-1, dtype=torch.float64)
    total_N = cdf_NK[:, -1]
    # Strictly below the total, so that the first entry above the target always has a weight above 0.
    target_N = torch.minimum(uniforms_N * total_N, torch.nextafter(total_N, torch.zeros_like(total_N)))
    return torch.searchsorted(cdf_NK, target_N[:, None], right=True)[:, 0]


def _from_nucleus(probabilities_NV: torch.Tensor, uniforms_N: torch.Tensor, top_p: float) -> torch.Tensor:
    """Tokens by inverse CDF over each row's nucleus, in the order of their ids.

    Sorting a vocabulary is slow, and so is a sum over it. So the 64 likeliest tokens of each row are sorted first, and
    eight times as many of the rows whose nucleus is larger, until every row's is found.
        top_p 0.7, probabilities 0.2, 0.5, 0.3    sorted: 0.5, 0.3, 0.2; sums before each: 0, 0.5, 0.8
                                                  nucleus: tokens 1 and 2; CDF in the order of ids: 0.5, 0.8
    """
    vocabulary = probabilities_NV.shape[-1]
    chosen_N = torch.zeros(len(probabilities_NV), dtype=torch.long, device=probabilities_NV.device)
    waiting_M = torch.arange(len(chosen_N), device=chosen_N.device)
    probabilities_MV, size = probabilities_NV, min(_FIRST_SORTED, vocabulary)
    while True:
        top_MK, ids_MK = probabilities_MV.topk(size, dim=-1)
        above_MK = top_MK.cumsum(dim=-1, dtype=torch.float64) - top_MK
        found_M = above_MK[:, -1] >= top_p if size < vocabulary else torch.ones_like(waiting_M, dtype=torch.bool)
        nucleus_MK = torch.where(above_MK < top_p, top_MK, 0.0)[found_M]
        ids_in_order_MK, order_MK = ids_MK[found_M].sort(dim=-1)
        done_M = waiting_M[found_M]
        places_M = _inverse_cdf(nucleus_MK.gather(-1, order_MK), uniforms_N[done_M])
        chosen_N[done_M] = ids_in_order_MK.gather(-1, places_M[:, None])[:, 0]
        waiting_M, probabilities_MV = waiting_M[~found_M], probabilities_MV[~found_M]
        if not len(waiting_M):
            return chosen_N
        size = min(size * 8, vocabulary)
