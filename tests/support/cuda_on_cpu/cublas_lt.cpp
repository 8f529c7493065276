// SPDX-License-Identifier: Apache-2.0
#include <cublasLt.h>

#include <algorithm>
#include <cstring>
#include <functional>
#include <utility>
#include <vector>

#include "cuda_on_cpu/host.h"
#include "cuda_on_cpu/warp.h"

struct cublasLtContext {};

struct cublasLtMatrixLayoutOpaque_t {
  cudaDataType type = CUDA_R_32F;
  uint64_t rows = 0;
  uint64_t columns = 0;
  int64_t leading = 0;
  cublasLtOrder_t order = CUBLASLT_ORDER_COL;
  int32_t batch = 1;
  int64_t batch_stride = 0;
};

struct cublasLtMatmulDescOpaque_t {
  cublasComputeType_t compute = CUBLAS_COMPUTE_32F;
  cublasOperation_t a_operation = CUBLAS_OP_N;
  cublasOperation_t b_operation = CUBLAS_OP_N;
  cublasLtEpilogue_t epilogue = CUBLASLT_EPILOGUE_DEFAULT;
  const void* bias = nullptr;
  int32_t bias_type = -1;  ///< that of D
};

/// As cuBLASLt does, an algorithm trusts the alignments that were promised when it was chosen, and
/// takes the liberties that it was given.
struct cublasLtMatmulPreferenceOpaque_t {
  uint64_t workspace_bytes = 0;
  uint32_t reduction_schemes = CUBLASLT_REDUCTION_SCHEME_MASK;
  uint32_t alignments[4] = {256, 256, 256, 256};
};

