"""Numbers that a model's code writes out as tensors, followed through a run on stand-ins: it may ask for them later."""

from collections.abc import Sequence
from typing import Any

import torch
from torch.utils import _pytree as pytree

MOST_NUMBERS = 64
"""Elements of a tensor up to which its numbers are followed: sizes, scales, patterns."""


class WrittenNumbers:
    """The real tensors behind stand-ins, where the code alone decides them."""

    def __init__(self) -> None:
        self._reals: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

    def note(self, stand_in: torch.Tensor, literal: torch.Tensor) -> None:
        """Follow a tensor that the code writes out, if it is small."""
        if literal.numel() <= MOST_NUMBERS and not literal.is_meta:
            self._reals[id(stand_in)] = (stand_in, literal)

    def of(self, value: Any) -> Any:
        """Return nested arguments with real tensors for their stand-ins, None where some are not followed."""
        leaves, spec = pytree.tree_flatten(value)
        if not all(id(leaf) in self._reals for leaf in leaves if isinstance(leaf, torch.Tensor)):
            return None
        found = [self._reals[id(leaf)][1] if isinstance(leaf, torch.Tensor) else leaf for leaf in leaves]
        return pytree.tree_unflatten(found, spec)

    def follow(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> None:
        """Compute for real what an operator makes of followed tensors alone."""
        tensors = [leaf for leaf in pytree.tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        followed = [id(tensor) in self._reals for tensor in tensors] if self._reals else []
        if func._schema.is_mutable and func is not torch.ops.aten.detach_.default:
            self._forget(tensors)
        elif followed and all(followed) and torch.Tag.nondeterministic_seeded not in func.tags:
            self._take(pytree.tree_leaves(result), func, args, kwargs)

    def _take(self, results: Sequence[Any], func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Follow the results of a call on followed tensors, if they are small."""
        if not all(isinstance(one, torch.Tensor) and one.numel() <= MOST_NUMBERS for one in results):
            return
        args, kwargs = self.of((args, kwargs))
        reals = args[:1] if func is torch.ops.aten.detach_.default else run_unseen(func, args, kwargs)
        pairs = zip(results, pytree.tree_leaves(reals), strict=True)
        self._reals.update({id(stand_in): (stand_in, real) for stand_in, real in pairs})

    def _forget(self, tensors: Sequence[torch.Tensor]) -> None:
        """Follow neither some tensors any longer nor others in the same memory."""
        if not self._reals:
            return
        followed = (self._reals[id(tensor)][1] for tensor in tensors if id(tensor) in self._reals)
        memory = {real.untyped_storage()._cdata for real in followed}
        kept = {key: pair for key, pair in self._reals.items() if pair[1].untyped_storage()._cdata not in memory}
        self._reals = kept


def run_unseen(func: Any, args: Any, kwargs: Any) -> Any:
    """Call an operator on ordinary tensors, past every mode."""
    with torch._C._DisableTorchDispatch():
        return func(*args, **kwargs)
