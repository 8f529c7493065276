// SPDX-License-Identifier: Apache-2.0
// A build without CUDA: there is no device, and asking for one is an error.
#include "core/cuda/runtime.h"
#include "core/error.h"

namespace stipple::cuda {
namespace {

[[noreturn]] void refuse() {
  throw CudaError("this program was built without CUDA; build it with the preset 'cuda'");
}

}  // namespace

bool is_built() { return false; }
int device_count() { return 0; }
std::string why_no_device() {
  return "this program was built without CUDA; build it with the preset 'cuda'";
}
int driver_version() { return 0; }
int runtime_version() { return 0; }
DeviceInfo device_info(int) { refuse(); }
int multiprocessors(int) { refuse(); }
int64_t shared_bytes_per_multiprocessor(int) { refuse(); }
bool can_access_peer(int, int) { refuse(); }
void use_device(int) { refuse(); }
void* allocate(int, size_t) { refuse(); }
void release(void*) noexcept {}
void* allocate_pinned(size_t) { refuse(); }
void release_pinned(void*) noexcept {}
void* create_stream(int) { refuse(); }
void destroy_stream(void*) noexcept {}
void synchronize(void*) { refuse(); }
void* create_event(bool) { refuse(); }
void destroy_event(void*) noexcept {}
void record(void*, void*, bool) { refuse(); }
void wait(void*, void*) { refuse(); }
bool has_passed(void*) { refuse(); }
void synchronize_event(void*) { refuse(); }
double elapsed_ms(void*, void*) { refuse(); }
void copy(void*, const void*, size_t, void*) { refuse(); }
void fill_zero(void*, size_t, void*) { refuse(); }
void begin_capture(void*) { refuse(); }
void* end_capture(void*) { refuse(); }
bool is_capturing(void*) { refuse(); }
void cancel_capture(void*) noexcept {}
void launch_graph(void*, void*) { refuse(); }
void destroy_graph(void*) noexcept {}
void push_range(const char*) {}
void pop_range() {}

}  // namespace stipple::cuda