namespace {

using Layout = cublasLtMatrixLayoutOpaque_t;

template <class T>
cublasStatus_t set(T& attribute, const void* value, size_t bytes) {
  if (value == nullptr || bytes != sizeof(T)) return CUBLAS_STATUS_INVALID_VALUE;
  std::memcpy(&attribute, value, sizeof(T));
  return CUBLAS_STATUS_SUCCESS;
}

size_t element_bytes(cudaDataType type) { return type == CUDA_R_16BF ? 2 : 4; }

float read(const void* base, cudaDataType type, int64_t index) {
  if (type == CUDA_R_32F) return static_cast<const float*>(base)[index];
  return cuda_on_cpu::from_bf16_bits(static_cast<const uint16_t*>(base)[index]);
}

void write(void* base, cudaDataType type, int64_t index, float value) {
  if (type == CUDA_R_32F) {
    static_cast<float*>(base)[index] = value;
  } else {
    static_cast<uint16_t*>(base)[index] = cuda_on_cpu::bf16_bits(value);
  }
}

int64_t index_of(const Layout& layout, int64_t row, int64_t column) {
  return layout.order == CUBLASLT_ORDER_COL ? column * layout.leading + row
                                            : row * layout.leading + column;
}

uint64_t rows_of(const Layout& layout, cublasOperation_t operation) {
  return operation == CUBLAS_OP_N ? layout.rows : layout.columns;
}
uint64_t columns_of(const Layout& layout, cublasOperation_t operation) {
  return operation == CUBLAS_OP_N ? layout.columns : layout.rows;
}

bool is_sound(const Layout& layout) {
  const uint64_t length = layout.order == CUBLASLT_ORDER_COL ? layout.rows : layout.columns;
  return layout.rows > 0 && layout.columns > 0 && layout.leading > 0 &&
         static_cast<uint64_t>(layout.leading) >= length && layout.batch >= 1;
}

/// The combinations of fp32 and bf16 that cuBLASLt documents: C and D, and the bias, are alike;
/// products of bf16 are stored as either, those of fp32 as fp32, rounded to bf16 or not.
bool are_supported(const cublasLtMatmulDescOpaque_t& operation, cudaDataType factors,
                   cudaDataType result) {
  if (operation.bias_type >= 0 && operation.bias_type != result) return false;
  if (factors == CUDA_R_32F) return result == CUDA_R_32F;
  return factors == CUDA_R_16BF && (result == CUDA_R_16BF || result == CUDA_R_32F) &&
         operation.compute == CUBLAS_COMPUTE_32F;
}

cublasStatus_t check(const cublasLtMatmulDescOpaque_t& operation, const Layout& a, const Layout& b,
                     const Layout& c, const Layout& d) {
  for (const Layout* layout : {&a, &b, &c, &d}) {
    if (!is_sound(*layout) || layout->batch != d.batch) return CUBLAS_STATUS_INVALID_VALUE;
  }
  if (rows_of(a, operation.a_operation) != d.rows ||
      columns_of(b, operation.b_operation) != d.columns ||
      columns_of(a, operation.a_operation) != rows_of(b, operation.b_operation) ||
      c.rows != d.rows || c.columns != d.columns) {
    return CUBLAS_STATUS_INVALID_VALUE;
  }
  const bool is_biased = operation.epilogue == CUBLASLT_EPILOGUE_BIAS;
  if (a.type != b.type || c.type != d.type || !are_supported(operation, a.type, d.type) ||
      c.order != d.order || (operation.epilogue != CUBLASLT_EPILOGUE_DEFAULT && !is_biased) ||
      (is_biased && d.order != CUBLASLT_ORDER_COL)) {
    return CUBLAS_STATUS_NOT_SUPPORTED;
  }
  return CUBLAS_STATUS_SUCCESS;
}

/// op(layout) as a dense row-major array of floats.
void pack(std::vector<float>& to, const void* from, const Layout& layout,
          cublasOperation_t operation, bool is_rounded) {
  const auto rows = static_cast<int64_t>(rows_of(layout, operation));
  const auto columns = static_cast<int64_t>(columns_of(layout, operation));
  to.resize(static_cast<size_t>(rows * columns));
  for (int64_t i = 0; i < rows; ++i) {
    for (int64_t j = 0; j < columns; ++j) {
      const int64_t index =
          operation == CUBLAS_OP_N ? index_of(layout, i, j) : index_of(layout, j, i);
      const float value = read(from, layout.type, index);
      to[static_cast<size_t>(i * columns + j)] =
          is_rounded ? cuda_on_cpu::from_bf16_bits(cuda_on_cpu::bf16_bits(value)) : value;
    }
  }
}

/// Part of the inner dimension, and its length.
struct Inner {
  int64_t begin, end, length;
};

/// c = a b, dense and row-major; a row of b is used for all rows of a while it is near.
void multiply(float* c, const float* a, const float* b, int64_t rows, Inner inner,
              int64_t columns) {
  constexpr int64_t kInnerBlock = 64;
  constexpr int64_t kColumnBlock = 256;
  std::fill(c, c + rows * columns, 0.0f);
  for (int64_t k0 = inner.begin; k0 < inner.end; k0 += kInnerBlock) {
    const int64_t k1 = std::min(k0 + kInnerBlock, inner.end);
    for (int64_t j0 = 0; j0 < columns; j0 += kColumnBlock) {
      const int64_t j1 = std::min(j0 + kColumnBlock, columns);
      for (int64_t i = 0; i < rows; ++i) {
        float* __restrict__ row = c + i * columns;
        for (int64_t k = k0; k < k1; ++k) {
          const float factor = a[i * inner.length + k];
          const float* __restrict__ other = b + k * columns;
          for (int64_t j = j0; j < j1; ++j) row[j] += factor * other[j];
        }
      }
    }
  }
}

struct Call {
  cublasLtMatmulDescOpaque_t operation;
  float alpha = 1;
  float beta = 0;
  const void* a = nullptr;
  const void* b = nullptr;
  const void* c = nullptr;
  void* d = nullptr;
  Layout a_layout, b_layout, c_layout, d_layout;
  bool rounds_partial_sums = false;
};

template <class T>
T* batch_of(T* base, const Layout& layout, int32_t batch) {
  using Byte = std::conditional_t<std::is_const_v<T>, const std::byte, std::byte>;
  return static_cast<Byte*>(base) +
         int64_t{batch} * layout.batch_stride * static_cast<int64_t>(element_bytes(layout.type));
}

void store(const Call& call, int32_t batch, const std::vector<float>& product) {
  const Layout& layout = call.d_layout;
  const void* c = batch_of(call.c, call.c_layout, batch);
  void* d = batch_of(call.d, layout, batch);
  const auto rows = static_cast<int64_t>(layout.rows);
  const auto columns = static_cast<int64_t>(layout.columns);
  for (int64_t i = 0; i < rows; ++i) {
    const bool is_biased = call.operation.epilogue == CUBLASLT_EPILOGUE_BIAS;
    const float bias = is_biased ? read(call.operation.bias, layout.type, i) : 0.0f;
    for (int64_t j = 0; j < columns; ++j) {
      float value = call.alpha * product[static_cast<size_t>(i * columns + j)];
      if (call.beta != 0) value += call.beta * read(c, layout.type, index_of(call.c_layout, i, j));
      write(d, layout.type, index_of(layout, i, j), value + bias);
    }
  }
}

/// As a kernel that cuts the inner dimension and keeps partial sums in a result of bf16 would.
void multiply_in_halves(std::vector<float>& product, const float* a, const float* b, int64_t rows,
                        int64_t inner, int64_t columns) {
  thread_local std::vector<float> half;
  half.resize(product.size());
  multiply(half.data(), a, b, rows, {0, inner / 2, inner}, columns);
  multiply(product.data(), a, b, rows, {inner / 2, inner, inner}, columns);
  const auto rounded = [](float x) {
    return cuda_on_cpu::from_bf16_bits(cuda_on_cpu::bf16_bits(x));
  };
  for (size_t i = 0; i < product.size(); ++i) product[i] = rounded(product[i]) + rounded(half[i]);
}

void run(const Call& call) {
  thread_local std::vector<float> a, b, product;
  const bool is_rounded = call.operation.compute == CUBLAS_COMPUTE_32F_FAST_16BF;
  const auto rows = static_cast<int64_t>(call.d_layout.rows);
  const auto columns = static_cast<int64_t>(call.d_layout.columns);
  const auto inner = static_cast<int64_t>(columns_of(call.a_layout, call.operation.a_operation));
  product.resize(static_cast<size_t>(rows * columns));
  for (int32_t batch = 0; batch < call.d_layout.batch; ++batch) {
    pack(a, batch_of(call.a, call.a_layout, batch), call.a_layout, call.operation.a_operation,
         is_rounded);
    pack(b, batch_of(call.b, call.b_layout, batch), call.b_layout, call.operation.b_operation,
         is_rounded);
    if (call.rounds_partial_sums) {
      multiply_in_halves(product, a.data(), b.data(), rows, inner, columns);
    } else {
      multiply(product.data(), a.data(), b.data(), rows, {0, inner, inner}, columns);
    }
    store(call, batch, product);
  }
}

bool may_round_partial_sums(const Layout& d, const cublasLtMatmulAlgo_t* algorithm) {
  return d.type == CUDA_R_16BF &&
         (algorithm == nullptr ||
          (algorithm->data[4] & CUBLASLT_REDUCTION_SCHEME_OUTPUT_TYPE) != 0);
}

/// Every matrix of the batch.
bool are_aligned(const void* first, const Layout& layout, uint64_t bytes) {
  constexpr uint64_t kWidestAccess = 16;
  const uint64_t stride = static_cast<uint64_t>(layout.batch_stride) * element_bytes(layout.type);
  const uint64_t addresses = reinterpret_cast<uintptr_t>(first) | (layout.batch > 1 ? stride : 0);
  return addresses % std::min(bytes, kWidestAccess) == 0;
}

/// See refuse_products.
std::function<bool(const cuda_on_cpu::ProductAsked&)>& is_refused() {
  static std::function<bool(const cuda_on_cpu::ProductAsked&)> is;
  return is;
}

}  // namespace

