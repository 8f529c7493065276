// SPDX-License-Identifier: Apache-2.0
#include "kernels/matmul.h"

#include <gtest/gtest.h>
#include <omp.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <filesystem>
#include <iterator>
#include <limits>
#include <string>
#include <thread>
#include <utility>

#include "core/cuda/runtime.h"
#include "tests/support/allocation_count.h"
#include "tests/support/arrays.h"
#include "tests/support/devices.h"
#include "tests/support/op_checks.h"
#if defined(STIPPLE_CUDA_EMULATED)
#include <cublasLt.h>

#include "cuda_on_cpu/host.h"
#endif

namespace stipple::kernels {
namespace {

using test::Array;
using test::DeviceMemory;
using test::expect_close;
using test::expect_stored;
using test::random_normal;
using test::rounded;
using test::test_devices;
using test::test_storages;

constexpr Precision kFp32 = Precision::kFp32, kBf16 = Precision::kBf16;

struct Case {
  int64_t a_count, b_count, c_count, m, n, k;
  bool transpose_a = false, transpose_b = false;
  float alpha = 1.0f, beta = 0.0f;
};

struct Storages {
  Precision c = kFp32, a = kFp32, b = kFp32;

  Precision factors() const { return std::max({a, b, c}); }
  std::string name() const {
    return std::string("c ") + name_of(c) + ", a " + name_of(a) + ", b " + name_of(b);
  }
};

std::vector<Storages> storages_of(Device device) {
  std::vector<Storages> all;
  for (Precision c : test_storages(device)) {
    for (Precision a : test_storages(device)) {
      for (Precision b : test_storages(device)) all.push_back({c, a, b});
    }
  }
  return all;
}

Shape stored(int64_t count, int64_t rows, int64_t cols, bool transposed) {
  if (transposed) std::swap(rows, cols);
  return count == 1 ? Shape{rows, cols} : Shape{count, rows, cols};
}

struct MatmulOperands {
  Array<float> a, b, c;
  explicit MatmulOperands(const Case& t)
      : a(random_normal(stored(t.a_count, t.m, t.k, t.transpose_a), 1)),
        b(random_normal(stored(t.b_count, t.k, t.n, t.transpose_b), 2)),
        c(random_normal(stored(t.c_count, t.m, t.n, false), 3)) {}

