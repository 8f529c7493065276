// SPDX-License-Identifier: Apache-2.0
#include "kernels/cuda/gemm.h"

#include <cublasLt.h>

#include <array>
#include <compare>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <utility>

#include "core/buffer.h"
#include "core/cuda/check.h"
#include "core/cuda/runtime.h"
#include "core/real_view.h"

namespace stipple::kernels::cuda {
namespace {

/// What NVIDIA recommends for Hopper.
constexpr size_t kWorkspaceBytes = size_t{32} << 20;

void check(cublasStatus_t status, const char* what, const Gemm& gemm) {
  STIPPLE_CHECK_AS(CudaError, status == CUBLAS_STATUS_SUCCESS, what, ": ",
                   cublasLtGetStatusString(status), " (", gemm.batch, " products of ", gemm.m,
                   " x ", gemm.n, " x ", gemm.k, ")");
}
#define STIPPLE_CUBLAS_CHECK(call, gemm) check((call), #call, gemm)

struct DestroyDescriptor {
  void operator()(cublasLtMatmulDesc_t p) const { cublasLtMatmulDescDestroy(p); }
};
struct DestroyLayout {
  void operator()(cublasLtMatrixLayout_t p) const { cublasLtMatrixLayoutDestroy(p); }
};
struct DestroyPreference {
  void operator()(cublasLtMatmulPreference_t p) const { cublasLtMatmulPreferenceDestroy(p); }
};
template <class Handle, class Destroy>
using Owned = std::unique_ptr<std::remove_pointer_t<Handle>, Destroy>;
using Descriptor = Owned<cublasLtMatmulDesc_t, DestroyDescriptor>;
using Layout = Owned<cublasLtMatrixLayout_t, DestroyLayout>;
using Preference = Owned<cublasLtMatmulPreference_t, DestroyPreference>;

/// The largest power of two up to an arena's alignment that divides the address of every matrix.
uint32_t alignment_of(const void* first, int64_t stride, Precision storage) {
  const uintptr_t bits = reinterpret_cast<uintptr_t>(first) |
                         static_cast<uintptr_t>(stride) * bytes_of(storage) | Buffer::kAlignment;
  return static_cast<uint32_t>(bits & -bits);
}

struct Alignments {
  uint32_t a, b, c, bias;
  auto operator<=>(const Alignments&) const = default;
};

Alignments alignments_of(const Gemm& gemm) {
  return {.a = alignment_of(gemm.a, gemm.a_stride, gemm.factors),
          .b = alignment_of(gemm.b, gemm.b_stride, gemm.factors),
          .c = alignment_of(gemm.c, gemm.c_stride, gemm.result),
          .bias = alignment_of(gemm.bias, 0, gemm.result)};
}

cudaDataType type_of(Precision storage) {
  return storage == Precision::kBf16 ? CUDA_R_16BF : CUDA_R_32F;
}

/// Products of bf16 numbers are exact in fp32.
cublasComputeType_t compute_type(const Stream& stream, const Gemm& gemm) {
  const bool may_round = gemm.factors == Precision::kFp32 && stream.precision() == Precision::kBf16;
  return may_round ? CUBLAS_COMPUTE_32F_FAST_16BF : CUBLAS_COMPUTE_32F;
}

/// Everything that the choice of an algorithm may depend on.
struct PlanKey {
  std::array<int64_t, 4> sizes;    // m, n, k, batch
  std::array<int64_t, 3> strides;  // a, b, c
  Alignments alignments;
  bool transpose_a, transpose_b, has_bias;
  Precision factors, result;
  cublasComputeType_t compute;
  auto operator<=>(const PlanKey&) const = default;
};

PlanKey key_of(const Stream& stream, const Gemm& gemm) {
  return {.sizes = {gemm.m, gemm.n, gemm.k, gemm.batch},
          .strides = {gemm.a_stride, gemm.b_stride, gemm.c_stride},
          .alignments = alignments_of(gemm),
          .transpose_a = gemm.transpose_a,
          .transpose_b = gemm.transpose_b,
          .has_bias = gemm.bias != nullptr,
          .factors = gemm.factors,
          .result = gemm.result,
          .compute = compute_type(stream, gemm)};
}

/// cuBLASLt counts by columns, so a row-major c = a b is its cᵀ = bᵀ aᵀ with nothing moved: b goes
/// first, and a bias of our columns is the bias of its rows that the epilogue can add.
struct Plan {
  Descriptor descriptor;
  Layout first, second, result;
  cublasLtMatmulAlgo_t algorithm;
  bool has_epilogue;  ///< which adds the bias
};

Descriptor make_descriptor(const Stream& stream, const Gemm& gemm, bool has_epilogue) {
  cublasLtMatmulDesc_t created = nullptr;
  STIPPLE_CUBLAS_CHECK(cublasLtMatmulDescCreate(&created, compute_type(stream, gemm), CUDA_R_32F),
                       gemm);
  Descriptor descriptor(created);
  const auto set = [&](cublasLtMatmulDescAttributes_t attribute, const auto& value) {
    STIPPLE_CUBLAS_CHECK(cublasLtMatmulDescSetAttribute(created, attribute, &value, sizeof(value)),
                         gemm);
  };
  set(CUBLASLT_MATMUL_DESC_TRANSA, gemm.transpose_b ? CUBLAS_OP_T : CUBLAS_OP_N);
  set(CUBLASLT_MATMUL_DESC_TRANSB, gemm.transpose_a ? CUBLAS_OP_T : CUBLAS_OP_N);
  if (has_epilogue) {
    set(CUBLASLT_MATMUL_DESC_EPILOGUE, CUBLASLT_EPILOGUE_BIAS);
    set(CUBLASLT_MATMUL_DESC_BIAS_POINTER, gemm.bias);
  }
  return descriptor;
}

/// Stored rows of `cols` elements: columns, to cuBLASLt.
Layout make_layout(Precision storage, int64_t rows, int64_t cols, int64_t stride,
                   const Gemm& gemm) {
  cublasLtMatrixLayout_t created = nullptr;
  STIPPLE_CUBLAS_CHECK(
      cublasLtMatrixLayoutCreate(&created, type_of(storage), static_cast<uint64_t>(cols),
                                 static_cast<uint64_t>(rows), cols),
      gemm);
  Layout layout(created);
  if (gemm.batch == 1) return layout;
  const auto batch = static_cast<int32_t>(gemm.batch);
  STIPPLE_CUBLAS_CHECK(cublasLtMatrixLayoutSetAttribute(created, CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT,
                                                        &batch, sizeof(batch)),
                       gemm);
  STIPPLE_CUBLAS_CHECK(
      cublasLtMatrixLayoutSetAttribute(created, CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET,
                                       &stride, sizeof(stride)),
      gemm);
  return layout;
}

Preference make_preference(const Gemm& gemm, uint32_t reductions) {
  cublasLtMatmulPreference_t created = nullptr;
  STIPPLE_CUBLAS_CHECK(cublasLtMatmulPreferenceCreate(&created), gemm);
  Preference preference(created);
  const auto set = [&](cublasLtMatmulPreferenceAttributes_t attribute, const auto& value) {
    STIPPLE_CUBLAS_CHECK(
        cublasLtMatmulPreferenceSetAttribute(created, attribute, &value, sizeof(value)), gemm);
  };
  set(CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, reductions);
  set(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, uint64_t{kWorkspaceBytes});
  const Alignments alignments = alignments_of(gemm);
  set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, alignments.b);
  set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, alignments.a);
  set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, alignments.c);
  set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, alignments.c);
  return preference;
}