void cuda_on_cpu::refuse_products(std::function<bool(const ProductAsked&)> is) {
  is_refused() = std::move(is);
}

const char* cublasLtGetStatusName(cublasStatus_t status) {
  switch (status) {
    case CUBLAS_STATUS_SUCCESS:
      return "CUBLAS_STATUS_SUCCESS";
    case CUBLAS_STATUS_NOT_INITIALIZED:
      return "CUBLAS_STATUS_NOT_INITIALIZED";
    case CUBLAS_STATUS_ALLOC_FAILED:
      return "CUBLAS_STATUS_ALLOC_FAILED";
    case CUBLAS_STATUS_INVALID_VALUE:
      return "CUBLAS_STATUS_INVALID_VALUE";
    case CUBLAS_STATUS_ARCH_MISMATCH:
      return "CUBLAS_STATUS_ARCH_MISMATCH";
    case CUBLAS_STATUS_EXECUTION_FAILED:
      return "CUBLAS_STATUS_EXECUTION_FAILED";
    case CUBLAS_STATUS_INTERNAL_ERROR:
      return "CUBLAS_STATUS_INTERNAL_ERROR";
    case CUBLAS_STATUS_NOT_SUPPORTED:
      return "CUBLAS_STATUS_NOT_SUPPORTED";
  }
  return "CUBLAS_STATUS_UNKNOWN";
}
const char* cublasLtGetStatusString(cublasStatus_t status) { return cublasLtGetStatusName(status); }
size_t cublasLtGetVersion() { return 130000; }

