// Adam (Kingma and Ba 2015) and moving averages over many tensors, in one pass over memory each.

#include <cmath>
#include <cstdint>
#include <vector>
#ifdef _OPENMP
#include <omp.h>
#endif

namespace {

struct Piece {
  int64_t tensor, begin, end;
};

constexpr int64_t kPiece = 1 << 14;  // numbers of a thread at a time

std::vector<Piece> pieces_of(const int64_t* sizes, int64_t tensors) {
  std::vector<Piece> pieces;
  for (int64_t i = 0; i < tensors; ++i)
    for (int64_t begin = 0; begin < sizes[i]; begin += kPiece)
      pieces.push_back({i, begin, begin + kPiece < sizes[i] ? begin + kPiece : sizes[i]});
  return pieces;
}

}  // namespace

// values, gradients and moments [tensors], of so many numbers each. rates [tensors] are learning rates over the first
// moment's correction, and corrections [tensors] are roots of the second's.
extern "C" void finer_adam(float* const* values, const float* const* gradients, float* const* firsts,
                           float* const* seconds, const int64_t* sizes, const float* rates, const float* corrections,
                           int64_t tensors, float beta_1, float beta_2, float eps, float weight_decay, int threads) {
  const std::vector<Piece> pieces = pieces_of(sizes, tensors);
  const int64_t count = static_cast<int64_t>(pieces.size());
#pragma omp parallel for num_threads(threads) schedule(static)
  for (int64_t k = 0; k < count; ++k) {
    const Piece piece = pieces[k];
    float *value = values[piece.tensor], *first = firsts[piece.tensor], *second = seconds[piece.tensor];
    const float *gradient = gradients[piece.tensor], rate = rates[piece.tensor];
    const float per_correction = 1.0f / corrections[piece.tensor];
#pragma GCC ivdep
    for (int64_t i = piece.begin; i < piece.end; ++i) {
      const float g = gradient[i] + weight_decay * value[i];
      const float m = beta_1 * first[i] + (1.0f - beta_1) * g, v = beta_2 * second[i] + (1.0f - beta_2) * g * g;
      first[i] = m;
      second[i] = v;
      value[i] -= rate * m / (__builtin_sqrtf(v) * per_correction + eps);
    }
  }
}

// Moves means [tensors] by a share of the way to values [tensors].
extern "C" void finer_follow(float* const* means, const float* const* values, const int64_t* sizes, int64_t tensors,
                             float share, int threads) {
  const std::vector<Piece> pieces = pieces_of(sizes, tensors);
  const int64_t count = static_cast<int64_t>(pieces.size());
#pragma omp parallel for num_threads(threads) schedule(static)
  for (int64_t k = 0; k < count; ++k) {
    const Piece piece = pieces[k];
    float* mean = means[piece.tensor];
    const float* value = values[piece.tensor];
#pragma GCC ivdep
    for (int64_t i = piece.begin; i < piece.end; ++i) mean[i] += share * (value[i] - mean[i]);
  }
}
