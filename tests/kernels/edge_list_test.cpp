// SPDX-License-Identifier: Apache-2.0
#include "kernels/edge_list.h"

#include <gtest/gtest.h>

#include "tests/support/graphs.h"

namespace stipple::kernels {
namespace {

test::Array<uint8_t> dense_of(const EdgeList& list, int64_t num_keys) {
  test::Array<uint8_t> dense({list.num_queries(), num_keys});
  for (int64_t i = 0; i < list.num_queries(); ++i) {
    int32_t last = -1;
    for (auto e = static_cast<size_t>(list.row_ptr[static_cast<size_t>(i)]);
         e < static_cast<size_t>(list.row_ptr[static_cast<size_t>(i) + 1]); ++e) {
      EXPECT_GT(list.columns[e], last) << "in row " << i;
      last = list.columns[e];
      dense[i * num_keys + last] =
          list.multiplicity.empty() ? uint8_t{1} : static_cast<uint8_t>(list.multiplicity[e]);
    }
  }
  return dense;
}

TEST(EdgeList, EveryBitHasOnePlaceAndThePlaceIsItsColumn) {
  for (const BitOrder order : {BitOrder::kRows, BitOrder::kLanes}) {
    for (int64_t j = 0; j < 1000; ++j) EXPECT_EQ(bit_column(order, bit_place(order, j)), j);
  }
}

TEST(EdgeList, IsTheGraphWhateverItsFormAndDevice) {
  const int64_t n = 37, m = 150;
  const test::Array<uint8_t> sparse = test::random_graph(n, m, 0.1, 1);
  const test::Array<uint8_t> dense = test::random_graph(n, m, 0.7, 2);
  const test::Array<uint8_t> nothing({n, m});
  test::Array<uint8_t> counted = sparse;
  for (int64_t i = 0; i < counted.numel(); i += 3)
    counted[i] = static_cast<uint8_t>(counted[i] * 3);
  for (const Device device : test::test_devices()) {
    test::DeviceMemory memory(device);
    const std::vector<test::GraphProblem> forms = {{EdgeForm::kCsr, sparse},
                                                   {EdgeForm::kBits, dense},
                                                   {EdgeForm::kCsr, nothing},
                                                   {EdgeForm::kBits, nothing}};
    const EdgeSet edges = put_graph(memory, test::HostGraph(forms, {}, device.type));
    for (size_t p = 0; p < forms.size(); ++p) {
      const EdgeList list = download_edges(edges, static_cast<int64_t>(p), memory.stream());
      EXPECT_EQ(dense_of(list, m).values(), forms[p].dense.values()) << p;
      EXPECT_TRUE(list.multiplicity.empty());
    }
    const EdgeSet multigraph = put_graph(
        memory, test::HostGraph({{EdgeForm::kCsr, counted}}, {.multiplicity = true}, device.type));
    EXPECT_EQ(dense_of(download_edges(multigraph, 0, memory.stream()), m).values(),
              counted.values());
  }
}

TEST(EdgeList, ASubgraphCountsItsTokensAnew) {
  // 0 -> 1 (twice), 0 -> 3, 1 -> 0, 2 -> 1, 2 -> 2
  const EdgeList edges{
      .row_ptr = {0, 2, 3, 5}, .columns = {1, 3, 0, 1, 2}, .multiplicity = {2, 1, 1, 1, 4}};
  const EdgeList part = subgraph(edges, 4, {0, 2}, {1, 2});
  EXPECT_EQ(part.row_ptr, (std::vector<int64_t>{0, 1, 3}));
  EXPECT_EQ(part.columns, (std::vector<int32_t>{0, 0, 1}));
  EXPECT_EQ(part.multiplicity, (std::vector<uint16_t>{2, 1, 4}));
}

}  // namespace
}  // namespace stipple::kernels
