// What the segments of rays show, ray by ray, and the derivatives of it, on processors.
//
// Segments are flat, ordered by ray and then by distance; counts [rays] says how many each ray has, and those behind
// the last ray's are nobody's. Places, where a function takes them, ascend.

#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>
#ifdef _OPENMP
#include <omp.h>
#endif

namespace {

// Calls work(ray, first segment, segments of the ray), and returns how many segments all rays have together.
template <class Work>
int64_t for_rays(const int64_t* counts, int64_t rays, int threads, Work work) {
  std::vector<int64_t> first(rays + 1, 0);
  for (int64_t ray = 0; ray < rays; ++ray) first[ray + 1] = first[ray] + counts[ray];
#pragma omp parallel for num_threads(threads) schedule(static)
  for (int64_t ray = 0; ray < rays; ++ray) work(ray, first[ray], counts[ray]);
  return first[rays];
}

}  // namespace

// thickness [samples]. Gives weights [samples] (Max 1995, eq. 27); behind [samples], what passes through each segment;
// and passed [rays], what passes through all of them.
extern "C" void finer_weights(const float* thickness, int64_t samples, const int64_t* counts, int64_t rays,
                              float* weights, float* behind, float* passed, int threads) {
  const int64_t used = for_rays(counts, rays, threads, [=](int64_t ray, int64_t first, int64_t count) {
    double total = 0.0;
    float through = 1.0f;
    for (int64_t i = first; i < first + count; ++i) {
      total += thickness[i];
      weights[i] = -through * std::expm1(-thickness[i]);
      through = std::exp(static_cast<float>(-total));
      behind[i] = through;
    }
    passed[ray] = through;
  });
  for (int64_t i = used; i < samples; ++i) weights[i] = behind[i] = 0.0f;
}

// The gradient with respect to thickness [samples], of weight_grad [samples] and passed_grad [rays]: what passes
// through a segment times the gradient of its own weight, without what later segments and the end of the ray lose by
// it.
extern "C" void finer_weights_gradient(const float* weight_grad, const float* passed_grad, const float* weights,
                                       const float* behind, const float* passed, int64_t samples,
                                       const int64_t* counts, int64_t rays, float* grad, int threads) {
  const int64_t used = for_rays(counts, rays, threads, [=](int64_t ray, int64_t first, int64_t count) {
    double later = static_cast<double>(passed_grad[ray]) * passed[ray];
    for (int64_t i = first + count - 1; i >= first; --i) {
      grad[i] = weight_grad[i] * behind[i] - static_cast<float>(later);
      later += static_cast<double>(weight_grad[i]) * weights[i];
    }
  });
  for (int64_t i = used; i < samples; ++i) grad[i] = 0.0f;
}

// Writes the places of weights [samples] above a threshold, and returns how many there are; chosen [rays], zero before,
// counts those of each ray among the first so many.
extern "C" int64_t finer_heavier(const float* weights, const int64_t* ray_indices, int64_t samples, int64_t counted,
                                 float threshold, int64_t* places, int64_t* chosen) {
  int64_t found = 0;
  for (int64_t i = 0; i < samples; ++i) {
    const int64_t is_heavy = weights[i] > threshold;
    places[found] = i;
    found += is_heavy;
    if (i < counted) chosen[ray_indices[i]] += is_heavy;
  }
  return found;
}

// Writes the places of the segments from..to, by their number on their ray, of rays of which more than a threshold has
// passed so far, [rays], and returns how many there are; chosen [rays] says how many of each ray.
extern "C" int64_t finer_slab(const int64_t* counts, int64_t rays, int64_t from, int64_t to, const float* passed,
                              float threshold, int64_t* places, int64_t* chosen) {
  int64_t first = 0, found = 0;
  for (int64_t ray = 0; ray < rays; ++ray) {
    const int64_t count = counts[ray], end = count < to ? count : to;
    const int64_t number = passed[ray] > threshold && end > from ? end - from : 0;
    for (int64_t k = 0; k < number; ++k) places[found++] = first + from + k;
    chosen[ray] = number;
    first += count;
  }
  return found;
}

// sums [rays, 3], zero before: of weights [samples] times colors [chosen, 3], which are those of some places [chosen].
extern "C" void finer_color_sums(const float* weights, const float* colors, const int64_t* places,
                                 const int64_t* ray_indices, int64_t chosen, float* sums) {
  for (int64_t k = 0; k < chosen; ++k) {
    float* sum = sums + 3 * ray_indices[places[k]];
    const float weight = weights[places[k]];
    for (int channel = 0; channel < 3; ++channel) sum[channel] += weight * colors[3 * k + channel];
  }
}

// Gradients with respect to weights [samples], zero before, and colors [chosen, 3].
extern "C" void finer_color_sums_gradient(const float* sums_grad, const float* weights, const float* colors,
                                          const int64_t* places, const int64_t* ray_indices, int64_t chosen,
                                          float* weight_grad, float* color_grad) {
  for (int64_t k = 0; k < chosen; ++k) {
    const float *from = sums_grad + 3 * ray_indices[places[k]], *color = colors + 3 * k;
    weight_grad[places[k]] = from[0] * color[0] + from[1] * color[1] + from[2] * color[2];
    for (int channel = 0; channel < 3; ++channel) color_grad[3 * k + channel] = weights[places[k]] * from[channel];
  }
}

// out [chosen, width]: the rows of values [rows, width] at some places [chosen].
extern "C" void finer_rows(const float* values, const int64_t* places, int64_t chosen, float* out, int64_t width,
                           int threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
  for (int64_t k = 0; k < chosen; ++k)
    std::memcpy(out + k * width, values + places[k] * width, sizeof(float) * width);
}

// out [rows, width]: given [chosen, width], whose rows are a stride apart, at some places [chosen], and zeros
// elsewhere.
extern "C" void finer_rows_gradient(const float* given, int64_t stride, const int64_t* places, int64_t chosen,
                                    float* out, int64_t rows, int64_t width, int threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
  for (int64_t k = 0; k <= chosen; ++k) {
    const int64_t place = k < chosen ? places[k] : rows, after = k ? places[k - 1] + 1 : 0;
    std::memset(out + after * width, 0, sizeof(float) * (place - after) * width);
    if (k < chosen) std::memcpy(out + place * width, given + k * stride, sizeof(float) * width);
  }
}

// Positions [samples, 3] at distances [samples] along rays, and the directions there, [samples, 3].
extern "C" void finer_along_rays(const float* origins, const float* directions, const int64_t* ray_indices,
                                 const float* distances, int64_t samples, float* positions, float* along,
                                 int threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
  for (int64_t i = 0; i < samples; ++i) {
    const float *from = origins + 3 * ray_indices[i], *to = directions + 3 * ray_indices[i];
    for (int axis = 0; axis < 3; ++axis) {
      along[3 * i + axis] = to[axis];
      positions[3 * i + axis] = __builtin_fmaf(to[axis], distances[i], from[axis]);
    }
  }
}
