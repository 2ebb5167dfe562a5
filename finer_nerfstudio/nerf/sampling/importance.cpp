// Samples of rays through a scene without end, drawn where its occupancy grid expects them to count.
//
// A ray is cut into steps, of equal length up to a reach and equal in the reciprocal of distance beyond. What the grid
// expects a step to show is its chance to be sampled, beside a share that all occupied steps have in common. A sample
// stands for so much of the ray that optical thickness is right on average.

#include <cstdint>
#include <vector>
#ifdef _OPENMP
#include <omp.h>
#endif

namespace {

struct Place {
  int32_t cell;
  float inverse;  // of the largest coordinate there, at most 1
};

inline float expected_behind(float thickness) {
  // Falls slower than exp(-thickness): the grid is coarse, and what it takes for hidden may be in sight.
  return 1.0f / (1.0f + thickness * (1.0f + 0.5f * thickness));
}

inline float distance_at(float progress, float reach) {
  return progress <= 1.0f ? reach * progress : reach / (2.0f - progress);
}

inline int32_t along(float coordinate, int32_t resolution) {
  // What is no number counts to the first cell.
  const float last = static_cast<float>(resolution) - 0.5f;
  const float inside = coordinate > 0.0f ? coordinate : 0.0f;
  return static_cast<int32_t>(inside < last ? inside : last);
}

inline Place place_at(const float* from, const float* slope, float distance, int32_t resolution) {
  const float x = __builtin_fmaf(slope[0], distance, from[0]), y = __builtin_fmaf(slope[1], distance, from[1]),
              z = __builtin_fmaf(slope[2], distance, from[2]);
  const float ax = x < 0 ? -x : x, ay = y < 0 ? -y : y, az = z < 0 ? -z : z;
  float largest = ax > ay ? ax : ay;
  largest = largest > az ? largest : az;
  largest = largest > 1.0f ? largest : 1.0f;
  const float inverse = 1.0f / largest, half = 0.5f * resolution;
  const float shrink = (1.0f - 0.5f * inverse) * inverse * half;
  const int32_t i = along(__builtin_fmaf(x, shrink, half), resolution),
                j = along(__builtin_fmaf(y, shrink, half), resolution),
                k = along(__builtin_fmaf(z, shrink, half), resolution);
  return {(i * resolution + j) * resolution + k, inverse};
}

// Contracted length of a progress of 1 at a distance.
inline float contracted(float distance, float inverse, float reach, float per_reach) {
  const float farther = distance > reach ? distance * per_reach * inverse : inverse;
  return reach * farther * farther;
}

// Where in its share of a ray the sample of a number lies: shares apart by the golden ratio fill [0, 1) evenly.
inline float place_of(float first, int64_t number) {
  const float place = first + static_cast<float>(number) * 0.618034f;
  return place - __builtin_floorf(place);
}

}  // namespace

