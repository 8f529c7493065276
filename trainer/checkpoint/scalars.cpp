// SPDX-License-Identifier: Apache-2.0
#include "trainer/checkpoint/scalars.h"

#include "core/error.h"

namespace stipple::trainer {
namespace {

template <class Map>
const auto& found(const Map& map, std::string_view name) {
  const auto entry = map.find(name);
  STIPPLE_CHECK_AS(CheckpointError, entry != map.end(), "the checkpoint has no '", name, "'");
  return entry->second;
}

template <class Map, class Value>
void add(Map& map, std::string_view name, Value value) {
  const bool is_new = map.emplace(name, std::move(value)).second;
  STIPPLE_CHECK(is_new, "two parts of the state are called '", name, "'");
}

class Reader final : public StateVisitor {
 public:
  Scalars take() { return std::move(scalars_); }
  void tensor(std::string_view, const Shape&, View<float>, Range) override {}
  void count(std::string_view name, int64_t& value) override { add(scalars_.counts, name, value); }
  void number(std::string_view name, double& value) override {
    add(scalars_.numbers, name, std::vector<double>{value});
  }
  void numbers(std::string_view name, std::vector<double>& values) override {
    add(scalars_.numbers, name, values);
  }

 private:
  Scalars scalars_;
};

class Writer final : public StateVisitor {
 public:
  explicit Writer(const Scalars& scalars) : scalars_(scalars) {}
  void tensor(std::string_view, const Shape&, View<float>, Range) override {}
  void count(std::string_view name, int64_t& value) override { value = scalars_.count(name); }
  void number(std::string_view name, double& value) override {
    const std::vector<double>& values = scalars_.list(name);
    STIPPLE_CHECK_AS(CheckpointError, values.size() == 1, "the checkpoint has ", values.size(),
                     " values of '", name, "' instead of one");
    value = values.front();
  }
  void numbers(std::string_view name, std::vector<double>& values) override {
    const std::vector<double>& stored = scalars_.list(name);
    values.assign(stored.begin(), stored.end());  // keeps what was reserved
  }

 private:
  const Scalars& scalars_;
};

}  // namespace

int64_t Scalars::count(std::string_view name) const { return found(counts, name); }

const std::vector<double>& Scalars::list(std::string_view name) const {
  return found(numbers, name);
}

Scalars scalars_of(DescribeState describe) {
  Reader reader;
  describe(reader);
  return reader.take();
}

void restore_scalars(const Scalars& scalars, DescribeState describe) {
  Writer writer(scalars);
  describe(writer);
}

}  // namespace stipple::trainer
