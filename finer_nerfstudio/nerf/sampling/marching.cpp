// Steps of rays through an occupancy grid, and those of them that fall into occupied cells.
//
// A ray's cell coordinates are affine in its steps. Whether a step counts is kept as a bit, so that segments can be
// written out, in a second pass, to where the numbers of those before them say.

#include <cstdint>
#ifdef _OPENMP
#include <omp.h>
#endif

namespace {

constexpr int kBits = 64;

inline int32_t cell_along(float coordinate, int32_t resolution) {
  const int32_t cell = static_cast<int32_t>(coordinate);
  return cell < 0 ? 0 : cell >= resolution ? resolution - 1 : cell;
}

}  // namespace

// For every ray: start and per_step [rays, 3] in cells, offsets [rays] in steps, and its length [rays]; occupied
// [resolution^3]. Gives bits [rays, words], counts [rays] of them, and candidates [rays], steps on the ray.
extern "C" void finer_march(const float* start, const float* per_step, const float* offsets, const float* length,
                            float step, const uint8_t* occupied, int32_t resolution, int64_t rays, int64_t words,
                            uint64_t* bits, int64_t* counts, int64_t* candidates, int threads) {
#pragma omp parallel for num_threads(threads) schedule(dynamic, 64)
  for (int64_t ray = 0; ray < rays; ++ray) {
    const float *from = start + 3 * ray, *slope = per_step + 3 * ray;
    const float offset = offsets[ray], end = length[ray];
    int64_t count = 0, inside = 0;
    for (int64_t word = 0; word < words; ++word) {
      int32_t cells[kBits];
      int steps = 0;
      for (int i = 0; i < kBits; ++i) {
        const float along = static_cast<float>(word * kBits + i) + offset;
        steps += along * step < end;  // steps grow, so that those inside are the leading ones
        const int32_t x = cell_along(__builtin_fmaf(slope[0], along, from[0]), resolution);
        const int32_t y = cell_along(__builtin_fmaf(slope[1], along, from[1]), resolution);
        const int32_t z = cell_along(__builtin_fmaf(slope[2], along, from[2]), resolution);
        cells[i] = (x * resolution + y) * resolution + z;
      }
      uint64_t hits = 0;
      for (int i = 0; i < steps; ++i) hits |= static_cast<uint64_t>(occupied[cells[i]] != 0) << i;
      bits[ray * words + word] = hits;
      count += __builtin_popcountll(hits);
      inside += steps;
    }
    counts[ray] = count;
    candidates[ray] = inside;
  }
}

// Writes out the segments of the leading rays: first [rays] is where those of a ray begin.
extern "C" void finer_segments(const uint64_t* bits, int64_t words, const int64_t* first, const float* nearest,
                               const float* offsets, float step, int64_t rays, int64_t* ray_indices, int64_t* slots,
                               float* distances, int threads) {
#pragma omp parallel for num_threads(threads) schedule(dynamic, 64)
  for (int64_t ray = 0; ray < rays; ++ray) {
    int64_t slot = 0;
    const int64_t begin = first[ray];
    for (int64_t word = 0; word < words; ++word) {
      for (uint64_t hits = bits[ray * words + word]; hits; hits &= hits - 1, ++slot) {
        const int64_t column = word * kBits + __builtin_ctzll(hits);
        ray_indices[begin + slot] = ray;
        slots[begin + slot] = slot;
        distances[begin + slot] = nearest[ray] + (static_cast<float>(column) + offsets[ray]) * step;
      }
    }
  }
}
