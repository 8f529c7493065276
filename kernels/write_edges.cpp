// SPDX-License-Identifier: Apache-2.0
#include "kernels/write_edges.h"

#include "core/copy.h"
#include "core/dispatch.h"
#include "kernels/checks.h"
#include "kernels/graph_checks.h"
#include "kernels/graph_to_write.h"

namespace stipple::kernels {
namespace {

template <class Args>
void check_graph(const char* op, const Args& args) {
  const EdgeSet& edges = args.edges;
  STIPPLE_CHECK(!edges.capacity.multiplicity, op, ": a graph with multiplicities is drawn");
  STIPPLE_CHECK(args.form == EdgeForm::kCsr || has_room_for_bits(edges), op,
                ": this graph has no room for bits, use EdgeForm::kCsr");
  STIPPLE_CHECK(args.scratch != nullptr, op, ": scratch is missing");
  int64_t batch = 0;
  for (const View<const uint8_t>& mask : {args.query_mask, args.key_mask}) {
    if (mask.empty()) continue;
    STIPPLE_CHECK_AS(ShapeError, mask.shape.rank() == 2 && mask.shape[0] > 0, op,
                     ": a mask has shape ", mask.shape.str(), ", expected [B, tokens]");
    if (batch == 0) batch = mask.shape[0];
    STIPPLE_CHECK_AS(ShapeError, edges.num_problems() % mask.shape[0] == 0, op, ": ",
                     edges.num_problems(), " problems, but masks of ", mask.shape[0], " samples");
  }
  check_mask(op, "query_mask", args.query_mask, batch, edges.num_queries);
  check_mask(op, "key_mask", args.key_mask, batch, edges.num_keys);
}

void check_csr(const WriteCsr& args) {
  const int64_t n = args.edges.num_queries;
  const auto offsets = static_cast<int64_t>(args.row_ptr.size());
  const auto size = static_cast<int64_t>(args.columns.size());
  STIPPLE_CHECK(offsets == n + 1 || offsets == args.edges.num_problems() * (n + 1),
                "write_csr: row_ptr has ", offsets, " offsets, expected ", n + 1, " or ",
                args.edges.num_problems() * (n + 1));
  for (int64_t first = 0; first < offsets; first += n + 1) {
    const int32_t* row_ptr = &args.row_ptr[static_cast<size_t>(first)];
    STIPPLE_CHECK(row_ptr[0] >= 0 && row_ptr[n] <= size, "write_csr: offsets from ", row_ptr[0],
                  " to ", row_ptr[n], " into ", size, " columns");
    for (int64_t i = 0; i < n; ++i) {
      STIPPLE_CHECK(row_ptr[i] <= row_ptr[i + 1], "write_csr: the offsets of row ", i, " descend");
      for (int64_t e = row_ptr[i]; e < row_ptr[i + 1]; ++e) {
        const uint32_t column = args.columns[static_cast<size_t>(e)];
        STIPPLE_CHECK(column < args.edges.num_keys, "write_csr: row ", i, " has key ", column,
                      " of ", args.edges.num_keys);
        STIPPLE_CHECK(e == row_ptr[i] || column > args.columns[static_cast<size_t>(e - 1)],
                      "write_csr: the keys of row ", i, " do not ascend");
      }
    }
  }
}

/// `host` where the stream computes.
template <class T>
View<const T> bring(const Stream& stream, Arena& scratch, std::span<const T> host) {
  const Shape shape = {static_cast<int64_t>(host.size())};
  if (stream.device().backend() == DeviceType::kCpu) return {host.data(), shape};
  const View<T> copy = scratch.alloc<T>(shape);
  upload(stream, copy, host);
  return copy;
}

void write(const Stream& stream, const GraphToWrite& graph) {
  STIPPLE_DISPATCH(stream, write_graph, graph);
}

}  // namespace

void write_edges(const Stream& stream, const WriteEdges& args) {
  check_graph("write_edges", args);
  check_pattern("write_edges", args.pattern, args.edges.num_problems(), args.edges.num_queries,
                args.edges.num_keys);
  const Arena::Scope scope(*args.scratch);
  write(stream, {.edges = args.edges,
                 .form = args.form,
                 .query_mask = args.query_mask,
                 .key_mask = args.key_mask,
                 .source = {.pattern = math::pattern_rule(args.pattern)},
                 .scratch = args.scratch});
}

void write_csr(const Stream& stream, const WriteCsr& args) {
  check_graph("write_csr", args);
  check_csr(args);
  const Arena::Scope scope(*args.scratch);
  const int64_t offsets = args.edges.num_queries + 1;
  const bool is_shared = static_cast<int64_t>(args.row_ptr.size()) == offsets;
  write(stream, {.edges = args.edges,
                 .form = args.form,
                 .query_mask = args.query_mask,
                 .key_mask = args.key_mask,
                 .source = {.row_ptr = bring(stream, *args.scratch, args.row_ptr).data,
                            .columns = bring(stream, *args.scratch, args.columns).data,
                            .row_stride = is_shared ? 0 : offsets},
                 .scratch = args.scratch});
}

void write_near_edges(const Stream& stream, const WriteNearEdges& args) {
  check_graph_of_tokens("write_near_edges", args, args.q.shape, args.k.shape);
  write(stream, {.edges = args.edges,
                 .form = EdgeForm::kCsr,
                 .query_mask = args.query_mask,
                 .key_mask = args.key_mask,
                 .source = {.pattern = {.is_causal = args.is_causal},
                            .near = {.q = args.q.data,
                                     .k = args.k.data,
                                     .n = args.q.shape[2],
                                     .m = args.k.shape[2],
                                     .r = args.q.shape[3],
                                     .nearness = args.nearness,
                                     .threshold = args.threshold,
                                     .always = args.always}},
                 .scratch = args.scratch});
}

}  // namespace stipple::kernels