  Matmul args(const Case& t, Arena* scratch) {
    return {.c = c,
            .a = a,
            .b = b,
            .transpose_a = t.transpose_a,
            .transpose_b = t.transpose_b,
            .alpha = t.alpha,
            .beta = t.beta,
            .scratch = scratch};
  }
  /// The same in the memory of a device, stored so.
  Matmul args(const Case& t, DeviceMemory& memory, const Storages& storages = {}) {
    Matmul args = this->args(t, &memory.scratch());
    args.c = memory.put(c, storages.c);
    args.a = memory.put(a, storages.a);
    args.b = memory.put(b, storages.b);
    return args;
  }
  /// As the contract has them: factors are rounded where anything is.
  void round(const Storages& storages) {
    a = rounded(a, storages.factors());
    b = rounded(b, storages.factors());
    c = rounded(c, storages.c);
  }
};

DeviceMemory memory_of(Device device, Precision precision = Precision::kFp32) {
  return DeviceMemory(device, {.precision = precision}, test::kScratchBytes);
}

Array<double> oracle(const Case& t, const MatmulOperands& in) {
  Array<double> c(in.c.shape());
  for (int64_t i = 0; i < c.numel(); ++i) c[i] = double{t.beta} * in.c[i];
  const int64_t products = std::max({t.a_count, t.b_count, t.c_count});
  for (int64_t p = 0; p < products; ++p) {
    const int64_t a = p % t.a_count * t.m * t.k;
    const int64_t b = p % t.b_count * t.k * t.n;
    for (int64_t row = 0; row < t.m; ++row) {
      for (int64_t col = 0; col < t.n; ++col) {
        double sum = 0;
        for (int64_t i = 0; i < t.k; ++i) {
          sum += double{in.a[a + (t.transpose_a ? i * t.m + row : row * t.k + i)]} *
                 in.b[b + (t.transpose_b ? col * t.k + i : i * t.n + col)];
        }
        c[(p % t.c_count * t.m + row) * t.n + col] += double{t.alpha} * sum;
      }
    }
  }
  return c;
}

void expect_matches_oracle(const Case& t, Precision precision = Precision::kFp32,
                           double tolerance = 2e-6) {
  MatmulOperands operands(t);
  const Array<double> expected = oracle(t, operands);
  for (Device device : test_devices()) {
    SCOPED_TRACE(testing::Message()
                 << test::name_of(device) << ", counts " << t.a_count << " " << t.b_count << " "
                 << t.c_count << ", m n k " << t.m << " " << t.n << " " << t.k << ", transposed "
                 << t.transpose_a << t.transpose_b);
    DeviceMemory memory = memory_of(device, precision);
    const Matmul args = operands.args(t, memory);
    matmul(memory.stream(), args);
    expect_close(memory.get(args.c), expected, tolerance);
  }
}

TEST(Matmul, MatchesOracleForOddSizesAndAllTranspositions) {
  for (bool transpose_a : {false, true}) {
    for (bool transpose_b : {false, true}) {
      for (const auto [m, n, k] : {std::array<int64_t, 3>{1, 1, 1},
                                   {1, 7, 13},
                                   {31, 1, 5},
                                   {257, 33, 17},
                                   {5, 64, 513},
                                   {300, 3, 1100}}) {
        expect_matches_oracle({1, 1, 1, m, n, k, transpose_a, transpose_b});
      }
    }
  }
}

TEST(Matmul, RepeatsTheFactorWithFewerMatrices) {
  expect_matches_oracle({6, 2, 6, 19, 11, 7, false, true});
  expect_matches_oracle({2, 6, 6, 19, 11, 7, true, false});
  expect_matches_oracle({1, 3, 3, 300, 5, 9});
  expect_matches_oracle({12, 2, 12, 5, 3, 7});  // the second factor stands still along a batch
  expect_matches_oracle({12, 6, 12, 5, 3, 7});  // it advances along a batch
  expect_matches_oracle({12, 6, 4, 5, 3, 7});   // no step fits all: batches of two
  expect_matches_oracle({4, 6, 12, 5, 3, 7});
}

TEST(Matmul, RoundsNoMoreThanBf16WhenAllowedTo) {
  constexpr double kBf16Tolerance = 1e-2;
  expect_matches_oracle({6, 2, 6, 19, 11, 70, false, true}, Precision::kBf16, kBf16Tolerance);
  expect_matches_oracle({6, 6, 2, 19, 11, 70, true, false}, Precision::kBf16, kBf16Tolerance);
}

void expect_matches_oracle_in_every_storage(const Case& t) {
  for (Device device : test_devices()) {
    for (const Storages& storages : storages_of(device)) {
      SCOPED_TRACE(testing::Message() << test::name_of(device) << ", " << storages.name() << ", "
                                      << t.m << " x " << t.n << " x " << t.k);
      MatmulOperands operands(t), stored(t);
      stored.round(storages);
      DeviceMemory memory = memory_of(device);
      const Matmul args = operands.args(t, memory, storages);
      matmul(memory.stream(), args);
      expect_stored(memory.get(args.c), oracle(t, stored), storages.c, 2e-6);
      EXPECT_EQ(memory.scratch().used(), 0u);
    }
  }
}

TEST(Matmul, TakesAndGivesEveryMixtureOfStorages) {
  expect_matches_oracle_in_every_storage({1, 1, 1, 19, 11, 70, false, true, 0.5f});
  expect_matches_oracle_in_every_storage({1, 1, 1, 24, 16, 1100, true, false, 1.0f, -2.0f});
  expect_matches_oracle_in_every_storage({6, 2, 6, 19, 11, 7, false, true});
  expect_matches_oracle_in_every_storage({6, 6, 2, 9, 8, 70, true, false, 0.5f, 1.0f});
}

TEST(Matmul, SumsIntoTheResultWithFewerMatrices) {
  expect_matches_oracle({6, 6, 2, 5, 3, 7, true, false});
  expect_matches_oracle({12, 12, 2, 11, 13, 200, true, false});  // several products per partial sum
  expect_matches_oracle({6, 6, 2, 11, 13, 700, true, false});    // several partial sums per product
  expect_matches_oracle({6, 3, 1, 290, 13, 300, false, false});
}

TEST(Matmul, ScalesByAlphaAndBeta) {
  expect_matches_oracle({1, 1, 1, 9, 8, 7, false, false, 0.5f, -2.0f});
  expect_matches_oracle({6, 6, 2, 9, 8, 700, true, false, 0.5f, -2.0f});
  expect_matches_oracle({6, 6, 2, 9, 8, 100, true, false, 3.0f, 1.0f});
}

TEST(Matmul, DoesNotReadTheResultWhenBetaIsZero) {
  for (const Case& t : {Case{1, 1, 1, 9, 8, 7}, Case{1, 1, 1, 9, 8, 700}, Case{6, 6, 2, 9, 8, 7}}) {
    MatmulOperands operands(t);
    const Array<double> expected = oracle(t, operands);
    operands.c.fill(std::numeric_limits<float>::quiet_NaN());
    for (Device device : test_devices()) {
      DeviceMemory memory = memory_of(device);
      const Matmul args = operands.args(t, memory);
      matmul(memory.stream(), args);
      expect_close(memory.get(args.c), expected, 2e-6);
    }
  }
}

const Case kManyCases[] = {{1, 1, 1, 130, 64, 65, false, true},
                           {8, 2, 8, 30, 37, 32, false, true},
                           {8, 8, 2, 37, 32, 300, true, false, 1.0f, 1.0f},
                           {1, 1, 1, 16, 16, 2000, true, false, 1.0f, 1.0f}};

TEST(Matmul, HasTheSameBitsWhenRepeated) {
  for (Device device : test_devices()) {
    std::vector<std::vector<float>> first;
    for (int repeat = 0; repeat < 3; ++repeat) {
      for (size_t i = 0; i < std::size(kManyCases); ++i) {
        MatmulOperands operands(kManyCases[i]);
        DeviceMemory memory = memory_of(device);
        const Matmul args = operands.args(kManyCases[i], memory);
        matmul(memory.stream(), args);
        const std::vector<float> result = memory.get(args.c).values();
        if (repeat == 0) first.push_back(result);
        EXPECT_TRUE(result == first[i]) << test::name_of(device) << ", case " << i;
      }
    }
  }
}

TEST(Matmul, HasTheSameBitsForAnyThreads) {
  for (const Case& t :
       {Case{1, 1, 1, 1030, 64, 64, false, true}, Case{8, 2, 8, 300, 37, 32, false, true},
        Case{8, 8, 2, 37, 32, 300, true, false, 1.0f, 1.0f},
        Case{1, 1, 1, 64, 64, 5000, true, false, 1.0f, 1.0f}}) {
    test::expect_same_bits_for_any_threads([&](const Stream& stream, Arena& scratch) {
      MatmulOperands operands(t);
      matmul(stream, operands.args(t, &scratch));
      return operands.c.values();
    });
  }
}

TEST(Matmul, HasTheSameBitsForAnyAlignmentOfTheFactors) {
  const Case t{1, 1, 1, 300, 64, 600, false, true};
  MatmulOperands operands(t);
  Arena scratch("scratch", kCpuDevice, test::kScratchBytes);
  matmul(Stream(kCpuDevice), operands.args(t, &scratch));
  const std::vector<float> expected = operands.c.values();
  for (int64_t shift : {1, 3, 8, 17}) {
    std::vector<float> a(operands.a.values().size() + 32), b(operands.b.values().size() + 32);
    std::copy(operands.a.values().begin(), operands.a.values().end(), a.begin() + shift);
    std::copy(operands.b.values().begin(), operands.b.values().end(), b.begin() + 2 * shift % 31);
    Matmul args = operands.args(t, &scratch);
    args.a.data = a.data() + shift;
    args.b.data = b.data() + 2 * shift % 31;
    matmul(Stream(kCpuDevice), args);
    EXPECT_TRUE(operands.c.values() == expected) << "shifted by " << shift;
  }
}

TEST(Matmul, StartsNoThreadsOfItsOwn) {
  const auto count_threads = [] {
    const std::filesystem::directory_iterator tasks("/proc/self/task");
    return std::distance(begin(tasks), end(tasks));
  };
  const Case t{1, 1, 1, 512, 512, 512};
  MatmulOperands operands(t);
  const Array<double> expected = oracle(t, operands);
  std::thread caller([&] {
    // What oneDNN would do here if it were left alone.
    omp_set_num_threads(4);
    const auto before = count_threads();
    matmul(Stream(kCpuDevice), operands.args(t, nullptr));
    EXPECT_EQ(count_threads(), before);
  });
  caller.join();
  expect_close(operands.c, expected, 2e-6);
}

TEST(Matmul, GivesTheSameBitsFromUnalignedFactorsOfWholeNumbers) {
  // Sums of small whole numbers are exact in fp32, so that any algorithm gives these bits.
  const Case t{1, 1, 1, 33, 20, 24, false, true};
  MatmulOperands operands(t);
  for (auto* x : {&operands.a, &operands.b}) {
    for (float& value : x->values()) value = std::round(value * 4);
  }
  const Array<double> sums = oracle(t, operands);
  Array<float> expected(sums.shape());
  std::copy(sums.values().begin(), sums.values().end(), expected.values().begin());
  for (Device device : test_devices()) {
    for (int64_t shift : {0, 1, 2, 3, 4}) {
      for (const Storages& storages : storages_of(device)) {
        DeviceMemory memory = memory_of(device);
        const auto shifted = [&](const Array<float>& x, Precision storage) {
          Array<float> padded({x.numel() + 8});
          std::copy(x.values().begin(), x.values().end(), padded.values().begin() + shift);
          auto* first = static_cast<std::byte*>(memory.put(padded, storage).data);
          return RealView(first + static_cast<size_t>(shift) * bytes_of(storage), x.shape(),
                          storage);
        };
        Matmul args = operands.args(t, memory);
        args.a = shifted(operands.a, storages.a);
        args.b = shifted(operands.b, storages.b);
        args.c = shifted(operands.c, storages.c);
        matmul(memory.stream(), args);
        expect_close(memory.get(args.c), rounded(expected, storages.c), 0.0);
      }
    }
  }
}

TEST(Matmul, SearchesForAnAlgorithmOnce) {
  const Case t{3, 3, 3, 23, 29, 31};  // of no other test
  for (Device device : test_devices()) {
    if (device.type != DeviceType::kCuda) continue;
    MatmulOperands operands(t);
    DeviceMemory memory = memory_of(device);
    const Matmul args = operands.args(t, memory);
    const auto count_allocations = [&] {
      const int64_t before = test::allocations;
      matmul(memory.stream(), args);
      return test::allocations - before;
    };
    const int64_t first = count_allocations();
    const int64_t second = count_allocations();
    EXPECT_LT(second, first);
    EXPECT_EQ(count_allocations(), second);
  }
}

TEST(Matmul, PlansItsScratch) {
  const Case t{6, 6, 2, 33, 32, 300, true, false, 1.0f, 1.0f};
  for (Device device : test_devices()) {
    for (const Storages& storages : storages_of(device)) {
      MatmulOperands operands(t);
      DeviceMemory memory = memory_of(device);
      Matmul args = operands.args(t, memory, storages);
      test::expect_meta_counts_scratch(device, [&](const Stream& stream, Arena& scratch) {
        args.scratch = &scratch;
        matmul(stream, args);
      });
    }
  }
}

TEST(Matmul, NeedsScratchToRound) {
  if (!stipple::cuda::is_built()) GTEST_SKIP() << "nothing is rounded on the CPU";
  const Stream meta(meta_device(DeviceType::kCuda));
  Array<float> a({2, 3}), b({3, 4}), c({2, 4});
  Array<bf16> half_b({3, 4}), half_c({2, 4});
  EXPECT_NO_THROW(matmul(meta, {.c = c, .a = a, .b = b}));
  EXPECT_THROW(matmul(meta, {.c = c, .a = a, .b = half_b}), Error);
  EXPECT_THROW(matmul(meta, {.c = half_c, .a = a, .b = b}), Error);
}

TEST(Matmul, NeedsScratchOnlyForPartialSums) {
  const Case direct{4, 2, 4, 10, 10, 512};
  MatmulOperands operands(direct);
  EXPECT_NO_THROW(matmul(Stream(kCpuDevice), operands.args(direct, nullptr)));
  const Case split{1, 1, 1, 10, 10, 513};
  MatmulOperands long_operands(split);
  EXPECT_THROW(matmul(Stream(kCpuDevice), long_operands.args(split, nullptr)), Error);
}

TEST(Matmul, RefusesShapesThatDoNotFit) {
  const Stream stream(kCpuDevice);
  Array<float> a({2, 3}), b({3, 4}), c({2, 4}), wrong({4, 2}), a3({3, 2, 3}), c2({2, 2, 4});
  EXPECT_THROW(matmul(stream, {.c = wrong, .a = a, .b = b}), ShapeError);
  EXPECT_THROW(matmul(stream, {.c = c, .a = a, .b = b, .transpose_b = true}), ShapeError);
  EXPECT_THROW(matmul(stream, {.c = c2, .a = a3, .b = b}), ShapeError);
  EXPECT_THROW(matmul(Stream(kMetaDevice), {.c = wrong, .a = a, .b = b}), ShapeError);
}

struct LinearStorages {
  Precision dx = kFp32, dy = kFp32, x = kFp32;

