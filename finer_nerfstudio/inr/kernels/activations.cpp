// Activations and their derivatives in one pass over memory, and chains of layers around them, for float32 on
// processors.
//
// Every function here works on rows of a row-major matrix of pre-activations without their bias; the formulas are those
// of form.py. Loops are written so that a compiler turns them into vector instructions: no branches, no calls that it
// cannot inline. The elementary functions are therefore our own, with coefficients fitted to least maximal error.

#include <cmath>
#include <cstdint>
#include <cstring>
#ifdef _OPENMP
#include <omp.h>
#endif
#include <vector>

#include "complex_products.h"
#include "products.h"
#include "rounded_products.h"
#include "vectors.h"

namespace {

using products::Sgemm;

// FINER_FAMILY is one of the first four, as in _FAMILIES of compiled.py: a network has one, and one is built quickly.
enum Family { kReLU = 0, kSine = 1, kGauss = 2, kWavelet = 3, kRealInputWavelet = 4 };

constexpr float kLargestImaginaryPhase = 15.0f;  // see activations.py for both limits
constexpr float kLowestExponent = -60.0f;

// Up to here |phase| / pi rounds to the right integer, or misses by so little that the polynomials still hold; beyond,
// the multiple of pi is subtracted in double precision.
constexpr float kLargestFastPhase = 30000.0f;

inline float with_sign_of_parity(float value, int32_t n) {
  uint32_t bits;
  std::memcpy(&bits, &value, 4);
  bits ^= static_cast<uint32_t>(n) << 31;
  std::memcpy(&value, &bits, 4);
  return value;
}

// phase - n pi, and n. Each product below is exact inside its fused multiply-add, so that three parts of pi suffice.
template <bool wide>
inline float reduced(float phase, int32_t& n) {
  if (wide) {
    const double nearest = __builtin_rint(static_cast<double>(phase) * 0.31830988618379067);
    n = static_cast<int32_t>(nearest - 2.0 * __builtin_floor(0.5 * nearest));  // its parity is all that counts
    return static_cast<float>(
        __builtin_fma(-nearest, 1.2246467991473532e-16, __builtin_fma(-nearest, 3.141592653589793, phase)));
  }
  const float nearest = __builtin_rintf(phase * 0.31830988618f);
  n = static_cast<int32_t>(nearest);
  float r = __builtin_fmaf(-nearest, 0x1.921fb6p+1f, phase);
  r = __builtin_fmaf(-nearest, -0x1.777a5cp-24f, r);
  return __builtin_fmaf(-nearest, -0x1.ee59dap-49f, r);
}

inline float sine_of_reduced(float r) {  // |r| <= pi / 2, relative error 5e-9 before rounding
  const float r2 = r * r;
  float p = 2.608360138e-06f * r2 + -1.981087503e-04f;
  p = p * r2 + 8.333085250e-03f;
  p = p * r2 + -1.66666603635e-01f;
  return p * (r2 * r) + r;
}

inline float cosine_of_reduced(float r) {  // |r| <= pi / 2, absolute error 4e-10 before rounding
  const float r2 = r * r;
  float p = -2.618848723e-07f * r2 + 2.476904941e-05f;
  p = p * r2 + -1.388856535e-03f;
  p = p * r2 + 4.16666555994e-02f;
  return p * (r2 * r2) + (1.0f - 0.5f * r2);
}

template <bool wide>
inline float sine(float phase) {
  int32_t n;
  const float r = reduced<wide>(phase, n);
  return with_sign_of_parity(sine_of_reduced(r), n);
}

template <bool wide>
inline void sine_and_cosine(float phase, float& s, float& c) {
  int32_t n;
  const float r = reduced<wide>(phase, n);
  s = with_sign_of_parity(sine_of_reduced(r), n);
  c = with_sign_of_parity(cosine_of_reduced(r), n);
}

// For arguments from -87 to 88; above, infinity.
inline float exponential(float x) {
  const float nearest = __builtin_rintf(x * 1.44269504f);
  float r = __builtin_fmaf(-nearest, 0x1.62e430p-1f, x);
  r = __builtin_fmaf(-nearest, -0x1.05c610p-29f, r);
  float p = 0.001381432052f * r + 0.008368851069f;
  p = p * r + 0.041668401085f;
  p = p * r + 0.166665195241f;
  p = p * r + 0.499999933731f;
  p = p * (r * r) + r + 1.0f;
  const uint32_t bits = static_cast<uint32_t>(static_cast<int32_t>(nearest) + 127) << 23;
  float power;
  std::memcpy(&power, &bits, 4);
  return p * power;
}

inline float envelope(float exponent) {
  const float e = exponential(exponent > 88.7f ? 89.0f : exponent);
  return exponent < kLowestExponent ? 0.0f : e;
}

struct Numbers {
  float omega, s, omega_f;
  float slope;        // the derivative of alpha(x) x is 1 + slope |x|: 2 by the formula, 1 with alpha held constant
  float outer_omega;  // omega / omega_f or omega
  float outer_s;      // s / omega_f or s
};

template <bool variable>
inline float stretched(float x) {
  return variable ? __builtin_fmaf(__builtin_fabsf(x), x, x) : x;
}

template <bool variable>
inline float steepness(float x, const Numbers& k) {
  return variable ? __builtin_fmaf(k.slope, __builtin_fabsf(x), 1.0f) : 1.0f;
}

// Real activations ---------------------------------------------------------------------------------------------------

template <int family, bool variable, bool wide>
inline float real_value(float x, const Numbers& k) {
  if (family == kReLU) return x < 0.0f ? 0.0f : x;
  if (family == kSine) return sine<wide>(k.omega * stretched<variable>(x));
  const float u = variable ? k.outer_s * sine<wide>(k.omega_f * stretched<true>(x)) : k.s * x;
  return envelope(-u * u);
}

template <int family, bool variable, bool wide>
inline void real_value_and_slope(float x, const Numbers& k, float& value, float& slope) {
  if (family == kReLU) {
    value = x < 0.0f ? 0.0f : x;
    slope = x > 0.0f ? 1.0f : 0.0f;
  } else if (family == kSine) {
    float c;
    sine_and_cosine<wide>(k.omega * stretched<variable>(x), value, c);
    slope = c * (k.omega * steepness<variable>(x, k));
  } else if (variable) {
    float s, c;
    sine_and_cosine<wide>(k.omega_f * stretched<true>(x), s, c);
    const float u = k.outer_s * s;
    value = envelope(-u * u);
    slope = value * (-2.0f * k.s) * (u * c) * steepness<true>(x, k);
  } else {
    const float u = k.s * x;
    value = envelope(-u * u);
    slope = value * (-2.0f * k.s) * u;
  }
}

// Wavelets -----------------------------------------------------------------------------------------------------------

// exp(j omega (p + jq)) exp(-s^2 |p + jq|^2)
template <bool wide>
inline void gabor(float p, float q, const Numbers& k, float& re, float& im) {
  const float modulus = envelope(-k.outer_omega * q - (k.outer_s * k.outer_s) * (p * p + q * q));
  float s, c;
  sine_and_cosine<wide>(k.outer_omega * p, s, c);
  re = modulus * c;
  im = modulus * s;
}

// Gradients with respect to p and q of the above.
inline void gabor_gradient(float p, float q, float re, float im, float grad_re, float grad_im, const Numbers& k,
                           float& grad_p, float& grad_q) {
  const float along_modulus = grad_re * re + grad_im * im;
  const float along_phase = grad_im * re - grad_re * im;
  const float twice = 2.0f * k.outer_s * k.outer_s;
  grad_p = k.outer_omega * along_phase - twice * p * along_modulus;
  grad_q = -along_modulus * (twice * q + k.outer_omega);
}

struct ComplexSine {
  float sin_cosh, cos_sinh, cos_cosh, sin_sinh;
};

template <bool wide>
inline ComplexSine complex_sine(float a, float b) {
  float s, c;
  sine_and_cosine<wide>(a, s, c);
  b = b > kLargestImaginaryPhase ? kLargestImaginaryPhase : b < -kLargestImaginaryPhase ? -kLargestImaginaryPhase : b;
  const float growing = 0.5f * exponential(b);
  const float shrinking = 0.25f / growing;
  const float cosh = growing + shrinking, sinh = growing - shrinking;
  return {s * cosh, c * sinh, c * cosh, s * sinh};
}

// Rows ---------------------------------------------------------------------------------------------------------------

template <int family, bool variable, bool wide>
void forward_row(const float* x, const float* bias, float* z, int64_t units, const Numbers& k) {
  if (family == kWavelet) {
    const float *x_im = x + units, *bias_im = bias + units;
    float* z_im = z + units;
FINER_INDEPENDENT
    for (int64_t j = 0; j < units; ++j) {
      float p = x[j] + bias[j], q = x_im[j] + bias_im[j];
      if (variable) {
        const ComplexSine u = complex_sine<wide>(k.omega_f * stretched<true>(p), k.omega_f * stretched<true>(q));
        p = u.sin_cosh;
        q = u.cos_sinh;
      }
      float re, im;
      gabor<wide>(p, q, k, re, im);
      z[j] = re;
      z_im[j] = im;
    }
  } else if (family == kRealInputWavelet) {
    float* z_im = z + units;
FINER_INDEPENDENT
    for (int64_t j = 0; j < units; ++j) {
      const float v = x[j] + bias[j];
      const float p = variable ? sine<wide>(k.omega_f * stretched<true>(v)) : v;
      float re, im;
      gabor<wide>(p, 0.0f, k, re, im);
      z[j] = re;
      z_im[j] = im;
    }
  } else {
FINER_INDEPENDENT
    for (int64_t j = 0; j < units; ++j) z[j] = real_value<family, variable, wide>(x[j] + bias[j], k);
  }
}

// dx may be the same memory as grad.
template <int family, bool variable, bool wide>
void backward_row(const float* x, const float* bias, const float* grad, float* z, float* dx, float* bias_grad,
                  int64_t units, const Numbers& k) {
  if (family == kWavelet) {
    const float *x_im = x + units, *bias_im = bias + units, *grad_im = grad + units;
    float *z_im = z + units, *dx_im = dx + units, *bias_grad_im = bias_grad + units;
FINER_INDEPENDENT
    for (int64_t j = 0; j < units; ++j) {
      const float v = x[j] + bias[j], w = x_im[j] + bias_im[j];
      float p = v, q = w, grad_v, grad_w, re, im;
      ComplexSine u{};
      if (variable) {
        u = complex_sine<wide>(k.omega_f * stretched<true>(v), k.omega_f * stretched<true>(w));
        p = u.sin_cosh;
        q = u.cos_sinh;
      }
      gabor<wide>(p, q, k, re, im);
      gabor_gradient(p, q, re, im, grad[j], grad_im[j], k, grad_v, grad_w);
      if (variable) {
        const float along_p = grad_v, along_q = grad_w;
        grad_v = (along_p * u.cos_cosh - along_q * u.sin_sinh) * (k.omega_f * steepness<true>(v, k));
        grad_w = (along_p * u.sin_sinh + along_q * u.cos_cosh) * (k.omega_f * steepness<true>(w, k));
      }
      z[j] = re;
      z_im[j] = im;
      dx[j] = grad_v;
      dx_im[j] = grad_w;
      bias_grad[j] += grad_v;
      bias_grad_im[j] += grad_w;
    }
  } else if (family == kRealInputWavelet) {
    const float* grad_im = grad + units;
    float* z_im = z + units;
FINER_INDEPENDENT
    for (int64_t j = 0; j < units; ++j) {
      const float v = x[j] + bias[j];
      float p = v, inner_slope = 1.0f, re, im, grad_v, unused;
      if (variable) {
        float c;
        sine_and_cosine<wide>(k.omega_f * stretched<true>(v), p, c);
        inner_slope = c * (k.omega_f * steepness<true>(v, k));
      }
      gabor<wide>(p, 0.0f, k, re, im);
      gabor_gradient(p, 0.0f, re, im, grad[j], grad_im[j], k, grad_v, unused);
      z[j] = re;
      z_im[j] = im;
      dx[j] = grad_v * inner_slope;
      bias_grad[j] += grad_v * inner_slope;
    }
  } else {
FINER_INDEPENDENT
    for (int64_t j = 0; j < units; ++j) {
      float value, slope;
      real_value_and_slope<family, variable, wide>(x[j] + bias[j], k, value, slope);
      const float change = grad[j] * slope;  // read before dx is written, which may be the same memory
      z[j] = value;
      dx[j] = change;
      bias_grad[j] += change;
    }
  }
}

// Whether some real phase of the row is too large for the fast reduction. The comparison is true for infinities and
// NaN.
bool has_wide_phase(const float* x, const float* bias, int64_t features, float largest_x) {
  int far = 0;
  for (int64_t j = 0; j < features; ++j) far |= !(__builtin_fabsf(x[j] + bias[j]) <= largest_x);
  return far != 0;
}

struct FlushDenormals {  // in this thread, until the end of the scope
#if defined(__SSE2__)
  unsigned int before = _mm_getcsr();
  FlushDenormals() { _mm_setcsr(before | 0x8040); }
  ~FlushDenormals() { _mm_setcsr(before); }
#elif defined(__aarch64__)
  uint64_t before = 0;
  FlushDenormals() {
    asm volatile("mrs %0, fpcr" : "=r"(before));
    set(before | (1u << 24));
  }
  ~FlushDenormals() { set(before); }
  static void set(uint64_t control) { asm volatile("msr fpcr, %0" : : "r"(control)); }
#endif
};

template <int family, bool variable>
void activate_rows(const float* x, const float* bias, const float* grad, float* z, float* dx, float* bias_grad,
                   int64_t rows, int64_t features, const Numbers& k) {
  const int64_t units = family == kWavelet ? features / 2 : features;
  const int64_t z_stride = family == kRealInputWavelet ? 2 * features : features;
  // Where the frequency times x, or alpha(x) x, reaches the limit.
  const float frequency = (variable && k.omega_f > 0.0f) ? k.omega_f : k.omega;
  const float scaled = kLargestFastPhase / (frequency > 1e-6f ? frequency : 1e-6f);
  float largest_x = variable ? 0.5f * (std::sqrt(1.0f + 4.0f * scaled) - 1.0f) : scaled;
  if (family == kWavelet && variable) {
    // A complex sine grows without bound, and a wavelet's own phase with it; as a rule its envelope is zero by then.
    const float decay = k.outer_s * kLargestFastPhase / k.outer_omega, crest = 0.5f * k.outer_omega / k.outer_s;
    if (!(decay * decay > crest * crest - kLowestExponent)) largest_x = -1.0f;
  }
  for (int64_t row = 0; row < rows; ++row) {
    const float* x_row = x + row * features;
    float* z_row = z + row * z_stride;
    const bool wide = family != kReLU && has_wide_phase(x_row, bias, features, largest_x);
    if (grad == nullptr) {
      if (wide) forward_row<family, variable, true>(x_row, bias, z_row, units, k);
      else forward_row<family, variable, false>(x_row, bias, z_row, units, k);
    } else {
      const float* grad_row = grad + row * z_stride;
      float* dx_row = dx + row * features;
      if (wide) backward_row<family, variable, true>(x_row, bias, grad_row, z_row, dx_row, bias_grad, units, k);
      else backward_row<family, variable, false>(x_row, bias, grad_row, z_row, dx_row, bias_grad, units, k);
    }
  }
}

}  // namespace

