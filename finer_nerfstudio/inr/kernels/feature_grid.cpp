// Features of a multiresolution grid: of every level, the corners around a point, interpolated (Mueller et al. 2022).
//
// Coarse levels have an entry for each corner; finer ones share theirs by a hash. A corner has two numbers.

#include <cstdint>
#ifdef _OPENMP
#include <omp.h>
#endif

namespace {

constexpr int kBlock = 32, kCorners = 8;

struct Level {
  int32_t resolution;  // cells per axis
  uint32_t entries;    // of the table; a power of two where they are shared
  int64_t first;       // entry of the whole table
};

struct Corners {
  uint32_t entry[kCorners][kBlock];
  float fraction[3][kBlock];
};

inline bool is_shared(const Level& level) {
  const uint64_t corners = static_cast<uint64_t>(level.resolution) + 1;
  return corners * corners * corners > level.entries;
}

// Entries of the corners around a block of points in [-1, 1]^3, and where between them the points lie.
inline void corners_of(const float* points, int count, const Level& level, Corners& found) {
  const float half = 0.5f * level.resolution;
  uint32_t low[3][kBlock];
  for (int axis = 0; axis < 3; ++axis) {
    for (int i = 0; i < count; ++i) {
      float place = __builtin_fmaf(points[3 * i + axis], half, half);
      // What is no number counts to the lowest face.
      place = !(place > 0.0f) ? 0.0f : place > 2.0f * half ? 2.0f * half : place;
      int32_t cell = static_cast<int32_t>(place);
      cell = cell < level.resolution ? cell : level.resolution - 1;
      low[axis][i] = static_cast<uint32_t>(cell);
      found.fraction[axis][i] = place - static_cast<float>(cell);
    }
  }
  const uint32_t across = static_cast<uint32_t>(level.resolution) + 1, mask = level.entries - 1;
  if (is_shared(level)) {
    for (int corner = 0; corner < kCorners; ++corner) {
      for (int i = 0; i < count; ++i) {
        const uint32_t x = low[0][i] + (corner >> 2), y = low[1][i] + (corner >> 1 & 1), z = low[2][i] + (corner & 1);
        found.entry[corner][i] = (x ^ y * 2654435761u ^ z * 805459861u) & mask;
      }
    }
    return;
  }
  for (int corner = 0; corner < kCorners; ++corner) {
    for (int i = 0; i < count; ++i) {
      const uint32_t x = low[0][i] + (corner >> 2), y = low[1][i] + (corner >> 1 & 1), z = low[2][i] + (corner & 1);
      found.entry[corner][i] = (x * across + y) * across + z;
    }
  }
}

inline float share(float fraction, int is_upper) { return is_upper ? fraction : 1.0f - fraction; }

}  // namespace

// points [count, 3]; levels [number]; table [entries, 2]. Gives features [count, 2 number].
extern "C" void finer_grid_forward(const float* points, int64_t count, const Level* levels, int32_t number,
                                   const float* table, float* features, int threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
  for (int64_t begin = 0; begin < count; begin += kBlock) {
    const int block = static_cast<int>(count - begin < kBlock ? count - begin : kBlock);
    Corners found;
    for (int32_t number_of_level = 0; number_of_level < number; ++number_of_level) {
      const Level& level = levels[number_of_level];
      corners_of(points + 3 * begin, block, level, found);
      const float* own = table + 2 * level.first;
      float first[kBlock] = {}, second[kBlock] = {};
      for (int corner = 0; corner < kCorners; ++corner) {
        for (int i = 0; i < block; ++i) {
          const float weight = share(found.fraction[0][i], corner >> 2) * share(found.fraction[1][i], corner >> 1 & 1) *
                               share(found.fraction[2][i], corner & 1);
          first[i] += weight * own[2 * found.entry[corner][i]];
          second[i] += weight * own[2 * found.entry[corner][i] + 1];
        }
      }
      for (int i = 0; i < block; ++i) {
        float* row = features + (begin + i) * 2 * number + 2 * number_of_level;
        row[0] = first[i];
        row[1] = second[i];
      }
    }
  }
}

// gradient [count, 2 number] of the features; adds to table_gradient [entries, 2]. A level is one thread's, so that
// sums have the same order each time.
extern "C" void finer_grid_table_gradient(const float* points, int64_t count, const Level* levels, int32_t number,
                                          const float* gradient, float* table_gradient, int threads) {
#pragma omp parallel for num_threads(threads) schedule(dynamic, 1)
  for (int32_t backwards = 0; backwards < number; ++backwards) {
    const int32_t number_of_level = number - 1 - backwards;
    const Level& level = levels[number_of_level];
    float* own = table_gradient + 2 * level.first;
    Corners found;
    for (int64_t begin = 0; begin < count; begin += kBlock) {
      const int block = static_cast<int>(count - begin < kBlock ? count - begin : kBlock);
      corners_of(points + 3 * begin, block, level, found);
      float weight[kCorners][kBlock];
      for (int corner = 0; corner < kCorners; ++corner) {
        for (int i = 0; i < block; ++i) {
          weight[corner][i] = share(found.fraction[0][i], corner >> 2) *
                              share(found.fraction[1][i], corner >> 1 & 1) * share(found.fraction[2][i], corner & 1);
        }
      }
      for (int i = 0; i < block; ++i) {
        const float* row = gradient + (begin + i) * 2 * number + 2 * number_of_level;
        const float first = row[0], second = row[1];
        for (int corner = 0; corner < kCorners; ++corner) {
          float* entry = own + 2 * found.entry[corner][i];
          entry[0] += weight[corner][i] * first;
          entry[1] += weight[corner][i] * second;
        }
      }
    }
  }
}

// The gradient by the points, [count, 3].
extern "C" void finer_grid_point_gradient(const float* points, int64_t count, const Level* levels, int32_t number,
                                          const float* table, const float* gradient, float* point_gradient,
                                          int threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
  for (int64_t begin = 0; begin < count; begin += kBlock) {
    const int block = static_cast<int>(count - begin < kBlock ? count - begin : kBlock);
    Corners found;
    float sums[3][kBlock] = {};
    for (int32_t number_of_level = 0; number_of_level < number; ++number_of_level) {
      const Level& level = levels[number_of_level];
      corners_of(points + 3 * begin, block, level, found);
      const float* own = table + 2 * level.first;
      const float slope = 0.5f * level.resolution;
      for (int corner = 0; corner < kCorners; ++corner) {
        const int upper[3] = {corner >> 2, corner >> 1 & 1, corner & 1};
        for (int i = 0; i < block; ++i) {
          const float* row = gradient + (begin + i) * 2 * number + 2 * number_of_level;
          const float* entry = own + 2 * found.entry[corner][i];
          const float by_value = slope * (row[0] * entry[0] + row[1] * entry[1]);
          float along[3];
          for (int axis = 0; axis < 3; ++axis) along[axis] = share(found.fraction[axis][i], upper[axis]);
          sums[0][i] += (upper[0] ? by_value : -by_value) * along[1] * along[2];
          sums[1][i] += (upper[1] ? by_value : -by_value) * along[0] * along[2];
          sums[2][i] += (upper[2] ? by_value : -by_value) * along[0] * along[1];
        }
      }
    }
    for (int i = 0; i < block; ++i) {
      for (int axis = 0; axis < 3; ++axis) point_gradient[3 * (begin + i) + axis] = sums[axis][i];
    }
  }
}
