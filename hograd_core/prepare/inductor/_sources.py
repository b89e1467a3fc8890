"""C++ of the products of small matrices that compiled kernels hold: what :mod:`._products` fills in, by jinja.

Three forms, all of matrices as they lie in memory, since what a matrix library does before it multiplies (it packs
both) and what a call of it costs take longer than such a product:

- few rows, by streaming W once. ``y = a W``: each row of W, times an entry of a, is added to y; several rows of W at a
  time, so that y is read less often. ``y = a Wᵀ``: each row of W with a is a dot product. Registers hold at most 4 rows
  of a: the next 4 meet the same rows of W while those are in the cache. One goes through W from its first row to its
  last, the other from its last to its first: of a derivative's two products with a matrix, one of either kind, the
  second starts with what the first has just left in the cache. Where the first cache does not hold W, next rows are
  fetched while these are multiplied, a line at a time: what the processor fetches by itself ends at a page.
- a matrix W of a few numbers, in the cache with its sums in registers.
- tiles: 6 rows of Y (12 where registers are twice as wide and twice as many) and two vectors of each, or one at the end
  where that is enough, are summed in registers, over a panel of W that fits the first cache; only a transposed W is
  copied. A sum of products is one.

Views of larger memory start where their layout says. Batches are of such products, one after the other, each of whose
matrices lies anywhere, or is the same for all.
"""

from __future__ import annotations

