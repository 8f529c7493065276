// SPDX-License-Identifier: Apache-2.0
#include "core/stream.h"

#include <chrono>

#include "core/cpu/thread_pool.h"
#include "core/cuda/runtime.h"
#include "core/error.h"

namespace stipple {
namespace {

double host_ms() {
  const auto now = std::chrono::steady_clock::now().time_since_epoch();
  return std::chrono::duration<double, std::milli>(now).count();
}

}  // namespace

Event::Event(Device device, bool is_timed) : is_timed_(is_timed) {
  if (device.type != DeviceType::kCuda) return;
  cuda::use_device(device.index);
  event_.reset(cuda::create_event(is_timed));
}

bool Event::has_passed() const { return event_ == nullptr || cuda::has_passed(event_.get()); }

void Event::synchronize() const {
  if (event_ != nullptr) cuda::synchronize_event(event_.get());
}

double Event::ms_since(const Event& begin) const {
  if (event_ != nullptr) return cuda::elapsed_ms(begin.event_.get(), event_.get());
  return host_ms_ - begin.host_ms_;
}

void Event::Destroy::operator()(void* event) const { cuda::destroy_event(event); }

Stream::Stream(Device device, Options options) : device_(device), options_(options) {
  STIPPLE_CHECK(options.threads >= 1, "a stream needs at least one thread, got ", options.threads);
  if (device.type == DeviceType::kCpu) pool_ = std::make_unique<cpu::ThreadPool>(options.threads);
  if (device.type == DeviceType::kCuda) native_.reset(cuda::create_stream(device.index));
}

Stream::~Stream() = default;
Stream::Stream(Stream&&) noexcept = default;
Stream& Stream::operator=(Stream&&) noexcept = default;

void Stream::Destroy::operator()(void* stream) const { cuda::destroy_stream(stream); }

void Stream::parallel_for(int64_t count, FunctionRef<void(int64_t, int)> body) const {
  if (is_plan()) return;
  STIPPLE_CHECK(pool_ != nullptr, "parallel_for runs on CPU streams only");
  pool_->run(count, body);
}

void Stream::record(Event& event) const {
  if (native_ != nullptr) {
    cuda::record(event.event_.get(), native(), event.is_timed_);
  } else {
    event.host_ms_ = host_ms();
  }
}

void Stream::wait(const Event& event) const {
  if (native_ != nullptr) cuda::wait(native(), event.event_.get());
}

void Stream::synchronize() const {
  if (native_ != nullptr) cuda::synchronize(native());
}

}  // namespace stipple
