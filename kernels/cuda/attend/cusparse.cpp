// SPDX-License-Identifier: Apache-2.0
// Attention over a graph by library calls, as the cross-check and the baseline of our own kernels,
// not for production. Forward: SDDMM (scores), our softmax, SpMM (o). Backward, once by query and
// once by key: two SDDMM (scores, do . v), our gradient of each edge, and an SpMM for each result.
// By key the transpose is a matrix of its own: op(A) = T would not be deterministic.
//
// All problems are one block-diagonal CSR matrix with 32-bit indices (cusparse.h), so there
// must be room for fewer than 2^31 edges in all. cuSPARSE wants the number of entries on the host,
// where nobody knows it; so each problem has the most entries it may have, and those that are not
// edges are zeros spread over its rows. They cost what edges cost.
// Scratch: forward 8 bytes an entry, backward 12, with a straight-through gradient 16; an entry is
// a pair of the graph where bits are possible, else a word of its storage. SDDMM knows no bf16:
// arrays stored so are computed on as fp32 copies, 4 bytes an element more.
//
// As a baseline it is fair only where little is padded. Build the graph as CSR with tight room:
// EdgeCapacity with tile_density above max_density, so that no bits are possible, and max_density
// just above the true density. Where bits are possible, entries are all N M pairs, and the time is
// that of a dense product by sparse means.
//
// cuSPARSE alone knows how large its own workspace must be; it belongs to the stream and grows, so
// the first call of each size on a stream must not be captured into a graph.
#include "kernels/cuda/attend/cusparse.h"

#include <cusparse.h>

#include <algorithm>
#include <map>
#include <memory>
#include <mutex>
#include <vector>

#include "core/buffer.h"
#include "core/copy.h"
#include "core/cuda/check.h"
#include "core/cuda/runtime.h"
#include "core/real_view.h"
#include "kernels/convert.h"

namespace stipple::kernels::cuda {
namespace {

constexpr int64_t kMostEntries = int64_t{1} << 31;

#define STIPPLE_CUSPARSE_CHECK(call)                                            \
  do {                                                                          \
    const cusparseStatus_t status_ = (call);                                    \
    STIPPLE_CHECK_AS(CudaError, status_ == CUSPARSE_STATUS_SUCCESS, #call ": ", \
                     cusparseGetErrorString(status_));                          \
  } while (false)

struct DestroySparse {
  void operator()(cusparseSpMatDescr_t p) const { cusparseDestroySpMat(p); }
};
struct DestroyDense {
  void operator()(cusparseDnMatDescr_t p) const { cusparseDestroyDnMat(p); }
};
using Sparse = std::unique_ptr<cusparseSpMatDescr, DestroySparse>;
using Dense = std::unique_ptr<cusparseDnMatDescr, DestroyDense>;

Sparse sparse(const BlockDiagonal& m, float* values) {
  cusparseSpMatDescr_t created = nullptr;
  STIPPLE_CUSPARSE_CHECK(cusparseCreateCsr(
      &created, m.all_rows(), m.all_columns(), m.all_entries(), m.offsets, m.indices, values,
      CUSPARSE_INDEX_32I, CUSPARSE_INDEX_32I, CUSPARSE_INDEX_BASE_ZERO, CUDA_R_32F));
  return Sparse(created);
}

/// Rows of `width` floats. cuSPARSE describes what it reads and what it writes alike.
Dense dense(int64_t rows, int64_t width, const float* values) {
  cusparseDnMatDescr_t created = nullptr;
  STIPPLE_CUSPARSE_CHECK(cusparseCreateDnMat(
      &created, rows, width, width, const_cast<float*>(values), CUDA_R_32F, CUSPARSE_ORDER_ROW));
  return Dense(created);
}

/// cuSPARSE on one device. Results are zeroed first: that beta = 0 keeps old values from being read
/// is not documented.
class Library {
 public:
  explicit Library(Device device) : device_(device) {
    STIPPLE_CUSPARSE_CHECK(cusparseCreate(&handle_));
  }
  Library(const Library&) = delete;
  Library& operator=(const Library&) = delete;

