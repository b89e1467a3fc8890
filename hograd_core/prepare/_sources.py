"""C++ of the products of small matrices that compiled kernels hold: what :mod:`._products` fills in, by jinja.

Three forms, all of matrices as they lie in memory, since what a matrix library does before it multiplies (it packs
both) and what a call of it costs take longer than such a product:

- few rows, by streaming W once. ``y = a W``: each row of W, times an entry of a, is added to y; several rows of W at a
  time, so that y is read less often. ``y = a Wᵀ``: each row of W with a is a dot product. Registers hold at most 4 rows
  of a: the next 4 meet the same rows of W while those are in the cache. One goes through W from its first row to its
  last, the other from its last to its first: of a derivative's two products with a matrix, one of either kind, the
  second starts with what the first has just left in the cache. Where caches do not hold the matrices, next rows are
  fetched while these are multiplied: what the processor fetches by itself ends at a page.
- a matrix W of a few numbers, in the cache with its sums in registers.
- tiles: 6 rows of Y (12 where registers are twice as wide and twice as many) and two vectors of each, or one at the end
  where that is enough, are summed in registers, over a panel of W that fits the first cache; only a transposed W is
  copied. A sum of products is one.

Views of larger memory start where kernel.index says. Batches are of such products, one after the other.
"""

from __future__ import annotations

