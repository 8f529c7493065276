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

/// Where the arrays of a leaf start in its block, and where the block ends.
struct Layout {
  Layout(const FeedOptions& options, int64_t batch, int64_t length) {
    const auto tokens = static_cast<size_t>(batch * length);
    const auto rows = static_cast<size_t>(batch);
    const size_t num_labels = options.head == data::HeadKind::kToken ? tokens : rows;
    mask = aligned(tokens * sizeof(int32_t));
    labels = mask + aligned(tokens);
    samples = labels + aligned(num_labels * sizeof(int32_t));
    end = samples + aligned(rows * sizeof(uint32_t));
  }
  size_t mask, labels, samples, end;
};

template <class T>
const T* at(std::byte* memory, size_t offset) {
  return memory == nullptr ? nullptr : reinterpret_cast<const T*>(memory + offset);
}

template <class T>
void pack(std::byte* to, const std::vector<T>& from) {
  std::memcpy(to, from.data(), from.size() * sizeof(T));
}

Shape label_shape(const FeedOptions& options, int64_t batch, int64_t length) {
  return options.head == data::HeadKind::kToken ? Shape{batch, length} : Shape{batch};
}

model::Input view_of(const data::Leaf& leaf, const FeedOptions& options, float loss_scale) {
  const Shape tokens{leaf.batch, leaf.length};
  return {.ids = {leaf.ids.data(), tokens},
          .mask = {leaf.mask.data(), tokens},
          .labels = {leaf.labels.data(), label_shape(options, leaf.batch, leaf.length)},
          .samples = {leaf.samples.data(), {leaf.batch}},
          .loss_scale = loss_scale,
          .batch_share = static_cast<float>(leaf.batch) / static_cast<float>(options.global_batch)};
}

}  // namespace

model::Input input_over(std::byte* memory, const FeedOptions& options, int64_t batch,
                        int64_t length, float loss_scale) {
  const Layout layout(options, batch, length);
  const Shape tokens{batch, length};
  return {.ids = {at<int32_t>(memory, 0), tokens},
          .mask = {at<uint8_t>(memory, layout.mask), tokens},
          .labels = {at<int32_t>(memory, layout.labels), label_shape(options, batch, length)},
          .samples = {at<uint32_t>(memory, layout.samples), {batch}},
          .loss_scale = loss_scale,
          .batch_share = static_cast<float>(batch) / static_cast<float>(options.global_batch)};
}

size_t Feed::slots_bytes(const FeedOptions& options) {
  return static_cast<size_t>(options.slots) *
         Layout(options, options.micro_batch, options.max_length).end;
}

size_t Feed::device_bytes(const FeedOptions& options) { return (kSets + 1) * slots_bytes(options); }

Feed::Feed(const Stream& compute, const FeedOptions& options)
    : compute_(compute),
      options_(options),
      slot_bytes_(Layout(options, options.micro_batch, options.max_length).end),
      device_(compute.device(), is_host() ? 0 : slots_bytes(options)),
      landing_(compute.device(), is_host() ? 0 : kSets * slots_bytes(options)),
      staging_(Buffer::staging(compute.device(), landing_.bytes())),
      copies_(compute.device()),
      landed_(compute.device(), /*is_timed=*/false),
      inputs_(static_cast<size_t>(options.slots)) {}

void Feed::put(int64_t step, int64_t slot, const data::Leaf& leaf, float loss_scale) {
  model::Input& input = inputs_[static_cast<size_t>(slot)];
  if (is_host()) {
    input = view_of(leaf, options_, loss_scale);
    return;
  }
  const Layout layout(options_, leaf.batch, leaf.length);
  const size_t offset = static_cast<size_t>(slot) * slot_bytes_;
  const size_t in_set = static_cast<size_t>(step) % kSets * device_.bytes() + offset;
  std::byte* staged = staging_.data() + in_set;
  std::byte* landing = landing_.data() + in_set;
  pack(staged, leaf.ids);
  pack(staged + layout.mask, leaf.mask);
  pack(staged + layout.labels, leaf.labels);
  pack(staged + layout.samples, leaf.samples);
  // The way over the bus does not wait for the computation; the last hop goes to where a captured
  // step reads.
  copy_bytes(copies_, landing, staged, layout.end);
  copies_.record(landed_);
  compute_.wait(landed_);
  copy_bytes(compute_, device_.data() + offset, landing, layout.end);
  input = input_over(device_.data() + offset, options_, leaf.batch, leaf.length, loss_scale);
}

}  // namespace stipple::trainer
