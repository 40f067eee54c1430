"""Small sizes for the options of an architecture, told by their names: a registry is built without knowing it.

Widths come down to 64, depths to 2, images to 64 pixels and vocabularies to 128 words; whatever is not known by its
name stays as it is.
"""

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

LARGEST_TOKEN = 127
"""Highest token of a shrunk vocabulary; special tokens count down from here."""

_DEPTH = re.compile(
    r"((^|_)(depths?|n_?layers?|(num_)?(\w+_)?layers|(num_)?(\w+_)?blocks|n_layers?|block_config|layers_per_block)"
    r"|^(num_)?\w*(depths?|layers)(_per_block|_config)?|^d)$"
)
_INNER = re.compile(r"((^|_)(intermediate|ffn|feed_?forward|inner|ff)_?(size|dim|hidden_dim)?|d_ff|ffn_dim|n_inner)$")
_WIDTH = re.compile(
    r"(^|_)(embed|embedding|hidden|model|projection|proj|token|text|vision|visual|audio|attention|cross_attention|"
    r"context|caption|encoder|decoder|latent|neck|fusion|base|output|input|state|conditioning|condition|stem|feature|"
    r"features|time|freq|pooled|d)_?(size|dims?|chs|channels|hidden_size|features|embed_dim|model)$"
    r"|^(n_embd|width|dim|dims|channels|widths|c|(out|block|stage|block_out)_(chs|channels))$"
)
_HEADS = re.compile(r"(^|_)(n_|num_)?(\w+_)?heads?(_q)?$|num_\w*attention_heads$")
_KEY_HEADS = re.compile(r"(kv|key_value|key|value)_?(attention_)?(heads|groups)|multi_query_group_num|n_head_kv")
_HEAD_WIDTH = re.compile(r"(^|_)(head_(dim|size|width)|kv_channels|d_kv|key_dim|head_dim)$|dim_heads?$")
_EXPERTS = re.compile(r"(num|n)_(\w+_)?experts$")
_CHOSEN = re.compile(r"(num_)?experts_per_(tok|token)|moe_topk|top_?k(_experts)?$|num_selected_experts")
_IMAGE = re.compile(r"^(img|image|input|sample|crop)_?(size|height|width|resolution)$")
_PATCH = re.compile(r"^(patch|tubelet)_size$")
_POSITIONS = re.compile(
    r"max_(\w+_)?(position_embeddings|positions|seq_len|sequence_length|length)$|^n_(positions|ctx)$"
)
_GROUPS = re.compile(r"^(n|num)_(expert_)?groups?$")
_CHOSEN_GROUPS = re.compile(r"^top_?k_groups?$")
_RANK = re.compile(r"(^|_)(lora_)?rank$")
_SCALE = re.compile(r"^(width|channel)_(factor|mult(iplier)?)$")
_TOKEN = re.compile(r"token_(id|index)$")


def halved(values: Sequence[int], largest: int = 64) -> list[int]:
    """Widths of stages, halved together until the widest is ``largest`` or one is odd or would fall under 16."""
    small = list(values)
    while max(small) > largest and all(v % 2 == 0 and v >= 32 for v in small):
        small = [v // 2 for v in small]
    return small


def _integer(name: str, value: int) -> int:
    for pattern, size in _SIZES:
        if pattern.search(name):
            return min(size, value) if value > 0 else value
    return value


_SIZES: tuple[tuple[re.Pattern[str], int], ...] = (
    (re.compile(r"^vocab_size$|_vocab_size$"), LARGEST_TOKEN + 1),
    (_POSITIONS, 64),
    (_IMAGE, 64),
    (_PATCH, 8),
    (_HEAD_WIDTH, 16),
    (_EXPERTS, 4),
    (_CHOSEN, 2),
    (_GROUPS, 2),
    (_CHOSEN_GROUPS, 1),
    (_KEY_HEADS, 2),
    (_HEADS, 4),
    (_RANK, 24),
    (_DEPTH, 2),
    (_INNER, 96),
    (_WIDTH, 64),
)


def _several(name: str, values: Sequence[Any]) -> list[Any]:
    if not values or not all(type(v) is int for v in values):
        return [v if type(v) in (int, float, str) else _shrunk(name, v) for v in values]
    if _IMAGE.search(name) or _PATCH.search(name) or _DEPTH.search(name):
        return [_integer(name, v) for v in values]
    if _WIDTH.search(name) or _INNER.search(name):
        return halved(values)
    return list(values)


def _shrunk(name: str, value: Any) -> Any:
    if type(value) is int:
        return _integer(name, value)
    if type(value) is float and _SCALE.search(name):
        return min(value, 0.25)
    if isinstance(value, (tuple, list)):
        return type(value)(_several(name, value)) if type(value) in (tuple, list) else value
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.replace(value, **shrunk({f.name: getattr(value, f.name) for f in dataclasses.fields(value)}))
    return value


def shrunk(options: Mapping[str, Any], only: Callable[[str], bool] = lambda name: True) -> dict[str, Any]:
    """The options with small sizes, in their order; lists with an entry a layer are cut with the layers.

    Args:
        options: Names and values.
        only: Which names may be shrunk; every other value stays.
    """
    small = {name: _shrunk(name, value) if only(name) else value for name, value in options.items()}
    _cut_lists(options, small)
    _keep_heads_alike(options, small)
    token = LARGEST_TOKEN
    for name, value in options.items():
        if _TOKEN.search(name) and type(value) is int and value > LARGEST_TOKEN and only(name):
            small[name], token = token, token - 1
    return small


def is_depth(name: str) -> bool:
    """Whether an option of this name counts layers."""
    return bool(_DEPTH.search(name))


def is_image(name: str) -> bool:
    """Whether an option of this name is a side of the input image."""
    return bool(_IMAGE.search(name))


def _cut_lists(options: Mapping[str, Any], small: dict[str, Any]) -> None:
    """Lists as long as a depth that was cut keep the first element of each kind, in order."""
    cut = {
        value: small[name]
        for name, value in options.items()
        if type(value) is int and small[name] < value and is_depth(name)
    }
    for name, value in options.items():
        if not isinstance(value, (list, tuple)) or len(value) not in cut or name not in small:
            continue
        length = cut[len(value)]
        firsts = sorted({v: value.index(v) for v in reversed(value) if isinstance(v, (str, int))}.values())
        places = sorted((firsts + [i for i in range(len(value)) if i not in firsts])[:length])
        small[name] = type(value)(value[i] for i in places)


def _keep_heads_alike(options: Mapping[str, Any], small: dict[str, Any]) -> None:
    """As many heads of keys as of queries stay as many."""
    heads = [name for name in options if _HEADS.search(name) and not _KEY_HEADS.search(name)]
    for name, value in options.items():
        if _KEY_HEADS.search(name) and type(value) is int:
            alike = [h for h in heads if options[h] == value]
            if alike:
                small[name] = small[alike[0]]
