// SPDX-License-Identifier: Apache-2.0
#include "trainer/record/graph_picture.h"

#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <numeric>

#include "core/error.h"
#include "html_checks.h"
#include "trainer/record/bitmap.h"
#include "trainer/record/graph_file.h"

namespace stipple::trainer {
namespace {

std::string decoded(const std::string& base64) {
  const std::string digits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::string bytes;
  uint32_t bits = 0;
  int count = 0;
  for (const char c : base64) {
    if (c == '=') break;
    bits = bits << 6 | static_cast<uint32_t>(digits.find(c));
    count += 6;
    if (count < 8) continue;
    count -= 8;
    bytes += static_cast<char>(bits >> count & 0xFF);
  }
  return bytes;
}

uint32_t number_at(const std::string& bytes, size_t at, int size) {
  uint32_t value = 0;
  for (int i = size; i-- > 0;)
    value = value << 8 | static_cast<uint8_t>(bytes[at + static_cast<size_t>(i)]);
  return value;
}

TEST(Bitmap, IsAnUncompressedBmpOfItsLevels) {
  for (const int64_t width : {1, 2, 3, 4, 5}) {
    std::vector<uint8_t> levels(static_cast<size_t>(width * 2));
    std::iota(levels.begin(), levels.end(), uint8_t{100});
    const std::string uri = bitmap_uri(levels, width, 2);
    const std::string prefix = "data:image/bmp;base64,";
    ASSERT_EQ(uri.substr(0, prefix.size()), prefix);
    EXPECT_EQ((uri.size() - prefix.size()) % 4, 0u);
    const std::string file = decoded(uri.substr(prefix.size()));
    EXPECT_EQ(file.substr(0, 2), "BM");
    EXPECT_EQ(number_at(file, 2, 4), file.size());
    EXPECT_EQ(number_at(file, 18, 4), static_cast<uint32_t>(width));
    EXPECT_EQ(number_at(file, 22, 4), 2u);
    EXPECT_EQ(number_at(file, 28, 2), 8u);
    const size_t begin = number_at(file, 10, 4);
    EXPECT_EQ(begin, 14u + 40u + 4u * 256u);
    EXPECT_EQ(number_at(file, 54, 4), 0x00FFFFFFu);  // level 0 is white
    const size_t row = (file.size() - begin) / 2;
    EXPECT_EQ(row % 4, 0u);
    for (size_t x = 0; x < static_cast<size_t>(width); ++x) {  // the last row comes first
      EXPECT_EQ(static_cast<uint8_t>(file[begin + row + x]), levels[x]);
      EXPECT_EQ(static_cast<uint8_t>(file[begin + x]), levels[static_cast<size_t>(width) + x]);
    }
  }
}

TEST(GraphPicture, TokensAreOrderedByGroupAndThenByPosition) {
  EXPECT_EQ(order_by_group(std::vector<int32_t>{2, 0, 2, 1, 0}),
            (std::vector<int32_t>{1, 4, 3, 0, 2}));
}

TEST(GraphPicture, CellsAreMeansOfWhatTheyCover) {
  const std::vector<float> values = {1, 0, 0, 1};
  const CellImage small =
      cell_image(values, std::vector<int32_t>{0, 1}, std::vector<int32_t>{1, 0});
  EXPECT_EQ(small.cells, 2);
  EXPECT_EQ(small.values, (std::vector<double>{0, 1, 1, 0}));
  constexpr int64_t kTokens = 300;  // no multiple of the cells
  std::vector<float> large(kTokens * kTokens);
  for (size_t i = 0; i < large.size(); ++i) large[i] = static_cast<float>(i % kTokens);
  std::vector<int32_t> order(kTokens);
  std::iota(order.begin(), order.end(), 0);
  const CellImage image = cell_image(large, order, order);
  EXPECT_EQ(image.cells, CellImage::kMostCells);
  EXPECT_EQ(image.values[0], 1.0);  // tokens 0, 1 and 2
  EXPECT_EQ(image.values[1], 3.5);  // 3 and 4
  EXPECT_EQ(image.values.back(), 298.5);
}

/// Two groups, even and odd tokens, each linked to itself, with certainty.
class TwoGroups final : public model::AttentionGraph {
 public:
  TwoGroups(int64_t n, int64_t num_groups) {
    tokens = n;
    groups = num_groups;
    kernels::EdgeList list;
    list.row_ptr.push_back(0);
    for (int64_t i = 0; i < n; ++i) {
      for (int64_t j = i % 2; j < n; j += 2) list.columns.push_back(static_cast<int32_t>(j));
      list.row_ptr.push_back(list.num_edges());
      for (int64_t g = 0; g < groups; ++g) query_memberships.push_back(i % 2 == g ? 0.9f : 0.1f);
    }
    key_memberships = query_memberships;
    edges = {list};
  }
  void probabilities(int64_t, int64_t query, std::span<double> by_key) const override {
    for (size_t j = 0; j < by_key.size(); ++j)
      by_key[j] = static_cast<int64_t>(j) % 2 == query % 2 ? 1.0 : 0.0;
  }
};

std::string file_of(int64_t tokens, int64_t groups, int sequences = 1) {
  const auto folder = std::filesystem::temp_directory_path();
  std::string path = (folder / "stipple-picture.safetensors").string();
  DrawnExample drawn{.example = 4, .labels = {0}};
  for (int s = 0; s < sequences; ++s) {
    DrawnSequence& sequence = drawn.sequences.emplace_back();
    sequence.ids.assign(static_cast<size_t>(tokens + s), 1);
    sequence.layers.push_back(std::make_unique<TwoGroups>(tokens + s, groups));
  }
  GraphFile file;
  file.add(drawn);
  file.replace(path, {{"split", "val"}, {"step", "7"}});
  return path;
}

TEST(GraphPicture, OfAPairShowsTheFirst) {
  const GraphPicture picture = read_graph_picture(file_of(6, 2, 2));
  ASSERT_EQ(picture.heads.size(), 1u);
  EXPECT_EQ(picture.tokens, 6);
}

TEST(GraphPicture, ShowsBlocksWhereTokensHaveGroups) {
  const GraphPicture picture = read_graph_picture(file_of(10, 2));
  EXPECT_EQ(picture.example, "4");
  EXPECT_EQ(picture.step, "7");
  ASSERT_EQ(picture.heads.size(), 1u);
  const HeadPicture& head = picture.heads[0];
  EXPECT_EQ(head.density, 0.5);
  EXPECT_EQ(head.modularity, 0.5);
  EXPECT_LT(head.modularity_random, 0.3);
  for (size_t cell = 0; cell < 100; ++cell) {
    const bool same_half = (cell / 10 < 5) == (cell % 10 < 5);
    EXPECT_EQ(head.mask.values[cell], same_half ? 1.0 : 0.0);
    EXPECT_EQ(head.probability.values[cell], head.mask.values[cell]);
  }
  const std::string html = graph_pictures_html(picture);
  expect_sound("<main>" + html + "</main>");
  EXPECT_EQ(occurrences(html, "<img "), 2u);
  EXPECT_NE(html.find("Layer 0, head 0"), std::string::npos);
  EXPECT_NE(html.find("density 50.0%, modularity 0.500"), std::string::npos);
}

TEST(GraphPicture, WithoutGroupsTokensStayInTheirOrder) {
  const GraphPicture picture = read_graph_picture(file_of(4, 0));
  ASSERT_EQ(picture.heads.size(), 1u);
  EXPECT_TRUE(std::isnan(picture.heads[0].modularity));
  EXPECT_EQ(picture.heads[0].mask.values,
            (std::vector<double>{1, 0, 1, 0, 0, 1, 0, 1, 1, 0, 1, 0, 0, 1, 0, 1}));
  EXPECT_EQ(graph_pictures_html(picture).find("modularity 0"), std::string::npos);
}

TEST(GraphPicture, NoFileIsNoPictureAndAnotherFileIsAnError) {
  EXPECT_EQ(graph_pictures_html(read_graph_picture("/nowhere/graphs.safetensors")), "");
  const std::string path =
      (std::filesystem::temp_directory_path() / "stipple-no-picture.safetensors").string();
  std::ofstream(path) << "something else";
  try {
    read_graph_picture(path);
    FAIL();
  } catch (const DataError& e) {
    EXPECT_NE(std::string(e.what()).find(path), std::string::npos);
  }
}

}  // namespace
}  // namespace stipple::trainer
