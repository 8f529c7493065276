// SPDX-License-Identifier: Apache-2.0
// The CUDA runtime as the rest of core needs it, without CUDA's own headers: streams and events are
// opaque pointers. Two bodies: runtime.cpp over cudart, no_cuda.cpp for builds without CUDA.
// Everything throws CudaError, ConfigError where memory is short; release and destroy log instead.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

namespace stipple::cuda {

struct DeviceInfo {
  std::string name;
  std::string bus_id;  ///< PCI address, tells two ranks on one GPU apart from two GPUs
  int compute_major = 0;
  int compute_minor = 0;
  int multiprocessors = 0;
  size_t shared_bytes_per_block = 0;  ///< with opt-in
  size_t total_bytes = 0;
  size_t free_bytes = 0;
};

bool is_built();  ///< whether this program has a CUDA backend at all
/// 0 where there is no device, no driver, or no CUDA backend.
int device_count();
/// Why there is no usable device, for a person; empty when there is one.
std::string why_no_device();
int driver_version();  ///< 13000 is 13.0; 0: no driver
int runtime_version();
DeviceInfo device_info(int device);
/// As in DeviceInfo, but cheap enough to ask at every launch. STIPPLE_MULTIPROCESSORS=n in the
/// environment: as if there were n, so that few rows give a block of a persistent grid many turns.
int multiprocessors(int device);
int64_t shared_bytes_per_multiprocessor(int device);
bool can_access_peer(int device, int peer);

/// Makes `device` the calling thread's. Called by everything below that takes a device.
void use_device(int device);

void* allocate(int device, size_t bytes);  ///< device memory, zeroed
void release(void*) noexcept;
void* allocate_pinned(size_t bytes);  ///< host memory that copies by itself, zeroed
void release_pinned(void*) noexcept;

void* create_stream(int device);
void destroy_stream(void* stream) noexcept;
void synchronize(void* stream);

void* create_event(bool timed);
void destroy_event(void* event) noexcept;
/// In a capture, an event that is timed is recorded by every replay of the graph; another one
/// orders what is captured.
void record(void* event, void* stream, bool is_timed);
void wait(void* stream, void* event);  ///< later work of the stream waits; the host does not
bool has_passed(void* event);
void synchronize_event(void* event);
double elapsed_ms(void* begin, void* end);  ///< both have passed

/// In stream order, between host and device memory in any direction. From pageable host memory the
/// copy is staged at once.
void copy(void* to, const void* from, size_t bytes, void* stream);
void fill_zero(void* to, size_t bytes, void* stream);

/// A captured sequence of work, ready to be replayed.
void begin_capture(void* stream);
void* end_capture(void* stream);  ///< an executable graph
bool is_capturing(void* stream);
void cancel_capture(void* stream) noexcept;  ///< drops what was captured, and its errors
void launch_graph(void* graph, void* stream);
void destroy_graph(void* graph) noexcept;

/// Names a section for profilers, until pop_range.
void push_range(const char* name);
void pop_range();

}  // namespace stipple::cuda
