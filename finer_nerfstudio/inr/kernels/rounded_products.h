// Products of operands rounded to bfloat16, with sums in float32, in one thread: those of products.h over words of two.
//
// A word pairs two numbers along the shared dimension, of which there are half as many then. An odd one is paired with
// zero.

#pragma once

#include "products.h"

#if defined(FINER_HAS_PAIRS)

namespace products {

using Pairs = vectors::Avx512Pairs;

inline int64_t words_of(int64_t numbers) { return (numbers + 1) / 2; }

// Matrices that words are made of: numbers as they are, and sums and differences of two.
struct Numbers {
  const float* at;
  int64_t stride;

  Pairs::Floats load(int64_t row, int64_t column, Pairs::Part used) const {
    return Pairs::load(at + row * stride + column, used);
  }
};

struct Sums {
  Numbers x, y;

  Pairs::Floats load(int64_t row, int64_t column, Pairs::Part used) const {
    return _mm512_add_ps(x.load(row, column, used), y.load(row, column, used));
  }
};

struct Differences {
  Numbers x, y;

  Pairs::Floats load(int64_t row, int64_t column, Pairs::Part used) const {
    return _mm512_sub_ps(x.load(row, column, used), y.load(row, column, used));
  }
};

inline Pairs::Part lanes_of(int64_t rest) {
  return Pairs::first_lanes(rest < 0 ? 0 : rest < Pairs::kLanes ? rest : Pairs::kLanes);
}

// words [words of rows, columns] of values [rows, columns]: each number with the one below it.
template <class Values>
inline void pair_rows(const Values& values, float* words, int64_t rows, int64_t columns) {
  for (int64_t row = 0; row < rows; row += 2) {
    float* to = words + row / 2 * columns;
    for (int64_t j = 0; j < columns; j += Pairs::kLanes) {
      const Pairs::Part used = lanes_of(columns - j);
      const Pairs::Floats below = row + 1 < rows ? values.load(row + 1, j, used) : Pairs::zero();
      Pairs::store(to + j, Pairs::words(values.load(row, j, used), below), used);
    }
  }
}

// words [rows, words of columns] of values [rows, columns]: each number with the one beside it.
template <class Values>
inline void pair_columns(const Values& values, float* words, int64_t rows, int64_t columns) {
  const int64_t width = words_of(columns);
  for (int64_t row = 0; row < rows; ++row) {
    for (int64_t j = 0; j < width; j += Pairs::kLanes) {
      const int64_t rest = columns - 2 * j;
      const Pairs::Floats x = values.load(row, 2 * j, lanes_of(rest)),
                          y = values.load(row, 2 * j + Pairs::kLanes, lanes_of(rest - Pairs::kLanes));
      Pairs::store(words + row * width + j, Pairs::neighbours(x, y), lanes_of(width - j));
    }
  }
}

// Floats of memory that pack_rounded() needs for a weight [n_out, n_in].
inline int64_t rounded_size(int64_t n_out, int64_t n_in) {
  return (packed_size(words_of(n_out), n_in) + words_of(n_out) * n_in + 15) / 16 * 16;
}

// Lays out a weight [n_out, n_in] for times_rounded(), at the beginning of packed.
inline void pack_rounded(const float* weight, float* packed, int64_t n_out, int64_t n_in) {
  float* words = packed + packed_size(words_of(n_out), n_in);
  pair_rows(Numbers{weight, n_in}, words, n_out, n_in);
  pack<Pairs>(words, false, packed, words_of(n_out), n_in);
}

// dx [rows, n_in] = dy weight, for dy [rows, n_out] as pair_columns() gave it and the weight as pack_rounded() did.
inline void times_rounded(const float* dy, const float* packed, float* dx, int64_t rows, int64_t n_in, int64_t n_out) {
  const int64_t words = words_of(n_out);
  multiply<Pairs>({dy, words}, packed, {nullptr, 0}, {dx, n_in}, rows, words, n_in);
}

// out [n_out, n_in] += dy^T x, for dy [rows, n_out] and x [rows, n_in] as pair_rows() gave them.
inline void add_outer_rounded(const float* dy, const float* x, float* out, int64_t rows, int64_t n_out, int64_t n_in) {
  outer<Pairs>({dy, n_out}, {x, n_in}, {out, n_in}, words_of(rows), n_out, n_in);
}

}  // namespace products

#endif
