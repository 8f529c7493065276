// SPDX-License-Identifier: Apache-2.0
// The stand-in of cuBLASLt against sums in double.
#include <cublasLt.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <vector>

#include "core/bf16.h"
#include "core/cuda/runtime.h"
#include "on_device.h"

namespace cuda_on_cpu {
namespace {

constexpr int64_t kRows = 7, kColumns = 5, kInner = 70, kBatch = 2;

struct Case {
  cublasOperation_t a_operation = CUBLAS_OP_N;
  cublasOperation_t b_operation = CUBLAS_OP_N;
  cublasLtOrder_t order = CUBLASLT_ORDER_COL;
  cublasComputeType_t compute = CUBLAS_COMPUTE_32F;
  bool is_biased = false;
  float beta = 0;
  cudaDataType factors = CUDA_R_32F;
  cudaDataType result = CUDA_R_32F;
  uint32_t reductions = CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE;
};

/// An array on the device, stored as `type`; `values` are what is stored.
struct Stored {
  std::vector<float> values;
  std::unique_ptr<OnDevice<float>> fp32;
  std::unique_ptr<OnDevice<uint16_t>> bf16;

  Stored(size_t count, unsigned seed, cudaDataType type) : values(random_floats(count, seed)) {
    if (type == CUDA_R_32F) {
      fp32 = std::make_unique<OnDevice<float>>(values);
      return;
    }
    std::vector<uint16_t> bits;
    for (float& value : values) {
      bits.push_back(stipple::to_bf16(value).bits);
      value = stipple::to_float(stipple::bf16{bits.back()});
    }
    bf16 = std::make_unique<OnDevice<uint16_t>>(bits);
  }
  void* data() const {
    if (fp32) return fp32->data();
    return bf16->data();
  }
  std::vector<float> get() const {
    if (fp32) return fp32->get();
    std::vector<float> all;
    for (uint16_t bits : bf16->get()) all.push_back(stipple::to_float(stipple::bf16{bits}));
    return all;
  }
};

/// A strided batch of matrices, with room between the columns (or rows).
struct Matrices {
  int64_t rows, columns;
  cublasLtOrder_t order;
  int64_t leading() const { return (order == CUBLASLT_ORDER_COL ? rows : columns) + 3; }
  int64_t stride() const { return leading() * (order == CUBLASLT_ORDER_COL ? columns : rows); }
  size_t count() const { return static_cast<size_t>(kBatch * stride()); }
  size_t at(int64_t batch, int64_t i, int64_t j) const {
    const int64_t within = order == CUBLASLT_ORDER_COL ? j * leading() + i : i * leading() + j;
    return static_cast<size_t>(batch * stride() + within);
  }
  cublasLtMatrixLayout_t layout(cudaDataType type) const {
    cublasLtMatrixLayout_t made = nullptr;
    EXPECT_EQ(cublasLtMatrixLayoutCreate(&made, type, static_cast<uint64_t>(rows),
                                         static_cast<uint64_t>(columns), leading()),
              CUBLAS_STATUS_SUCCESS);
    const int32_t batch = kBatch;
    const int64_t between = stride();
    cublasLtMatrixLayoutSetAttribute(made, CUBLASLT_MATRIX_LAYOUT_ORDER, &order, sizeof(order));
    cublasLtMatrixLayoutSetAttribute(made, CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, &batch,
                                     sizeof(batch));
    cublasLtMatrixLayoutSetAttribute(made, CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET, &between,
                                     sizeof(between));
    return made;
  }
};

Matrices operand(int64_t rows, int64_t columns, cublasOperation_t operation,
                 cublasLtOrder_t order) {
  return operation == CUBLAS_OP_N ? Matrices{rows, columns, order} : Matrices{columns, rows, order};
}

cublasLtMatmulDesc_t operation_of(const Case& test, const void* bias) {
  cublasLtMatmulDesc_t made = nullptr;
  EXPECT_EQ(cublasLtMatmulDescCreate(&made, test.compute, CUDA_R_32F), CUBLAS_STATUS_SUCCESS);
  cublasLtMatmulDescSetAttribute(made, CUBLASLT_MATMUL_DESC_TRANSA, &test.a_operation, sizeof(int));
  cublasLtMatmulDescSetAttribute(made, CUBLASLT_MATMUL_DESC_TRANSB, &test.b_operation, sizeof(int));
  if (test.is_biased) {
    const cublasLtEpilogue_t epilogue = CUBLASLT_EPILOGUE_BIAS;
    cublasLtMatmulDescSetAttribute(made, CUBLASLT_MATMUL_DESC_EPILOGUE, &epilogue,
                                   sizeof(epilogue));
    cublasLtMatmulDescSetAttribute(made, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &bias, sizeof(bias));
  }
  return made;
}

/// The operands of a case, and what multiplies them.
struct Problem {
  Case test;
  Matrices a_shape, b_shape, c_shape{kRows, kColumns, test.order};
  Stored a, b, c, bias;
  cublasLtHandle_t handle = nullptr;
  cublasLtMatmulDesc_t operation;
  cublasLtMatrixLayout_t a_layout, b_layout, c_layout;
  cublasLtMatmulPreference_t preference = nullptr;