  /// values = alpha own . other of every entry, rows of `width`.
  void sample_products(const Stream& stream, const BlockDiagonal& m, float alpha, const float* own,
                       const float* other, int64_t width, float* values) {
    fill_zero_bytes(stream, values, static_cast<size_t>(m.all_entries()) * sizeof(float));
    const Dense a = dense(m.all_rows(), width, own);
    const Dense b = dense(m.all_columns(), width, other);
    const Sparse c = sparse(m, values);
    const float beta = 0.0f;
    const std::scoped_lock lock(mutex_);
    use(stream);
    size_t bytes = 0;
    STIPPLE_CUSPARSE_CHECK(cusparseSDDMM_bufferSize(
        handle_, CUSPARSE_OPERATION_NON_TRANSPOSE, CUSPARSE_OPERATION_TRANSPOSE, &alpha, a.get(),
        b.get(), &beta, c.get(), CUDA_R_32F, CUSPARSE_SDDMM_ALG_DEFAULT, &bytes));
    STIPPLE_CUSPARSE_CHECK(cusparseSDDMM(
        handle_, CUSPARSE_OPERATION_NON_TRANSPOSE, CUSPARSE_OPERATION_TRANSPOSE, &alpha, a.get(),
        b.get(), &beta, c.get(), CUDA_R_32F, CUSPARSE_SDDMM_ALG_DEFAULT, workspace(stream, bytes)));
  }

  /// sums = matrix * others, rows of `width`. CSR_ALG3 is the deterministic algorithm.
  void sum_rows(const Stream& stream, const BlockDiagonal& m, float* values, const float* others,
                int64_t width, float* sums) {
    fill_zero_bytes(stream, sums, static_cast<size_t>(m.all_rows() * width) * sizeof(float));
    const Sparse a = sparse(m, values);
    const Dense b = dense(m.all_columns(), width, others);
    const Dense c = dense(m.all_rows(), width, sums);
    const float alpha = 1.0f;
    const float beta = 0.0f;
    const std::scoped_lock lock(mutex_);
    use(stream);
    size_t bytes = 0;
    STIPPLE_CUSPARSE_CHECK(cusparseSpMM_bufferSize(
        handle_, CUSPARSE_OPERATION_NON_TRANSPOSE, CUSPARSE_OPERATION_NON_TRANSPOSE, &alpha,
        a.get(), b.get(), &beta, c.get(), CUDA_R_32F, CUSPARSE_SPMM_CSR_ALG3, &bytes));
    STIPPLE_CUSPARSE_CHECK(cusparseSpMM(handle_, CUSPARSE_OPERATION_NON_TRANSPOSE,
                                        CUSPARSE_OPERATION_NON_TRANSPOSE, &alpha, a.get(), b.get(),
                                        &beta, c.get(), CUDA_R_32F, CUSPARSE_SPMM_CSR_ALG3,
                                        workspace(stream, bytes)));
  }

 private:
  void use(const Stream& stream) {
    STIPPLE_CUSPARSE_CHECK(cusparseSetStream(handle_, static_cast<cudaStream_t>(stream.native())));
  }

  /// Streams run side by side, so each has its own. Smaller ones stay: a graph that was captured
  /// may use them.
  void* workspace(const Stream& stream, size_t bytes) {
    std::vector<Buffer>& buffers = workspaces_[stream.native()];
    if (buffers.empty() || bytes > buffers.back().bytes()) buffers.emplace_back(device_, bytes);
    return buffers.back().data();
  }

