// SPDX-License-Identifier: Apache-2.0
#include "core/stream.h"

#include "core/cpu/thread_pool.h"
#include "core/error.h"

namespace stipple {

Stream::Stream(Device device, Options options) : device_(device), options_(options) {
  STIPPLE_CHECK(options.threads >= 1, "a stream needs at least one thread, got ", options.threads);
  if (device.type == DeviceType::kCpu) pool_ = std::make_unique<cpu::ThreadPool>(options.threads);
}

Stream::~Stream() = default;
Stream::Stream(Stream&&) noexcept = default;
Stream& Stream::operator=(Stream&&) noexcept = default;

void Stream::parallel_for(int64_t count, FunctionRef<void(int64_t, int)> body) const {
  STIPPLE_CHECK(pool_ != nullptr, "parallel_for runs on CPU streams only");
  pool_->run(count, body);
}

}  // namespace stipple
