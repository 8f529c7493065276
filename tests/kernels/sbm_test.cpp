// SPDX-License-Identifier: Apache-2.0
// Block matrix, memberships, expected edges, their gradients, and the statistics of a graph.
#include "kernels/sbm.h"

#include <gtest/gtest.h>

#include <cmath>
#include <functional>

#include "core/cpu/isa.h"
#include "tests/support/arrays.h"
#include "tests/support/devices.h"
#include "tests/support/graphs.h"
#include "tests/support/op_checks.h"

namespace stipple::test {
namespace {

struct Block {
  Array<float> s;
  Array<float> effective_cells;
};

DeviceMemory memory_of(Device device, int threads = 1) {
  return DeviceMemory(device, {.threads = threads}, kScratchBytes);
}

Block block_of(const Array<float>& clusters, Device device = kCpuDevice) {
  const Shape& c = clusters.shape();
  DeviceMemory memory = memory_of(device);
  const View<float> s = memory.fresh<float>({c[0], c[1], c[1]});
  const View<float> cells = memory.fresh<float>({c[0]});
  kernels::block_matrix(memory.stream(), {.s = s,
                                          .effective_cells = cells,
                                          .clusters = memory.put(clusters),
                                          .scratch = &memory.scratch()});
  return {memory.get(s), memory.get(cells)};
}

TEST(BlockMatrix, IsPositiveSymmetricSumsToOneAndIsBoundedByItsDiagonal) {
  for (Device device : test_devices()) {
    for (int64_t k : {1, 5, 128}) {
      const Block block = block_of(random_normal({2, k, 7}, 1, 0.8), device);
      for (int64_t head = 0; head < 2; ++head) {
        const float* s = block.s.view().at(head).data;
        double sum = 0;
        for (int64_t u = 0; u < k; ++u) {
          for (int64_t v = 0; v < k; ++v) {
            const float entry = s[u * k + v];
            sum += static_cast<double>(entry);
            ASSERT_GT(entry, 0.0f);
            ASSERT_EQ(entry, s[v * k + u]);
            ASSERT_LE(entry * entry, s[u * k + u] * s[v * k + v] * 1.00001f);
          }
        }
        EXPECT_NEAR(sum, 1.0, 1e-6);
      }
    }
  }
}

TEST(BlockMatrix, IsTheSoftmaxOfTheGramMatrix) {
  const Array<float> clusters({1, 2, 2}, {1.0f, 0.0f, 0.5f, 2.0f});
  const double gram[] = {1.0, 0.5, 0.5, 4.25};
  double sum = 0;
  for (double g : gram) sum += std::exp(g);
  for (Device device : test_devices()) {
    const Block block = block_of(clusters, device);
    double entropy = 0;
    for (int64_t e = 0; e < 4; ++e) {
      const double expected = std::exp(gram[e]) / sum;
      EXPECT_NEAR(static_cast<double>(block.s[e]), expected, 1e-6 * expected);
      entropy -= expected * std::log(expected);
    }
    EXPECT_NEAR(static_cast<double>(block.effective_cells[0]), std::exp(entropy), 1e-5);
  }
}

TEST(BlockMatrix, IsTheSameOnEveryDevice) {
  for (const Shape& shape :
       {Shape{1, 1, 1}, Shape{3, 33, 5}, Shape{2, 70, 65}, Shape{1, 100, 32}}) {
    const Array<float> clusters = random_normal(shape, 8, 0.4);
    const Block expected = block_of(clusters);
    for (Device device : test_devices()) {
      const Block block = block_of(clusters, device);
      expect_close(block.s, expected.s, 2e-7);
      expect_close(block.effective_cells, expected.effective_cells, 1e-6);
    }
  }
}

TEST(BlockMatrix, EffectiveCellsCountTheCellsThatMatter) {
  constexpr int64_t k = 6;
  Array<float> clusters({2, k, k});
  // Head 0: equal clusters, all k^2 cells alike. Head 1: long orthogonal clusters, k cells alike.
  for (int64_t u = 0; u < k; ++u) clusters[k * k + u * k + u] = 6.0f;
  for (Device device : test_devices()) {
    const Block block = block_of(clusters, device);
    EXPECT_NEAR(static_cast<double>(block.effective_cells[0]), k * k, 1e-3);
    EXPECT_NEAR(static_cast<double>(block.effective_cells[1]), k, 1e-3);
  }
}

TEST(BlockMatrix, LargeClustersDoNotOverflow) {
  for (Device device : test_devices()) {
    const Block block = block_of(Array<float>({1, 2, 1}, {30.0f, -30.0f}), device);
    EXPECT_NEAR(static_cast<double>(block.s[0]), 0.5, 1e-6);
    EXPECT_EQ(block.s[1], 0.0f);
    EXPECT_NEAR(static_cast<double>(block.effective_cells[0]), 2.0, 1e-5);
  }
}

TEST(BlockMatrix, MisshapenArgumentsAreRefused) {
  Array<float> s({1, 3, 3}), cells({1}), clusters({1, 2, 4});
  const Stream stream(kCpuDevice);
  EXPECT_THROW(
      kernels::block_matrix(stream, {.s = s, .effective_cells = cells, .clusters = clusters}),
      ShapeError);
}

// S in double, from clusters plus step * direction.
std::vector<double> exact_block(const Array<float>& clusters, const Array<float>& direction,
                                double step) {
  const int64_t k = clusters.shape()[1];
  const int64_t d = clusters.shape()[2];
  const auto c = [&](int64_t head, int64_t u, int64_t x) {
    const int64_t e = (head * k + u) * d + x;
    return static_cast<double>(clusters[e]) + step * static_cast<double>(direction[e]);
  };
  std::vector<double> s;
  for (int64_t head = 0; head < clusters.shape()[0]; ++head) {
    double sum = 0;
    const size_t first = s.size();
    for (int64_t u = 0; u < k; ++u) {
      for (int64_t v = 0; v < k; ++v) {
        double dot = 0;
        for (int64_t x = 0; x < d; ++x) dot += c(head, u, x) * c(head, v, x);
        s.push_back(std::exp(dot));
        sum += s.back();
      }
    }
    for (size_t e = first; e < s.size(); ++e) s[e] /= sum;
  }
  return s;
}

/// What the operation adds to ones.
Array<float> block_gradient(const Array<float>& clusters, const Array<float>& ds,
                            const Array<float>& s, DeviceMemory& memory) {
  Array<float> ones(clusters.shape());
  ones.fill(1.0f);
  const View<float> dclusters = memory.put(ones);
  kernels::block_matrix_backward(memory.stream(), {.dclusters = dclusters,
                                                   .ds = memory.put(ds),
                                                   .s = memory.put(s),
                                                   .clusters = memory.put(clusters),
                                                   .scratch = &memory.scratch()});
  Array<float> added = memory.get(dclusters);
  for (float& x : added.values()) x -= 1.0f;
  return added;
}

TEST(BlockMatrix, GradientMatchesCentralDifferencesAndIsAdded) {
  for (Device device : test_devices()) {
    const Shape shape{2, 5, 3};
    const Array<float> clusters = random_normal(shape, 1, 0.7);
    const Array<float> ds = random_normal({2, 5, 5}, 2);  // not symmetric
    const Array<float> direction = random_normal(shape, 3);
    const Block block = block_of(clusters);
    DeviceMemory one = memory_of(device, 1), three = memory_of(device, 3);
    const Array<float> added = block_gradient(clusters, ds, block.s, one);
    EXPECT_EQ(block_gradient(clusters, ds, block.s, three).values(), added.values());
    double analytic = 0;
    for (int64_t e = 0; e < shape.numel(); ++e) {
      analytic += static_cast<double>(added[e]) * static_cast<double>(direction[e]);
    }
    constexpr double kStep = 1e-4;
    const std::vector<double> above = exact_block(clusters, direction, kStep);
    const std::vector<double> below = exact_block(clusters, direction, -kStep);
    double numeric = 0;
    for (size_t e = 0; e < above.size(); ++e) {
      numeric += static_cast<double>(ds.values()[e]) * (above[e] - below[e]) / (2 * kStep);
    }
    EXPECT_GT(std::abs(numeric), 1e-3);
    EXPECT_NEAR(analytic, numeric, 2e-6 * std::max(1.0, std::abs(numeric)));
  }
}

TEST(BlockMatrix, GradientIsTheSameOnEveryDevice) {
  for (const Shape& shape : {Shape{1, 1, 1}, Shape{3, 33, 5}, Shape{2, 70, 65}}) {
    const Array<float> clusters = random_normal(shape, 8, 0.4);
    const Array<float> ds = random_normal({shape[0], shape[1], shape[1]}, 9, 100.0);
    const Block block = block_of(clusters);
    DeviceMemory host = memory_of(kCpuDevice);
    const Array<float> expected = block_gradient(clusters, ds, block.s, host);
    for (Device device : test_devices()) {
      DeviceMemory memory = memory_of(device);
      expect_close(block_gradient(clusters, ds, block.s, memory), expected, 1e-6);
    }
  }
}

TEST(BlockMatrix, PlansItsScratch) {
  const Array<float> clusters = random_normal({2, 40, 3}, 1),
                     square = random_normal({2, 40, 40}, 2);
  for (Device device : test_devices()) {
    DeviceMemory memory = memory_of(device);
    const View<float> s = memory.put(square), ds = memory.put(square);
    const View<float> c = memory.put(clusters), dc = memory.put(clusters);
    const View<float> cells = memory.zeros<float>({2});
    expect_meta_counts_scratch(device, [&](const Stream& stream, Arena& scratch) {
      kernels::block_matrix(stream,
                            {.s = s, .effective_cells = cells, .clusters = c, .scratch = &scratch});
      kernels::block_matrix_backward(
          stream, {.dclusters = dc, .ds = ds, .s = s, .clusters = c, .scratch = &scratch});
    });
  }
}

void expect_memberships(Device device, const Shape& shape) {
  const int64_t n = shape[2], k = shape[3];
  for (Precision storage : test_storages(device)) {
    const Array<float> logits = rounded(random_normal(shape, 4, 6.0), storage);
    Array<uint8_t> mask({shape[0], n});
    for (int64_t i = 0; i < mask.numel(); ++i) mask[i] = i % 3 != 1;
    DeviceMemory memory = memory_of(device, 2);
    const RealView written = memory.fresh(shape, storage);
    kernels::memberships(
        memory.stream(),
        {.y = written, .logits = memory.put(logits, storage), .mask = memory.put(mask)});
    const Array<float> y = memory.get(written);
    const double rounding = storage == Precision::kBf16 ? 1.0 / 256 : 0.0;
    for (int64_t e = 0; e < y.numel(); ++e) {
      const int64_t token = e / k % n;
      const int64_t b = e / (k * n * shape[1]);
      const double expected =
          mask[b * n + token] == 0 ? 0.0 : 1.0 / (1.0 + std::exp(-static_cast<double>(logits[e])));
      ASSERT_NEAR(static_cast<double>(y[e]), expected, (rounding + 1e-6) * expected)
          << name_of(device) << " " << name_of(storage) << " element " << e;
    }
  }
}

TEST(Memberships, AreTheSigmoidOfRealTokensAndZeroOnPadding) {
  for (stipple::cpu::Isa isa : stipple::cpu::available_isas()) {
    stipple::cpu::set_isa(isa);
    expect_memberships(kCpuDevice, {2, 3, 131, 5});
  }
  for (Device device : test_devices()) {
    expect_memberships(device, {2, 3, 131, 5});
    expect_memberships(device, {3, 1, 2, 70});
    expect_memberships(device, {2, 2, 5, 72});
  }
}

TEST(Memberships, MayOverwriteTheirLogitsAndSurviveExtremes) {
  for (Device device : test_devices()) {
    for (Precision storage : test_storages(device)) {
      DeviceMemory memory = memory_of(device);
      const Array<float> extremes({1, 1, 1, 5}, {-1000.0f, -20.0f, 0.0f, 20.0f, 1000.0f});
      const RealView logits = memory.put(extremes, storage);
      kernels::memberships(memory.stream(), {.y = logits, .logits = logits});
      const Array<float> x = memory.get(logits);
      EXPECT_NEAR(static_cast<double>(x[0]), 0.0, 1e-30);
      EXPECT_NEAR(static_cast<double>(x[1]), 2.0611536e-9,
                  storage == Precision::kBf16 ? 8e-12 : 1e-15);
      EXPECT_EQ(x[2], 0.5f);
      EXPECT_NEAR(static_cast<double>(x[3]), 1.0, 1e-7);
      EXPECT_EQ(x[4], 1.0f);
    }
  }
}

/// y S zᵀ over two samples and two heads.
struct Model {
  Array<float> y, z, s;
  Array<double> expected{Shape{4}}, y_sum, z_sum;
  explicit Model(int64_t n = 9, int64_t m = 7, int64_t k = 4)
      : y(random_uniform({2, 2, n, k}, 1, 0, 1)),
        z(random_uniform({2, 2, m, k}, 2, 0, 1)),
        s(random_uniform({2, k, k}, 3, 0, 0.1)),
        y_sum({4, k}),
        z_sum({4, k}) {}
  void evaluate(Device device = kCpuDevice, int threads = 1, Precision storage = Precision::kFp32) {
    DeviceMemory memory = memory_of(device, threads);
    const kernels::ExpectedEdges args{.expected = memory.fresh<double>(expected.shape()),
                                      .y_sum = memory.fresh<double>(y_sum.shape()),
                                      .z_sum = memory.fresh<double>(z_sum.shape()),
                                      .y = memory.put(y, storage),
                                      .z = memory.put(z, storage),
                                      .s = memory.put(s),
                                      .scratch = &memory.scratch()};
    kernels::expected_edges(memory.stream(), args);
    expected = memory.get(args.expected);
    y_sum = memory.get(args.y_sum);
    z_sum = memory.get(args.z_sum);
  }
  /// Sum over all pairs of p_ij.
  double pair_by_pair(int64_t p) const {
    const int64_t k = s.shape()[1];
    const auto yp = y.view().at(p / 2).at(p % 2);
    const auto zp = z.view().at(p / 2).at(p % 2);
    const auto sp = s.view().at(p % 2);
    double sum = 0;
    for (int64_t i = 0; i < yp.shape[0]; ++i) {
      for (int64_t j = 0; j < zp.shape[0]; ++j) {
        for (int64_t u = 0; u < k; ++u) {
          for (int64_t v = 0; v < k; ++v) {
            sum += static_cast<double>(yp[i * k + u]) * static_cast<double>(sp[u * k + v]) *
                   static_cast<double>(zp[j * k + v]);
          }
        }
      }
    }
    return sum;
  }
};

TEST(ExpectedEdges, AgreeWithTheSumOverAllPairs) {
  const auto check = [](Device device) {
    Model model;
    model.evaluate(device, 2);
    for (int64_t p = 0; p < 4; ++p)
      EXPECT_NEAR(model.expected[p], model.pair_by_pair(p), 1e-12 * model.expected[p]);
  };
  for (stipple::cpu::Isa isa : stipple::cpu::available_isas()) {
    stipple::cpu::set_isa(isa);
    check(kCpuDevice);
  }
  for (Device device : test_devices()) check(device);
}

TEST(ExpectedEdges, AreTheSameOnEveryDeviceAndWhenRepeated) {
  for (Device device : test_devices()) {
    for (Precision storage : test_storages(device)) {
      Model expected(520, 1030, 37), model(520, 1030, 37);
      expected.y = rounded(expected.y, storage);
      expected.z = rounded(expected.z, storage);
      expected.evaluate();
      model.evaluate(device, 1, storage);
      expect_close(model.expected, expected.expected, 1e-13);
      expect_close(model.y_sum, expected.y_sum, 1e-14);
      expect_close(model.z_sum, expected.z_sum, 1e-14);
      const std::vector<double> first = model.expected.values();
      model.evaluate(device, 1, storage);
      EXPECT_EQ(model.expected.values(), first);
    }
  }
}

TEST(ExpectedEdges, OfficialInitialisationGivesAQuarter) {
  constexpr int64_t n = 64, k = 128, d = 32;
  const Array<float> clusters = random_normal({1, k, d}, 1, std::sqrt(2.0 / (k * d)));
  const Block block = block_of(clusters);
  // phi(x) of unit-scale tokens has entries of about 0.2.
  const auto members = [&](uint64_t seed) {
    const Array<float> x = random_normal({1, 1, n, d}, seed, 0.2);
    Array<float> y({1, 1, n, k});
    for (int64_t i = 0; i < n; ++i) {
      for (int64_t u = 0; u < k; ++u) {
        for (int64_t a = 0; a < d; ++a) y[i * k + u] += x[i * d + a] * clusters[u * d + a];
      }
    }
    kernels::memberships(Stream(kCpuDevice), {.y = y, .logits = y});
    return y;
  };
  const Array<float> y = members(2);
  const Array<float> z = members(3);
  Array<double> expected({1}), y_sum({1, k}), z_sum({1, k});
  kernels::expected_edges(
      Stream(kCpuDevice),
      {.expected = expected, .y_sum = y_sum, .z_sum = z_sum, .y = y, .z = z, .s = block.s});
  EXPECT_NEAR(expected[0] / (n * n), 0.25, 0.001);
  EXPECT_GT(block.effective_cells[0], 0.99f * k * k);
}

struct EdgeGradients {
  Array<float> dy, dz, ds;
};

/// What the operation adds to twos, starting from the sums that model.evaluate() left.
EdgeGradients gradients_of(const Model& model, Device device, float weight,
                           const Array<uint8_t>* queries = nullptr,
                           const Array<uint8_t>* keys = nullptr) {
  DeviceMemory memory = memory_of(device, 3);
  const auto twos = [&](const Shape& shape) {
    Array<float> host(shape);
    host.fill(2.0f);
    return memory.put(host);
  };
  const auto mask = [&](const Array<uint8_t>* host) {
    return host == nullptr ? View<const uint8_t>{} : memory.put(*host);
  };
  const kernels::ExpectedEdgesBackward args{.dy = twos(model.y.shape()),
                                            .dz = twos(model.z.shape()),
                                            .ds = twos(model.s.shape()),
                                            .y_sum = memory.put(model.y_sum),
                                            .z_sum = memory.put(model.z_sum),
                                            .s = memory.put(model.s),
                                            .query_mask = mask(queries),
                                            .key_mask = mask(keys),
                                            .weight = weight,
                                            .scratch = &memory.scratch()};
  kernels::expected_edges_backward(memory.stream(), args);
  EdgeGradients added{memory.get(args.dy), memory.get(args.dz), memory.get(args.ds)};
  for (auto* part : {&added.dy, &added.dz, &added.ds}) {
    for (float& x : part->values()) x -= 2.0f;
  }
  return added;
}

TEST(ExpectedEdges, GradientMatchesCentralDifferencesAndIsAdded) {
  constexpr float kWeight = 0.3f;
  for (Device device : test_devices()) {
    Model model;
    model.evaluate();
    const EdgeGradients gradients = gradients_of(model, device, kWeight);
    const auto check = [&](Array<float>& values, const Array<float>& gradient, const char* name) {
      for (int64_t e = 0; e < values.numel(); e += 3) {
        const float before = values[e];
        // Linear in each entry, so that any step is exact; these are exact in float, too.
        const auto total_at = [&](float value) {
          values[e] = value;
          double total = 0;
          for (int64_t p = 0; p < 4; ++p) total += model.pair_by_pair(p);
          return total;
        };
        const double numeric = static_cast<double>(kWeight) * (total_at(1.5f) - total_at(0.5f));
        values[e] = before;
        ASSERT_NEAR(static_cast<double>(gradient[e]), numeric,
                    1e-5 * std::max(1.0, std::abs(numeric)))
            << name_of(device) << " " << name << " " << e;
      }
    };
    check(model.y, gradients.dy, "y");
    check(model.z, gradients.dz, "z");
    check(model.s, gradients.ds, "s");
  }
}

TEST(ExpectedEdges, GradientIsTheSameOnEveryDevice) {
  for (int64_t clusters : {37, 36}) {
    Model model(70, 65, clusters);
    model.evaluate();
    const EdgeGradients expected = gradients_of(model, kCpuDevice, 0.7f);
    for (Device device : test_devices()) {
      const EdgeGradients gradients = gradients_of(model, device, 0.7f);
      expect_close(gradients.dy, expected.dy, 1e-6);
      expect_close(gradients.dz, expected.dz, 1e-6);
      expect_close(gradients.ds, expected.ds, 1e-6);
    }
  }
}

TEST(ExpectedEdges, PaddingGetsNoGradient) {
  Model model;
  model.evaluate();
  Array<uint8_t> queries({2, 9}), keys({2, 7});
  for (int64_t i = 0; i < queries.numel(); ++i) queries[i] = i % 2 == 0;
  for (int64_t j = 0; j < keys.numel(); ++j) keys[j] = j % 3 == 0;
  for (Device device : test_devices()) {
    const EdgeGradients gradients = gradients_of(model, device, 1.0f, &queries, &keys);
    for (int64_t e = 0; e < gradients.dy.numel(); ++e)
      EXPECT_EQ(gradients.dy[e] != 0.0f, queries[e / (9 * 4 * 2) * 9 + e / 4 % 9] != 0);
    for (int64_t e = 0; e < gradients.dz.numel(); ++e)
      EXPECT_EQ(gradients.dz[e] != 0.0f, keys[e / (7 * 4 * 2) * 7 + e / 4 % 7] != 0);
  }
}

TEST(ExpectedEdges, PlanTheirScratch) {
  const Model model;
  for (Device device : test_devices()) {
    DeviceMemory memory = memory_of(device);
    const View<float> y = memory.put(model.y), z = memory.put(model.z), s = memory.put(model.s);
    const View<double> expected = memory.put(model.expected);
    const View<double> y_sum = memory.put(model.y_sum), z_sum = memory.put(model.z_sum);
    expect_meta_counts_scratch(device, [&](const Stream& stream, Arena& scratch) {
      kernels::expected_edges(stream, {.expected = expected,
                                       .y_sum = y_sum,
                                       .z_sum = z_sum,
                                       .y = y,
                                       .z = z,
                                       .s = s,
                                       .scratch = &scratch});
      kernels::expected_edges_backward(stream, {.dy = y,
                                                .dz = z,
                                                .ds = s,
                                                .y_sum = y_sum,
                                                .z_sum = z_sum,
                                                .s = s,
                                                .weight = 1.0f,
                                                .scratch = &scratch});
    });
  }
}

double loss_of(DeviceMemory& memory, const kernels::EdgeSet& graph, double weight,
               const Array<double>* expected = nullptr) {
  const View<double> loss = memory.fresh<double>({1});
  kernels::sparsity_loss(memory.stream(), {.loss = loss,
                                           .expected = expected == nullptr ? View<const double>{}
                                                                           : memory.put(*expected),
                                           .weight = weight,
                                           .graph = graph});
  return memory.get(loss)[0];
}

TEST(SparsityLoss, IsTheWeightOfExpectedOrElseOfDrawnEdges) {
  const Array<uint8_t> three({2, 2}, {1, 1, 1, 0}), one({2, 2}, {0, 0, 0, 1});
  const std::vector<GraphProblem> problems = {{EdgeForm::kCsr, three}, {EdgeForm::kCsr, one}};
  const Array<double> expected({2}, {2.5, 0.75});
  for (Device device : test_devices()) {
    DeviceMemory memory = memory_of(device);
    const HostGraph host(problems, {.tile_density = 2.0}, device.type);
    const kernels::EdgeSet graph = put_graph(memory, host);
    EXPECT_EQ(loss_of(memory, graph, 0.5, &expected), 1.625);
    EXPECT_EQ(loss_of(memory, graph, 0.5), 2.0);
    EXPECT_EQ(loss_of(memory, graph, 0.0, &expected), 0.0);
  }
}

}  // namespace
}  // namespace stipple::test