  Device device_;
  std::mutex mutex_;
  cusparseHandle_t handle_ = nullptr;
  std::map<void*, std::vector<Buffer>> workspaces_;
};

/// Never destroyed: at the end of the program the driver may be gone before us.
Library& library_of(Device device) {
  static std::mutex mutex;
  static auto& all = *new std::map<int, Library>;
  const std::scoped_lock lock(mutex);
  stipple::cuda::use_device(device.index);
  return all.try_emplace(device.index, device).first->second;
}

/// Its arrays come from scratch.
BlockDiagonal block_diagonal(const AttendArrays& a, EdgeOwner owner, Arena& scratch) {
  const bool by_key = owner == EdgeOwner::kKeys;
  const int64_t pairs = a.num_queries * a.num_keys;
  const int64_t stored = by_key ? a.graph.key_stride : a.graph.query_stride;
  BlockDiagonal m = {.owner = owner,
                     .problems = a.problems(),
                     .rows = by_key ? a.num_keys : a.num_queries,
                     .columns = by_key ? a.num_queries : a.num_keys,
                     .capacity = a.graph.may_have_bits ? pairs : std::min(pairs, stored)};
  STIPPLE_CHECK(pairs > 0,
                "attention by cuSPARSE: no queries or no keys; use "
                "EdgesImplementation::kOurs");
  STIPPLE_CHECK(m.all_entries() < kMostEntries, "attention by cuSPARSE: room for ", m.all_entries(),
                " edges in ", m.problems,
                " problems, must stay below 2^31; use smaller batches, promise a lower "
                "max_density, or EdgesImplementation::kOurs");
  m.offsets = scratch.alloc<int32_t>({m.all_rows() + 1}).data;
  m.indices = scratch.alloc<int32_t>({m.all_entries()}).data;
  m.counts = scratch.alloc<int32_t>({m.problems}).data;
  return m;
}

/// Turns a call on arrays of `storage` into one on fp32: those of bf16 give way to copies in
/// scratch.
class InFloats {
 public:
  InFloats(const Stream& stream, Precision storage, Arena& scratch)
      : stream_(stream), storage_(storage), scratch_(scratch) {}

  void read(const void*& array, int64_t count) {
    if (storage_ == Precision::kFp32) return;
    const View<float> copy = scratch_.alloc<float>({count});
    kernels::convert(stream_, {.y = copy, .x = ConstRealView(array, {count}, storage_)});
    array = copy.data;
  }
  void write(void*& array, int64_t count) {
    if (storage_ == Precision::kFp32) return;
    const View<float> copy = scratch_.alloc<float>({count});
    results_.push_back({.y = RealView(array, {count}, storage_), .x = copy});
    array = copy.data;
  }
  /// Call it when all is computed.
  void round_results() const {
    for (const Convert& result : results_) kernels::convert(stream_, result);
  }

