// SPDX-License-Identifier: Apache-2.0
#include <cusparse.h>

#include <cstring>

#include "cuda_on_cpu/kernel.h"

struct cusparseContext {
  cudaStream_t stream = nullptr;
};

struct cusparseSpMatDescr {
  int64_t rows = 0;
  int64_t columns = 0;
  int64_t entries = 0;
  const int32_t* offsets = nullptr;
  const int32_t* indices = nullptr;
  float* values = nullptr;
};

struct cusparseDnMatDescr {
  int64_t rows = 0;
  int64_t columns = 0;
  int64_t leading = 0;
  float* values = nullptr;

  float* row(int64_t i) const { return values + i * leading; }
};

namespace {

/// Scribbled over by every call, so that a workspace that is too small or in use elsewhere shows.
constexpr size_t kWorkspaceBytes = 256;

struct Factors {
  float alpha;
  float beta;
};
Factors factors(const void* alpha, const void* beta) {
  return {*static_cast<const float*>(alpha), *static_cast<const float*>(beta)};
}

bool is_csr_sound(const cusparseSpMatDescr& m) {
  if (m.offsets[0] != 0 || m.offsets[m.rows] != m.entries) return false;
  for (int64_t i = 0; i < m.rows; ++i) {
    for (int32_t e = m.offsets[i]; e < m.offsets[i + 1]; ++e) {
      if (m.indices[e] < 0 || m.indices[e] >= m.columns) return false;
      if (e > m.offsets[i] && m.indices[e] < m.indices[e - 1]) return false;
    }
  }
  return true;
}

void require_sound(const cusparseSpMatDescr& m) {
  if (!is_csr_sound(m)) cuda_on_cpu::fail("cuSPARSE was given a matrix that is not sorted CSR");
}

/// beta = 0 reads what was there, as cuSPARSE does not say that it would not.
void sample(const cusparseDnMatDescr& a, const cusparseDnMatDescr& b, const cusparseSpMatDescr& c,
            Factors f) {
  require_sound(c);
  for (int64_t i = 0; i < c.rows; ++i) {
    for (int32_t e = c.offsets[i]; e < c.offsets[i + 1]; ++e) {
      float sum = 0.0f;
      for (int64_t x = 0; x < a.columns; ++x) sum += a.row(i)[x] * b.row(c.indices[e])[x];
      c.values[e] = f.alpha * sum + f.beta * c.values[e];
    }
  }
}

void multiply(const cusparseSpMatDescr& a, const cusparseDnMatDescr& b, const cusparseDnMatDescr& c,
              Factors f) {
  require_sound(a);
  for (int64_t i = 0; i < a.rows; ++i) {
    for (int64_t x = 0; x < c.columns; ++x) {
      float sum = 0.0f;
      for (int32_t e = a.offsets[i]; e < a.offsets[i + 1]; ++e) {
        sum += a.values[e] * b.row(a.indices[e])[x];
      }
      c.row(i)[x] = f.alpha * sum + (f.beta == 0.0f ? 0.0f : f.beta * c.row(i)[x]);
    }
  }
}

template <class Work>
cusparseStatus_t enqueue(cusparseHandle_t handle, void* buffer, const Work& work) {
  if (buffer == nullptr) return CUSPARSE_STATUS_INVALID_VALUE;
  cuda_on_cpu::enqueue(handle->stream, [buffer, work] {
    std::memset(buffer, 0xFF, kWorkspaceBytes);
    work();
  });
  return CUSPARSE_STATUS_SUCCESS;
}

}  // namespace

cusparseStatus_t cusparseCreate(cusparseHandle_t* handle) {
  *handle = new cusparseContext;
  return CUSPARSE_STATUS_SUCCESS;
}
cusparseStatus_t cusparseDestroy(cusparseHandle_t handle) {
  delete handle;
  return CUSPARSE_STATUS_SUCCESS;
}
cusparseStatus_t cusparseSetStream(cusparseHandle_t handle, cudaStream_t stream) {
  handle->stream = stream;
  return CUSPARSE_STATUS_SUCCESS;
}
const char* cusparseGetErrorString(cusparseStatus_t status) {
  switch (status) {
    case CUSPARSE_STATUS_SUCCESS:
      return "success";
    case CUSPARSE_STATUS_NOT_INITIALIZED:
      return "initialization error";
    case CUSPARSE_STATUS_INVALID_VALUE:
      return "invalid value";
    case CUSPARSE_STATUS_NOT_SUPPORTED:
      return "operation not supported";
  }
  return "unknown error";
}