// Partial sums of a cut inner dimension are fp32 and meet in a separate step, in a fixed order.
// "Output type" would round them to a result of bf16; "in place", which is never asked for, add them
// as they come.
constexpr uint32_t kExactReductions =
    CUBLASLT_REDUCTION_SCHEME_NONE | CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE;
constexpr uint32_t kOrderedReductions = kExactReductions | CUBLASLT_REDUCTION_SCHEME_OUTPUT_TYPE;

/// Empty where cuBLASLt knows no such algorithm.
std::optional<Plan> find_plan(const Stream& stream, cublasLtHandle_t handle, const Gemm& gemm,
                              bool has_epilogue, uint32_t reductions) {
  Plan plan{.descriptor = make_descriptor(stream, gemm, has_epilogue),
            .first = make_layout(gemm.factors, gemm.transpose_b ? gemm.n : gemm.k,
                                 gemm.transpose_b ? gemm.k : gemm.n, gemm.b_stride, gemm),
            .second = make_layout(gemm.factors, gemm.transpose_a ? gemm.k : gemm.m,
                                  gemm.transpose_a ? gemm.m : gemm.k, gemm.a_stride, gemm),
            .result = make_layout(gemm.result, gemm.m, gemm.n, gemm.c_stride, gemm),
            .algorithm = {},
            .has_epilogue = has_epilogue};
  const Preference preference = make_preference(gemm, reductions);
  cublasLtMatmulHeuristicResult_t best{};
  int found = 0;
  const cublasStatus_t status = cublasLtMatmulAlgoGetHeuristic(
      handle, plan.descriptor.get(), plan.first.get(), plan.second.get(), plan.result.get(),
      plan.result.get(), preference.get(), 1, &best, &found);
  // It may say so in either way.
  if (status == CUBLAS_STATUS_NOT_SUPPORTED || (status == CUBLAS_STATUS_SUCCESS && found == 0)) {
    return std::nullopt;
  }
  STIPPLE_CUBLAS_CHECK(status, gemm);
  STIPPLE_CUBLAS_CHECK(best.state, gemm);
  plan.algorithm = best.algo;
  return plan;
}