 private:
  const Stream& stream_;
  Precision storage_;
  Arena& scratch_;
  std::vector<Convert> results_;
};

void read_inputs(InFloats& floats, AttendArrays& a) {
  const int64_t keys = a.problems() * a.num_keys * a.dim;
  floats.read(a.q, a.problems() * a.num_queries * a.dim);
  floats.read(a.k, keys);
  floats.read(a.v, keys);
}

const float* floats(const void* array) { return static_cast<const float*>(array); }
float* floats(void* array) { return static_cast<float*>(array); }

/// What one owner of edges reads and writes, all fp32.
struct Side {
  EdgeOwner owner;
  const float* own_score;    ///< q; k
  const float* own_value;    ///< dout; v
  const float* other_score;  ///< k; q
  const float* other_value;  ///< v; dout
  const float* other_clusters;
  float* score_grad;    ///< dq; dk
  float* value_grad;    ///< none; dv
  float* cluster_grad;  ///< row_grad; column_grad
};

Side side_by_query(const AttendArrays& a) {
  return {.owner = EdgeOwner::kQueries,
          .own_score = floats(a.q),
          .own_value = floats(a.dout),
          .other_score = floats(a.k),
          .other_value = floats(a.v),
          .other_clusters = floats(a.ste.z),
          .score_grad = floats(a.dq),
          .value_grad = nullptr,
          .cluster_grad = floats(a.ste.row_grad)};
}

Side side_by_key(const AttendArrays& a) {
  return {.owner = EdgeOwner::kKeys,
          .own_score = floats(a.k),
          .own_value = floats(a.v),
          .other_score = floats(a.q),
          .other_value = floats(a.dout),
          .other_clusters = floats(a.ste.y),
          .score_grad = floats(a.dk),
          .value_grad = floats(a.dv),
          .cluster_grad = floats(a.ste.column_grad)};
}

/// The gradients of the rows that own the edges of the matrix.
void backward_of(const Stream& stream, const AttendArrays& a, const Side& side, Arena& scratch) {
  const Arena::Scope scope(scratch);
  const BlockDiagonal m = block_diagonal(a, side.owner, scratch);
  EdgeValues edges = {.scores = scratch.alloc<float>({m.all_entries()}).data,
                      .values = scratch.alloc<float>({m.all_entries()}).data};
  const bool has_clusters = a.ste.clusters > 0;
  if (has_clusters) edges.probabilities = scratch.alloc<float>({m.all_entries()}).data;
  if (stream.is_plan()) return;
  Library& library = library_of(stream.device());
  fill_block_diagonal(stream, a, m);
  library.sample_products(stream, m, a.scale, side.own_score, side.other_score, a.dim,
                          edges.scores);
  library.sample_products(stream, m, 1.0f, side.own_value, side.other_value, a.dim, edges.values);
  differentiate_edges(stream, a, m, edges);
  library.sum_rows(stream, m, edges.scores, side.other_score, a.dim, side.score_grad);
  if (side.value_grad != nullptr) {
    library.sum_rows(stream, m, edges.values, side.other_value, a.dim, side.value_grad);
  }
  if (!has_clusters) return;
  library.sum_rows(stream, m, edges.probabilities, side.other_clusters, a.ste.clusters,
                   side.cluster_grad);
}

void forward(const Stream& stream, const AttendArrays& a, Arena& scratch) {
  const Arena::Scope scope(scratch);
  const BlockDiagonal m = block_diagonal(a, EdgeOwner::kQueries, scratch);
  float* scores = scratch.alloc<float>({m.all_entries()}).data;
  if (stream.is_plan()) return;
  Library& library = library_of(stream.device());
  fill_block_diagonal(stream, a, m);
  library.sample_products(stream, m, a.scale, floats(a.q), floats(a.k), a.dim, scores);
  weigh_edges(stream, a, m, scores);
  library.sum_rows(stream, m, scores, floats(a.v), a.dim, floats(a.o));
}

}  // namespace

void attend_cusparse(const Stream& stream, const AttendArrays& args, Arena& scratch) {
  const Arena::Scope scope(scratch);
  AttendArrays a = args;
  InFloats in_floats(stream, args.storage, scratch);
  read_inputs(in_floats, a);
  in_floats.write(a.o, a.problems() * a.num_queries * a.dim);
  a.storage = Precision::kFp32;
  forward(stream, a, scratch);
  in_floats.round_results();
}

void attend_cusparse_backward(const Stream& stream, const AttendArrays& args, Arena& scratch) {
  const Arena::Scope scope(scratch);
  AttendArrays a = args;
  InFloats in_floats(stream, args.storage, scratch);
  const int64_t queries = a.problems() * a.num_queries;
  const int64_t keys = a.problems() * a.num_keys;
  read_inputs(in_floats, a);
  in_floats.read(a.dout, queries * a.dim);
  in_floats.write(a.dq, queries * a.dim);
  in_floats.write(a.dk, keys * a.dim);
  in_floats.write(a.dv, keys * a.dim);
  if (a.ste.clusters > 0) {
    in_floats.read(a.ste.y, queries * a.ste.clusters);
    in_floats.read(a.ste.z, keys * a.ste.clusters);
    in_floats.write(a.ste.row_grad, queries * a.ste.clusters);
    in_floats.write(a.ste.column_grad, keys * a.ste.clusters);
  }
  a.storage = Precision::kFp32;
  backward_of(stream, a, side_by_query(a), scratch);
  backward_of(stream, a, side_by_key(a), scratch);
  in_floats.round_results();
}

}  // namespace stipple::kernels::cuda
