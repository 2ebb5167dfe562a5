// Products of a tall matrix with one of a layer's size, row-major, in one thread.
//
// A layer's weights fit into the cache and its rows do not, so that a library's general product spends its time on
// choices that are known here. A tile of the result stays in registers while the shared dimension passes by, which runs
// close to what the multipliers can do. Tiles are written once, for every V of vectors.h; processors that have none of
// these vectors leave the work to the BLAS that PyTorch brings.

#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>

#include "vectors.h"

namespace products {

// The matrix product of the BLAS that PyTorch brings, by Fortran's convention.
using Sgemm = void (*)(const char*, const char*, const int*, const int*, const int*, const float*, const float*,
                       const int*, const float*, const int*, const float*, float*, const int*);

#if defined(FINER_HAS_VECTORS)

using vectors::Vector;

// Rows at a time whose outer products are added up in registers; both operands stay in the first-level cache.
constexpr int kOuterRows = 64;

template <class V>
inline int64_t vectors_of(int64_t columns) {
  return (columns + V::kLanes - 1) / V::kLanes;
}

// Calls tile(first column, vectors, used lanes of the last one) for tiles of about equal width that cover the columns.
template <class V, class Tile>
inline void for_tiles(int64_t columns, Tile tile) {
  const int64_t vectors = vectors_of<V>(columns), count = (vectors + V::kWidestTile - 1) / V::kWidestTile;
  for (int64_t t = 0; t < count; ++t) {
    const int64_t first = vectors * t / count, last = vectors * (t + 1) / count;
    const int64_t rest = columns - V::kLanes * (last - 1);
    tile(V::kLanes * first, static_cast<int>(last - first), V::first_lanes(rest < V::kLanes ? rest : V::kLanes));
  }
}

// Calls work(number) with the number of vectors of a tile as a type, to which its loops are unrolled.
template <class V, int vectors = 1, class Work>
inline void with_width(int number, Work work) {
  if constexpr (vectors < V::kWidestTile) {
    if (number != vectors) return with_width<V, vectors + 1>(number, work);
  }
  work(std::integral_constant<int, vectors>());
}

// Calls work(height, first row) for tiles that cover the rows, with the height as a type: the tallest as long as they
// fit, then ever smaller ones, since a single row has too few sums to keep the multipliers busy.
template <int height, class Work>
inline void for_heights(int64_t rows, Work work, int64_t first = 0) {
  for (; first + height <= rows; first += height) work(std::integral_constant<int, height>(), first);
  if constexpr (height > 1) for_heights<(height + 1) / 2>(rows, work, first);
}

// Floats that a packed operand of so many rows and columns takes.
template <class V = Vector>
inline int64_t packed_size(int64_t rows, int64_t columns) {
  return rows * V::kLanes * vectors_of<V>(columns);
}

// Lays out right [depth, columns], or the transpose of right [columns, depth], tile by tile, padded with zeros.
template <class V = Vector>
inline void pack(const float* right, bool transposed, float* packed, int64_t depth, int64_t columns) {
  for_tiles<V>(columns, [&](int64_t first, int vectors, typename V::Part) {
    float* tile = packed + depth * first;
    const int64_t width = V::kLanes * vectors;
    for (int64_t k = 0; k < depth; ++k) {
      for (int64_t j = 0; j < width; ++j) {
        const int64_t column = first + j;
        tile[k * width + j] =
            column >= columns ? 0.0f : transposed ? right[column * depth + k] : right[k * columns + column];
      }
    }
  });
}

// A matrix whose rows are so many numbers apart.
template <class Number>
struct Rows {
  Number* at;
  int64_t stride;