  explicit Problem(const Case& of)
      : test(of),
        a_shape(operand(kRows, kInner, of.a_operation, of.order)),
        b_shape(operand(kInner, kColumns, of.b_operation, of.order)),
        a(a_shape.count(), 1, of.factors),
        b(b_shape.count(), 2, of.factors),
        c(c_shape.count(), 3, of.result),
        bias(kRows, 4, of.result),
        operation(operation_of(of, bias.data())),
        a_layout(a_shape.layout(of.factors)),
        b_layout(b_shape.layout(of.factors)),
        c_layout(c_shape.layout(of.result)) {
    EXPECT_EQ(cublasLtCreate(&handle), CUBLAS_STATUS_SUCCESS);
    cublasLtMatmulPreferenceCreate(&preference);
    cublasLtMatmulPreferenceSetAttribute(preference, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK,
                                         &of.reductions, sizeof(of.reductions));
    promise_alignment(sizeof(uint16_t));
  }
  Problem(const Problem&) = delete;
  Problem& operator=(const Problem&) = delete;
  ~Problem() {
    for (cublasLtMatrixLayout_t layout : {a_layout, b_layout, c_layout}) {
      cublasLtMatrixLayoutDestroy(layout);
    }
    cublasLtMatmulPreferenceDestroy(preference);
    cublasLtMatmulDescDestroy(operation);
    cublasLtDestroy(handle);
  }

  void promise_alignment(uint32_t bytes) const {
    for (const auto attribute :
         {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
          CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES}) {
      cublasLtMatmulPreferenceSetAttribute(preference, attribute, &bytes, sizeof(bytes));
    }
  }
  cublasStatus_t choose(cublasLtMatmulHeuristicResult_t& result) const {
    int found = 0;
    return cublasLtMatmulAlgoGetHeuristic(handle, operation, a_layout, b_layout, c_layout, c_layout,
                                          preference, 1, &result, &found);
  }
  cublasStatus_t multiply() const {
    cublasLtMatmulHeuristicResult_t result;
    if (const cublasStatus_t status = choose(result)) return status;
    const float alpha = 0.5f;
    return cublasLtMatmul(handle, operation, &alpha, a.data(), a_layout, b.data(), b_layout,
                          &test.beta, c.data(), c_layout, c.data(), c_layout, &result.algo, nullptr,
                          0, nullptr);
  }