// Rays as origins and directions [rays, 3] in units of the box, nears and fars [rays] in world units; per_step is the
// progress of a step, of which the reach is 1; looked_at [rays] in [0, 1) says where in its steps the grid is asked,
// placed [rays] in [0, 1) where in its share of a ray the first sample lies, or null for the middles of all shares.
// thickness [resolution^3] is that of a length of unit, and occupied [resolution^3] says where it counts; shared is the
// share that occupied steps have in common.
// So many rays together, side by side as those of a pixel, ask the grid by one of them, which the first one's looked_at
// chooses too. Each has its own samples.
// A ray has per_spread samples for each step that its chances are spread over, from fewest to most.
// Gives distances and contracted lengths [rays, most] in world units, and their cells; counts [rays], which are 0 where
// nothing is; and candidates [rays].
extern "C" void finer_draw(const float* origins, const float* directions, const float* nears, const float* fars,
                           float reach, float per_step, int64_t columns, const float* thickness,
                           const uint8_t* occupied, float unit, int32_t resolution, float shared,
                           const float* looked_at, const float* placed, int64_t rays, int64_t together,
                           float per_spread, int64_t fewest, int64_t most, float* distances, float* lengths,
                           int32_t* cells, int64_t* counts, int64_t* candidates, int threads) {
  const float per_unit = 1.0f / unit, per_reach = 1.0f / reach;
  const int64_t groups = (rays + together - 1) / together;
#pragma omp parallel num_threads(threads)
  {
    std::vector<float> depth(columns), inverse(columns), chance(columns), behind(columns);
    std::vector<int32_t> cell(columns), kept(columns);
#pragma omp for schedule(dynamic, 16)
    for (int64_t group = 0; group < groups; ++group) {
      const int64_t first = group * together, end = first + together < rays ? first + together : rays;
      const float chosen = looked_at[first] * static_cast<float>(end - first);
      const int64_t number = static_cast<int64_t>(chosen);
      const float offset = chosen - static_cast<float>(number);
      const int64_t leader = first + number < end ? first + number : end - 1;
      const float *from = origins + 3 * leader, *slope = directions + 3 * leader;
      const float near = nears[leader], far = fars[leader];
      for (int64_t i = 0; i < columns; ++i) {
        depth[i] = distance_at((static_cast<float>(i) + offset) * per_step, reach);
        const Place place = place_at(from, slope, depth[i], resolution);
        cell[i] = place.cell;
        inverse[i] = place.inverse;
      }
      // Steps grow: those between the limits lie side by side.
      int64_t nearest = 0, farthest = columns;
      while (nearest < columns && !(depth[nearest] >= near)) ++nearest;
      while (farthest > nearest && !(depth[farthest - 1] <= far)) --farthest;
      for (int64_t ray = first; ray < end; ++ray) {
        candidates[ray] = farthest - nearest;
        counts[ray] = 0;
      }
      int64_t inside = 0;
      for (int64_t i = nearest; i < farthest; ++i) {
        kept[inside] = static_cast<int32_t>(i);
        inside += occupied[cell[i]];
      }
      if (!inside) continue;
      float before = 0.0f;
      for (int64_t k = 0; k < inside; ++k) {
        const int64_t i = kept[k];
        before += contracted(depth[i], inverse[i], reach, per_reach) * per_step * per_unit * thickness[cell[i]];
        behind[k] = before;
      }
      for (int64_t k = 0; k < inside; ++k) behind[k] = expected_behind(behind[k]);
      const float by_weight = (1.0f - shared) / __builtin_fmaxf(1.0f - behind[inside - 1], 1e-6f);
      const float by_step = shared / static_cast<float>(inside);
      for (int64_t k = 0; k < inside; ++k)
        chance[k] = ((k ? behind[k - 1] : 1.0f) - behind[k]) * by_weight + by_step;
      float total = 0.0f, squares = 0.0f;
      for (int64_t k = 0; k < inside; ++k) {
        total += chance[k];
        squares += chance[k] * chance[k];
      }
      // As many steps as would give these squares if all had the same chance.
      const float spread = total * total / squares;
      int64_t samples = static_cast<int64_t>(__builtin_ceilf(per_spread * spread));
      samples = samples < fewest ? fewest : samples > most ? most : samples;
      for (int64_t ray = first; ray < end; ++ray) {
        counts[ray] = samples;
        int64_t step = 0;
        float begin = 0.0f;
        for (int64_t j = 0; j < samples; ++j) {
          const int64_t at = ray * most + j;
          const float share = placed ? place_of(placed[ray], j) : 0.5f;
          const float wanted = (static_cast<float>(j) + share) / static_cast<float>(samples) * total;
          while (step + 1 < inside && begin + chance[step] <= wanted) begin += chance[step++];
          float within = (wanted - begin) / chance[step];
          within = within > 0.0f ? within < 1.0f ? within : 1.0f : 0.0f;
          float distance = distance_at((static_cast<float>(kept[step]) + within) * per_step, reach);
          distance = distance < nears[ray] ? nears[ray] : distance > fars[ray] ? fars[ray] : distance;
          const Place place = place_at(origins + 3 * ray, directions + 3 * ray, distance, resolution);
          const float length = contracted(distance, place.inverse, reach, per_reach) * per_step;
          distances[at] = distance;
          lengths[at] = length * total / (static_cast<float>(samples) * chance[step]);
          cells[at] = place.cell;
        }
      }
    }
  }
}

// The samples of the leading rays, [rays, most] of them with counts [rays], one after the other; first [rays] says
// where each ray's begin. Gives, for each: its ray, its number on the ray, distance, length and cell.
extern "C" void finer_drawn_flat(const int64_t* counts, const int64_t* first, int64_t rays, int64_t most,
                                 const float* distances, const float* lengths, const int32_t* cells,
                                 int64_t* ray_indices, int64_t* slots, float* flat_distances, float* flat_lengths,
                                 int64_t* flat_cells, int threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
  for (int64_t ray = 0; ray < rays; ++ray) {
    for (int64_t j = 0; j < counts[ray]; ++j) {
      const int64_t to = first[ray] + j, from = ray * most + j;
      ray_indices[to] = ray;
      slots[to] = j;
      flat_distances[to] = distances[from];
      flat_lengths[to] = lengths[from];
      flat_cells[to] = cells[from];
    }
  }
}

// Moves thickness, of some cells [samples] in which density was seen, by a share towards the mean of density times unit
// there. sums holds a sum and a number for each cell, zero before and after.
extern "C" void finer_follow(const int64_t* cells, const float* density, int64_t samples, float unit, float share,
                             double* sums, float* thickness) {
  constexpr int64_t kAhead = 16;  // cells lie far apart in memory
  for (int64_t i = 0; i < samples; ++i) {
    if (i + kAhead < samples) {
      __builtin_prefetch(sums + 2 * cells[i + kAhead], 1);
      __builtin_prefetch(thickness + cells[i + kAhead], 1);
    }
    double* sum = sums + 2 * cells[i];
    sum[0] += static_cast<double>(density[i]) * unit;
    sum[1] += 1.0;
  }
  for (int64_t i = 0; i < samples; ++i) {
    double* sum = sums + 2 * cells[i];
    if (sum[1] == 0.0) continue;  // its cell has moved
    float& known = thickness[cells[i]];
    known += share * (static_cast<float>(sum[0] / sum[1]) - known);
    sum[0] = sum[1] = 0.0;
  }
}