  Number* row(int64_t number) const { return at + number * stride; }
  Rows from(int64_t number, int64_t column) const { return {at + number * stride + column, stride}; }
};

using Given = Rows<const float>;
using Result = Rows<float>;

template <class V, int rows, int vectors>
inline void product_tile(Given left, const float* tile, Given start, Result out, int64_t depth,
                         typename V::Part used) {
  constexpr int kLast = vectors - 1;
  typename V::Floats sum[rows][vectors];
  FINER_UNROLLED
  for (int r = 0; r < rows; ++r) {
    FINER_UNROLLED
    for (int v = 0; v < vectors; ++v) {
      const float* first = start.row(r) + V::kLanes * v;
      sum[r][v] = !start.at ? V::zero() : v < kLast ? V::load(first) : V::load(first, used);
    }
  }
  FINER_ROLLED
  for (int64_t k = 0; k < depth; ++k) {
    typename V::Floats right[vectors];
    FINER_UNROLLED
    for (int v = 0; v < vectors; ++v) right[v] = V::load(tile + V::kLanes * (k * vectors + v));
    FINER_UNROLLED
    for (int r = 0; r < rows; ++r) {
      const typename V::Factor factor = V::factor(left.row(r) + k);
      FINER_UNROLLED
      for (int v = 0; v < vectors; ++v) sum[r][v] = V::multiply_add(factor, right[v], sum[r][v]);
    }
  }
  FINER_UNROLLED
  for (int r = 0; r < rows; ++r) {
    float* to = out.row(r);
    FINER_UNROLLED
    for (int v = 0; v < kLast; ++v) V::store(to + V::kLanes * v, sum[r][v]);
    V::store(to + V::kLanes * kLast, sum[r][kLast], used);
  }
}

// out [rows, columns] = start + left [rows, depth] right [depth, columns], with right as pack() laid it out. Rows of
// start [rows, columns] may be the same one, a stride of 0 apart, and there may be none.
template <class V = Vector>
inline void multiply(Given left, const float* packed, Given start, Result out, int64_t rows, int64_t depth,
                     int64_t columns) {
  for_tiles<V>(columns, [&](int64_t first, int number, typename V::Part used) {
    const float* tile = packed + depth * first;
    with_width<V>(number, [&](auto width) {
      constexpr int kVectors = decltype(width)::value;
      for_heights<V::kTileRows[kVectors]>(rows, [&](auto height, int64_t row) {
        const Given from = start.at ? start.from(row, first) : start;
        product_tile<V, decltype(height)::value, kVectors>(left.from(row, 0), tile, from, out.from(row, first), depth,
                                                           used);
      });
    });
  });
}

template <class V, int height, int vectors>
inline void outer_tile(Given left, Given right, Result out, int64_t rows, typename V::Part used) {
  constexpr int kLast = vectors - 1;
  typename V::Floats sum[height][vectors];
  FINER_UNROLLED
  for (int h = 0; h < height; ++h)
    FINER_UNROLLED
    for (int v = 0; v < vectors; ++v) sum[h][v] = V::zero();
  FINER_ROLLED
  for (int64_t row = 0; row < rows; ++row) {
    const float* from = right.row(row);
    typename V::Floats factors[vectors];
    FINER_UNROLLED
    for (int v = 0; v < kLast; ++v) factors[v] = V::load(from + V::kLanes * v);
    factors[kLast] = V::load(from + V::kLanes * kLast, used);
    FINER_UNROLLED
    for (int h = 0; h < height; ++h) {
      const typename V::Factor factor = V::factor(left.row(row) + h);
      FINER_UNROLLED
      for (int v = 0; v < vectors; ++v) sum[h][v] = V::multiply_add(factor, factors[v], sum[h][v]);
    }
  }
  FINER_UNROLLED
  for (int h = 0; h < height; ++h) {
    float* to = out.row(h);
    FINER_UNROLLED
    for (int v = 0; v < kLast; ++v) V::store(to + V::kLanes * v, V::add(V::load(to + V::kLanes * v), sum[h][v]));
    to += V::kLanes * kLast;
    V::store(to, V::add(V::load(to, used), sum[h][kLast]), used);
  }
}

// out [left_columns, right_columns] += left^T right, over so many rows.
template <class V = Vector>
inline void outer(Given left, Given right, Result out, int64_t rows, int64_t left_columns, int64_t right_columns) {
  for (int64_t begin = 0; begin < rows; begin += kOuterRows) {
    const int64_t n = rows - begin < kOuterRows ? rows - begin : kOuterRows;
    for_tiles<V>(right_columns, [&](int64_t first, int number, typename V::Part used) {
      with_width<V>(number, [&](auto width) {
        constexpr int kVectors = decltype(width)::value;
        for_heights<V::kTileRows[kVectors]>(left_columns, [&](auto height, int64_t column) {
          outer_tile<V, decltype(height)::value, kVectors>(left.from(begin, column), right.from(begin, first),
                                                           out.from(column, first), n, used);
        });
      });
    });
  }
}

// x [rows, n_in] -> x weight^T (+ bias), for a weight [n_out, n_in] that pack(weight, true, packed, n_in, n_out) laid
// out.
inline void times_transposed(Sgemm, const float* x, const float*, const float* packed, const float* bias, float* y,
                             int64_t rows, int64_t n_in, int64_t n_out) {
  multiply({x, n_in}, packed, {bias, 0}, {y, n_out}, rows, n_in, n_out);
}

// dy [rows, n_out] -> dy weight, for a weight [n_out, n_in] that pack(weight, false, packed, n_out, n_in) laid out.
inline void times(Sgemm, const float* dy, const float*, const float* packed, float* dx, int64_t rows, int64_t n_in,
                  int64_t n_out) {
  multiply({dy, n_out}, packed, {nullptr, 0}, {dx, n_in}, rows, n_out, n_in);
}

// out [n_out, n_in] += dy^T x, for dy [rows, n_out] and x [rows, n_in].
inline void add_outer(Sgemm, const float* dy, const float* x, float* out, int64_t rows, int64_t n_out, int64_t n_in) {
  outer({dy, n_out}, {x, n_in}, {out, n_in}, rows, n_out, n_in);
}

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