/// The least that has to be given up: odd shapes of bf16 have been seen without an algorithm.
Plan make_plan(const Stream& stream, cublasLtHandle_t handle, const Gemm& gemm) {
  for (const bool has_epilogue : {true, false}) {
    if (has_epilogue && gemm.bias == nullptr) continue;
    for (const uint32_t reductions : {kExactReductions, kOrderedReductions}) {
      auto plan = find_plan(stream, handle, gemm, has_epilogue, reductions);
      if (plan) return std::move(*plan);
    }
  }
  throw CudaError(::stipple::detail::concat("matmul: cuBLASLt knows no algorithm for ", gemm.batch,
                                            " products of ", gemm.m, " x ", gemm.n, " x ", gemm.k));
}

/// cuBLASLt on one device.
class Products {
 public:
  explicit Products(Device device) : device_(device) {
    const cublasStatus_t status = cublasLtCreate(&handle_);
    STIPPLE_CHECK_AS(CudaError, status == CUBLAS_STATUS_SUCCESS,
                     "cublasLtCreate: ", cublasLtGetStatusString(status));
  }
  Products(const Products&) = delete;
  Products& operator=(const Products&) = delete;

  void multiply(const Stream& stream, const Gemm& gemm) {
    const std::scoped_lock lock(mutex_);  // a plan's descriptor holds the bias of the call
    const PlanKey key = key_of(stream, gemm);
    auto found = plans_.find(key);
    if (found == plans_.end()) {
      found = plans_.emplace(key, make_plan(stream, handle_, gemm)).first;
    }
    enqueue(stream, found->second, gemm);
  }

 private:
  // Kept when the stream goes: a graph captured from it may live on, and the next stream with its
  // handle takes it over.
  const Buffer& workspace_of(const Stream& stream) {
    return workspaces_.try_emplace(stream.native(), device_, kWorkspaceBytes).first->second;
  }

  void enqueue(const Stream& stream, const Plan& plan, const Gemm& gemm) {
    if (plan.has_epilogue) {
      STIPPLE_CUBLAS_CHECK(
          cublasLtMatmulDescSetAttribute(plan.descriptor.get(), CUBLASLT_MATMUL_DESC_BIAS_POINTER,
                                         &gemm.bias, sizeof(gemm.bias)),
          gemm);
    }
    const Buffer& workspace = workspace_of(stream);
    STIPPLE_CUBLAS_CHECK(
        cublasLtMatmul(handle_, plan.descriptor.get(), &gemm.alpha, gemm.b, plan.first.get(),
                       gemm.a, plan.second.get(), &gemm.beta, gemm.c, plan.result.get(), gemm.c,
                       plan.result.get(), &plan.algorithm, workspace.data(), workspace.bytes(),
                       static_cast<cudaStream_t>(stream.native())),
        gemm);
    if (gemm.bias != nullptr && !plan.has_epilogue) add_bias(stream, gemm);
  }

  std::mutex mutex_;
  Device device_;
  std::map<void*, Buffer> workspaces_;  // by stream: products of two streams may run at once
  cublasLtHandle_t handle_ = nullptr;
  std::map<PlanKey, Plan> plans_;
};

/// Never destroyed: at the end of the program the driver may be gone before us.
Products& products_of(Device device) {
  static std::mutex mutex;
  static auto& all = *new std::map<int, Products>;
  const std::scoped_lock lock(mutex);
  return all.try_emplace(device.index, device).first->second;
}

}  // namespace

void multiply(const Stream& stream, const Gemm& gemm) {
  if (stream.is_plan()) return;
  stipple::cuda::use_device(stream.device().index);
  products_of(stream.device()).multiply(stream, gemm);
}

}  // namespace stipple::kernels::cuda
