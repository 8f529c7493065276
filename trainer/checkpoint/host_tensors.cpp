// SPDX-License-Identifier: Apache-2.0
#include "trainer/checkpoint/host_tensors.h"

#include "core/copy.h"
#include "core/error.h"

namespace stipple::trainer {
namespace {

class Lister final : public StateVisitor {
 public:
  explicit Lister(std::vector<TensorRef>& refs) : refs_(refs) {}
  void tensor(std::string_view name, const Shape& shape, View<float> values, Range owned) override {
    STIPPLE_CHECK(values.numel() == owned.size() && owned.begin >= 0 && owned.end <= shape.numel(),
                  "state '", name, "' of shape ", shape.str(), ": elements ", owned.begin, "..",
                  owned.end, " cannot be ", values.numel(), " values");
    refs_.push_back({std::string(name), shape, values.span(), owned.begin});
  }
  void count(std::string_view, int64_t&) override {}
  void number(std::string_view, double&) override {}
  void numbers(std::string_view, std::vector<double>&) override {}

 private:
  std::vector<TensorRef>& refs_;
};

}  // namespace

HostTensors::HostTensors(const Stream& stream, DescribeState describe) : stream_(stream) {
  Lister lister(refs_);
  describe(lister);
  if (stream.device().type == DeviceType::kCpu) return;
  size_t bytes = 0;
  for (const TensorRef& ref : refs_) bytes += ref.data.size_bytes();
  copy_ = Buffer(kCpuDevice, bytes);
  auto* next = reinterpret_cast<float*>(copy_.data());
  for (TensorRef& ref : refs_) {
    on_device_.push_back(ref.data.data());
    ref.data = {next, ref.data.size()};
    next += ref.data.size();
  }
}

void HostTensors::fetch() const {
  if (!is_copy()) return;
  for (size_t i = 0; i < refs_.size(); ++i)
    copy_bytes(stream_, refs_[i].data.data(), on_device_[i], refs_[i].data.size_bytes());
  stream_.synchronize();
}

void HostTensors::put_back() const {
  if (!is_copy()) return;
  for (size_t i = 0; i < refs_.size(); ++i)
    copy_bytes(stream_, on_device_[i], refs_[i].data.data(), refs_[i].data.size_bytes());
  stream_.synchronize();
}

}  // namespace stipple::trainer
