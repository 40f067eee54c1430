"""Scaled dot-product attention with grouped queries."""

from __future__ import annotations

from torch import nn

from graphopt.dependency.registry import Sample, coupling_rule
from graphopt.dependency.ties import Dims, Ties


@coupling_rule(
    "aten.scaled_dot_product_attention.default",
    sample=Sample(nn.functional.scaled_dot_product_attention, ((3, 5, 8), (3, 7, 8), (3, 7, 6))),
    zeros="value",
)
def scaled_dot_product_attention(t: Ties) -> Dims:
    """``query: (..., H, L, E)``, ``key: (..., Hk, S, E)``, ``value: (..., Hk, S, Ev)``; H may be a multiple of Hk."""
    query, key, value = t.dims("query"), t.dims("key"), t.dims("value")
    t.tie(query[-1], key[-1])
    t.tie(key[-2], value[-2])
    lead = _heads(t, query[:-2], key[:-2], value[:-2])
    t.freeze(key[-2], "a softmax runs over the keys")
    if t["is_causal"]:
        t.freeze(query[-2], "a causal mask counts along it")
    if t.has("attn_mask"):
        t.broadcast(t.dims("attn_mask"), [*lead, query[-2], key[-2]])
    t.contract("query", len(query) - 1, ("key", len(key) - 1))
    if not t.has("scale"):
        t.explicit("scale", t.sizes(query[-1:])[0] ** -0.5, query[-1])
    t.mark(query[-1], "qk")
    t.mark(value[-1], "vo")
    return [t.resolve(dim) for dim in (*lead, query[-2], value[-1])]


def _heads(t: Ties, query: Dims, key: Dims, value: Dims) -> Dims:
    """Tie the batch and head dimensions; a KV head carries its group of query heads."""
    if not (t["enable_gqa"] and query and key and t.sizes(query[-1:]) != t.sizes(key[-1:])):
        lead = t.broadcast(query, key, value)
        for dim in lead:
            t.mark(dim, "head")
        return lead
    outer, inner = t.split(query[-1], t.sizes(query[-1:])[0] // t.sizes(key[-1:])[0])
    t.tie(outer, key[-1])
    t.tie(outer, value[-1])
    t.mark(outer, "head")
    t.mark(inner, "head")
    t.mark(inner, "repeat")
    lead = t.broadcast(query[:-1], key[:-1], value[:-1]) if len(query) > 1 else []
    return [*lead, t.resolve(query[-1])]
