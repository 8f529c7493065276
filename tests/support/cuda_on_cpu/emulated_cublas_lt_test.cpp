// SPDX-License-Identifier: Apache-2.0
// The stand-in of cuBLASLt against sums in double.
#include <cublasLt.h>
#include <gtest/gtest.h>

#include <cmath>
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

cublasLtMatmulDesc_t operation_of(const Case& test, const float* bias) {
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

void expect_right(const Case& test) {
  const Matrices a = operand(kRows, kInner, test.a_operation, test.order);
  const Matrices b = operand(kInner, kColumns, test.b_operation, test.order);
  const Matrices c{kRows, kColumns, test.order};
  const std::vector<float> a_values = random_floats(a.count(), 1);
  const std::vector<float> b_values = random_floats(b.count(), 2);
  const std::vector<float> c_values = random_floats(c.count(), 3);
  const std::vector<float> bias = random_floats(kRows, 4);
  const OnDevice<float> on_a(a_values), on_b(b_values), on_c(c_values), on_bias(bias);

  cublasLtHandle_t handle = nullptr;
  ASSERT_EQ(cublasLtCreate(&handle), CUBLAS_STATUS_SUCCESS);
  const cublasLtMatmulDesc_t operation = operation_of(test, on_bias.data());
  const cublasLtMatrixLayout_t layouts[] = {a.layout(CUDA_R_32F), b.layout(CUDA_R_32F),
                                            c.layout(CUDA_R_32F)};
  cublasLtMatmulPreference_t preference = nullptr;
  cublasLtMatmulPreferenceCreate(&preference);
  cublasLtMatmulHeuristicResult_t result;
  int found = 0;
  ASSERT_EQ(cublasLtMatmulAlgoGetHeuristic(handle, operation, layouts[0], layouts[1], layouts[2],
                                           layouts[2], preference, 1, &result, &found),
            CUBLAS_STATUS_SUCCESS);
  ASSERT_EQ(found, 1);
  const float alpha = 0.5f;
  ASSERT_EQ(cublasLtMatmul(handle, operation, &alpha, on_a.data(), layouts[0], on_b.data(),
                           layouts[1], &test.beta, on_c.data(), layouts[2], on_c.data(), layouts[2],
                           &result.algo, nullptr, 0, nullptr),
            CUBLAS_STATUS_SUCCESS);

  const bool is_rounded = test.compute == CUBLAS_COMPUTE_32F_FAST_16BF;
  const auto factor = [&](float x) {
    return double{is_rounded ? stipple::to_float(stipple::to_bf16(x)) : x};
  };
  std::vector<float> expected = c_values;
  for (int64_t n = 0; n < kBatch; ++n) {
    for (int64_t i = 0; i < kRows; ++i) {
      for (int64_t j = 0; j < kColumns; ++j) {
        double sum = 0;
        for (int64_t k = 0; k < kInner; ++k) {
          const size_t in_a = test.a_operation == CUBLAS_OP_N ? a.at(n, i, k) : a.at(n, k, i);
          const size_t in_b = test.b_operation == CUBLAS_OP_N ? b.at(n, k, j) : b.at(n, j, k);
          sum += factor(a_values[in_a]) * factor(b_values[in_b]);
        }
        sum = 0.5 * sum + double{test.beta} * double{c_values[c.at(n, i, j)]};
        if (test.is_biased) sum += double{bias[static_cast<size_t>(i)]};
        expected[c.at(n, i, j)] = static_cast<float>(sum);
      }
    }
  }
  const std::vector<float> got = on_c.get();
  for (size_t i = 0; i < got.size(); ++i) ASSERT_NEAR(got[i], expected[i], 1e-5f) << i;
  for (const cublasLtMatrixLayout_t layout : layouts) cublasLtMatrixLayoutDestroy(layout);
  cublasLtMatmulPreferenceDestroy(preference);
  cublasLtMatmulDescDestroy(operation);
  cublasLtDestroy(handle);
}

TEST(EmulatedCublasLt, MultipliesEveryTransposition) {
  for (const auto order : {CUBLASLT_ORDER_COL, CUBLASLT_ORDER_ROW}) {
    for (const auto a_operation : {CUBLAS_OP_N, CUBLAS_OP_T}) {
      for (const auto b_operation : {CUBLAS_OP_N, CUBLAS_OP_T}) {
        SCOPED_TRACE(order * 4 + a_operation * 2 + b_operation);
        expect_right(
            {.a_operation = a_operation, .b_operation = b_operation, .order = order, .beta = 2});
      }
    }
  }
}

TEST(EmulatedCublasLt, AddsBiasAlongRows) { expect_right({.is_biased = true}); }

TEST(EmulatedCublasLt, RoundsFactorsToBf16WhenAllowed) {
  expect_right({.compute = CUBLAS_COMPUTE_32F_FAST_16BF});
}

}  // namespace
}  // namespace cuda_on_cpu
