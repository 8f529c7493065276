// SPDX-License-Identifier: Apache-2.0
#include "trainer/record/graph_picture.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "core/error.h"
#include "model/attention/graph_figures.h"
#include "trainer/checkpoint/durable_file.h"
#include "trainer/checkpoint/safetensors.h"
#include "trainer/record/bitmap.h"
#include "trainer/record/graph_file.h"
#include "trainer/record/svg_chart.h"

namespace stipple::trainer {
namespace {

template <class T>
std::vector<T> read_tensor(const SafetensorsFile& file, const SafetensorsFile::Entry& entry) {
  std::vector<T> values(static_cast<size_t>(entry.shape.numel()));
  file.read(entry, std::as_writable_bytes(std::span(values)));
  return values;
}

/// One layer of the file.
class Layer {
 public:
  Layer(const SafetensorsFile& file, const std::string& sequence, int64_t layer)
      : file_(file), prefix_(fmt::format("{}/layer.{}/", sequence, layer)) {}

  const SafetensorsFile::Entry* find(std::string_view what) const {
    return file_.find(prefix_ + std::string(what));
  }
  /// [H, n, n]
  std::vector<float> pairs(std::string_view what) const {
    const SafetensorsFile::Entry& entry = get(what);
    const Shape& s = entry.shape;
    STIPPLE_CHECK_AS(CheckpointError, s.rank() == 3 && s[1] == s[2], "tensor '", entry.name,
                     "' has the shape ", s.str());
    if (entry.type == TensorType::kF32) return read_tensor<float>(file_, entry);
    STIPPLE_CHECK_AS(CheckpointError, entry.type == TensorType::kU8, "tensor '", entry.name,
                     "' has the type ", name_of(entry.type));
    const std::vector<uint8_t> bytes = read_tensor<uint8_t>(file_, entry);
    return {bytes.begin(), bytes.end()};
  }
  /// The strongest group of each token, [H, n]; empty: there are none.
  std::vector<int32_t> groups(std::string_view what, int64_t& count) const {
    const SafetensorsFile::Entry* const entry = find(what);
    if (entry == nullptr) return {};
    STIPPLE_CHECK_AS(CheckpointError, entry->type == TensorType::kF32 && entry->shape.rank() == 3,
                     "tensor '", entry->name, "' is no memberships");
    count = entry->shape[2];
    return model::strongest_groups(read_tensor<float>(file_, *entry), count);
  }