cublasStatus_t cublasLtCreate(cublasLtHandle_t* handle) {
  *handle = new cublasLtContext;
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtDestroy(cublasLtHandle_t handle) {
  delete handle;
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatrixLayoutCreate(cublasLtMatrixLayout_t* layout, cudaDataType type,
                                          uint64_t rows, uint64_t columns, int64_t leading) {
  *layout = new Layout{type, rows, columns, leading};
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatrixLayoutDestroy(cublasLtMatrixLayout_t layout) {
  delete layout;
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatrixLayoutSetAttribute(cublasLtMatrixLayout_t layout,
                                                cublasLtMatrixLayoutAttribute_t attribute,
                                                const void* value, size_t bytes) {
  switch (attribute) {
    case CUBLASLT_MATRIX_LAYOUT_TYPE:
      return set(layout->type, value, bytes);
    case CUBLASLT_MATRIX_LAYOUT_ORDER:
      return set(layout->order, value, bytes);
    case CUBLASLT_MATRIX_LAYOUT_ROWS:
      return set(layout->rows, value, bytes);
    case CUBLASLT_MATRIX_LAYOUT_COLS:
      return set(layout->columns, value, bytes);
    case CUBLASLT_MATRIX_LAYOUT_LD:
      return set(layout->leading, value, bytes);
    case CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT:
      return set(layout->batch, value, bytes);
    case CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET:
      return set(layout->batch_stride, value, bytes);
  }
  return CUBLAS_STATUS_INVALID_VALUE;
}

cublasStatus_t cublasLtMatmulDescCreate(cublasLtMatmulDesc_t* operation,
                                        cublasComputeType_t compute, cudaDataType_t scale_type) {
  if (scale_type != CUDA_R_32F) return CUBLAS_STATUS_NOT_SUPPORTED;
  *operation = new cublasLtMatmulDescOpaque_t{compute};
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulDescDestroy(cublasLtMatmulDesc_t operation) {
  delete operation;
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulDescSetAttribute(cublasLtMatmulDesc_t operation,
                                              cublasLtMatmulDescAttributes_t attribute,
                                              const void* value, size_t bytes) {
  switch (attribute) {
    case CUBLASLT_MATMUL_DESC_TRANSA:
      return set(operation->a_operation, value, bytes);
    case CUBLASLT_MATMUL_DESC_TRANSB:
      return set(operation->b_operation, value, bytes);
    case CUBLASLT_MATMUL_DESC_EPILOGUE:
      return set(operation->epilogue, value, bytes);
    case CUBLASLT_MATMUL_DESC_BIAS_POINTER:
      return set(operation->bias, value, bytes);
    case CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE:
      return set(operation->bias_type, value, bytes);
  }
  return CUBLAS_STATUS_INVALID_VALUE;
}

cublasStatus_t cublasLtMatmulPreferenceCreate(cublasLtMatmulPreference_t* preference) {
  *preference = new cublasLtMatmulPreferenceOpaque_t;
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulPreferenceDestroy(cublasLtMatmulPreference_t preference) {
  delete preference;
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulPreferenceSetAttribute(cublasLtMatmulPreference_t preference,
                                                    cublasLtMatmulPreferenceAttributes_t attribute,
                                                    const void* value, size_t bytes) {
  switch (attribute) {
    case CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES:
      return set(preference->workspace_bytes, value, bytes);
    case CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK:
      return set(preference->reduction_schemes, value, bytes);
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES:
      return set(preference->alignments[0], value, bytes);
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES:
      return set(preference->alignments[1], value, bytes);
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES:
      return set(preference->alignments[2], value, bytes);
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES:
      return set(preference->alignments[3], value, bytes);
  }
  return CUBLAS_STATUS_INVALID_VALUE;
}

cublasStatus_t cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t, cublasLtMatmulDesc_t operation,
                                              cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b,
                                              cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d,
                                              cublasLtMatmulPreference_t preference, int asked,
                                              cublasLtMatmulHeuristicResult_t results[],
                                              int* given) {
  *given = 0;
  if (asked < 1) return CUBLAS_STATUS_INVALID_VALUE;
  if (const cublasStatus_t status = check(*operation, *a, *b, *c, *d)) return status;
  const bool has_bias = operation->epilogue == CUBLASLT_EPILOGUE_BIAS;
  if (is_refused() &&
      is_refused()({d->rows, d->columns, has_bias, preference->reduction_schemes})) {
    return CUBLAS_STATUS_NOT_SUPPORTED;
  }
  results[0] = {};
  for (int i = 0; i < 4; ++i) results[0].algo.data[i] = preference->alignments[i];
  results[0].algo.data[4] = preference->reduction_schemes;
  results[0].wavesCount = 1;
  *given = 1;
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmul(cublasLtHandle_t, cublasLtMatmulDesc_t operation, const void* alpha,
                              const void* a, cublasLtMatrixLayout_t a_layout, const void* b,
                              cublasLtMatrixLayout_t b_layout, const void* beta, const void* c,
                              cublasLtMatrixLayout_t c_layout, void* d,
                              cublasLtMatrixLayout_t d_layout,
                              const cublasLtMatmulAlgo_t* algorithm, void* workspace,
                              size_t workspace_bytes, cudaStream_t stream) {
  if (const cublasStatus_t status = check(*operation, *a_layout, *b_layout, *c_layout, *d_layout)) {
    return status;
  }
  const void* pointers[] = {a, b, c, d};
  const Layout* layouts[] = {a_layout, b_layout, c_layout, d_layout};
  for (int i = 0; i < 4 && algorithm != nullptr; ++i) {
    if (!are_aligned(pointers[i], *layouts[i], algorithm->data[i])) {
      return CUBLAS_STATUS_INVALID_VALUE;
    }
  }
  if (workspace_bytes > 0 && workspace == nullptr) return CUBLAS_STATUS_INVALID_VALUE;
  Call call{*operation,
            *static_cast<const float*>(alpha),
            *static_cast<const float*>(beta),
            a,
            b,
            c,
            d,
            *a_layout,
            *b_layout,
            *c_layout,
            *d_layout,
            may_round_partial_sums(*d_layout, algorithm)};
  const cudaError_t error = cuda_on_cpu::enqueue(stream, [call] { run(call); });
  return error == cudaSuccess ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_EXECUTION_FAILED;
}
