"""Products of few rows, ``A @ W``: W is streamed once, in the order it lies in memory; and of any rows with a small W.

A matrix library packs W before it multiplies, which for these costs more than the product. Registered with inductor
as an operation of the library ``hograd``: contiguous A (rows x k), contiguous W (k x n, or n x k where ``transposed``).
"""

from __future__ import annotations

import functools
import hashlib
from typing import Any, cast

import torch
from torch import Tensor
from torch.fx import GraphModule

from hograd_core.prepare._graphs import aten, insert, is_call, replace, value

MOST_ROWS, MOST_ROWS_TRANSPOSED = 12, 7
"""Of more rows a matrix library is as quick, or quicker."""
SMALL = 64
"""Elements of a matrix up to which any number of rows is multiplied here."""
_TYPES = {torch.float32: "float", torch.float64: "double"}

# y = a W: each row of W, times an entry of a, is added to y; several rows of W at a time, so that y is read less often.
# y = a Wᵀ: each row of W with a is a dot product. Views of larger memory start where kernel.index says.
# Registers hold at most 4 rows of a: the next 4 meet the same rows of W while those are in the cache.
_SOURCE = r"""
#include <torch/csrc/inductor/cpp_prefix.h>
#ifndef HOGRAD_ROWS
#define HOGRAD_ROWS
template <typename T, int R, int Q>
static inline void hograd_axpy(
    const T* __restrict__ a, const T* __restrict__ w, T* __restrict__ y, long K, long i, long from, long to, long N) {
  using V = at::vec::Vectorized<T>;
  constexpr long L = V::size();
  V x[R][Q];
  for (int r = 0; r < R; r++) for (int q = 0; q < Q; q++) x[r][q] = V(a[r*K+i+q]);
  const T* row = w + i*N;
  long j = from;
  for (; j + L <= to; j += L) {
    V sum[R];
    for (int r = 0; r < R; r++) sum[r] = V::loadu(y + r*N + j);
    for (int q = 0; q < Q; q++) {
      V m = V::loadu(row + q*N + j);
      for (int r = 0; r < R; r++) sum[r] = at::vec::fmadd(x[r][q], m, sum[r]);
    }
    for (int r = 0; r < R; r++) sum[r].store(y + r*N + j);
  }
  for (; j < to; j++) for (int r = 0; r < R; r++) for (int q = 0; q < Q; q++) y[r*N+j] += a[r*K+i+q] * row[q*N+j];
}
template <typename T, int R>
static inline void hograd_rows(
    const T* __restrict__ a, const T* __restrict__ w, T* __restrict__ y, long K, long from, long to, long N) {
  constexpr int Q = R <= 2 ? 8 : 4;
  constexpr int whole = R / 4 * 4, rest = R % 4;
  for (int r = 0; r < R; r++) for (long j = from; j < to; j++) y[r*N+j] = 0;
  long i = 0;
  for (; i + Q <= K; i += Q) {
    for (int r = 0; r < whole; r += 4) hograd_axpy<T, 4, Q>(a + r*K, w, y + r*N, K, i, from, to, N);
    if constexpr (rest > 0) hograd_axpy<T, rest, Q>(a + whole*K, w, y + whole*N, K, i, from, to, N);
  }
  for (; i < K; i++) for (int r = 0; r < R; r++) for (long j = from; j < to; j++) y[r*N+j] += a[r*K+i] * w[i*N+j];
}
template <typename T, int R>
static inline void hograd_dots(
    const T* __restrict__ a, const T* __restrict__ w, T* __restrict__ y, long K, long i, long to, long N) {
  using V = at::vec::Vectorized<T>;
  constexpr long L = V::size();
  constexpr int Q = 4;
  const int q_end = to - i < Q ? to - i : Q;
  V sum[R][Q];
  for (int r = 0; r < R; r++) for (int q = 0; q < Q; q++) sum[r][q] = V(T(0));
  long j = 0;
  if (q_end == Q) {
    for (; j + L <= K; j += L) {
      V x[R];
      for (int r = 0; r < R; r++) x[r] = V::loadu(a + r*K + j);
      for (int q = 0; q < Q; q++) {
        V m = V::loadu(w + (i+q)*K + j);
        for (int r = 0; r < R; r++) sum[r][q] = at::vec::fmadd(x[r], m, sum[r][q]);
      }
    }
  }
  for (int q = 0; q < q_end; q++) for (int r = 0; r < R; r++) {
    T part[L];
    sum[r][q].store(part);
    T s = 0;
    for (int l = 0; l < L; l++) s += part[l];
    for (long jj = j; jj < K; jj++) s += a[r*K+jj] * w[(i+q)*K+jj];
    y[r*N+i+q] = s;
  }
}
template <typename T, int R>
static inline void hograd_rows_transposed(
    const T* __restrict__ a, const T* __restrict__ w, T* __restrict__ y, long K, long from, long to, long N) {
  constexpr int whole = R / 4 * 4, rest = R % 4;
  for (long i = from; i < to; i += 4) {
    for (int r = 0; r < whole; r += 4) hograd_dots<T, 4>(a + r*K, w, y + r*N, K, i, to, N);
    if constexpr (rest > 0) hograd_dots<T, rest>(a + whole*K, w, y + whole*N, K, i, to, N);
  }
}
// A matrix of a few numbers, in the cache with its sums in registers, and any number of rows.
template <typename T, int K, int N, bool turned>
static inline void hograd_small(
    const T* __restrict__ a, const T* __restrict__ w, T* __restrict__ y, long from, long to) {
  T m[K][N];
  for (int k = 0; k < K; k++) for (int n = 0; n < N; n++) m[k][n] = turned ? w[n*K+k] : w[k*N+n];
  for (long r = from; r < to; r++) {
    T sum[N] = {};
    for (int k = 0; k < K; k++) for (int n = 0; n < N; n++) sum[n] += a[r*K+k] * m[k][n];
    for (int n = 0; n < N; n++) y[r*N+n] = sum[n];
  }
}
#endif
extern "C"
{{kernel.def_kernel(inputs={"A": A, "W": W}, outputs={"Y": Y})}}
{
  #pragma omp parallel for num_threads({{threads}}) if({{threads}} > 1)
  for (long t = 0; t < {{threads}}; t++)
    {% if small %}
    hograd_small<{{type}}, {{k}}, {{n}}, {{turned}}>(
      &{{kernel.index(A, [0, 0])}}, &{{kernel.index(W, [0, 0])}}, Y,
      {{rows}}L*t/{{threads}}, {{rows}}L*(t+1)/{{threads}});
    {% else %}
    {{name}}<{{type}}, {{rows}}>(
      &{{kernel.index(A, [0, 0])}}, &{{kernel.index(W, [0, 0])}}, Y,
      {{k}}L, {{n}}L*t/{{threads}}, {{n}}L*(t+1)/{{threads}}, {{n}}L);
    {% endif %}
}
"""
_WORTH_A_THREAD = 2**16

