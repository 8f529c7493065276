// SPDX-License-Identifier: Apache-2.0
#include "trainer/record/metrics.h"

#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <limits>
#include <sstream>

#include "core/error.h"
#include "trainer/checkpoint/durable_file.h"
#include "trainer/record/tensorboard.h"

namespace stipple::trainer {
namespace {

namespace fs = std::filesystem;

class MetricsFile : public testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = (fs::temp_directory_path() / "stipple-metrics-XXXXXX").string();
    ASSERT_NE(mkdtemp(pattern.data()), nullptr);
    directory_ = pattern;
    path_ = directory_ + "/metrics.jsonl";
  }
  void TearDown() override { fs::remove_all(directory_); }

  std::string text() const {
    std::ifstream in(path_, std::ios::binary);
    std::ostringstream out;
    out << in.rdbuf();
    return out.str();
  }
  void append_raw(const std::string& bytes) const {
    std::ofstream(path_, std::ios::binary | std::ios::app) << bytes;
  }
  std::string read_error() const {
    try {
      read_metrics(path_);
    } catch (const DataError& e) {
      return e.what();
    }
    ADD_FAILURE() << "no DataError";
    return {};
  }

  std::string directory_;
  std::string path_;
};

TrainRecord record_at(int64_t step) {
  return {
      .step = step,
      .loss = 1.0 / 3,
      .values = {{"accuracy", 0.25}, {"density", 0.1}},
      .examples_per_s = 340,
      .tokens_per_s = 68000,
      .learning_rate = 1e-4,
      .grad_norm = 0.7,
      .skipped = 2,
      .auxiliary_loss = 0.5,
      .seconds = {.step = 0.09,
                  .data = 0.01,
                  .forward = 0.02,
                  .sampling = 0.03,
                  .backward = 0.04,
                  .reduce = 0.05,
                  .optimizer = 0.06},
      .layers = {{{"density", {0.1, 0.2}}, {"empty_rows", {0.0, 0.5}}, {"effective_cells", {3, 4}}},
                 {{"density", {0.3, 0.4}}, {"empty_rows", {}}, {"effective_cells", {}}}}};
}

EvalRecord eval_at(int64_t step) {
  return {.step = step,
          .split = "val",
          .loss = 1.5,
          .values = {{"accuracy", 0.372}, {"density", 0.2}},
          .examples = 2000,
          .examples_per_s = 900,
          .seed_values = {{"accuracy", {0.37, 0.374}}},
          .seed_spread = 0.004,
          .profiles = {{"bits_by_place", {2.5, 1.5}}},
          .overrides = {"attention.sbm.delta=0.5"},
          .layers = {{{"density", {0.1, 0.3}}, {"modularity", {0.5, 0.25}}}}};
}

TEST_F(MetricsFile, KeysAreTheDocumentedOnes) {
  MetricsWriter writer(path_, -1);
  writer.write(record_at(10));
  writer.write(eval_at(10));
  EXPECT_EQ(
      text(),
      R"({"kind":"train","step":10,"split":"train","loss":0.3333333333333333,"accuracy":0.25,)"
      R"("density":0.1,"examples_per_s":340.0,"tokens_per_s":68000.0,"learning_rate":0.0001,)"
      R"("grad_norm":0.7,"skipped":2,"auxiliary_loss":0.5,"step_s":0.09,"data_s":0.01,"forward_s":0.02,)"
      R"("sampling_s":0.03,"backward_s":0.04,"reduce_s":0.05,"optimizer_s":0.06,"layers":[)"
      R"({"density":[0.1,0.2],"empty_rows":[0.0,0.5],"effective_cells":[3.0,4.0]},)"
      R"({"density":[0.3,0.4],"empty_rows":[],"effective_cells":[]}]})"
      "\n"
      R"({"kind":"eval","step":10,"split":"val","loss":1.5,"accuracy":0.372,"density":0.2,)"
      R"("examples":2000,"examples_per_s":900.0,"seed_accuracy":[0.37,0.374],)"
      R"("seed_spread":0.004,"bits_by_place":[2.5,1.5],"overrides":["attention.sbm.delta=0.5"],)"
      R"("layers":[{"density":[0.1,0.3],"modularity":[0.5,0.25]}]})"
      "\n");
}

