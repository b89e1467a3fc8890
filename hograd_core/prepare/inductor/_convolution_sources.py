"""C++ of small convolutions and of the gradients of their kernels: what :mod:`._convolutions` fills in, by jinja.

Both are sums of numbers of one array times vectors of another, in tiles of registers: 6 rows (12 where registers are
twice as wide and twice as many) of two vectors each. Of a convolution rows are channels of the result, numbers are the
kernel's, and vectors are of a padded image, row after row, so that what lies in the padding is computed, too, and left
out when rows are copied to the result. Of a kernel's gradient rows are elements of the kernel, numbers are the padded
image's, and vectors are of the channels of the gradient at one place. Where each meets the other, :mod:`._taps` says.
"""

from __future__ import annotations

_HEAD = r"""
#include <memory>
#include <torch/csrc/inductor/cpp_prefix.h>
#ifndef HOGRAD_TAPS
#define HOGRAD_TAPS
// Of channel (or row) i < n, tap k < count: an element of A at i*a_step + a[k] meets a vector of B at i*b_step + b[k].
struct hograd_taps { long n, a_step, b_step; int count; const int *a, *b; };
template <typename T, int R, int Q, long row>
static __attribute__((noinline)) void hograd_tap_tile(
    const T* const* __restrict__ a, const T* __restrict__ b, const hograd_taps& taps, const T* __restrict__ bias,
    T* __restrict__ y, long ld, bool add) {
  using V = at::vec::Vectorized<T>;
  constexpr int L = V::size();
  V sum[R][Q];
  for (int r = 0; r < R; r++) for (int q = 0; q < Q; q++)
    sum[r][q] = add ? V::loadu(y + r*ld + q*L) : V(bias ? bias[r] : T(0));
  const T* rows[R];
  for (int r = 0; r < R; r++) rows[r] = a[r];
  const int count = taps.count;
  const int* __restrict__ of_a = taps.a;
  const int* __restrict__ of_b = taps.b;
  for (long i = 0; i < taps.n; i++) for (int k = 0; k < count; k++) {
    const T* p = b + i*taps.b_step + of_b[k];
    const long f = i*taps.a_step + of_a[k];
    V m[Q];
    for (int q = 0; q < Q; q++) m[q] = V::loadu(p + q*L);
    for (int r = 0; r < R; r++) {
      const V x(row ? rows[0][f + r*row] : rows[r][f]);
      for (int q = 0; q < Q; q++) sum[r][q] = at::vec::fmadd(x, m[q], sum[r][q]);
    }
  }
  for (int r = 0; r < R; r++) for (int q = 0; q < Q; q++) sum[r][q].store(y + r*ld + q*L);
}
template <typename T, int R, long row>
static inline void hograd_tap_rows(
    const T* const* a, const T* b, const hograd_taps& taps, const T* bias, T* y, long ld, long N, bool add) {
  constexpr int L = at::vec::Vectorized<T>::size();
  long p = 0;
  for (; p + L < N; p += 2*L) hograd_tap_tile<T, R, 2, row>(a, b + p, taps, bias, y + p, ld, add);
  if (p < N) hograd_tap_tile<T, R, 1, row>(a, b + p, taps, bias, y + p, ld, add);
}
// Rows of a result, a block in registers at a time: where each is read (first), put (into), and what is done then.
template <typename T>
constexpr int hograd_rows_at_once = sizeof(at::vec::Vectorized<T>) >= 64 ? 12 : 6;
template <typename T, int M, long row, typename First, typename Into, typename Then>
static inline void hograd_tap_blocks(
    const First& first, const T* b, const hograd_taps& taps, const T* bias, const Into& into, long ld, long N, bool add,
    const Then& then) {
  constexpr int R = hograd_rows_at_once<T>, rest = M % R;
  const T* a[R];
  int i = 0;
  for (; i + R <= M; i += R) {
    for (int r = 0; r < R; r++) a[r] = first(i + r);
    hograd_tap_rows<T, R, row>(a, b, taps, bias ? bias + i : bias, into(i), ld, N, add);
    then(i, R);
  }
  if constexpr (rest > 0) {
    for (int r = 0; r < rest; r++) a[r] = first(i + r);
    hograd_tap_rows<T, rest, row>(a, b, taps, bias ? bias + i : bias, into(i), ld, N, add);
    then(i, rest);
  }
}
// An image of C channels, H x W each, into phases of rows x columns, behind zeros.
template <typename T, long C, long H, long W, long top, long left, long down, long across, long rows, long columns>
static inline void hograd_pad(const T* __restrict__ x, T* __restrict__ b) {
  for (long c = 0; c < C; c++) for (long h = 0; h < H; h++) {
    const long r = h + top;
    T* to = b + (c*down + r % down)*across*rows*columns + r / down*columns;
    const T* from = x + (c*H + h)*W;
    if constexpr (across == 1) __builtin_memcpy(to + left, from, W*sizeof(T));
    else for (long w = 0; w < W; w++) to[(w + left) % across*rows*columns + (w + left) / across] = from[w];
  }
}
#endif
extern "C"
{{kernel.def_kernel(inputs=inputs, outputs={"Y": y})}}
{
  using T = {{dtype}};
  constexpr long L = at::vec::Vectorized<T>::size(), C = {{channels}}, O = {{outputs}};
  constexpr long plane = {{plan.elements}}, pitch = {{plan.length[1]}};
  const T* x = {{start(0)}};
"""

