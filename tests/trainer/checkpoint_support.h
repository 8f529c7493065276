// SPDX-License-Identifier: Apache-2.0
// What tests of checkpoints save: a state whose every element is known, in a directory that goes
// away.
#pragma once

#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>
#include <limits>
#include <random>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

#include "core/error.h"
#include "trainer/checkpoint/manifest.h"
#include "trainer/checkpoint/snapshot.h"

namespace stipple::test {

using trainer::CheckpointMeta;
using trainer::TensorRef;

/// A directory that goes away with the test. In memory where there is such a place: what is tested
/// is the order of the steps, and waiting for a device thousands of times would add only time.
class TemporaryDirectory {
 public:
  TemporaryDirectory() {
    const std::filesystem::path base =
        access("/dev/shm", W_OK) == 0 ? "/dev/shm" : std::filesystem::temp_directory_path();
    std::string pattern = (base / "stipple-checkpoint-XXXXXX").string();
    if (!mkdtemp(pattern.data())) throw std::runtime_error("mkdtemp failed");
    path_ = pattern;
  }
  ~TemporaryDirectory() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  std::string operator/(const std::string& name) const { return (path_ / name).string(); }
  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

inline std::string read_bytes(const std::filesystem::path& path) {
  std::ifstream in(path, std::ios::binary);
  std::ostringstream text;
  text << in.rdbuf();
  return text.str();
}

inline void write_bytes(const std::filesystem::path& path, const std::string& bytes) {
  std::ofstream(path, std::ios::binary | std::ios::trunc) << bytes;
}

inline bool same_bits(std::span<const float> a, std::span<const float> b) {
  return std::ranges::equal(std::as_bytes(a), std::as_bytes(b));
}

/// Model and optimizer state whose every element depends on (step, name, index), as owned memory.
class State {
 public:
  explicit State(int64_t step = -1) {
    const std::vector<std::pair<std::string, Shape>> layout{
        {"embedding.weight", {5, 3}}, {"encoder.0.q.weight", {4, 4}}, {"encoder.0.q.bias", {4}},
        {"head.scale", {}},           {"head.empty", {0, 7}},         {"head.cube", {2, 1, 3}}};
    for (const char* kind : {"parameter/", "first_moment/", "second_moment/"})
      for (const auto& [name, shape] : layout) add(kind + name, shape, step);
  }

  std::vector<TensorRef> tensors() {
    std::vector<TensorRef> refs;
    for (Owned& o : owned_) refs.push_back({o.name, o.shape, o.values});
    return refs;
  }

  bool operator==(const State& other) const {
    for (size_t i = 0; i < owned_.size(); ++i)
      if (!same_bits(owned_[i].values, other.owned_[i].values)) return false;
    return true;
  }

 private:
  struct Owned {
    std::string name;
    Shape shape;
    std::vector<float> values;
  };

  void add(const std::string& name, const Shape& shape, int64_t step) {
    std::seed_seq seed(name.begin(), name.end());
    std::mt19937 generator(seed);
    Owned o{name, shape, std::vector<float>(static_cast<size_t>(shape.numel()))};
    for (float& x : o.values)
      x = static_cast<float>(generator()) * 1e-9f + static_cast<float>(step);
    // Values that arithmetic would change but a copy must not.
    if (step >= 0 && o.values.size() > 2) {
      o.values[0] = -0.0f;
      o.values[1] = std::numeric_limits<float>::denorm_min();
      o.values[2] = std::numeric_limits<float>::quiet_NaN();
    }
    owned_.push_back(std::move(o));
  }

  std::vector<Owned> owned_;
};

inline CheckpointMeta meta_of(int64_t step) {
  return {.step = step,
          .dataset_fingerprint = 0xfedcba9876543210u,
          .scalars = {.counts = {{"data_position", step * 32}, {"applied_steps", step - 1}},
                      .numbers = {{"window/loss", {0.1}},
                                  {"guard/losses",
                                   {-0.0, 1e-310, std::numeric_limits<double>::infinity()}},
                                  {"guard/norms", {}}}},
          .config_yaml = "model:\n  width: 64\n  name: \"a \\\"b\\\" <c>\"\n"};
}

inline std::string message_thrown_by(const std::function<void()>& body) {
  try {
    body();
  } catch (const CheckpointError& e) {
    return e.what();
  } catch (const DataError& e) {  // nothing that was saved is intact
    return e.what();
  } catch (const ConfigError& e) {  // the checkpoint is good, the model is another
    return e.what();
  }
  ADD_FAILURE() << "no error";
  return {};
}

inline void expect_contains(const std::string& text, const std::string& part) {
  EXPECT_NE(text.find(part), std::string::npos) << "'" << part << "' is not in: " << text;
}

}  // namespace stipple::test