// As _Form in compiled.py.
extern "C" struct FinerForm {
  int32_t active;  // 0 for an affine map alone
  int32_t variable;
  int32_t real_input;
  float omega, s, omega_f;
  float slope;  // of alpha(x) x's derivative, see Numbers
};

namespace {

// Without grad, z becomes the activation of x + bias. With it, dx becomes the gradient with respect to x too, and its
// sums over the rows are added to bias_grad.
void activate(const FinerForm& form, const float* x, const float* bias, const float* grad, float* z, float* dx,
              float* bias_grad, int64_t rows, int64_t features) {
  const bool inner = form.variable && form.omega_f > 0.0f;
  const Numbers k{form.omega,
                  form.s,
                  form.omega_f,
                  form.slope,
                  inner ? form.omega / form.omega_f : form.omega,
                  inner ? form.s / form.omega_f : form.s};
#if FINER_FAMILY == 3
  if (form.real_input) {
    if (form.variable) activate_rows<kRealInputWavelet, true>(x, bias, grad, z, dx, bias_grad, rows, features, k);
    else activate_rows<kRealInputWavelet, false>(x, bias, grad, z, dx, bias_grad, rows, features, k);
    return;
  }
#endif
  if (form.variable) activate_rows<FINER_FAMILY, true>(x, bias, grad, z, dx, bias_grad, rows, features, k);
  else activate_rows<FINER_FAMILY, false>(x, bias, grad, z, dx, bias_grad, rows, features, k);
}

// Calls work(thread, first_row, last_row) on every thread, each with rows of its own.
template <class Work>
void share_rows(int64_t rows, [[maybe_unused]] int threads, Work work) {
#ifdef _OPENMP
#pragma omp parallel num_threads(threads)
  {
    const int thread = omp_get_thread_num(), team = omp_get_num_threads();
    FlushDenormals flush;
    work(thread, rows * thread / team, rows * (thread + 1) / team);
  }
#else
  FlushDenormals flush;
  work(0, static_cast<int64_t>(0), rows);
#endif
}

}  // namespace