TEST_F(MetricsFile, WhatIsWrittenIsReadBack) {
  {
    MetricsWriter writer(path_, -1);
    TrainRecord odd = record_at(2);
    odd.loss = std::numeric_limits<double>::quiet_NaN();
    odd.grad_norm = std::numeric_limits<double>::infinity();
    writer.write(record_at(1));
    writer.write(odd);
    writer.write(eval_at(2));
  }
  const Metrics m = read_metrics(path_);
  ASSERT_EQ(m.train.size(), 2u);
  ASSERT_EQ(m.eval.size(), 1u);
  EXPECT_EQ(m.train[0].loss, 1.0 / 3);
  EXPECT_EQ(m.train[0].seconds.optimizer, 0.06);
  EXPECT_EQ(m.train[0].values, record_at(1).values);
  EXPECT_EQ(m.train[0].layers, record_at(1).layers);
  EXPECT_TRUE(std::isnan(m.train[1].loss));
  EXPECT_TRUE(std::isnan(m.train[1].grad_norm));
  EXPECT_EQ(m.eval[0].values, eval_at(2).values);
  EXPECT_EQ(m.eval[0].seed_values, eval_at(2).seed_values);
  EXPECT_EQ(m.eval[0].profiles, eval_at(2).profiles);
  EXPECT_EQ(m.eval[0].split, "val");
  EXPECT_EQ(m.eval[0].overrides, std::vector<std::string>{"attention.sbm.delta=0.5"});
  EXPECT_FALSE(m.eval[0].is_plain());
  EXPECT_EQ(m.eval[0].layers, eval_at(2).layers);
}

TEST_F(MetricsFile, EvaluationsOfBeforeOverridesWereKeptArePlain) {
  append_raw(R"({"kind":"eval","step":10,"split":"val","loss":1.5,"accuracy":0.3,"density":0.2,)"
             R"("examples":2000,"examples_per_s":900.0,"seed_accuracy":[0.3],"seed_spread":0.0})"
             "\n");
  ASSERT_EQ(read_metrics(path_).eval.size(), 1u);
  EXPECT_TRUE(read_metrics(path_).eval[0].is_plain());
}

TEST_F(MetricsFile, ResumeLeavesNoStepTwiceAndKeepsTheRestUnchanged) {
  std::string straight;
  {
    MetricsWriter writer(path_, -1);
    for (int64_t step = 1; step <= 30; ++step) writer.write(record_at(step));
    straight = text();
  }
  for (int64_t restored : {20, 20, 7, 0}) {
    append_raw(R"({"kind":"train","step":31,"lo)");
    MetricsWriter writer(path_, restored);
    EXPECT_EQ(read_metrics(path_).train.size(), static_cast<size_t>(restored));
    for (int64_t step = restored + 1; step <= 30; ++step) writer.write(record_at(step));
    EXPECT_EQ(text(), straight);
  }
  EXPECT_FALSE(fs::exists(path_ + ".tmp"));
}

TEST_F(MetricsFile, ARunFromTheStartForgetsAnEarlierOne) {
  { MetricsWriter(path_, -1).write(eval_at(0)); }
  MetricsWriter writer(path_, -1);
  EXPECT_EQ(text(), "");
}

TEST_F(MetricsFile, ResumeDropsGarbageWithAWarning) {
  { MetricsWriter(path_, -1).write(record_at(1)); }
  append_raw(std::string(5, '\0') + "\n");
  testing::internal::CaptureStderr();
  MetricsWriter writer(path_, 1);
  const std::string warning = testing::internal::GetCapturedStderr();
  EXPECT_NE(warning.find(path_ + ":2: dropped"), std::string::npos) << warning;
  EXPECT_EQ(read_metrics(path_).train.size(), 1u);
}

TEST_F(MetricsFile, ReaderLeavesOutATornLastLineOnly) {
  { MetricsWriter(path_, -1).write(record_at(1)); }
  append_raw(R"({"kind":"train","step":2,"loss)");
  EXPECT_EQ(read_metrics(path_).train.size(), 1u);
  append_raw("\n");
  EXPECT_NE(read_error().find(path_ + ":2: no metrics record"), std::string::npos);
}

TEST_F(MetricsFile, ReaderNamesTheLineOfARecordThatLacksAKeyOrHasAnotherKind) {
  { MetricsWriter(path_, -1).write(record_at(1)); }
  append_raw("{\"kind\":\"eval\",\"step\":3}\n");
  EXPECT_NE(read_error().find(path_ + ":2: no metrics record"), std::string::npos);
  fs::remove(path_);
  append_raw("{\"kind\":\"other\",\"step\":3}\n");
  EXPECT_NE(read_error().find("unknown kind 'other'"), std::string::npos);
}

TEST_F(MetricsFile, NoFileGivesNoRecords) {
  EXPECT_TRUE(read_metrics(directory_ + "/none").train.empty());
}

// --- TensorBoard ---------------------------------------------------------------------------------

