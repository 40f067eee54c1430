"""Operators that need every axis whole: nothing of what they touch can go."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from graphopt.dependency.registry import coupling_rule
from graphopt.dependency.ties import Output, Ties

FIXED: Mapping[str, tuple[str, ...]] = {
    # Capture drops dropout in inference form, so what is left of it draws. Some names have only an in-place operator.
    "random numbers are drawn along it": (
        "alpha_dropout.default",
        "bernoulli.Tensor",
        "bernoulli.default",
        "bernoulli.float",
        "bernoulli.p",
        "dropout.default",
        "exponential.default",
        "feature_alpha_dropout.default",
        "feature_dropout.default",
        "multinomial.default",
        "native_dropout.default",
        "normal.Tensor_Tensor",
        "normal.Tensor_float",
        "normal.default",
        "normal.float_Tensor",
        "normal.float_float",
        "poisson.default",
        "rand.default",
        "rand.generator",
        "rand_like.default",
        "randint.default",
        "randint.generator",
        "randint.low",
        "randint.low_generator",
        "randint_like.default",
        "randint_like.low_dtype",
        "randn.default",
        "randn.generator",
        "randn_like.default",
        "random.default",
        "randperm.default",
        "randperm.generator",
        "uniform.default",
    ),
    "elements are counted along it": (
        "_unique.default",
        "_unique2.default",
        "argwhere.default",
        "bincount.default",
        "histc.default",
        "masked_select.default",
        "nonzero.default",
        "nonzero_numpy.default",
        "nonzero_static.default",
        "unique_consecutive.default",
        "unique_dim.default",
        "unique_dim_consecutive.default",
    ),
    "its positions have a meaning": (
        "bartlett_window.default",
        "blackman_window.default",
        "fft_fftfreq.default",
        "fft_rfftfreq.default",
        "hamming_window.default",
        "hann_window.default",
        "hann_window.periodic",
        "tril_indices.default",
        "triu_indices.default",
        "vander.default",
    ),
    "a check reads it": (
        "_assert_async.default",
        "_assert_async.msg",
        "_assert_scalar.default",
        "_assert_tensor_metadata.default",
        "_functional_assert_async.msg",
        "_functional_assert_scalar.default",
        "sym_constrain_range.default",
        "sym_constrain_range_for_size.default",
    ),
    "its memory is read in another layout": (
        "as_strided.default",
        "empty_strided.default",
        "new_empty_strided.default",
    ),
    "its kernel needs rows of a multiple of 16 bytes": ("_grouped_mm.default",),
    "it is an affine map of positions": ("affine_grid_generator.default",),
    "windows are drawn at random for each channel": ("fractional_max_pool2d.default", "fractional_max_pool3d.default"),
    "one value is chosen out of all": ("_is_all_true.default", "all.default", "prod.default"),
    "it has no dimensions": ("scalar_tensor.default",),
    "a short-time transform runs over it": ("istft.default", "stft.center", "stft.default"),
    "it is looked up in order": ("searchsorted.Tensor", "searchsorted.Scalar", "take.default", "put.default"),
    "a loss runs over it": (
        "binary_cross_entropy.default",
        "binary_cross_entropy_with_logits.default",
        "cross_entropy_loss.default",
        "huber_loss.default",
        "kl_div.default",
        "l1_loss.default",
        "mse_loss.default",
        "nll_loss.default",
        "nll_loss_nd.default",
        "smooth_l1_loss.default",
    ),
    "a matrix is taken apart along it": (
        "_linalg_det.default",
        "_linalg_eigh.default",
        "_linalg_svd.default",
        "cholesky.default",
        "corrcoef.default",
        "cov.default",
        "det.default",
        "inverse.default",
        "linalg_cholesky.default",
        "linalg_cholesky_ex.default",
        "linalg_det.default",
        "linalg_eigh.default",
        "linalg_inv.default",
        "linalg_inv_ex.default",
        "linalg_matrix_exp.default",
        "linalg_pinv.default",
        "linalg_qr.default",
        "linalg_solve.default",
        "linalg_svd.default",
        "logdet.default",
        "matrix_exp.default",
    ),
}


def whole(reason: str) -> Callable[[Ties], Output]:
    """A rule that freezes every dimension of every operand and gives frozen outputs."""

    def state(t: Ties) -> Output:
        for item in t.tensors():
            for dim in t.dims(item):
                t.freeze(dim, reason)
        return _frozen(t, t.out_shape, reason)

    return state


def _frozen(t: Ties, shape: Any, reason: str) -> Output:
    if isinstance(shape, list):
        return [_frozen(t, item, reason) for item in shape]
    return [t.frozen(size, reason) for size in shape] if shape is not None else None


for _reason, _names in FIXED.items():
    coupling_rule(*(f"aten.{_name}" for _name in _names), freezes=True)(whole(_reason))
