// Features of a multiresolution grid: of every level, the corners around a point, interpolated (Mueller et al. 2022).
//
// Coarse levels have an entry for each corner; finer ones share theirs by a hash. A corner has two numbers.

#include <cstdint>
#include <cstring>
#ifdef _OPENMP
#include <omp.h>
#endif

namespace {

constexpr int kBlock = 32, kCorners = 8;
constexpr int64_t kChunk = 2048;  // points that a thread takes through all levels

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

inline void weights_of(const Corners& found, int count, float weight[kCorners][kBlock]) {
  for (int corner = 0; corner < kCorners; ++corner) {
    for (int i = 0; i < count; ++i) {
      weight[corner][i] = share(found.fraction[0][i], corner >> 2) * share(found.fraction[1][i], corner >> 1 & 1) *
                          share(found.fraction[2][i], corner & 1);
    }
  }
}

// The two numbers of an entry, in one register: to gather each by itself takes longer.
typedef float Pair __attribute__((vector_size(8)));

inline Pair entry_at(const float* own, uint32_t entry) {
  Pair pair;
  std::memcpy(&pair, own + 2 * static_cast<int64_t>(entry), sizeof(Pair));
  return pair;
}

inline void put(float* to, Pair pair) { std::memcpy(to, &pair, sizeof(Pair)); }

}  // namespace

// Rows of features, and of their gradient, are [count, lead + 2 number]: lead is 3 where the points themselves come
// first, and else 0.

// points [count, 3]; levels [number]; table [entries, 2]. Gives rows of features.
extern "C" void finer_grid_forward(const float* points, int64_t count, const Level* levels, int32_t number,
                                   const float* table, float* rows, int32_t lead, int threads) {
  const int64_t width = lead + 2 * number;
#pragma omp parallel for num_threads(threads) schedule(static)
  for (int64_t chunk = 0; chunk < count; chunk += kChunk) {
    const int64_t end = count - chunk < kChunk ? count : chunk + kChunk;
    if (lead)
      for (int64_t i = chunk; i < end; ++i) std::memcpy(rows + i * width, points + 3 * i, 3 * sizeof(float));
    Corners found;
    float weight[kCorners][kBlock];
    // Level by level, whose table then stays in the cache.
    for (int32_t number_of_level = 0; number_of_level < number; ++number_of_level) {
      const Level& level = levels[number_of_level];
      const float* own = table + 2 * level.first;
      for (int64_t begin = chunk; begin < end; begin += kBlock) {
        const int block = static_cast<int>(end - begin < kBlock ? end - begin : kBlock);
        corners_of(points + 3 * begin, block, level, found);
        weights_of(found, block, weight);
        for (int i = 0; i < block; ++i) {
          Pair sum = {};
          for (int corner = 0; corner < kCorners; ++corner)
            sum += weight[corner][i] * entry_at(own, found.entry[corner][i]);
          put(rows + (begin + i) * width + lead + 2 * number_of_level, sum);
        }
      }
    }
  }
}

// gradient: of the rows; adds to table_gradient [entries, 2]. A level is one thread's, so that sums have the same order
// each time.
extern "C" void finer_grid_table_gradient(const float* points, int64_t count, const Level* levels, int32_t number,
                                          const float* gradient, float* table_gradient, int32_t lead, int threads) {
  const int64_t width = lead + 2 * number;
#pragma omp parallel for num_threads(threads) schedule(dynamic, 1)
  for (int32_t backwards = 0; backwards < number; ++backwards) {
    const int32_t number_of_level = number - 1 - backwards;
    const Level& level = levels[number_of_level];
    float* own = table_gradient + 2 * level.first;
    Corners found;
    float weight[kCorners][kBlock];
    for (int64_t begin = 0; begin < count; begin += kBlock) {
      const int block = static_cast<int>(count - begin < kBlock ? count - begin : kBlock);
      corners_of(points + 3 * begin, block, level, found);
      weights_of(found, block, weight);
      for (int i = 0; i < block; ++i) {
        Pair change;
        std::memcpy(&change, gradient + (begin + i) * width + lead + 2 * number_of_level, sizeof(Pair));
        for (int corner = 0; corner < kCorners; ++corner) {
          const uint32_t entry = found.entry[corner][i];
          put(own + 2 * static_cast<int64_t>(entry), entry_at(own, entry) + weight[corner][i] * change);
        }
      }
    }
  }
}

// The gradient by the points, [count, 3].
extern "C" void finer_grid_point_gradient(const float* points, int64_t count, const Level* levels, int32_t number,
                                          const float* table, const float* gradient, float* point_gradient,
                                          int32_t lead, int threads) {
  const int64_t width = lead + 2 * number;
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
          const float* row = gradient + (begin + i) * width + lead + 2 * number_of_level;
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
      for (int axis = 0; axis < 3; ++axis) {
        const float own = lead ? gradient[(begin + i) * width + axis] : 0.0f;
        point_gradient[3 * (begin + i) + axis] = own + sums[axis][i];
      }
    }
  }
}