// As _Layer in compiled.py: x -> activation(x weight^T + bias), weight being [n_out, n_in].
extern "C" struct FinerLayer {
  FinerForm form;
  int64_t n_in, n_out;
  int64_t width;        // features of the result
  const float* weight;
  const float* bias;
  float* stored;        // x weight^T for all rows, or null where it is computed anew in the backward pass
  float* weight_grad;   // one after the other for every thread, or null if nobody wants it
  float* bias_grad;     // likewise
  int64_t rounded;      // whether operands of products of the backward pass are rounded to bfloat16
  int64_t is_complex;   // whether the weight is [[P, -Q], [Q, P]]
};

// x: [rows, features]; bias: [features]; z and grad: [rows, features], twice as wide for a wavelet of real input.
// bias_grad: [threads, features], added to.
extern "C" void finer_activate(const FinerForm* form, const float* x, const float* bias, const float* grad, float* z,
                               float* dx, float* bias_grad, int64_t rows, int64_t features, int threads) {
  const int64_t z_features = form->real_input ? 2 * features : features;
  share_rows(rows, threads, [&](int thread, int64_t first, int64_t last) {
    activate(*form, x + first * features, bias, grad ? grad + first * z_features : nullptr, z + first * z_features,
             dx ? dx + first * features : nullptr, bias_grad ? bias_grad + thread * features : nullptr, last - first,
             features);
  });
}