 private:
  const SafetensorsFile::Entry& get(std::string_view what) const {
    const SafetensorsFile::Entry* const entry = find(what);
    STIPPLE_CHECK_AS(CheckpointError, entry != nullptr, "there is no tensor '", prefix_, what, "'");
    return *entry;
  }
  const SafetensorsFile& file_;
  std::string prefix_;
};

kernels::EdgeList edges_of(std::span<const float> mask, int64_t n) {
  kernels::EdgeList list;
  list.row_ptr.push_back(0);
  for (int64_t i = 0; i < n; ++i) {
    for (int64_t j = 0; j < n; ++j)
      if (mask[static_cast<size_t>(i * n + j)] > 0) list.columns.push_back(static_cast<int32_t>(j));
    list.row_ptr.push_back(list.num_edges());
  }
  return list;
}

std::vector<int32_t> as_they_are(int64_t n) {
  std::vector<int32_t> order(static_cast<size_t>(n));
  std::iota(order.begin(), order.end(), 0);
  return order;
}

void add_heads(const Layer& layer, int64_t number, GraphPicture& picture) {
  const std::vector<float> masks = layer.pairs(graph_tensor::kMask);
  const std::vector<float> probabilities = layer.pairs(graph_tensor::kProbability);
  int64_t num_groups = 0;
  const std::vector<int32_t> queries = layer.groups(graph_tensor::kQueryMemberships, num_groups);
  const std::vector<int32_t> keys = layer.groups(graph_tensor::kKeyMemberships, num_groups);
  const Shape shape = layer.find(graph_tensor::kMask)->shape;
  const int64_t n = shape[1];
  const auto tokens = static_cast<size_t>(n);
  STIPPLE_CHECK_AS(CheckpointError,
                   masks.size() == probabilities.size() && queries.size() == keys.size() &&
                       (queries.empty() || queries.size() == static_cast<size_t>(shape[0] * n)),
                   "the tensors of layer ", number, " do not fit together");
  picture.tokens = n;
  for (int64_t h = 0; h < shape[0]; ++h) {
    const auto head = static_cast<size_t>(h);
    const auto mask = std::span(masks).subspan(head * tokens * tokens, tokens * tokens);
    const auto probability =
        std::span(probabilities).subspan(head * tokens * tokens, tokens * tokens);
    const kernels::EdgeList edges = edges_of(mask, n);
    HeadPicture& p = picture.heads.emplace_back();
    p.layer = number;
    p.head = h;
    p.density =
        static_cast<double>(edges.num_edges()) / static_cast<double>(std::max<int64_t>(1, n * n));
    p.modularity = p.modularity_random = std::numeric_limits<double>::quiet_NaN();
    std::vector<int32_t> rows = as_they_are(n), columns = rows;
    if (!queries.empty()) {
      const auto query_groups = std::span(queries).subspan(head * tokens, tokens);
      const auto key_groups = std::span(keys).subspan(head * tokens, tokens);
      rows = order_by_group(query_groups);
      columns = order_by_group(key_groups);
      p.modularity = model::modularity(edges, query_groups, key_groups, num_groups);
      p.modularity_random =
          model::modularity(model::random_graph(n, n, edges.num_edges(), static_cast<uint64_t>(h)),
                            query_groups, key_groups, num_groups);
    }
    p.mask = cell_image(mask, rows, columns);
    p.probability = cell_image(probability, rows, columns);
  }
}

/// An image whose darkest cell is its largest value, which the caption tells.
std::string image_html(const CellImage& image, const std::string& what) {
  const double largest =
      image.values.empty() ? 0 : *std::max_element(image.values.begin(), image.values.end());
  std::vector<uint8_t> levels;
  for (const double v : image.values)
    levels.push_back(
        largest > 0 ? static_cast<uint8_t>(std::lround(255 * std::max(0.0, v) / largest)) : 0);
  return fmt::format(
      "<div><img src=\"{}\" alt=\"{}\" width=\"{}\" height=\"{}\"/><span>{}, up to {}</span></div>",
      bitmap_uri(levels, image.cells, image.cells), what, image.cells, image.cells, what,
      short_number(largest));
}

}  // namespace

CellImage cell_image(std::span<const float> values, std::span<const int32_t> row_order,
                     std::span<const int32_t> column_order) {
  const auto n = static_cast<int64_t>(row_order.size());
  CellImage image;
  image.cells = std::min(n, CellImage::kMostCells);
  image.values.assign(static_cast<size_t>(image.cells * image.cells), 0.0);
  std::vector<double> entries(image.values.size());
  const auto cell_of = [&](int64_t token) { return token * image.cells / n; };
  for (int64_t i = 0; i < n; ++i) {
    for (int64_t j = 0; j < n; ++j) {
      const auto cell = static_cast<size_t>(cell_of(i) * image.cells + cell_of(j));
      const int64_t row = row_order[static_cast<size_t>(i)];
      const int64_t column = column_order[static_cast<size_t>(j)];
      image.values[cell] += static_cast<double>(values[static_cast<size_t>(row * n + column)]);
      entries[cell] += 1;
    }
  }
  for (size_t cell = 0; cell < entries.size(); ++cell) image.values[cell] /= entries[cell];
  return image;
}

std::vector<int32_t> order_by_group(std::span<const int32_t> groups) {
  std::vector<int32_t> order = as_they_are(static_cast<int64_t>(groups.size()));
  std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) {
    return groups[static_cast<size_t>(a)] < groups[static_cast<size_t>(b)];
  });
  return order;
}

GraphPicture read_graph_picture(const std::string& path) {
  GraphPicture picture;
  if (!path_exists(path)) return picture;
  try {
    const SafetensorsFile file(path);
    const auto about = [&](const char* key) {
      const auto found = file.metadata().find(key);
      return found == file.metadata().end() ? std::string() : found->second;
    };
    picture.split = about("split");
    picture.step = about("step");
    const std::string examples = about("examples");
    picture.example = examples.substr(0, examples.find(' '));
    std::string sequence = "example." + picture.example;
    // Of several sequences the first.
    if (file.find(sequence + "/ids") == nullptr) sequence += "/sequence.0";
    for (int64_t number = 0;; ++number) {
      const Layer layer(file, sequence, number);
      if (layer.find(graph_tensor::kMask) == nullptr) break;
      add_heads(layer, number, picture);
    }
  } catch (const Error& e) {
    throw DataError(fmt::format("{}: no drawn graphs: {}", path, e.what()));
  }
  return picture;
}

std::string graph_pictures_html(const GraphPicture& picture) {
  if (picture.heads.empty()) return {};
  std::string html = fmt::format(
      "<h2>Graphs</h2>\n<p class=\"sub\">Example {} of the split {} after step {}, {} tokens: row "
      "by "
      "row the keys that a query sees, tokens in the order of their strongest group. Modularity "
      "tells whether edges stay within groups; a random graph of the same density has that in "
      "brackets.</p>\n<div class=\"graphs\">\n",
      escape_html(picture.example), escape_html(picture.split), escape_html(picture.step),
      picture.tokens);
  for (const HeadPicture& p : picture.heads) {
    std::string caption =
        fmt::format("Layer {}, head {} <span>density {:.1f}%", p.layer, p.head, 100 * p.density);
    if (std::isfinite(p.modularity))
      caption += fmt::format(", modularity {:.3f} ({:.3f})", p.modularity, p.modularity_random);
    html += fmt::format(
        "<figure><figcaption>{}</span></figcaption><div class=\"pair\">{}{}</div></figure>\n",
        caption, image_html(p.mask, "drawn"), image_html(p.probability, "probability"));
  }
  return html + "</div>\n";
}

}  // namespace stipple::trainer
