"""Operators that work element by element."""

from __future__ import annotations

from typing import Any

from hograd_bench.metrics._formulas._work import Arguments, Keywords, Table, Work, argument, first, per_element

TABLE = Table()

TABLE.add(
    "abs neg acos acosh asin asinh atan atan2 atanh cos cosh sin sinh tan tanh exp exp2 expm1 log log10 log1p log2 "
    "erf erfc erfinv lgamma digamma polygamma sqrt special_entr special_i0 special_i1 "
    "mul div reciprocal hypot maximum minimum fmax fmin relu clamp clamp_min clamp_max threshold threshold_backward "
    "floor ceil round trunc frac fmod remainder sign sgn square true_divide float_power special_erfcx special_ndtri "
    "special_log_ndtr xlogy special_xlog1py copysign floor_divide",
    per_element(1),
)
TABLE.add("rsqrt mse_loss_elementwise leaky_relu hardtanh_backward leaky_relu_backward", per_element(2))
TABLE.add("sigmoid tanh_backward sigmoid_backward elu hardtanh logit", per_element(3))
TABLE.add("silu softplus_backward", per_element(4))
TABLE.add("silu_backward", per_element(8))
TABLE.add("log_sigmoid_forward", per_element(4))  # min(x, 0) - log1p(exp(-|x|)), the sign in the subtraction


def _add(args: Arguments, kwargs: Keywords, out: Any) -> Work:
    scaled = argument(args, kwargs, 2, "alpha", 1) != 1
    return Work((2 if scaled else 1) * first(out).numel())


TABLE.add("add sub rsub", _add)


def _addc(args: Arguments, kwargs: Keywords, out: Any) -> Work:
    return Work((2 if kwargs.get("value", 1) == 1 else 3) * first(out).numel())


TABLE.add("addcmul addcdiv", _addc)
TABLE.add("lerp", per_element(3))


def _pow(args: Arguments, kwargs: Keywords, out: Any) -> Work:
    """ATen's kernel multiplies for exponents 2 and 3, copies for 1 and fills for 0; else it is one function."""
    exponent = args[1]
    special: dict[float, int] = {0: 0, 1: 0, 2: 1, 3: 2, -1: 1, -2: 2}
    each = special.get(exponent, 1) if isinstance(exponent, (int, float)) else 1
    return Work(each * first(out).numel())


TABLE.add("pow", _pow)


def _softplus(args: Arguments, kwargs: Keywords, out: Any) -> Work:
    """log1p(exp(beta x))/beta."""
    scaled = argument(args, kwargs, 1, "beta", 1) != 1
    return Work((4 if scaled else 2) * first(out).numel())


TABLE.add("softplus", _softplus)


def _gelu(args: Arguments, kwargs: Keywords, out: Any) -> Work:
    """x/2 (1 + erf(x/sqrt 2)): 5; or x/2 (1 + tanh(c (x + a x^3))): 9."""
    return Work((5 if kwargs.get("approximate", "none") == "none" else 9) * first(out).numel())


def _gelu_backward(args: Arguments, kwargs: Keywords, out: Any) -> Work | None:
    """g (cdf + x pdf): cdf 4, pdf 4, and 3 to combine. The tanh form has no formula here."""
    return Work(11 * first(out).numel()) if kwargs.get("approximate", "none") == "none" else None


TABLE.add("gelu", _gelu)
TABLE.add("gelu_backward", _gelu_backward)