  std::string name() const {
    return std::string("dx ") + name_of(dx) + ", dy " + name_of(dy) + ", x " + name_of(x);
  }
};

std::vector<LinearStorages> linear_storages_of(Device device) {
  std::vector<LinearStorages> all;
  for (const Storages& s : storages_of(device)) all.push_back({s.c, s.a, s.b});
  return all;
}

struct LinearOperands {
  Array<float> x, weight, bias, dy, y, dx, dweight, dbias;
  LinearOperands(int64_t rows, int64_t inputs, int64_t outputs)
      : x(random_normal({rows, inputs}, 1)),
        weight(random_normal({outputs, inputs}, 2)),
        bias(random_normal({outputs}, 3)),
        dy(random_normal({rows, outputs}, 4)),
        y({rows, outputs}),
        dx({rows, inputs}),
        dweight(random_normal({outputs, inputs}, 5)),
        dbias(random_normal({outputs}, 6)) {}
  Linear forward() { return {.y = y, .x = x, .weight = weight, .bias = bias}; }
  LinearBackward backward(Arena* scratch) {
    return {.dx = dx,
            .dweight = dweight,
            .dbias = dbias,
            .dy = dy,
            .x = x,
            .weight = weight,
            .scratch = scratch};
  }
  Linear forward(DeviceMemory& memory, Precision of_y = kFp32, Precision of_x = kFp32) {
    return {.y = memory.fresh(y.shape(), of_y),
            .x = memory.put(x, of_x),
            .weight = memory.put(weight),
            .bias = memory.put(bias),
            .scratch = &memory.scratch()};
  }
  LinearBackward backward(DeviceMemory& memory, const LinearStorages& storages = {}) {
    return {.dx = memory.fresh(dx.shape(), storages.dx),
            .dweight = memory.put(dweight),
            .dbias = memory.put(dbias),
            .dy = memory.put(dy, storages.dy),
            .x = memory.put(x, storages.x),
            .weight = memory.put(weight),
            .scratch = &memory.scratch()};
  }
};

std::vector<double> linear_oracle(const std::vector<double>& x, const std::vector<double>& weight,
                                  const std::vector<double>& bias) {
  const size_t outputs = bias.size();
  const size_t inputs = weight.size() / outputs;
  std::vector<double> y(x.size() / inputs * outputs);
  for (size_t i = 0; i < y.size(); ++i) {
    const size_t row = i / outputs, out = i % outputs;
    y[i] = bias[out];
    for (size_t c = 0; c < inputs; ++c) y[i] += x[row * inputs + c] * weight[out * inputs + c];
  }
  return y;
}

TEST(Linear, MatchesOracleForOddSizes) {
  for (const auto [rows, inputs, outputs] :
       {std::array<int64_t, 3>{1, 1, 1}, {257, 31, 7}, {600, 64, 65}}) {
    LinearOperands t(rows, inputs, outputs);
    Array<double> expected(t.y.shape());
    expected.values() =
        linear_oracle(test::to_double(t.x), test::to_double(t.weight), test::to_double(t.bias));
    for (Device device : test_devices()) {
      DeviceMemory memory = memory_of(device);
      const Linear args = t.forward(memory);
      linear(memory.stream(), args);
      expect_close(memory.get(args.y), expected, 2e-6);
    }
  }
}

TEST(Linear, TakesTheBiasOfTheCall) {
  for (Device device : test_devices()) {
    for (Precision storage : test_storages(device)) {
      LinearOperands t(3, 2, 4);
      DeviceMemory memory = memory_of(device);
      Linear args = t.forward(memory, storage);
      linear(memory.stream(), args);
      const Array<float> before = memory.get(args.y);
      for (float& b : t.bias.values()) b += 64.0f;
      args.bias = memory.put(t.bias);
      linear(memory.stream(), args);
      const Array<float> after = memory.get(args.y);
      for (int64_t i = 0; i < after.numel(); ++i) {
        EXPECT_NEAR(after[i] - before[i], 64.0f, storage == kBf16 ? 0.6f : 1e-4f);
      }
    }
  }
}

TEST(Linear, TakesAndGivesEitherStorage) {
  for (const auto [rows, inputs, outputs] :
       {std::array<int64_t, 3>{1, 1, 1}, {67, 31, 7}, {40, 64, 72}}) {
    for (Device device : test_devices()) {
      for (Precision of_y : test_storages(device)) {
        for (Precision of_x : test_storages(device)) {
          SCOPED_TRACE(testing::Message()
                       << test::name_of(device) << ", " << rows << " x " << inputs << " x "
                       << outputs << ", " << name_of(of_x) << " to " << name_of(of_y));
          LinearOperands t(rows, inputs, outputs);
          const Precision factors = std::max(of_y, of_x);
          Array<double> expected(t.y.shape());
          expected.values() = linear_oracle(test::to_double(rounded(t.x, factors)),
                                            test::to_double(rounded(t.weight, factors)),
                                            test::to_double(rounded(t.bias, of_y)));
          DeviceMemory memory = memory_of(device);
          const Linear args = t.forward(memory, of_y, of_x);
          linear(memory.stream(), args);
          expect_stored(memory.get(args.y), expected, of_y, 2e-6);
        }
      }
    }
  }
}

/// What the CPU makes of the same operands, rounded as the contract has it.
LinearOperands gradients_on_cpu(const LinearOperands& given, const LinearStorages& storages,
                                bool wants_dx) {
  LinearOperands t = given;
  const Precision factors = std::max({wants_dx ? storages.dx : kFp32, storages.dy, storages.x});
  for (Array<float>* x : {&t.dy, &t.x, &t.weight}) *x = rounded(*x, factors);
  Arena scratch("scratch", kCpuDevice, test::kScratchBytes);
  LinearBackward args = t.backward(&scratch);
  if (!wants_dx) args.dx = {};
  linear_backward(Stream(kCpuDevice), args);
  return t;
}

void expect_gradients_in_every_storage(int64_t rows, int64_t inputs, int64_t outputs,
                                       bool wants_dx) {
  const LinearOperands given(rows, inputs, outputs);
  for (Device device : test_devices()) {
    for (const LinearStorages& storages : linear_storages_of(device)) {
      SCOPED_TRACE(testing::Message() << test::name_of(device) << ", " << rows << " x " << inputs
                                      << " x " << outputs << ", " << storages.name());
      const LinearOperands expected = gradients_on_cpu(given, storages, wants_dx);
      LinearOperands t = given;
      DeviceMemory memory = memory_of(device);
      LinearBackward args = t.backward(memory, storages);
      const RealView dx = std::exchange(args.dx, wants_dx ? args.dx : RealView{});
      linear_backward(memory.stream(), args);
      if (wants_dx) expect_stored(memory.get(dx), expected.dx, storages.dx, 2e-6);
      expect_close(memory.get(args.dweight), expected.dweight, 2e-6);
      expect_close(memory.get(args.dbias), expected.dbias, 2e-6);
    }
  }
}

TEST(Linear, BackwardTakesAndGivesEveryMixtureOfStorages) {
  expect_gradients_in_every_storage(67, 31, 7, true);
  expect_gradients_in_every_storage(600, 16, 40, true);
  expect_gradients_in_every_storage(67, 31, 7, false);
}

TEST(Linear, BackwardIsTheDerivativeAndAddsToParameterGradients) {
  LinearOperands t(13, 5, 7);
  const auto x = test::to_double(t.x), w = test::to_double(t.weight), b = test::to_double(t.bias);
  const auto dx = test::central_differences(
      t.x, [&](const auto& at) { return test::dot(t.dy, linear_oracle(at, w, b)); });
  auto dweight = test::central_differences(
      t.weight, [&](const auto& at) { return test::dot(t.dy, linear_oracle(x, at, b)); });
  auto dbias = test::central_differences(
      t.bias, [&](const auto& at) { return test::dot(t.dy, linear_oracle(x, w, at)); });
  for (int64_t i = 0; i < dweight.numel(); ++i) dweight[i] += t.dweight[i];
  for (int64_t i = 0; i < dbias.numel(); ++i) dbias[i] += t.dbias[i];
  for (Device device : test_devices()) {
    DeviceMemory memory = memory_of(device);
    const LinearBackward args = t.backward(memory);
    linear_backward(memory.stream(), args);
    expect_close(memory.get(args.dx), dx, 1e-5);
    expect_close(memory.get(args.dweight), dweight, 1e-5);
    expect_close(memory.get(args.dbias), dbias, 1e-5);
  }
}

void expect_sums_of_rows(int64_t rows) {
  SCOPED_TRACE(rows);
  LinearOperands t(rows, 3, 2);
  Array<double> dweight(t.dweight.shape()), dbias(t.dbias.shape());
  for (int64_t out = 0; out < 2; ++out) {
    dbias[out] = t.dbias[out];
    for (int64_t row = 0; row < rows; ++row) dbias[out] += t.dy[row * 2 + out];
    for (int64_t in = 0; in < 3; ++in) {
      double& sum = dweight[out * 3 + in] = t.dweight[out * 3 + in];
      for (int64_t row = 0; row < rows; ++row) {
        sum += double{t.dy[row * 2 + out]} * t.x[row * 3 + in];
      }
    }
  }
  for (Device device : test_devices()) {
    DeviceMemory memory = memory_of(device);
    LinearBackward args = t.backward(memory);
    args.dx = {};
    linear_backward(memory.stream(), args);
    expect_close(memory.get(args.dweight), dweight, 5e-6);
    expect_close(memory.get(args.dbias), dbias, 2e-6);
  }
}

TEST(Linear, BackwardSumsManyRows) {
  expect_sums_of_rows(2000);
  expect_sums_of_rows(33000);  // partial sums in two stages
}

TEST(Linear, BackwardSumsTheBiasOfManyColumns) {
  LinearOperands t(700, 1, 70);
  Array<double> dbias(t.dbias.shape());
  for (int64_t out = 0; out < 70; ++out) {
    dbias[out] = t.dbias[out];
    for (int64_t row = 0; row < 700; ++row) dbias[out] += t.dy[row * 70 + out];
  }
  for (Device device : test_devices()) {
    DeviceMemory memory = memory_of(device);
    const LinearBackward args = t.backward(memory);
    linear_backward(memory.stream(), args);
    expect_close(memory.get(args.dbias), dbias, 2e-6);
  }
}

TEST(Linear, HasTheSameBitsForAnyThreads) {
  test::expect_same_bits_for_any_threads([](const Stream& stream, Arena& scratch) {
    LinearOperands t(3001, 33, 17);
    linear(stream, t.forward());
    linear_backward(stream, t.backward(&scratch));
    std::vector<float> all = t.y.values();
    for (const auto* part : {&t.dx, &t.dweight, &t.dbias}) {
      all.insert(all.end(), part->values().begin(), part->values().end());
    }
    return all;
  });
}

TEST(Linear, PlansItsScratch) {
  for (Device device : test_devices()) {
    for (const LinearStorages& storages : linear_storages_of(device)) {
      LinearOperands t(1500, 33, 17);
      DeviceMemory memory = memory_of(device);
      Linear forward = t.forward(memory, storages.dx, storages.x);
      LinearBackward backward = t.backward(memory, storages);
      test::expect_meta_counts_scratch(device, [&](const Stream& stream, Arena& scratch) {
        backward.scratch = &scratch;
        linear_backward(stream, backward);
      });
      if (std::max(storages.dx, storages.x) == kFp32) continue;
      test::expect_meta_counts_scratch(device, [&](const Stream& stream, Arena& scratch) {
        forward.scratch = &scratch;
        linear(stream, forward);
      });
    }
  }
}

#if defined(STIPPLE_CUDA_EMULATED)
// Shapes of their own: plans are kept.
TEST(Linear, DoesWithoutWhatCublasLtHasNoAlgorithmFor) {
  const auto refuse = [](auto is_refused) { cuda_on_cpu::refuse_products(is_refused); };
  const auto needs_output_type = [](const cuda_on_cpu::ProductAsked& asked) {
    return (asked.reductions & CUBLASLT_REDUCTION_SCHEME_OUTPUT_TYPE) == 0;
  };
  const auto has_no_bias = [](const cuda_on_cpu::ProductAsked& asked) { return asked.has_bias; };
  const auto run = [](int64_t outputs) {
    LinearOperands t(9, 6, outputs);
    DeviceMemory memory = memory_of(cuda_device(0));
    const Linear args = t.forward(memory, kBf16, kBf16);
    linear(memory.stream(), args);
    Array<double> expected(t.y.shape());
    expected.values() = linear_oracle(test::to_double(rounded(t.x, kBf16)),
                                      test::to_double(rounded(t.weight, kBf16)),
                                      test::to_double(rounded(t.bias, kBf16)));
    const Array<float> y = memory.get(args.y);
    for (int64_t i = 0; i < y.numel(); ++i) {
      EXPECT_NEAR(static_cast<double>(y[i]), expected[i], 2e-2 * (1.0 + std::abs(expected[i])));
    }
  };
  refuse(needs_output_type);
  run(21);
  refuse(has_no_bias);
  run(23);
  refuse([](const cuda_on_cpu::ProductAsked&) { return true; });
  EXPECT_THROW(run(25), CudaError);
  refuse(nullptr);
}
#endif

/// A captured product may neither allocate nor wait: the capture would fail. Replayed, it works on
/// what its arrays hold by then.
void expect_capturable(Device device, Precision storage) {
  LinearOperands t(65, 33, 17);
  DeviceMemory memory = memory_of(device);
  const Linear forward = t.forward(memory, storage, storage);
  const LinearBackward backward = t.backward(memory, {storage, storage, storage});
  linear(memory.stream(), forward);
  linear_backward(memory.stream(), backward);
  memory.stream().synchronize();
  const Array<float> y = memory.get(forward.y), dx = memory.get(backward.dx);

  stipple::cuda::begin_capture(memory.stream().native());
  linear(memory.stream(), forward);
  linear_backward(memory.stream(), backward);
  void* graph = stipple::cuda::end_capture(memory.stream().native());
  for (const RealView& written : {forward.y, backward.dx}) {
    fill_zero_bytes(memory.stream(), written.data, written.bytes());
  }
  stipple::cuda::launch_graph(graph, memory.stream().native());
  EXPECT_TRUE(memory.get(forward.y).values() == y.values());
  EXPECT_TRUE(memory.get(backward.dx).values() == dx.values());
  stipple::cuda::destroy_graph(graph);
}

TEST(Linear, CanBeCapturedOnceItHasRun) {
  for (Device device : test_devices()) {
    if (device.type != DeviceType::kCuda) continue;
    for (Precision storage : test_storages(device)) expect_capturable(device, storage);
  }
}

TEST(Linear, RefusesShapesThatDoNotFit) {
  LinearOperands t(4, 3, 2);
  Array<float> wrong({3});
  Linear forward = t.forward();
  forward.bias = wrong;
  EXPECT_THROW(linear(Stream(kCpuDevice), forward), ShapeError);
  Arena scratch("scratch", kCpuDevice, test::kScratchBytes);
  LinearBackward backward = t.backward(&scratch);
  backward.dweight = wrong;
  EXPECT_THROW(linear_backward(Stream(kCpuDevice), backward), ShapeError);
  EXPECT_THROW(linear_backward(Stream(kCpuDevice), t.backward(nullptr)), Error);
}

}  // namespace
}  // namespace stipple::kernels