namespace {

// The weights of a chain, laid out for products in both directions.
class Packed {
 public:
  // Floats that it takes for these layers.
  static int64_t size(const FinerLayer* layers, int depth) {
    int64_t total = 0;
    for (int i = 0; i < depth; ++i) total += size_forward(layers[i]) + size_backward(layers[i]);
    return total;
  }

  explicit Packed(float* memory) : next_(memory) {}

  void add_forward(const FinerLayer& layer) {
#if defined(FINER_HAS_VECTORS)
    if (layer.is_complex) products::pack_complex(layer.weight, false, next_, layer.n_out / 2, layer.n_in / 2);
    else
#endif
      products::pack(layer.weight, true, next_, layer.n_in, layer.n_out);
    forward_.push_back(next_);
    next_ += size_forward(layer);
  }

  void add_backward(const FinerLayer& layer) {
    const int64_t out = layer.n_out, in = layer.n_in;
#if defined(FINER_HAS_PAIRS)
    if (layer.rounded && layer.is_complex) products::pack_complex_rounded(layer.weight, next_, out / 2, in / 2);
    else if (layer.rounded) products::pack_rounded(layer.weight, next_, out, in);
    else
#endif
#if defined(FINER_HAS_VECTORS)
    if (layer.is_complex) products::pack_complex(layer.weight, true, next_, out / 2, in / 2);
    else
#endif
      products::pack(layer.weight, false, next_, out, in);
    backward_.push_back(next_);
    next_ += size_backward(layer);
  }