  double product(int64_t batch, int64_t i, int64_t j) const {
    const bool is_rounded = test.compute == CUBLAS_COMPUTE_32F_FAST_16BF;
    const auto factor = [&](float x) {
      return double{is_rounded ? stipple::to_float(stipple::to_bf16(x)) : x};
    };
    double sum = 0;
    for (int64_t k = 0; k < kInner; ++k) {
      const bool is_a_straight = test.a_operation == CUBLAS_OP_N;
      const bool is_b_straight = test.b_operation == CUBLAS_OP_N;
      const size_t in_a = is_a_straight ? a_shape.at(batch, i, k) : a_shape.at(batch, k, i);
      const size_t in_b = is_b_straight ? b_shape.at(batch, k, j) : b_shape.at(batch, j, k);
      sum += factor(a.values[in_a]) * factor(b.values[in_b]);
    }
    return sum;
  }
  /// Of what lies between the columns, too.
  std::vector<double> expected() const {
    std::vector<double> all(c.values.begin(), c.values.end());
    for (int64_t n = 0; n < kBatch; ++n) {
      for (int64_t i = 0; i < kRows; ++i) {
        for (int64_t j = 0; j < kColumns; ++j) {
          double& value = all[c_shape.at(n, i, j)];
          value = 0.5 * product(n, i, j) + double{test.beta} * value;
          if (test.is_biased) value += double{bias.values[static_cast<size_t>(i)]};
        }
      }
    }
    return all;
  }
};

/// Largest error relative to max(|value|, 1).
double error_of(const Case& test) {
  const Problem problem(test);
  EXPECT_EQ(problem.multiply(), CUBLAS_STATUS_SUCCESS);
  const std::vector<float> got = problem.c.get();
  const std::vector<double> expected = problem.expected();
  double worst = 0;
  for (size_t i = 0; i < got.size(); ++i) {
    const double error = std::abs(double{got[i]} - expected[i]);
    worst = std::max(worst, error / std::max(1.0, std::abs(expected[i])));
  }
  return worst;
}

cublasStatus_t choice_of(const Case& test) {
  cublasLtMatmulHeuristicResult_t result;
  return Problem(test).choose(result);
}

constexpr double kFp32Error = 1e-5;
constexpr double kBf16Error = 1.0 / 256;  // half of the last place, and a little for the sums

TEST(EmulatedCublasLt, MultipliesEveryTransposition) {
  for (const auto order : {CUBLASLT_ORDER_COL, CUBLASLT_ORDER_ROW}) {
    for (const auto a_operation : {CUBLAS_OP_N, CUBLAS_OP_T}) {
      for (const auto b_operation : {CUBLAS_OP_N, CUBLAS_OP_T}) {
        SCOPED_TRACE(order * 4 + a_operation * 2 + b_operation);
        Case test{
            .a_operation = a_operation, .b_operation = b_operation, .order = order, .beta = 2};
        EXPECT_LT(error_of(test), kFp32Error);
        test.factors = test.result = CUDA_R_16BF;
        EXPECT_LT(error_of(test), kBf16Error);
      }
    }
  }
}

TEST(EmulatedCublasLt, AddsBiasAlongRows) {
  EXPECT_LT(error_of({.is_biased = true}), kFp32Error);
  EXPECT_LT(error_of({.is_biased = true, .factors = CUDA_R_16BF, .result = CUDA_R_16BF}),
            kBf16Error);
}

TEST(EmulatedCublasLt, RoundsFactorsToBf16WhenAllowed) {
  EXPECT_LT(error_of({.compute = CUBLAS_COMPUTE_32F_FAST_16BF}), kFp32Error);
}

TEST(EmulatedCublasLt, SumsProductsOfBf16InFp32) {
  EXPECT_LT(error_of({.factors = CUDA_R_16BF}), kFp32Error);
  EXPECT_GT(error_of({.factors = CUDA_R_16BF, .result = CUDA_R_16BF}), kFp32Error);
}

TEST(EmulatedCublasLt, RoundsPartialSumsOnlyWhenAllowed) {
  Case test{.factors = CUDA_R_16BF, .result = CUDA_R_16BF};
  const auto bits_of = [&] {
    const Problem problem(test);
    EXPECT_EQ(problem.multiply(), CUBLAS_STATUS_SUCCESS);
    return problem.c.get();
  };
  const std::vector<float> rounded_once = bits_of();
  test.reductions = CUBLASLT_REDUCTION_SCHEME_MASK;
  EXPECT_NE(bits_of(), rounded_once);
}

TEST(EmulatedCublasLt, HoldsTheCallerToItsAlignmentInEveryMatrix) {
  const Problem problem({});  // arrays are aligned to 16 bytes; their second matrices are not
  problem.promise_alignment(4);
  EXPECT_EQ(problem.multiply(), CUBLAS_STATUS_SUCCESS);
  problem.promise_alignment(16);
  EXPECT_EQ(problem.multiply(), CUBLAS_STATUS_INVALID_VALUE);
}

TEST(EmulatedCublasLt, RefusesMixturesThatTheLibraryDoesNotHave) {
  EXPECT_EQ(choice_of({.factors = CUDA_R_16BF}), CUBLAS_STATUS_SUCCESS);
  EXPECT_EQ(choice_of({.result = CUDA_R_16BF}), CUBLAS_STATUS_NOT_SUPPORTED);
  EXPECT_EQ(choice_of({.compute = CUBLAS_COMPUTE_32F_FAST_16BF, .factors = CUDA_R_16BF}),
            CUBLAS_STATUS_NOT_SUPPORTED);
  const Problem problem({.is_biased = true, .factors = CUDA_R_16BF, .result = CUDA_R_16BF});
  const int32_t fp32 = CUDA_R_32F;
  cublasLtMatmulDescSetAttribute(problem.operation, CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, &fp32,
                                 sizeof(fp32));
  cublasLtMatmulHeuristicResult_t result;
  EXPECT_EQ(problem.choose(result), CUBLAS_STATUS_NOT_SUPPORTED);
}

}  // namespace
}  // namespace cuda_on_cpu
