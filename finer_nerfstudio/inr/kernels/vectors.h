// Vectors of floats of the processor that the compiler translates for, under one interface: AVX-512, AVX2 with FMA, and
// NEON. `Vector` is the widest of them, and FINER_HAS_VECTORS is defined where there is one, unless
// FINER_PRODUCTS_BY_BLAS is.

#pragma once

#include <cstdint>
#if defined(__SSE2__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

// FINER_UNROLLED: the loop disappears, however long it is. Only then do compilers keep arrays of vectors in registers.
// FINER_ROLLED: the loop stays one, since its body needs all registers.
// FINER_INDEPENDENT: no turn of the loop reads what another one writes.
#if defined(__clang__)
#define FINER_UNROLLED _Pragma("clang loop unroll(full)")
#define FINER_ROLLED _Pragma("clang loop unroll(disable)")
#define FINER_INDEPENDENT _Pragma("clang loop vectorize(assume_safety)")
#else
#define FINER_UNROLLED _Pragma("GCC unroll 16")
#define FINER_ROLLED _Pragma("GCC unroll 1")
#define FINER_INDEPENDENT _Pragma("GCC ivdep")
#endif

namespace vectors {

// Each has
//   Floats       kLanes numbers,
//   Factor       one number that multiplies all of them,
//   Part         which lanes of a vector are used: the first so many,
//   kTileRows    rows of a tile of a product by its vectors, up to kWidestTile: as many sums as leave registers for one
//                row of the right operand and a factor.

#if defined(__AVX512F__)

struct Avx512 {
  using Floats = __m512;
  using Factor = __m512;
  using Part = __mmask16;
  static constexpr int kLanes = 16, kWidestTile = 5;
  static constexpr int kTileRows[kWidestTile + 1] = {0, 12, 12, 8, 6, 5};

  static Part first_lanes(int64_t lanes) { return static_cast<Part>((1u << lanes) - 1u); }
  static Floats zero() { return _mm512_setzero_ps(); }
  static Floats load(const float* from) { return _mm512_loadu_ps(from); }
  static Floats load(const float* from, Part used) { return _mm512_maskz_loadu_ps(used, from); }
  static void store(float* to, Floats x) { _mm512_storeu_ps(to, x); }
  static void store(float* to, Floats x, Part used) { _mm512_mask_storeu_ps(to, used, x); }
  static Factor factor(const float* from) { return _mm512_set1_ps(*from); }
  static Floats add(Floats x, Floats y) { return _mm512_add_ps(x, y); }
  static Floats multiply_add(Factor x, Floats y, Floats sum) { return _mm512_fmadd_ps(x, y, sum); }
};

#endif
#if defined(__AVX512F__) && defined(__AVX512BF16__)
#define FINER_HAS_PAIRS

// Words of two bfloat16 numbers take the place of numbers, and a product is the sum of two: half as many multiply-adds.
// Sums are float32.
struct Avx512Pairs : Avx512 {
  static Floats multiply_add(Factor x, Floats y, Floats sum) {
    return _mm512_dpbf16_ps(sum, reinterpret_cast<__m512bh>(x), reinterpret_cast<__m512bh>(y));
  }
  // Words of the numbers of x with those of y, rounded to nearest.
  static Floats words(Floats x, Floats y) {
    const __m512i order = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6,
                                           21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
    const __m512i halves = reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(y, x));
    return _mm512_castsi512_ps(_mm512_permutexvar_epi16(order, halves));
  }
  // Words of neighbours: those of x, then those of y.
  static Floats neighbours(Floats x, Floats y) {
    return _mm512_castsi512_ps(reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(y, x)));
  }
};

#endif
#if defined(__AVX2__) && defined(__FMA__)

struct Avx2 {
  using Floats = __m256;
  using Factor = __m256;
  struct Part {
    __m256i mask;
    int64_t lanes;
  };
  static constexpr int kLanes = 8, kWidestTile = 2;
  static constexpr int kTileRows[kWidestTile + 1] = {0, 12, 6};

  static Part first_lanes(int64_t lanes) {
    const __m256i numbers = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    return {_mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(lanes)), numbers), lanes};
  }
  static Floats zero() { return _mm256_setzero_ps(); }
  static Floats load(const float* from) { return _mm256_loadu_ps(from); }
  static Floats load(const float* from, const Part& used) {
    return used.lanes == kLanes ? load(from) : _mm256_maskload_ps(from, used.mask);
  }
  static void store(float* to, Floats x) { _mm256_storeu_ps(to, x); }
  // By halves: AMD's processors take a dozen cycles for a masked store.
  static void store(float* to, Floats x, const Part& used) {
    if (used.lanes == kLanes) return store(to, x);
    __m128 rest = _mm256_castps256_ps128(x);
    if (used.lanes & 4) {
      _mm_storeu_ps(to, rest);
      rest = _mm256_extractf128_ps(x, 1);
      to += 4;
    }
    if (used.lanes & 2) {
      _mm_storel_pi(reinterpret_cast<__m64*>(to), rest);
      rest = _mm_movehl_ps(rest, rest);
      to += 2;
    }
    if (used.lanes & 1) _mm_store_ss(to, rest);
  }
  static Factor factor(const float* from) { return _mm256_broadcast_ss(from); }
  static Floats add(Floats x, Floats y) { return _mm256_add_ps(x, y); }
  static Floats multiply_add(Factor x, Floats y, Floats sum) { return _mm256_fmadd_ps(x, y, sum); }
};

#endif
#if defined(__aarch64__)

struct Neon {
  using Floats = float32x4_t;
  using Factor = float;  // instructions take it from a lane: copies of it would cost the multipliers time
  using Part = int64_t;
  static constexpr int kLanes = 4, kWidestTile = 4;
  static constexpr int kTileRows[kWidestTile + 1] = {0, 16, 12, 8, 6};

  static Part first_lanes(int64_t lanes) { return lanes; }
  static Floats zero() { return vdupq_n_f32(0.0f); }
  static Floats load(const float* from) { return vld1q_f32(from); }
  static Floats load(const float* from, Part used) {
    if (used == kLanes) return load(from);
    Floats x = vld1q_lane_f32(from, zero(), 0);
    if (used > 1) x = vld1q_lane_f32(from + 1, x, 1);
    if (used > 2) x = vld1q_lane_f32(from + 2, x, 2);
    return x;
  }
  static void store(float* to, Floats x) { vst1q_f32(to, x); }
  static void store(float* to, Floats x, Part used) {
    if (used == kLanes) return store(to, x);
    vst1q_lane_f32(to, x, 0);
    if (used > 1) vst1q_lane_f32(to + 1, x, 1);
    if (used > 2) vst1q_lane_f32(to + 2, x, 2);
  }
  static Factor factor(const float* from) { return *from; }
  static Floats add(Floats x, Floats y) { return vaddq_f32(x, y); }
  static Floats multiply_add(Factor x, Floats y, Floats sum) { return vfmaq_n_f32(sum, y, x); }
};

#endif

#if defined(FINER_PRODUCTS_BY_BLAS)
#undef FINER_HAS_PAIRS
#elif defined(__AVX512F__)
#define FINER_HAS_VECTORS
using Vector = Avx512;
#elif defined(__AVX2__) && defined(__FMA__)
#define FINER_HAS_VECTORS
using Vector = Avx2;
#elif defined(__aarch64__)
#define FINER_HAS_VECTORS
using Vector = Neon;
#endif

}  // namespace vectors