cusparseStatus_t cusparseCreateCsr(cusparseSpMatDescr_t* matrix, int64_t rows, int64_t cols,
                                   int64_t nnz, void* offsets, void* columns, void* values,
                                   cusparseIndexType_t offsets_type,
                                   cusparseIndexType_t columns_type, cusparseIndexBase_t base,
                                   cudaDataType type) {
  if (offsets_type != CUSPARSE_INDEX_32I || columns_type != CUSPARSE_INDEX_32I ||
      base != CUSPARSE_INDEX_BASE_ZERO || type != CUDA_R_32F) {
    return CUSPARSE_STATUS_NOT_SUPPORTED;
  }
  if (rows < 0 || cols < 0 || nnz < 0 || nnz > INT32_MAX) return CUSPARSE_STATUS_INVALID_VALUE;
  *matrix = new cusparseSpMatDescr{rows,
                                   cols,
                                   nnz,
                                   static_cast<const int32_t*>(offsets),
                                   static_cast<const int32_t*>(columns),
                                   static_cast<float*>(values)};
  return CUSPARSE_STATUS_SUCCESS;
}
cusparseStatus_t cusparseDestroySpMat(cusparseConstSpMatDescr_t matrix) {
  delete matrix;
  return CUSPARSE_STATUS_SUCCESS;
}
cusparseStatus_t cusparseCreateDnMat(cusparseDnMatDescr_t* matrix, int64_t rows, int64_t cols,
                                     int64_t leading, void* values, cudaDataType type,
                                     cusparseOrder_t order) {
  if (type != CUDA_R_32F || order != CUSPARSE_ORDER_ROW) return CUSPARSE_STATUS_NOT_SUPPORTED;
  if (rows < 0 || cols < 0 || leading < cols) return CUSPARSE_STATUS_INVALID_VALUE;
  *matrix = new cusparseDnMatDescr{rows, cols, leading, static_cast<float*>(values)};
  return CUSPARSE_STATUS_SUCCESS;
}
cusparseStatus_t cusparseDestroyDnMat(cusparseConstDnMatDescr_t matrix) {
  delete matrix;
  return CUSPARSE_STATUS_SUCCESS;
}

cusparseStatus_t cusparseSDDMM_bufferSize(cusparseHandle_t, cusparseOperation_t,
                                          cusparseOperation_t, const void*,
                                          cusparseConstDnMatDescr_t, cusparseConstDnMatDescr_t,
                                          const void*, cusparseSpMatDescr_t, cudaDataType,
                                          cusparseSDDMMAlg_t, size_t* bytes) {
  *bytes = kWorkspaceBytes;
  return CUSPARSE_STATUS_SUCCESS;
}
cusparseStatus_t cusparseSDDMM(cusparseHandle_t handle, cusparseOperation_t a_operation,
                               cusparseOperation_t b_operation, const void* alpha,
                               cusparseConstDnMatDescr_t a, cusparseConstDnMatDescr_t b,
                               const void* beta, cusparseSpMatDescr_t c, cudaDataType compute,
                               cusparseSDDMMAlg_t, void* buffer) {
  if (a_operation != CUSPARSE_OPERATION_NON_TRANSPOSE ||
      b_operation != CUSPARSE_OPERATION_TRANSPOSE || compute != CUDA_R_32F) {
    return CUSPARSE_STATUS_NOT_SUPPORTED;
  }
  if (a->rows != c->rows || b->rows != c->columns || a->columns != b->columns)
    return CUSPARSE_STATUS_INVALID_VALUE;
  return enqueue(handle, buffer,
                 [a = *a, b = *b, c = *c, f = factors(alpha, beta)] { sample(a, b, c, f); });
}

cusparseStatus_t cusparseSpMM_bufferSize(cusparseHandle_t, cusparseOperation_t, cusparseOperation_t,
                                         const void*, cusparseConstSpMatDescr_t,
                                         cusparseConstDnMatDescr_t, const void*,
                                         cusparseDnMatDescr_t, cudaDataType, cusparseSpMMAlg_t,
                                         size_t* bytes) {
  *bytes = kWorkspaceBytes;
  return CUSPARSE_STATUS_SUCCESS;
}
cusparseStatus_t cusparseSpMM(cusparseHandle_t handle, cusparseOperation_t a_operation,
                              cusparseOperation_t b_operation, const void* alpha,
                              cusparseConstSpMatDescr_t a, cusparseConstDnMatDescr_t b,
                              const void* beta, cusparseDnMatDescr_t c, cudaDataType compute,
                              cusparseSpMMAlg_t, void* buffer) {
  if (a_operation != CUSPARSE_OPERATION_NON_TRANSPOSE ||
      b_operation != CUSPARSE_OPERATION_NON_TRANSPOSE || compute != CUDA_R_32F) {
    return CUSPARSE_STATUS_NOT_SUPPORTED;
  }
  if (a->columns != b->rows || a->rows != c->rows || b->columns != c->columns)
    return CUSPARSE_STATUS_INVALID_VALUE;
  return enqueue(handle, buffer,
                 [a = *a, b = *b, c = *c, f = factors(alpha, beta)] { multiply(a, b, c, f); });
}