  const float* forward(int i) const { return forward_[i]; }
  const float* backward(int i) const { return backward_[i]; }

 private:
  // Whole lines of the cache each.
  static int64_t size_forward(const FinerLayer& layer) { return (floats_forward(layer) + 15) / 16 * 16; }
  static int64_t size_backward(const FinerLayer& layer) { return (floats_backward(layer) + 15) / 16 * 16; }

  static int64_t floats_forward(const FinerLayer& layer) {
#if defined(FINER_HAS_VECTORS)
    if (layer.is_complex) return products::kComplexParts * products::packed_size(layer.n_in / 2, layer.n_out / 2);
#endif
    return products::packed_size(layer.n_in, layer.n_out);
  }

  static int64_t floats_backward(const FinerLayer& layer) {
    const int64_t out = layer.n_out, in = layer.n_in;
#if defined(FINER_HAS_PAIRS)
    if (layer.rounded && layer.is_complex) return products::rounded_complex_size(out / 2, in / 2);
    if (layer.rounded) return products::rounded_size(out, in);
#endif
#if defined(FINER_HAS_VECTORS)
    if (layer.is_complex) return products::kComplexParts * products::packed_size(out / 2, in / 2);
#endif
    return products::packed_size(out, in);
  }

  float* next_;
  std::vector<const float*> forward_, backward_;
};

int64_t widest_of(const FinerLayer* layers, int depth) {
  int64_t widest = 0;
  for (int i = 0; i < depth; ++i) {
    widest = layers[i].width > widest ? layers[i].width : widest;
    widest = layers[i].n_out > widest ? layers[i].n_out : widest;
    widest = layers[i].n_in > widest ? layers[i].n_in : widest;
  }
  return widest;
}

constexpr int64_t kParts = 7;  // blocks of rows that a thread works with at one time

// x [rows, n_in] -> x weight^T (+ bias); words is a block of memory.
void affine_map(Sgemm sgemm, const FinerLayer& layer, const float* packed, const float* x, const float* bias, float* y,
                [[maybe_unused]] float* words, int64_t rows) {
#if defined(FINER_HAS_VECTORS)
  if (layer.is_complex) {
    products::times_complex(x, packed, y, words, rows, layer.n_in / 2, layer.n_out / 2);
    if (bias)
      for (int64_t row = 0; row < rows; ++row)
        for (int64_t j = 0; j < layer.n_out; ++j) y[row * layer.n_out + j] += bias[j];
    return;
  }
#endif
  products::times_transposed(sgemm, x, layer.weight, packed, bias, y, rows, layer.n_in, layer.n_out);
}

// dy [rows, n_out] -> dx = dy weight [rows, n_in]; words and others are blocks of memory.
void input_gradient(Sgemm sgemm, const FinerLayer& layer, const float* packed, const float* dy, float* dx,
                    [[maybe_unused]] float* words, [[maybe_unused]] float* others, int64_t rows) {
#if defined(FINER_HAS_PAIRS)
  if (layer.rounded && layer.is_complex) {
    products::times_complex_rounded(dy, packed, dx, words, others, rows, layer.n_out / 2, layer.n_in / 2);
    return;
  }
  if (layer.rounded) {
    products::pair_columns(products::Numbers{dy, layer.n_out}, words, rows, layer.n_out);
    products::times_rounded(words, packed, dx, rows, layer.n_in, layer.n_out);
    return;
  }
#endif
#if defined(FINER_HAS_VECTORS)
  if (layer.is_complex) {
    products::times_complex(dy, packed, dx, words, rows, layer.n_out / 2, layer.n_in / 2);
    return;
  }
#endif
  products::times(sgemm, dy, layer.weight, packed, dx, rows, layer.n_in, layer.n_out);
}

// out [n_out, n_in] += dy^T x, for dy [rows, n_out] and x [rows, n_in]; of a complex layer, what fold_weight_gradient()
// makes that of. words and others are blocks of memory.
void add_weight_gradient(Sgemm sgemm, const FinerLayer& layer, const float* dy, const float* x, float* out,
                         [[maybe_unused]] float* words, [[maybe_unused]] float* others, int64_t rows) {
#if defined(FINER_HAS_PAIRS)
  if (layer.rounded && layer.is_complex) {
    products::add_outer_complex_rounded(dy, x, out, words, others, rows, layer.n_out / 2, layer.n_in / 2);
    return;
  }
  if (layer.rounded) {
    products::pair_rows(products::Numbers{dy, layer.n_out}, words, rows, layer.n_out);
    products::pair_rows(products::Numbers{x, layer.n_in}, others, rows, layer.n_in);
    products::add_outer_rounded(words, others, out, rows, layer.n_out, layer.n_in);
    return;
  }
#endif
#if defined(FINER_HAS_VECTORS)
  if (layer.is_complex) {
    products::add_outer_complex(dy, x, out, words, others, rows, layer.n_out / 2, layer.n_in / 2);
    return;
  }
#endif
  products::add_outer(sgemm, dy, x, out, rows, layer.n_out, layer.n_in);
}

void fold_weight_gradient([[maybe_unused]] const FinerLayer& layer, [[maybe_unused]] float* out) {
#if defined(FINER_HAS_VECTORS)
  if (layer.is_complex) products::fold_complex(out, layer.n_out / 2, layer.n_in / 2);
#endif
}

// Floats of such a block, of rows that may be paired. They are a multiple of a line of the cache, so that the next
// block is aligned.
int64_t part_of(const FinerLayer* layers, int depth, int64_t block) {
  return ((block + 1) * (widest_of(layers, depth) + 8) + 15) / 16 * 16;
}

}  // namespace