CONVOLUTION = (
    _HEAD
    + r"""  constexpr long H = {{result[0]}}, W = {{result[1]}}, ld = {{plan.length[0]}}*pitch + 2*L;
  static constexpr int a[] = { {{met|map("first")|join(", ")}} }, b[] = { {{met|map("last")|join(", ")}} };
  static constexpr struct { int start, count; long rows, columns, top, left; } parts[] = {
    {% for part in parts %}{ {{part|join(", ")}} }, {% endfor %}
  };
  const T* weight = {{start(1)}};
  const T* bias = {{start(2) if biased else "nullptr"}};
  {% if threads > 1 %}
  #pragma omp parallel for num_threads({{threads}})
  {% endif %}
  for (long t = 0; t < {{threads}}; t++) {
    std::unique_ptr<T[]> padded(new T[C*plane + 2*L]()), sums(new T[hograd_rows_at_once<T>*ld]);
    for (long n = {{batch}}L*t/{{threads}}; n < {{batch}}L*(t+1)/{{threads}}; n++) {
      hograd_pad<T, C, {{(size + plan.before|list + plan.phases|list + plan.length|list)|join(", ")}}>(
        x + n*{{channels * size[0] * size[1]}}, padded.get());
      for (const auto& part : parts) {
        const hograd_taps taps{C, {{steps[1]}}, plane, part.count, a + part.start, b + part.start};
        hograd_tap_blocks<T, O, {{steps[0]}}>(
          [&](long o) { return weight + o*{{steps[0]}}; }, padded.get(), taps, bias,
          [&](long) { return sums.get(); }, ld, (part.rows - 1)*pitch + part.columns, false, [&](long o, int rows) {
            for (int r = 0; r < rows; r++) for (long h = 0; h < part.rows; h++) {
              T* to = Y + ((n*O + o + r)*H + h*{{step[0]}} + part.top)*W + part.left;
              const T* from = sums.get() + r*ld + h*pitch;
              {% if step[1] == 1 %}
              __builtin_memcpy(to, from, part.columns*sizeof(T));
              {% else %}
              for (long w = 0; w < part.columns; w++) to[w*{{step[1]}}] = from[w];
              {% endif %}
            }
          });
      }
    }
  }
}
"""
)

KERNEL_GRADIENT = (
    _HEAD
    + r"""  constexpr long ld = (O + L - 1)/L*L;
  constexpr long rows = {{result[0]}}, columns = {{result[1]}}, P = rows*columns, count = {{taps[0] * taps[1]}};
  constexpr long N = C*count;
  const T* g = {{start(1)}};
  std::unique_ptr<int[]> a(new int[columns]), b(new int[columns]);
  for (long w = 0; w < columns; w++) { a[w] = w*{{stride[1]}}; b[w] = w*ld; }
  const hograd_taps met{rows, {{stride[0]}}*pitch, columns*ld, columns, a.get(), b.get()};
  std::unique_ptr<T[]> parts(new T[{{threads}}*N*ld]());
  {% if threads > 1 %}
  #pragma omp parallel for num_threads({{threads}})
  {% endif %}
  for (long t = 0; t < {{threads}}; t++) {
    T* part = parts.get() + t*N*ld;
    std::unique_ptr<T[]> padded(new T[C*plane]()), turned(new T[P*ld]());
    for (long n = {{batch}}L*t/{{threads}}; n < {{batch}}L*(t+1)/{{threads}}; n++) {
      hograd_pad<T, C, {{size|join(", ")}}, {{plan.before|join(", ")}}, 1, 1, {{plan.length|join(", ")}}>(
        x + n*C*{{size[0] * size[1]}}, padded.get());
      for (long p = 0; p < P; p++) for (long o = 0; o < O; o++) turned[p*ld+o] = g[(n*O + o)*P + p];
      hograd_tap_blocks<T, N, 0>(
        [&](long j) {
          const long row = j%count/{{taps[1]}}*{{dilation[0]}}, column = j%{{taps[1]}}*{{dilation[1]}};
          return padded.get() + j/count*plane + row*pitch + column;
        },
        turned.get(), met, (const T*)nullptr, [&](long j) { return part + j*ld; }, ld, O, true, [](long, int) {});
    }
  }
  for (long o = 0; o < O; o++) for (long j = 0; j < N; j++) {
    T sum = 0;
    for (long t = 0; t < {{threads}}; t++) sum += parts[(t*N + j)*ld + o];
    Y[o*N+j] = sum;
  }
}
"""
)
