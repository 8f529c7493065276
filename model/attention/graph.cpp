// SPDX-License-Identifier: Apache-2.0
#include "model/attention/graph.h"

#include "core/copy.h"
#include "model/attention/attention.h"

namespace stipple::model {

std::vector<int64_t> download_tokens(const Stream& stream, View<const uint8_t> mask, int64_t row) {
  std::vector<uint8_t> is_real(static_cast<size_t>(mask.shape[1]));
  download(stream, std::span<uint8_t>(is_real), mask.at(row));
  std::vector<int64_t> tokens;
  for (size_t i = 0; i < is_real.size(); ++i)
    if (is_real[i] != 0) tokens.push_back(static_cast<int64_t>(i));
  return tokens;
}

void tell_rows(Context& ctx, const AttentionInputs& in,
               const std::function<std::unique_ptr<AttentionGraph>(
                   int64_t row, const std::vector<int64_t>& tokens)>& make) {
  for (int64_t row = 0; row < in.q.shape[0]; ++row) {
    if (!ctx.graphs->wants(row)) continue;
    const std::vector<int64_t> tokens = download_tokens(ctx.stream, in.mask, row);
    std::unique_ptr<AttentionGraph> graph = make(row, tokens);
    graph->layer = ctx.layer;
    graph->row = row;
    graph->tokens = static_cast<int64_t>(tokens.size());
    ctx.graphs->take(std::move(graph));
  }
}

std::vector<kernels::EdgeList> download_heads(const Stream& stream, const kernels::EdgeSet& edges,
                                              int64_t row, int64_t heads,
                                              const std::vector<int64_t>& tokens) {
  std::vector<kernels::EdgeList> lists;
  for (int64_t head = 0; head < heads; ++head)
    lists.push_back(kernels::subgraph(kernels::download_edges(edges, row * heads + head, stream),
                                      edges.num_keys, tokens, tokens));
  return lists;
}

std::vector<float> download_features(const Stream& stream, ConstRealView x, int64_t row,
                                     const std::vector<int64_t>& tokens) {
  std::vector<float> features;
  with_real_type(x.precision, [&](auto zero) {
    using T = decltype(zero);
    const View<const T> of_row = x.as<T>().at(row);
    std::vector<T> all(static_cast<size_t>(of_row.numel()));
    download(stream, std::span<T>(all), of_row);
    const int64_t width = of_row.shape[2];
    for (int64_t head = 0; head < of_row.shape[0]; ++head) {
      for (const int64_t token : tokens) {
        const T* const from = all.data() + (head * of_row.shape[1] + token) * width;
        for (int64_t c = 0; c < width; ++c) features.push_back(to_float(from[c]));
      }
    }
  });
  return features;
}

}  // namespace stipple::model
