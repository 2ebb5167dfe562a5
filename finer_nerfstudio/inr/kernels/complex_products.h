// Products of complex matrices by three real ones instead of four, in one thread.
//
// Numbers are packed: a row holds all real parts, then all imaginary parts, and a weight P + jQ is the real matrix
// [[P, -Q], [Q, P]], of which the left half is read. With k = P (re + im), the product is k - (P + Q) im in its real
// part and k + (Q - P) re in its imaginary one.

#pragma once

#include <vector>

#include "products.h"
#include "rounded_products.h"

#if defined(FINER_HAS_VECTORS)

namespace products {

constexpr int kComplexParts = 3;

// The three real matrices [out, in] of a weight [2 out, 2 in], or of its conjugate.
inline std::vector<float> combined(const float* weight, bool conjugate, int64_t out, int64_t in) {
  std::vector<float> parts(kComplexParts * out * in);
  float *shared = parts.data(), *for_real = shared + out * in, *for_imaginary = for_real + out * in;
  for (int64_t row = 0; row < out; ++row) {
    const float *real = weight + row * 2 * in, *imaginary = weight + (out + row) * 2 * in;
    for (int64_t j = 0; j < in; ++j) {
      const float p = real[j], q = conjugate ? -imaginary[j] : imaginary[j];
      const int64_t at = row * in + j;
      shared[at] = p;
      for_real[at] = -(p + q);
      for_imaginary[at] = q - p;
    }
  }
  return parts;
}

// Lays out a weight [2 out, 2 in] for x weight^T, or, if `backward`, for dy weight.
inline void pack_complex(const float* weight, bool backward, float* packed, int64_t out, int64_t in) {
  const std::vector<float> parts = combined(weight, backward, out, in);
  const int64_t depth = backward ? out : in, columns = backward ? in : out;
  for (int part = 0; part < kComplexParts; ++part)
    pack(parts.data() + part * out * in, !backward, packed + part * packed_size(depth, columns), depth, columns);
}

// y [rows, 2 columns] from x [rows, 2 depth] by a weight that pack_complex() laid out; words holds
// rows (depth + columns) numbers.
inline void times_complex(const float* x, const float* packed, float* y, float* words, int64_t rows, int64_t depth,
                          int64_t columns) {
  float *sums = words, *shared = words + rows * depth;
  for (int64_t row = 0; row < rows; ++row)
    for (int64_t j = 0; j < depth; ++j) sums[row * depth + j] = x[row * 2 * depth + j] + x[row * 2 * depth + depth + j];
  const int64_t size = packed_size(depth, columns);
  const Given start{shared, columns};
  multiply({sums, depth}, packed, {nullptr, 0}, {shared, columns}, rows, depth, columns);
  multiply({x + depth, 2 * depth}, packed + size, start, {y, 2 * columns}, rows, depth, columns);
  multiply({x, 2 * depth}, packed + 2 * size, start, {y + columns, 2 * columns}, rows, depth, columns);
}

// Adds to three matrices [out, in], which fold_complex() turns into the gradient of a weight: dy [rows, 2 out] and x
// [rows, 2 in]; words holds rows out numbers, and others rows 2 in.
inline void add_outer_complex(const float* dy, const float* x, float* parts, float* words, float* others, int64_t rows,
                              int64_t out, int64_t in) {
  float *sums = others, *differences = others + rows * in;
  for (int64_t row = 0; row < rows; ++row) {
    for (int64_t j = 0; j < out; ++j) words[row * out + j] = dy[row * 2 * out + j] + dy[row * 2 * out + out + j];
    for (int64_t j = 0; j < in; ++j) {
      const float real = x[row * 2 * in + j], imaginary = x[row * 2 * in + in + j];
      sums[row * in + j] = real + imaginary;
      differences[row * in + j] = imaginary - real;
    }
  }
  outer({words, out}, {x, 2 * in}, {parts, in}, rows, out, in);
  outer({dy, 2 * out}, {sums, in}, {parts + out * in, in}, rows, out, in);
  outer({dy + out, 2 * out}, {differences, in}, {parts + 2 * out * in, in}, rows, out, in);
}

// Turns what add_outer_complex() added up, at the beginning of gradient [2 out, 2 in], into a gradient of the matrix
// [[P, -Q], [Q, P]], of which P and Q get the right sums: all of it in the left half.
inline void fold_complex(float* gradient, int64_t out, int64_t in) {
  const std::vector<float> parts(gradient, gradient + kComplexParts * out * in);
  const float *shared = parts.data(), *by_sums = shared + out * in, *by_differences = by_sums + out * in;
  for (int64_t row = 0; row < out; ++row) {
    float *real = gradient + row * 2 * in, *imaginary = gradient + (out + row) * 2 * in;
    for (int64_t j = 0; j < in; ++j) {
      const int64_t at = row * in + j;
      real[j] = shared[at] + by_differences[at];
      imaginary[j] = shared[at] - by_sums[at];
      real[in + j] = imaginary[in + j] = 0.0f;
    }
  }
}

#if defined(FINER_HAS_PAIRS)

inline int64_t rounded_complex_size(int64_t out, int64_t in) {
  return kComplexParts * packed_size(words_of(out), in) + words_of(out) * in;
}

// Lays out a weight [2 out, 2 in] for dy weight of rounded operands.
inline void pack_complex_rounded(const float* weight, float* packed, int64_t out, int64_t in) {
  const std::vector<float> parts = combined(weight, true, out, in);
  const int64_t size = packed_size(words_of(out), in);
  float* words = packed + kComplexParts * size;
  for (int part = 0; part < kComplexParts; ++part) {
    pair_rows(Numbers{parts.data() + part * out * in, in}, words, out, in);
    pack<Pairs>(words, false, packed + part * size, words_of(out), in);
  }
}

// As times_complex(), of operands rounded to bfloat16; words holds 3 rows words_of(depth) numbers, others rows columns.
inline void times_complex_rounded(const float* x, const float* packed, float* y, float* words, float* others,
                                  int64_t rows, int64_t depth, int64_t columns) {
  const int64_t width = words_of(depth), size = packed_size(width, columns);
  const Numbers real{x, 2 * depth}, imaginary{x + depth, 2 * depth};
  float *second = words + rows * width, *third = second + rows * width;
  const Given start{others, columns};
  pair_columns(Sums{real, imaginary}, words, rows, depth);
  pair_columns(imaginary, second, rows, depth);
  pair_columns(real, third, rows, depth);
  multiply<Pairs>({words, width}, packed, {nullptr, 0}, {others, columns}, rows, width, columns);
  multiply<Pairs>({second, width}, packed + size, start, {y, 2 * columns}, rows, width, columns);
  multiply<Pairs>({third, width}, packed + 2 * size, start, {y + columns, 2 * columns}, rows, width, columns);
}

// As add_outer_complex(), of operands rounded to bfloat16; words holds 3 words_of(rows) out numbers, and others as many
// times in.
inline void add_outer_complex_rounded(const float* dy, const float* x, float* parts, float* words, float* others,
                                      int64_t rows, int64_t out, int64_t in) {
  const Numbers dy_real{dy, 2 * out}, dy_imaginary{dy + out, 2 * out}, real{x, 2 * in}, imaginary{x + in, 2 * in};
  const int64_t pairs = words_of(rows);
  float *dy_words[kComplexParts], *x_words[kComplexParts];
  for (int part = 0; part < kComplexParts; ++part) {
    dy_words[part] = words + part * pairs * out;
    x_words[part] = others + part * pairs * in;
  }
  pair_rows(Sums{dy_real, dy_imaginary}, dy_words[0], rows, out);
  pair_rows(dy_real, dy_words[1], rows, out);
  pair_rows(dy_imaginary, dy_words[2], rows, out);
  pair_rows(real, x_words[0], rows, in);
  pair_rows(Sums{real, imaginary}, x_words[1], rows, in);
  pair_rows(Differences{imaginary, real}, x_words[2], rows, in);
  for (int part = 0; part < kComplexParts; ++part)
    outer<Pairs>({dy_words[part], out}, {x_words[part], in}, {parts + part * out * in, in}, pairs, out, in);
}

#endif

}  // namespace products

#endif