TEST(Crc32c, HasTheCheckValueOfTheStandard) {
  const std::string digits = "123456789";
  EXPECT_EQ(crc32c(std::as_bytes(std::span(digits))), 0xe3069283u);
  // RFC 3720 B.4: 32 bytes of zeros.
  const std::array<std::byte, 32> zeros{};
  EXPECT_EQ(crc32c(zeros), 0x8a9136aau);
}

struct Event {
  int64_t step = 0;
  std::string version = {};
  int64_t session_status = -1;
  std::vector<std::pair<std::string, float>> scalars = {};
};

/// A reader of protobuf's wire format, independent of the writer.
class WireReader {
 public:
  explicit WireReader(std::string_view message) : rest_(message) {}
  bool next() {
    if (rest_.empty()) return false;
    const uint64_t key = varint();
    field = key >> 3;
    const uint64_t type = key & 7;
    if (type == 0) {
      integer = static_cast<int64_t>(varint());
    } else {
      const size_t length = type == 1 ? 8 : type == 5 ? 4 : type == 2 ? varint() : 0;
      EXPECT_NE(length, 0u) << "wire type " << type;
      bytes = rest_.substr(0, length);
      rest_.remove_prefix(length);
    }
    return true;
  }
  uint64_t field = 0;
  int64_t integer = 0;
  std::string_view bytes;

 private:
  uint64_t varint() {
    uint64_t value = 0;
    for (int shift = 0;; shift += 7) {
      const auto b = static_cast<unsigned char>(rest_.front());
      rest_.remove_prefix(1);
      value |= uint64_t{b & 127u} << shift;
      if (b < 128) return value;
    }
  }
  std::string_view rest_;
};

Event decode_event(std::string_view bytes) {
  Event event;
  for (WireReader e(bytes); e.next();) {
    if (e.field == 2) event.step = e.integer;
    if (e.field == 3) event.version = e.bytes;
    if (e.field == 7)
      for (WireReader session(e.bytes); session.next();) event.session_status = session.integer;
    if (e.field != 5) continue;
    for (WireReader summary(e.bytes); summary.next();) {
      std::pair<std::string, float> scalar;
      for (WireReader value(summary.bytes); value.next();) {
        if (value.field == 1) scalar.first = value.bytes;
        if (value.field == 2) std::memcpy(&scalar.second, value.bytes.data(), 4);
      }
      event.scalars.push_back(scalar);
    }
  }
  return event;
}

std::vector<Event> read_events(const std::string& path) {
  const std::string file = read_text(path, 1 << 20);
  std::vector<Event> events;
  const auto crc_at = [&](size_t at, std::string_view bytes) {
    uint32_t stored = 0;
    std::memcpy(&stored, file.data() + at, 4);
    EXPECT_EQ(stored, masked_crc32c(std::as_bytes(std::span(bytes))));
  };
  for (size_t at = 0; at < file.size();) {
    uint64_t length = 0;
    std::memcpy(&length, file.data() + at, 8);
    crc_at(at + 8, std::string_view(file).substr(at, 8));
    const std::string_view data = std::string_view(file).substr(at + 12, length);
    crc_at(at + 12 + length, data);
    events.push_back(decode_event(data));
    at += 16 + length;
  }
  return events;
}

TEST_F(MetricsFile, EventFilesDecode) {
  TensorBoardWriter writer(directory_ + "/tensorboard", -1);
  const std::array<Scalar, 2> scalars{{{"loss/train", 0.5}, {"accuracy/val", 0.25}}};
  writer.write(300, scalars);
  const auto events = read_events(writer.path());
  ASSERT_EQ(events.size(), 3u);
  EXPECT_EQ(events[0].version, "brain.Event:2");
  EXPECT_EQ(events[1].session_status, 1);
  EXPECT_EQ(events[1].step, 0);
  EXPECT_EQ(events[2].step, 300);
  EXPECT_EQ(events[2].scalars, (std::vector<std::pair<std::string, float>>{
                                   {"loss/train", 0.5f}, {"accuracy/val", 0.25f}}));
}

TEST_F(MetricsFile, AResumedRunStartsALaterFileThatPurgesWhatFollowsTheRestoredStep) {
  const TensorBoardWriter first(directory_, -1);
  const TensorBoardWriter second(directory_, 40);
  const TensorBoardWriter third(directory_, 20);
  EXPECT_LT(first.path(), second.path());
  EXPECT_LT(second.path(), third.path());
  EXPECT_EQ(read_events(second.path())[1].step, 41);
  EXPECT_EQ(read_events(third.path())[1].step, 21);
  EXPECT_EQ(read_events(third.path())[1].session_status, 1);
}

}  // namespace
}  // namespace stipple::trainer