// Whether products are those of products.h, so that functions below take any pointer for sgemm.
extern "C" int finer_has_products() {
#if defined(FINER_HAS_VECTORS)
  return 1;
#else
  return 0;
#endif
}

// Whether operands of products can be rounded.
extern "C" int finer_has_pairs() {
#if defined(FINER_HAS_PAIRS)
  return 1;
#else
  return 0;
#endif
}

// Floats of scratch memory for blocks of so many rows in so many threads.
extern "C" int64_t finer_scratch(const FinerLayer* layers, int depth, int64_t block, int threads) {
  return Packed::size(layers, depth) + threads * kParts * part_of(layers, depth, block);
}

// out: [rows, width of the last layer]; scratch: finer_scratch() floats.
extern "C" void finer_forward(Sgemm sgemm, const FinerLayer* layers, int depth, const float* x, float* out,
                              float* scratch, int64_t rows, int64_t block, int threads) {
  const int64_t part = part_of(layers, depth, block);
  Packed packed(scratch + threads * kParts * part);
  for (int i = 0; i < depth; ++i) packed.add_forward(layers[i]);
  share_rows(rows, threads, [&](int thread, int64_t first, int64_t last) {
    float* memory = scratch + thread * kParts * part;
    for (int64_t begin = first; begin < last; begin += block) {
      const int64_t n = last - begin < block ? last - begin : block;
      const float* input = x + begin * layers[0].n_in;
      for (int i = 0; i < depth; ++i) {
        const FinerLayer& layer = layers[i];
        float* result = i == depth - 1 ? out + begin * layer.width : memory + (i % 2) * part;
        if (layer.form.active) {
          float* affine = layer.stored ? layer.stored + begin * layer.n_out : memory + 2 * part;
          affine_map(sgemm, layer, packed.forward(i), input, nullptr, affine, memory + 5 * part, n);
          activate(layer.form, affine, layer.bias, nullptr, result, nullptr, nullptr, n, layer.n_out);
        } else {
          affine_map(sgemm, layer, packed.forward(i), input, layer.bias, result, memory + 5 * part, n);
        }
        input = result;
      }
    }
  });
}

