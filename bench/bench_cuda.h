// SPDX-License-Identifier: Apache-2.0
// What both halves of bench_cuda share: results as lines of JSON, and entries that cannot run.
#pragma once

#include <benchmark/benchmark.h>

#include <sstream>
#include <string>

#include "core/error.h"
#include "core/real_view.h"

namespace stipple::bench {

/// Set from the command line.
struct Settings {
  std::string jsonl;  ///< file that results are appended to; empty: none
  std::string recipe = "configs/recipe/lra_listops_sbm.yaml";  ///< of training steps
  bool failed = false;                                         ///< an entry could not run
};
Settings& settings();

/// One result. Written by append_to_file(), so that an interrupted run keeps what it has.
class JsonLine {
 public:
  JsonLine& add(const char* key, double value);
  JsonLine& add(const char* key, std::string value);
  void append_to_file() const;

 private:
  std::ostringstream text_;
};

/// A number for the table and for the line.
inline void tell(benchmark::State& state, JsonLine& line, const char* key, double value) {
  state.counters[key] = value;
  line.add(key, value);
}

/// Runs `body`; what it cannot do becomes a line of the report, and the next entry follows.
template <class Body>
void or_say_why_not(benchmark::State& state, JsonLine& line, const Body& body) {
  try {
    body();
  } catch (const Error& error) {
    line.add("error", error.what()).append_to_file();
    state.SkipWithError(error.what());
    settings().failed = true;
  }
}

/// Registers training steps: of the recipe, and of one long sequence at a fixed mean degree.
void add_steps();
void add_smoke_steps();
/// Registers a copy within the device's memory and a large product of bf16.
void add_ceilings(bool smoke);

}  // namespace stipple::bench
