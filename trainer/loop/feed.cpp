// SPDX-License-Identifier: Apache-2.0
#include "trainer/loop/feed.h"

#include <cstring>

#include "core/arena.h"
#include "core/copy.h"

namespace stipple::trainer {
namespace {

/// Of staging and landing memory: one for the step that is computed, one for the next.
constexpr size_t kSets = 2;

size_t aligned(size_t bytes) {
  return (bytes + Buffer::kAlignment - 1) / Buffer::kAlignment * Buffer::kAlignment;
}

/// visit(array, where it starts in the leaf's block, that array of each of `arrays`...). Returns
/// where the block ends.
template <class Visit, class... Arrays>
size_t for_each_placed_array(const LeafSizes& sizes, Visit visit, Arrays&... arrays) {
  size_t end = 0;
  for_each_array(
      sizes,
      [&](const auto& array, auto&... of) {
        visit(array, end, of...);
        end += aligned(array.bytes());
      },
      arrays...);
  return end;
}

size_t block_bytes(const LeafSizes& sizes) {
  return for_each_placed_array(sizes, [](const auto&, size_t) {});
}

/// Without arrays yet.
model::Input make_input(const FeedOptions& options, const LeafSizes& sizes) {
  model::Input input;
  input.batch_share = static_cast<float>(sizes.batch) / static_cast<float>(options.global_batch);
  return input;
}

std::optional<int64_t> known_labels(const data::Leaf& leaf, const FeedOptions& options) {
  if (options.is_captured) return std::nullopt;
  return leaf.num_labels;
}

model::Input view_of(const data::Leaf& leaf, const FeedOptions& options) {
  model::Input input = make_input(options, leaf.sizes);
  for_each_array(
      leaf.sizes,
      [](const auto& array, const auto& from, auto& view) {
        view = {from.data(), array.shape};
      },
      leaf, input);
  input.num_labels = known_labels(leaf, options);
  return input;
}

}  // namespace

model::Input input_over(std::byte* memory, const FeedOptions& options, const LeafSizes& sizes) {
  model::Input input = make_input(options, sizes);
  for_each_placed_array(
      sizes,
      [memory](const auto& array, size_t offset, auto& view) {
        view.shape = array.shape;
        if (memory != nullptr) view.data = reinterpret_cast<decltype(view.data)>(memory + offset);
      },
      input);
  return input;
}

size_t Feed::leaf_bytes(const LeafSizes& sizes) { return block_bytes(sizes); }

size_t Feed::slots_bytes(const FeedOptions& options) {
  return static_cast<size_t>(options.slots) * block_bytes(options.largest);
}

size_t Feed::device_bytes(const FeedOptions& options) { return (kSets + 1) * slots_bytes(options); }

Feed::Feed(const Stream& compute, const FeedOptions& options)
    : compute_(compute),
      options_(options),
      slot_bytes_(block_bytes(options.largest)),
      device_(compute.device(), is_host() ? 0 : slots_bytes(options)),
      landing_(compute.device(), is_host() ? 0 : kSets * slots_bytes(options)),
      staging_(Buffer::staging(compute.device(), landing_.bytes())),
      copies_(compute.device()),
      landed_(compute.device(), /*is_timed=*/false),
      inputs_(static_cast<size_t>(options.slots)) {}

void Feed::put(int64_t step, int64_t slot, const data::Leaf& leaf) {
  model::Input& input = inputs_[static_cast<size_t>(slot)];
  if (is_host()) {
    input = view_of(leaf, options_);
    return;
  }
  const size_t offset = static_cast<size_t>(slot) * slot_bytes_;
  const size_t in_set = static_cast<size_t>(step) % kSets * device_.bytes() + offset;
  std::byte* staged = staging_.data() + in_set;
  std::byte* landing = landing_.data() + in_set;
  const size_t bytes = for_each_placed_array(
      leaf.sizes,
      [staged](const auto& array, size_t at, const auto& from) {
        std::memcpy(staged + at, from.data(), array.bytes());
      },
      leaf);
  // The way over the bus does not wait for the computation; the last hop goes to where a captured
  // step reads.
  copy_bytes(copies_, landing, staged, bytes);
  copies_.record(landed_);
  compute_.wait(landed_);
  copy_bytes(compute_, device_.data() + offset, landing, bytes);
  input = input_over(device_.data() + offset, options_, leaf.sizes);
  input.num_labels = known_labels(leaf, options_);
}

}  // namespace stipple::trainer
