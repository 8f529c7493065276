// SPDX-License-Identifier: Apache-2.0
// The graphs of one example as pictures for the report: each head's mask beside its probabilities,
// tokens in the order of their strongest group.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace stipple::trainer {

/// A square matrix as at most kMostCells x kMostCells means of its entries.
struct CellImage {
  static constexpr int64_t kMostCells = 128;
  int64_t cells = 0;
  std::vector<double> values = {};  // [cells, cells]
};
/// values [n, n] with its rows and columns in the orders given.
CellImage cell_image(std::span<const float> values, std::span<const int32_t> row_order,
                     std::span<const int32_t> column_order);

/// Tokens by group, and by position within a group; without groups as they are.
std::vector<int32_t> order_by_group(std::span<const int32_t> groups);

struct HeadPicture {
  int64_t layer = 0;
  int64_t head = 0;
  CellImage mask, probability;
  double density = 0;
  double modularity = 0, modularity_random = 0;  ///< NaN: tokens have no groups
};

struct GraphPicture {
  std::string split = {}, step = {}, example = {};
  int64_t tokens = 0;
  std::vector<HeadPicture> heads = {};
};

/// The first example of a file of graph_file.h; no heads where there is no file. Error "file: what"
/// where it holds something else.
GraphPicture read_graph_picture(const std::string& path);

/// A section of the report; empty where there are no heads.
std::string graph_pictures_html(const GraphPicture&);

}  // namespace stipple::trainer