PRODUCTS = r"""
#include <torch/csrc/inductor/cpp_prefix.h>
#ifndef HOGRAD_PRODUCTS
#define HOGRAD_PRODUCTS
template <typename T, int R, int Q, bool fetch>
static inline void hograd_axpy(
    const T* __restrict__ a, const T* __restrict__ w, T* __restrict__ y, long K, long i, long from, long to, long N) {
  using V = at::vec::Vectorized<T>;
  constexpr long L = V::size();
  V x[R][Q];
  for (int r = 0; r < R; r++) for (int q = 0; q < Q; q++) x[r][q] = V(a[r*K+i+q]);
  const T* row = w + i*N;
  const long next = i + 2*Q <= K ? Q*N : 0;
  long j = from;
  for (; j + L <= to; j += L) {
    V sum[R];
    for (int r = 0; r < R; r++) sum[r] = V::loadu(y + r*N + j);
    for (int q = 0; q < Q; q++) {
      if constexpr (fetch) __builtin_prefetch(row + q*N + j + next, 0, 2);
      V m = V::loadu(row + q*N + j);
      for (int r = 0; r < R; r++) sum[r] = at::vec::fmadd(x[r][q], m, sum[r]);
    }
    for (int r = 0; r < R; r++) sum[r].store(y + r*N + j);
  }
  for (; j < to; j++) for (int r = 0; r < R; r++) for (int q = 0; q < Q; q++) y[r*N+j] += a[r*K+i+q] * row[q*N+j];
}
template <typename T, int R, int N, int K, bool fetch>
static inline void hograd_rows(
    const T* __restrict__ a, const T* __restrict__ w, T* __restrict__ y, long thread, long threads) {
  constexpr int Q = R <= 2 ? 8 : 4;
  constexpr int whole = R / 4 * 4, rest = R % 4;
  const long from = N*thread/threads, to = N*(thread+1)/threads;
  for (int r = 0; r < R; r++) for (long j = from; j < to; j++) y[r*N+j] = 0;
  long i = 0;
  for (; i + Q <= K; i += Q) {
    if constexpr (whole > 0) hograd_axpy<T, 4, Q, fetch>(a, w, y, K, i, from, to, N);
    for (int r = 4; r < whole; r += 4) hograd_axpy<T, 4, Q, false>(a + r*K, w, y + r*N, K, i, from, to, N);
    if constexpr (rest > 0)
      hograd_axpy<T, rest, Q, fetch && whole == 0>(a + whole*K, w, y + whole*N, K, i, from, to, N);
  }
  for (; i < K; i++) for (int r = 0; r < R; r++) for (long j = from; j < to; j++) y[r*N+j] += a[r*K+i] * w[i*N+j];
}
template <typename T>
static inline T hograd_sum(const at::vec::Vectorized<T>& v) {
  using V = at::vec::Vectorized<T>;
  if constexpr (std::is_same_v<T, float>)  // by shuffles, which torch has for no other type
    return at::vec::vec_reduce_all<T>([](const V& x, const V& y) { return x + y; }, v);
  T part[V::size()], s = 0;
  v.store(part);
  for (int l = 0; l < V::size(); l++) s += part[l];
  return s;
}
template <typename T, int R, int Q, bool fetch>
static inline void hograd_dots(
    const T* __restrict__ a, const T* __restrict__ w, T* __restrict__ y, long K, long i, long N) {
  using V = at::vec::Vectorized<T>;
  constexpr long L = V::size();
  V sum[R][Q];
  for (int r = 0; r < R; r++) for (int q = 0; q < Q; q++) sum[r][q] = V(T(0));
  const long next = i >= 4 ? -4*K : 0;
  long j = 0;
  for (; j + L <= K; j += L) {
    V x[R];
    for (int r = 0; r < R; r++) x[r] = V::loadu(a + r*K + j);
    for (int q = 0; q < Q; q++) {
      if constexpr (fetch) __builtin_prefetch(w + (i+q)*K + j + next, 0, 2);
      V m = V::loadu(w + (i+q)*K + j);
      for (int r = 0; r < R; r++) sum[r][q] = at::vec::fmadd(x[r], m, sum[r][q]);
    }
  }
  for (int q = 0; q < Q; q++) for (int r = 0; r < R; r++) {
    T s = hograd_sum<T>(sum[r][q]);
    for (long jj = j; jj < K; jj++) s += a[r*K+jj] * w[(i+q)*K+jj];
    y[r*N+i+q] = s;
  }
}
template <typename T, int R, int Q, bool fetch>
static inline void hograd_dots_of_rows(
    const T* __restrict__ a, const T* __restrict__ w, T* __restrict__ y, long K, long i, long N) {
  constexpr int whole = R / 4 * 4, rest = R % 4;
  if constexpr (whole > 0) hograd_dots<T, 4, Q, fetch>(a, w, y, K, i, N);
  for (int r = 4; r < whole; r += 4) hograd_dots<T, 4, Q, false>(a + r*K, w, y + r*N, K, i, N);
  if constexpr (rest > 0) hograd_dots<T, rest, Q, fetch && whole == 0>(a + whole*K, w, y + whole*N, K, i, N);
}
template <typename T, int R, int N, int K, bool fetch>
static inline void hograd_rows_turned(
    const T* __restrict__ a, const T* __restrict__ w, T* __restrict__ y, long thread, long threads) {
  constexpr long fours = N / 4, rest = N % 4;
  if constexpr (rest > 0) if (thread == threads - 1) hograd_dots_of_rows<T, R, rest, fetch>(a, w, y, K, 4*fours, N);
  for (long i = fours*(thread+1)/threads - 1; i >= fours*thread/threads; i--)
    hograd_dots_of_rows<T, R, 4, fetch>(a, w, y, K, 4*i, N);
}
template <typename T, int M, int N, int K, bool turned>
static inline void hograd_small(
    const T* __restrict__ a, const T* __restrict__ w, T* __restrict__ y, long thread, long threads) {
  T m[K][N];
  for (int k = 0; k < K; k++) for (int n = 0; n < N; n++) m[k][n] = turned ? w[n*K+k] : w[k*N+n];
  for (long r = M*thread/threads; r < M*(thread+1)/threads; r++) {
    T sum[N] = {};
    for (int k = 0; k < K; k++) for (int n = 0; n < N; n++) sum[n] += a[r*K+k] * m[k][n];
    for (int n = 0; n < N; n++) y[r*N+n] = sum[n];
  }
}
template <typename T, int R, int Q, bool turned, bool add, bool whole>
static __attribute__((noinline)) void hograd_tile(
    const T* __restrict__ a, long lda, const T* __restrict__ b, long ldb, T* __restrict__ y, long N, long K,
    int count) {
  using V = at::vec::Vectorized<T>;
  constexpr int L = V::size();
  const int last = whole ? L : count - (Q-1)*L;
  V sum[R][Q];
  for (int r = 0; r < R; r++) for (int q = 0; q < Q; q++)
    sum[r][q] = add ? V::loadu(y + r*N + q*L, q == Q-1 ? last : L) : V(T(0));
  for (long k = 0; k < K; k++) {
    V m[Q];
    for (int q = 0; q < Q; q++) m[q] = V::loadu(b + k*ldb + q*L, q == Q-1 ? last : L);
    for (int r = 0; r < R; r++) {
      const V x(turned ? a[k*lda + r] : a[r*lda + k]);
      for (int q = 0; q < Q; q++) sum[r][q] = at::vec::fmadd(x, m[q], sum[r][q]);
    }
  }
  for (int r = 0; r < R; r++) for (int q = 0; q < Q; q++) sum[r][q].store(y + r*N + q*L, q == Q-1 ? last : L);
}
template <typename T, int M, int N, int K, int Q, bool turned_a, bool add, bool whole>
static inline void hograd_panel(
    const T* __restrict__ a, const T* __restrict__ b, long ldb, T* __restrict__ y, int count) {
  constexpr int R = sizeof(at::vec::Vectorized<T>) >= 64 ? 12 : 6, rest = M % R;
  constexpr long lda = turned_a ? M : K, step = turned_a ? 1 : K;
  long i = 0;
  for (; i + R <= M; i += R) hograd_tile<T, R, Q, turned_a, add, whole>(a + i*step, lda, b, ldb, y + i*N, N, K, count);
  if constexpr (rest > 0) hograd_tile<T, rest, Q, turned_a, add, whole>(a + i*step, lda, b, ldb, y + i*N, N, K, count);
}
// Some rows of W, K numbers each, as columns, with zeros behind the last.
template <typename T>
static inline void hograd_turn(const T* __restrict__ w, T* __restrict__ b, long K, int count) {
  constexpr int L = at::vec::Vectorized<T>::size(), P = 2*L;
  for (int h = 0; h < P; h += L) {
    long k = 0;
    if (h + L <= count) for (; k + L <= K; k += L) at::vec::transpose_mxn<T, L, L>(w + h*K + k, K, b + k*P + h, P);
    for (; k < K; k++) for (int l = h; l < h + L; l++) b[k*P + l] = l < count ? w[l*K + k] : T(0);
  }
}
template <typename T, int M, int N, int K, bool turned_a, bool turned_w, bool add>
static inline void hograd_tiles(
    const T* __restrict__ a, const T* __restrict__ w, T* __restrict__ y, long thread, long threads) {
  constexpr long L = at::vec::Vectorized<T>::size(), P = 2*L, panels = (N + P - 1) / P;
  alignas(64) T turned[turned_w ? K*P : 1];
  for (long p = panels*thread/threads; p < panels*(thread+1)/threads; p++) {
    const int count = std::min<long>(P, N - p*P);
    if constexpr (turned_w) hograd_turn<T>(w + p*P*K, turned, K, count);
    const T* b = turned_w ? turned : w + p*P;
    constexpr long ldb = turned_w ? P : N;
    if (count == P) hograd_panel<T, M, N, K, 2, turned_a, add, true>(a, b, ldb, y + p*P, P);
    else if (count > L) hograd_panel<T, M, N, K, 2, turned_a, add, false>(a, b, ldb, y + p*P, count);
    else if (count == L) hograd_panel<T, M, N, K, 1, turned_a, add, true>(a, b, ldb, y + p*P, L);
    else hograd_panel<T, M, N, K, 1, turned_a, add, false>(a, b, ldb, y + p*P, count);
  }
}
#endif
extern "C"
{{kernel.def_kernel(inputs=inputs, outputs={"Y": y})}}
{
  {% if threads > 1 %}
  #pragma omp parallel for num_threads({{threads}})
  {% endif %}
  for (long t = 0; t < {{threads}}; t++) {
    {% if batch > 1 %}
    for (long b = {{batch}}L*t/{{threads}}; b < {{batch}}L*(t+1)/{{threads}}; b++) {
      const long thread = 0, threads = 1;
    {% else %}
    {
      const long b = 0, thread = t, threads = {{threads}};
    {% endif %}
      {% for call, k in terms %}
      {{call}}(
        {{start(2*loop.index0)}} + b*{{rows * k}}, {{start(2*loop.index0 + 1)}} + b*{{k * n}}, Y + b*{{rows * n}},
        thread, threads);
      {% endfor %}
    }
  }
}
"""