# Inductor's cache on disk knows a graph by the names of its operations: another kernel has another name.
_NAME = f"rows_{hashlib.sha256(_SOURCE.encode()).hexdigest()[:12]}"
_LIBRARY: Any = torch.library.Library("hograd", "FRAGMENT")  # type: ignore[no-untyped-call]
_LIBRARY.define(f"{_NAME}(Tensor a, Tensor w, bool transposed) -> Tensor")


def _product(a: Tensor, w: Tensor, transposed: bool) -> Tensor:
    return torch.mm(a, w.t() if transposed else w)


_LIBRARY.impl(_NAME, _product, "CompositeExplicitAutograd")
_ROWS: Any = getattr(torch.ops.hograd, _NAME).default


def use_rows(module: GraphModule) -> None:
    """Put the operation in the place of the products that it serves, and teach inductor what it is; in place."""
    found = False
    for node in list(module.graph.nodes):
        if not is_call(node, aten.mm.default) or value(node).dtype not in _TYPES:
            continue
        a, w = node.args
        turned = is_call(w, aten.permute.default) and w.args[1] == [1, 0]
        most = MOST_ROWS_TRANSPOSED if turned else MOST_ROWS
        if value(node).shape[0] > most and value(w).numel() > SMALL:
            continue
        base = w.args[0] if turned else w
        if value(base).is_contiguous() and value(base).device.type == "cpu" and value(base).numel() > 0:
            replace(node, insert(node, _ROWS, a, base, turned))
            found = True
    if found:
        _register()
        module.graph.eliminate_dead_code()
        module.recompile()


@functools.cache
def _register() -> None:
    from torch._inductor import ir
    from torch._inductor.codegen.cpp_template import CppTemplate
    from torch._inductor.lowering import register_lowering
    from torch._inductor.utils import parallel_num_threads

    class Rows(CppTemplate):
        def __init__(self, a: Any, w: Any, layout: Any, transposed: bool) -> None:
            super().__init__("hograd_rows", [a, w], layout, 1)
            self.transposed = transposed

        def render(self, **given: Any) -> str:
            kernel, y = given["kernel"], given.get("template_buffer_node")
            a, w = cast("list[Any]", self.input_nodes)
            y = cast("Any", self.output_node if y is None else y)
            rows, k, n = (int(s) for s in (*a.get_size(), y.get_size()[1]))
            most = MOST_ROWS_TRANSPOSED if self.transposed else MOST_ROWS
            small, work = rows > most, (rows if rows > most else 1) * k * n
            threads = max(1, min(parallel_num_threads(), work // _WORTH_A_THREAD))
            text: str = self._template_from_string(_SOURCE).render(
                kernel=kernel, A=a, W=w, Y=y, rows=rows, k=k, n=n, threads=threads, type=_TYPES[a.get_dtype()],
                name="hograd_rows_transposed" if self.transposed else "hograd_rows",
                small=small, turned=str(self.transposed).lower(),
            )  # fmt: skip
            return text

    def lower(a: Any, w: Any, transposed: bool) -> Any:
        a, w = (ir.ExternKernel.require_contiguous(ir.ExternKernel.realize_input(t)) for t in (a, w))
        n = w.get_size()[0 if transposed else 1]
        layout = ir.FixedLayout(a.get_device(), a.get_dtype(), [a.get_size()[0], n])
        return Rows(a, w, layout, transposed).generate().output_node()  # type: ignore[no-untyped-call]

    register_lowering(_ROWS, type_promotion_kind=None)(lower)
