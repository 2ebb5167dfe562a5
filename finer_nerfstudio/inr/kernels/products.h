// Products of a tall matrix with one of a layer's size, row-major, in one thread.
//
// A layer's weights fit into the cache and its rows do not, so that a library's general product spends its time on
// choices that are known here. With 512-bit vectors a tile of the result stays in registers while the shared dimension
// passes by, which runs close to what the multipliers can do; elsewhere the BLAS that PyTorch brings does the work.

#pragma once

#include <cstdint>
#include <cstring>
#if defined(__AVX512F__)
#include <immintrin.h>
#endif

namespace products {

// The matrix product of the BLAS that PyTorch brings, by Fortran's convention.
using Sgemm = void (*)(const char*, const char*, const int*, const int*, const int*, const float*, const float*,
                       const int*, const float*, const int*, const float*, float*, const int*);

#if defined(__AVX512F__)

// Loops over sums have to disappear, since only then do compilers keep the sums in registers.
#define FINER_UNROLLED _Pragma("GCC unroll 16")

constexpr int kLanes = 16;
constexpr int kWidestTile = 5;  // vectors
// Rows of a tile by its vectors: as many accumulators as leave registers for one row of the right operand.
constexpr int kTileRows[kWidestTile + 1] = {0, 12, 12, 8, 6, 5};
// Rows at a time whose outer products are added up in registers; both operands stay in the first-level cache.
constexpr int kOuterRows = 64;

inline int64_t vectors_of(int64_t columns) { return (columns + kLanes - 1) / kLanes; }

// Tiles of about equal width cover the columns.
inline int64_t tiles_of(int64_t columns) { return (vectors_of(columns) + kWidestTile - 1) / kWidestTile; }

// Calls tile(first vector, vectors, lanes of the last one) for tiles that cover so many columns.
template <class Tile>
inline void for_tiles(int64_t columns, Tile tile) {
  const int64_t vectors = vectors_of(columns), count = tiles_of(columns);
  for (int64_t t = 0; t < count; ++t) {
    const int64_t first = vectors * t / count, last = vectors * (t + 1) / count;
    const int64_t rest = columns - kLanes * (last - 1);
    const __mmask16 lanes = rest >= kLanes ? 0xffff : static_cast<__mmask16>((1u << rest) - 1u);
    tile(first, static_cast<int>(last - first), lanes);
  }
}

// Floats that a packed operand of so many rows and columns takes.
inline int64_t packed_size(int64_t rows, int64_t columns) { return rows * kLanes * vectors_of(columns); }

// Lays out right [depth, columns], or the transpose of right [columns, depth], tile by tile, padded with zeros.
inline void pack(const float* right, bool transposed, float* packed, int64_t depth, int64_t columns) {
  for_tiles(columns, [&](int64_t first, int vectors, __mmask16) {
    float* tile = packed + depth * kLanes * first;
    const int64_t width = kLanes * vectors;
    for (int64_t k = 0; k < depth; ++k) {
      for (int64_t j = 0; j < width; ++j) {
        const int64_t column = kLanes * first + j;
        tile[k * width + j] =
            column >= columns ? 0.0f : transposed ? right[column * depth + k] : right[k * columns + column];
      }
    }
  });
}

template <int rows, int vectors>
inline void product_tile(const float* left, const float* tile, const float* start, float* out, int64_t depth,
                         int64_t columns, __mmask16 lanes) {
  __m512 sum[rows][vectors];
  FINER_UNROLLED
  for (int v = 0; v < vectors; ++v) {
    const __mmask16 used = v == vectors - 1 ? lanes : 0xffff;
    const __m512 first = start ? _mm512_maskz_loadu_ps(used, start + kLanes * v) : _mm512_setzero_ps();
    FINER_UNROLLED
    for (int r = 0; r < rows; ++r) sum[r][v] = first;
  }
  for (int64_t k = 0; k < depth; ++k) {
    __m512 right[vectors];
    FINER_UNROLLED
    for (int v = 0; v < vectors; ++v) right[v] = _mm512_loadu_ps(tile + kLanes * (k * vectors + v));
    FINER_UNROLLED
    for (int r = 0; r < rows; ++r) {
      const __m512 factor = _mm512_set1_ps(left[r * depth + k]);
      FINER_UNROLLED
      for (int v = 0; v < vectors; ++v) sum[r][v] = _mm512_fmadd_ps(factor, right[v], sum[r][v]);
    }
  }
  FINER_UNROLLED
  for (int r = 0; r < rows; ++r) {
    FINER_UNROLLED
    for (int v = 0; v < vectors - 1; ++v) _mm512_storeu_ps(out + r * columns + kLanes * v, sum[r][v]);
    _mm512_mask_storeu_ps(out + r * columns + kLanes * (vectors - 1), lanes, sum[r][vectors - 1]);
  }
}

template <int vectors>
inline void product_columns(const float* left, const float* tile, const float* start, float* out, int64_t rows,
                            int64_t depth, int64_t columns, __mmask16 lanes) {
  constexpr int kRows = kTileRows[vectors];
  int64_t row = 0;
  for (; row + kRows <= rows; row += kRows)
    product_tile<kRows, vectors>(left + row * depth, tile, start, out + row * columns, depth, columns, lanes);
  for (; row < rows; ++row)
    product_tile<1, vectors>(left + row * depth, tile, start, out + row * columns, depth, columns, lanes);
}

// out [rows, columns] = left [rows, depth] right [depth, columns], with right as pack() laid it out; start [columns],
// if there is one, is added to every row.
inline void multiply(const float* left, const float* packed, const float* start, float* out, int64_t rows,
                     int64_t depth, int64_t columns) {
  for_tiles(columns, [&](int64_t first, int vectors, __mmask16 lanes) {
    const float* tile = packed + depth * kLanes * first;
    const float* from = start ? start + kLanes * first : nullptr;
    float* to = out + kLanes * first;
    switch (vectors) {
      case 1: product_columns<1>(left, tile, from, to, rows, depth, columns, lanes); break;
      case 2: product_columns<2>(left, tile, from, to, rows, depth, columns, lanes); break;
      case 3: product_columns<3>(left, tile, from, to, rows, depth, columns, lanes); break;
      case 4: product_columns<4>(left, tile, from, to, rows, depth, columns, lanes); break;
      default: product_columns<5>(left, tile, from, to, rows, depth, columns, lanes); break;
    }
  });
}

template <int height, int vectors>
inline void outer_tile(const float* left, const float* right, float* out, int64_t rows, int64_t left_columns,
                       int64_t right_columns, __mmask16 lanes) {
  __m512 sum[height][vectors];
  FINER_UNROLLED
  for (int h = 0; h < height; ++h)
    FINER_UNROLLED
    for (int v = 0; v < vectors; ++v) sum[h][v] = _mm512_setzero_ps();
  for (int64_t row = 0; row < rows; ++row) {
    const float* from = right + row * right_columns;
    __m512 factors[vectors];
    FINER_UNROLLED
    for (int v = 0; v < vectors - 1; ++v) factors[v] = _mm512_loadu_ps(from + kLanes * v);
    factors[vectors - 1] = _mm512_maskz_loadu_ps(lanes, from + kLanes * (vectors - 1));
    FINER_UNROLLED
    for (int h = 0; h < height; ++h) {
      const __m512 factor = _mm512_set1_ps(left[row * left_columns + h]);
      FINER_UNROLLED
      for (int v = 0; v < vectors; ++v) sum[h][v] = _mm512_fmadd_ps(factor, factors[v], sum[h][v]);
    }
  }
  FINER_UNROLLED
  for (int h = 0; h < height; ++h) {
    float* to = out + h * right_columns;
    FINER_UNROLLED
    for (int v = 0; v < vectors - 1; ++v)
      _mm512_storeu_ps(to + kLanes * v, _mm512_add_ps(_mm512_loadu_ps(to + kLanes * v), sum[h][v]));
    to += kLanes * (vectors - 1);
    _mm512_mask_storeu_ps(to, lanes, _mm512_add_ps(_mm512_maskz_loadu_ps(lanes, to), sum[h][vectors - 1]));
  }
}

template <int vectors>
inline void outer_columns(const float* left, const float* right, float* out, int64_t rows, int64_t left_columns,
                          int64_t right_columns, __mmask16 lanes) {
  constexpr int kHeight = kTileRows[vectors];
  int64_t h = 0;
  for (; h + kHeight <= left_columns; h += kHeight)
    outer_tile<kHeight, vectors>(left + h, right, out + h * right_columns, rows, left_columns, right_columns, lanes);
  for (; h < left_columns; ++h)
    outer_tile<1, vectors>(left + h, right, out + h * right_columns, rows, left_columns, right_columns, lanes);
}

// out [left_columns, right_columns] += left^T right, over so many rows.
inline void add_outer(Sgemm, const float* left, const float* right, float* out, int64_t rows, int64_t left_columns,
                      int64_t right_columns) {
  for (int64_t begin = 0; begin < rows; begin += kOuterRows) {
    const int64_t n = rows - begin < kOuterRows ? rows - begin : kOuterRows;
    const float* from = left + begin * left_columns;
    for_tiles(right_columns, [&](int64_t first, int vectors, __mmask16 lanes) {
      const float* with = right + begin * right_columns + kLanes * first;
      float* to = out + kLanes * first;
      switch (vectors) {
        case 1: outer_columns<1>(from, with, to, n, left_columns, right_columns, lanes); break;
        case 2: outer_columns<2>(from, with, to, n, left_columns, right_columns, lanes); break;
        case 3: outer_columns<3>(from, with, to, n, left_columns, right_columns, lanes); break;
        case 4: outer_columns<4>(from, with, to, n, left_columns, right_columns, lanes); break;
        default: outer_columns<5>(from, with, to, n, left_columns, right_columns, lanes); break;
      }
    });
  }
}

// x [rows, n_in] -> x weight^T (+ bias), for a weight [n_out, n_in] that pack(weight, true, packed, n_in, n_out) laid out.
inline void times_transposed(Sgemm, const float* x, const float*, const float* packed, const float* bias, float* y,
                             int64_t rows, int64_t n_in, int64_t n_out) {
  multiply(x, packed, bias, y, rows, n_in, n_out);
}

// dy [rows, n_out] -> dy weight, for a weight [n_out, n_in] that pack(weight, false, packed, n_out, n_in) laid out.
inline void times(Sgemm, const float* dy, const float*, const float* packed, float* dx, int64_t rows, int64_t n_in,
                  int64_t n_out) {
  multiply(dy, packed, nullptr, dx, rows, n_out, n_in);
}

#undef FINER_UNROLLED

#else

inline int64_t packed_size(int64_t, int64_t) { return 0; }
inline void pack(const float*, bool, float*, int64_t, int64_t) {}

inline void times_transposed(Sgemm sgemm, const float* x, const float* weight, const float*, const float* bias,
                             float* y, int64_t rows, int64_t n_in, int64_t n_out) {
  const int m = static_cast<int>(n_out), n = static_cast<int>(rows), k = static_cast<int>(n_in);
  const float one = 1.0f, kept = bias ? 1.0f : 0.0f;
  if (bias)
    for (int64_t row = 0; row < rows; ++row) std::memcpy(y + row * n_out, bias, 4 * n_out);
  sgemm("T", "N", &m, &n, &k, &one, weight, &k, x, &k, &kept, y, &m);
}

inline void times(Sgemm sgemm, const float* dy, const float* weight, const float*, float* dx, int64_t rows,
                  int64_t n_in, int64_t n_out) {
  const int m = static_cast<int>(n_in), n = static_cast<int>(rows), k = static_cast<int>(n_out);
  const float one = 1.0f, zero = 0.0f;
  sgemm("N", "N", &m, &n, &k, &one, weight, &m, dy, &k, &zero, dx, &m);
}

inline void add_outer(Sgemm sgemm, const float* left, const float* right, float* out, int64_t rows,
                      int64_t left_columns, int64_t right_columns) {
  const int m = static_cast<int>(right_columns), n = static_cast<int>(left_columns), k = static_cast<int>(rows);
  const float one = 1.0f;
  sgemm("N", "T", &m, &n, &k, &one, right, &m, left, &n, &one, out, &m);
}

#endif

}  // namespace products
