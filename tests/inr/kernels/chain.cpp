// A chain of layers forward and backward, from standard input to standard output, for processors that are emulated.
//
// In: depth, rows, rows of a block; of each layer n_in, n_out, width and its form; then x, gradient, and of each layer
// weight and bias. Out: value, gradient of x, and of each layer those of weight and bias.

#include <cstdio>
#include <cstdlib>
#include <deque>
#include <utility>
#include <vector>

#include "activations.cpp"

template <class T>
static std::vector<T> read(int64_t count) {
  std::vector<T> values(count);
  if (std::fread(values.data(), sizeof(T), count, stdin) != static_cast<size_t>(count)) std::exit(1);
  return values;
}

static void write(const float* values, int64_t count) { std::fwrite(values, 4, count, stdout); }

int main() {
  if (!finer_has_products()) return 2;
  const std::vector<int64_t> sizes = read<int64_t>(3);
  const int depth = static_cast<int>(sizes[0]);
  const int64_t rows = sizes[1], block = sizes[2];
  std::vector<FinerLayer> layers(depth);
  for (FinerLayer& layer : layers) {
    const std::vector<int64_t> shape = read<int64_t>(3);
    layer = FinerLayer{};
    layer.n_in = shape[0], layer.n_out = shape[1], layer.width = shape[2];
    layer.form = read<FinerForm>(1)[0];
  }
  const std::vector<float> x = read<float>(rows * layers.front().n_in), grad = read<float>(rows * layers.back().width);
  std::deque<std::vector<float>> memory;
  const auto keep = [&](std::vector<float> values) { return memory.emplace_back(std::move(values)).data(); };
  for (FinerLayer& layer : layers) {
    // Pre-activations are computed anew in the first layer alone.
    if (&layer != &layers.front()) layer.stored = keep(std::vector<float>(rows * layer.n_out));
    layer.weight = keep(read<float>(layer.n_in * layer.n_out));
    layer.bias = keep(read<float>(layer.n_out));
    layer.weight_grad = keep(std::vector<float>(layer.n_in * layer.n_out));
    layer.bias_grad = keep(std::vector<float>(layer.n_out));
  }
  std::vector<float> out(rows * layers.back().width), x_grad(x.size());
  std::vector<float> scratch(finer_scratch(layers.data(), depth, block, 1));
  finer_forward(nullptr, layers.data(), depth, x.data(), out.data(), scratch.data(), rows, block, 1);
  finer_backward(nullptr, layers.data(), depth, x.data(), grad.data(), x_grad.data(), scratch.data(), rows, block, 1);
  write(out.data(), out.size());
  write(x_grad.data(), x_grad.size());
  for (const FinerLayer& layer : layers) {
    write(layer.weight_grad, layer.n_in * layer.n_out);
    write(layer.bias_grad, layer.n_out);
  }
}