PRODUCTS = r"""
#include <torch/csrc/inductor/cpp_prefix.h>
#ifndef HOGRAD_PRODUCTS
#define HOGRAD_PRODUCTS
// A vector of W that meets R rows of A, read once: a compiler reads it for each of them, with what it does.
template <typename T, int R>
static inline at::vec::Vectorized<T> hograd_read(const T* w) {
  at::vec::Vectorized<T> m = at::vec::Vectorized<T>::loadu(w);
#if defined(CPU_CAPABILITY_AVX512)
  std::conditional_t<std::is_same_v<T, float>, __m512, __m512d> v = m;
#elif defined(CPU_CAPABILITY_AVX2)
  std::conditional_t<std::is_same_v<T, float>, __m256, __m256d> v = m;
#endif
#if defined(CPU_CAPABILITY_AVX512) || defined(CPU_CAPABILITY_AVX2)
  if constexpr (R > 1) {
    __asm__("" : "+v"(v));
    m = v;
  }
#endif
  return m;
}
// Rows of W at a time, for 1, 2, 3 and 4 rows of A, where there are 16 registers and where there are 32: the quickest.
constexpr int hograd_axpys[2][4] = { {4, 3, 4, 3}, {8, 8, 4, 4} };
constexpr int hograd_dot_products[2][4] = { {4, 5, 4, 3}, {4, 5, 4, 4} };
template <typename T>
constexpr int hograd_registers = sizeof(at::vec::Vectorized<T>) >= 64;
// What f does with each vector of a line of a cache, or of less, before which the line's successors are fetched.
template <typename T, int Q, bool fetch, typename F>
static inline long hograd_lines(const T* w, long stride, long next, long from, long to, const F& f) {
  constexpr long L = at::vec::Vectorized<T>::size(), line = std::max<long>(L, 64 / sizeof(T));
  long j = from;
  for (; j + line <= to; j += line) {
    if constexpr (fetch) for (int q = 0; q < Q; q++) __builtin_prefetch(w + q*stride + j + next, 0, 2);
    for (int l = 0; l < line; l += L) f(j + l);
  }
  for (; j + L <= to; j += L) f(j);
  return j;
}
template <typename T, int R, int Q, bool fetch>
static inline void hograd_axpy(
    const T* __restrict__ a, const T* __restrict__ w, T* __restrict__ y, long K, long i, long from, long to, long N) {
  using V = at::vec::Vectorized<T>;
  V x[R][Q];
  for (int r = 0; r < R; r++) for (int q = 0; q < Q; q++) x[r][q] = V(a[r*K+i+q]);
  const T* row = w + i*N;
  long j = hograd_lines<T, Q, fetch>(row, N, i + 2*Q <= K ? Q*N : 0, from, to, [&](long j) {
    V sum[R];
    for (int r = 0; r < R; r++) sum[r] = V::loadu(y + r*N + j);
    for (int q = 0; q < Q; q++) {
      const V m = hograd_read<T, R>(row + q*N + j);
      for (int r = 0; r < R; r++) sum[r] = at::vec::fmadd(x[r][q], m, sum[r]);
    }
    for (int r = 0; r < R; r++) sum[r].store(y + r*N + j);
  });
  for (; j < to; j++) for (int r = 0; r < R; r++) for (int q = 0; q < Q; q++) y[r*N+j] += a[r*K+i+q] * row[q*N+j];
}
template <typename T, int R, int Q, bool fetch>
static inline void hograd_axpy_of_rows(
    const T* __restrict__ a, const T* __restrict__ w, T* __restrict__ y, long K, long i, long from, long to, long N) {
  constexpr int whole = R / 4 * 4, rest = R % 4;
  if constexpr (whole > 0) hograd_axpy<T, 4, Q, fetch>(a, w, y, K, i, from, to, N);
  for (int r = 4; r < whole; r += 4) hograd_axpy<T, 4, Q, false>(a + r*K, w, y + r*N, K, i, from, to, N);
  if constexpr (rest > 0)
    hograd_axpy<T, rest, Q, fetch && whole == 0>(a + whole*K, w, y + whole*N, K, i, from, to, N);
}
template <typename T, int R, int N, int K>
static inline void hograd_rows(
    const T* __restrict__ a, const T* __restrict__ w, T* __restrict__ y, long thread, long threads) {
  constexpr int Q = hograd_axpys[hograd_registers<T>][std::min(R, 4) - 1], rest = K % Q;
  constexpr bool fetch = N * sizeof(T) * K > 16384;
  const long from = N*thread/threads, to = N*(thread+1)/threads;
  for (int r = 0; r < R; r++) for (long j = from; j < to; j++) y[r*N+j] = 0;
  for (long i = 0; i + Q <= K; i += Q) hograd_axpy_of_rows<T, R, Q, fetch>(a, w, y, K, i, from, to, N);
  if constexpr (rest > 0) hograd_axpy_of_rows<T, R, rest, false>(a, w, y, K, K - rest, from, to, N);
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
  V sum[R][Q];
  for (int r = 0; r < R; r++) for (int q = 0; q < Q; q++) sum[r][q] = V(T(0));
  const T* row = w + i*K;
  const long j = hograd_lines<T, Q, fetch>(row, K, i >= Q ? -Q*K : 0, 0, K, [&](long j) {
    V x[R];
    for (int r = 0; r < R; r++) x[r] = V::loadu(a + r*K + j);
    for (int q = 0; q < Q; q++) {
      const V m = hograd_read<T, R>(row + q*K + j);
      for (int r = 0; r < R; r++) sum[r][q] = at::vec::fmadd(x[r], m, sum[r][q]);
    }
  });
  for (int q = 0; q < Q; q++) for (int r = 0; r < R; r++) {
    T s = hograd_sum<T>(sum[r][q]);
    for (long jj = j; jj < K; jj++) s += a[r*K+jj] * row[q*K+jj];
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
template <typename T, int R, int N, int K>
static inline void hograd_rows_turned(
    const T* __restrict__ a, const T* __restrict__ w, T* __restrict__ y, long thread, long threads) {
  constexpr int Q = hograd_dot_products[hograd_registers<T>][std::min(R, 4) - 1];
  constexpr long blocks = N / Q, rest = N % Q;
  constexpr bool fetch = N * sizeof(T) * K > 16384;
  if constexpr (rest > 0) if (thread == threads - 1) hograd_dots_of_rows<T, R, rest, false>(a, w, y, K, Q*blocks, N);
  for (long i = blocks*(thread+1)/threads - 1; i >= blocks*thread/threads; i--)
    hograd_dots_of_rows<T, R, Q, fetch>(a, w, y, K, Q*i, N);
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
// R rows and C columns of Y, all K terms of each in registers.
template <typename T, int R, int C, bool turned, bool add>
static __attribute__((noinline)) void hograd_tile(
    const T* __restrict__ a, long lda, const T* __restrict__ b, long ldb, T* __restrict__ y, long N, long K) {
  using V = at::vec::Vectorized<T>;
  constexpr int L = V::size(), Q = (C + L - 1) / L, last = C - (Q-1)*L;
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
// C rows of W, K numbers each, as columns, with zeros behind the last.
template <typename T, int C>
static inline void hograd_turn(const T* __restrict__ w, T* __restrict__ b, long K) {
  constexpr int L = at::vec::Vectorized<T>::size(), P = 2*L;
  for (int h = 0; h < P; h += L) {
    long k = 0;
    if (h + L <= C) for (; k + L <= K; k += L) at::vec::transpose_mxn<T, L, L>(w + h*K + k, K, b + k*P + h, P);
    for (; k < K; k++) for (int l = h; l < h + L; l++) b[k*P + l] = l < C ? w[l*K + k] : T(0);
  }
}
// All rows of C columns of Y, or a thread's share of them.
template <typename T, int M, int N, int K, int C, bool turned_a, bool turned_w, bool add>
static inline void hograd_panel(
    const T* __restrict__ a, const T* __restrict__ w, T* __restrict__ turned, T* __restrict__ y, long share,
    long shares) {
  constexpr int P = 2 * at::vec::Vectorized<T>::size();
  constexpr int R = sizeof(at::vec::Vectorized<T>) >= 64 ? 12 : 6, rest = M % R;
  constexpr long lda = turned_a ? M : K, step = turned_a ? 1 : K, tiles = M / R, last = tiles*R, ldb = turned_w ? P : N;
  if constexpr (turned_w) hograd_turn<T, C>(w, turned, K);
  const T* b = turned_w ? turned : w;
  for (long i = tiles*share/shares*R; i < tiles*(share+1)/shares*R; i += R)
    hograd_tile<T, R, C, turned_a, add>(a + i*step, lda, b, ldb, y + i*N, N, K);
  if constexpr (rest > 0)
    if (share == shares - 1)
      hograd_tile<T, rest, C, turned_a, add>(a + last*step, lda, b, ldb, y + last*N, N, K);
}
template <typename T, int M, int N, int K, bool turned_a, bool turned_w, bool add>
static inline void hograd_tiles(
    const T* __restrict__ a, const T* __restrict__ w, T* __restrict__ y, long thread, long threads) {
  constexpr int P = 2 * at::vec::Vectorized<T>::size(), rest = N % P;
  constexpr long panels = (N + P - 1) / P, step = turned_w ? K : 1;
  // Threads share panels, or the rows of each where there are fewer panels than threads.
  const bool whole = panels >= threads;
  const long share = whole ? 0 : thread, shares = whole ? 1 : threads;
  const long from = whole ? panels*thread/threads : 0, to = whole ? panels*(thread+1)/threads : panels;
  alignas(64) T turned[turned_w ? K*P : 1];
  for (long j = from*P; j < std::min<long>(to, N / P) * P; j += P)
    hograd_panel<T, M, N, K, P, turned_a, turned_w, add>(a, w + j*step, turned, y + j, share, shares);
  if constexpr (rest > 0) if (to == panels)
    hograd_panel<T, M, N, K, rest, turned_a, turned_w, add>(
      a, w + (N - rest)*step, turned, y + N - rest, share, shares);
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
      {% set a, w = 2*loop.index0, 2*loop.index0 + 1 %}
      {{call}}(
        {{start(a)}} + b*{{apart(a)}}, {{start(w)}} + b*{{apart(w)}}, Y + b*{{rows * n}}, thread, threads);
      {% endfor %}
    }
  }
}
"""