// grad: [rows, width of the last layer]; x_grad: [rows, n_in of the first], or null.
extern "C" void finer_backward(Sgemm sgemm, const FinerLayer* layers, int depth, const float* x, const float* grad,
                               float* x_grad, float* scratch, int64_t rows, int64_t block, int threads) {
  const int64_t part = part_of(layers, depth, block);
  Packed packed(scratch + threads * kParts * part);
  for (int i = 0; i < depth; ++i) {
    packed.add_forward(layers[i]);
    packed.add_backward(layers[i]);
  }
  share_rows(rows, threads, [&](int thread, int64_t first, int64_t last) {
    float* memory = scratch + thread * kParts * part;
    float *value = memory + 2 * part, *anew = memory + 3 * part, *apart = memory + 4 * part;
    float *words = memory + 5 * part, *others = memory + 6 * part;
    auto weight_grad = [&](const FinerLayer& layer) { return layer.weight_grad + thread * layer.n_in * layer.n_out; };
    for (int64_t begin = first; begin < last; begin += block) {
      const int64_t n = last - begin < block ? last - begin : block;
      const float* input = x + begin * layers[0].n_in;
      // Downwards: the gradient of a layer's affine map waits for the result of the layer below, which is computed
      // anew together with that layer's derivative.
      const float* above = grad + begin * layers[depth - 1].width;
      for (int i = depth - 1; i >= 0; --i) {
        const FinerLayer& layer = layers[i];
        const bool is_top = i == depth - 1;
        const float* result_grad = above;
        float* own_grad = memory + (i % 2) * part;
        if (!is_top) {
          const FinerLayer& next = layers[i + 1];
          input_gradient(sgemm, next, packed.backward(i + 1), above, own_grad, words, others, n);
          result_grad = own_grad;
        }
        float* bias_grad = layer.bias_grad + thread * layer.n_out;
        if (!layer.form.active) {
          for (int64_t row = 0; row < n; ++row)
            for (int64_t j = 0; j < layer.n_out; ++j) bias_grad[j] += result_grad[row * layer.n_out + j];
          above = result_grad;
          continue;
        }
        const float* affine = layer.stored ? layer.stored + begin * layer.n_out : anew;
        if (!layer.stored) {
          affine_map(sgemm, layer, packed.forward(i), input, nullptr, anew, words, n);
        }
        // In place, unless the memory is the caller's or of another shape.
        float* affine_grad = !is_top && layer.width == layer.n_out ? own_grad : apart;
        activate(layer.form, affine, layer.bias, result_grad, value, affine_grad, bias_grad, n, layer.n_out);
        if (!is_top && layers[i + 1].weight_grad) {
          const FinerLayer& next = layers[i + 1];
          add_weight_gradient(sgemm, next, above, value, weight_grad(next), words, others, n);
        }
        above = affine_grad;
      }
      const FinerLayer& bottom = layers[0];
      if (bottom.weight_grad) add_weight_gradient(sgemm, bottom, above, input, weight_grad(bottom), words, others, n);
      if (x_grad)
        input_gradient(sgemm, bottom, packed.backward(0), above, x_grad + begin * bottom.n_in, words, others, n);
    }
    for (int i = 0; i < depth; ++i)
      if (layers[i].weight_grad) fold_weight_gradient(layers[i], weight_grad(layers[i]));
  });
}
