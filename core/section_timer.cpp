// SPDX-License-Identifier: Apache-2.0
#include "core/section_timer.h"

#include "core/error.h"

namespace stipple {

SectionTimer::SectionTimer(Device device, size_t max_sections) {
  events_.reserve(2 * max_sections);
  for (size_t i = 0; i < 2 * max_sections; ++i) events_.emplace_back(device);
}

void SectionTimer::begin(const Stream& stream) { record(stream, /*is_end=*/false); }

void SectionTimer::end(const Stream& stream) { record(stream, /*is_end=*/true); }

void SectionTimer::record(const Stream& stream, bool is_end) {
  STIPPLE_CHECK(used_ < events_.size(), "a section timer with room for ", events_.size() / 2,
                " sections was given another");
  STIPPLE_CHECK((used_ % 2 == 1) == is_end, "sections of a timer begin and end by turns");
  stream.record(events_[used_++]);
}

double SectionTimer::seconds() const {
  double ms = 0;
  for (size_t i = 0; i + 1 < used_; i += 2) ms += events_[i + 1].ms_since(events_[i]);
  return ms * 1e-3;
}

}  // namespace stipple
