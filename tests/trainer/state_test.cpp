// SPDX-License-Identifier: Apache-2.0
// State by name in owned ranges, saved in three steps; and checkpoints of other format versions.
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <thread>

#include "comm/threads/thread_group.h"
#include "core/json.h"
#include "tests/trainer/checkpoint_support.h"
#include "trainer/checkpoint/inspection.h"
#include "trainer/checkpoint/load.h"
#include "trainer/checkpoint/scalars.h"
#include "trainer/checkpoint/step_directory.h"
#include "trainer/checkpoint/store.h"

namespace stipple::trainer {
namespace {

namespace fs = std::filesystem;
using comm::Communicator;
using comm::run_ranks;
using namespace test;  // NOLINT(google-build-using-namespace)

// --- scalars by name -----------------------------------------------------------------------------

struct Component {
  int64_t steps = 3;
  double sum = 0.1;
  std::vector<double> history = {1, -0.0};

  void describe_state(StateVisitor& v) {
    v.count("steps", steps);
    v.number("sum", sum);
    v.numbers("history", history);
  }
};

TEST(Scalars, AComponentGetsBackWhatItGave) {
  Component saved;
  const Scalars scalars = scalars_of([&](StateVisitor& v) { saved.describe_state(v); });
  Component restored{.steps = 0, .sum = 0, .history = {}};
  restore_scalars(scalars, [&](StateVisitor& v) { restored.describe_state(v); });
  EXPECT_EQ(restored.steps, 3);
  EXPECT_EQ(restored.sum, 0.1);
  EXPECT_EQ(restored.history, saved.history);
  EXPECT_TRUE(std::signbit(restored.history[1]));
}

TEST(Scalars, WhatIsMissingIsNamedAndANameIsUsedOnce) {
  Component component;
  const auto describe = [&](StateVisitor& v) { component.describe_state(v); };
  Scalars scalars = scalars_of(describe);
  scalars.numbers.erase("history");
  EXPECT_EQ(message_thrown_by([&] { restore_scalars(scalars, describe); }),
            "the checkpoint has no 'history'");
  EXPECT_THROW(scalars_of([&](StateVisitor& v) {
                 component.describe_state(v);
                 component.describe_state(v);
               }),
               Error);
}

// --- owned ranges --------------------------------------------------------------------------------

/// This rank's share of the state: moments are cut among the ranks, at places that depend on
/// `salt`; parameters are everybody's.
std::vector<TensorRef> share_of(State& state, const Communicator& comm, int64_t salt) {
  std::vector<TensorRef> share = state.tensors();
  for (TensorRef& t : share) {
    if (t.name.starts_with("parameter/")) continue;
    const int64_t numel = t.shape.numel();
    const auto cut = [&](int64_t rank) {
      return rank == comm.size() ? numel : std::min(numel, (numel * rank + salt) / comm.size());
    };
    t.begin = comm.rank() == 0 ? 0 : cut(comm.rank());
    t.data = t.data.subspan(static_cast<size_t>(t.begin),
                            static_cast<size_t>(cut(comm.rank() + 1) - t.begin));
  }
  return share;
}

std::string state_line(const std::string& path) {
  const std::string text = inspect_checkpoint(path);
  return text.substr(text.rfind("state "));
}

class OwnedRanges : public testing::TestWithParam<std::tuple<int, int>> {};

TEST_P(OwnedRanges, AreRestoredToAnyOtherOwners) {
  const auto [writers, readers] = GetParam();
  TemporaryDirectory root;
  const std::string directory = root / "checkpoints";
  run_ranks(writers, [&](Communicator& comm) {
    State state(7);
    CheckpointStore store(directory, comm, 2);
    store.save({meta_of(7), share_of(state, comm, 0)});
  });
  run_ranks(readers, [&](Communicator& comm) {
    State state;
    State expected(7);
    const auto into = share_of(state, comm, 2);
    ASSERT_TRUE(load_checkpoint(directory, comm, into).has_value());
    const auto wanted = share_of(expected, comm, 2);
    for (size_t i = 0; i < into.size(); ++i)
      EXPECT_TRUE(same_bits(into[i].data, wanted[i].data)) << into[i].name << comm.rank();
  });
  State whole(7);
  EXPECT_EQ(state_line(directory), "state " + state_hash(meta_of(7), whole.tensors()) + "\n");
}

INSTANTIATE_TEST_SUITE_P(Ranks, OwnedRanges,
                         testing::Combine(testing::Values(1, 2, 3, 4),
                                          testing::Values(1, 2, 3, 4)));

std::string message_of_save(int64_t begin_of_second, int64_t size_of_second) {
  TemporaryDirectory root;
  std::string message;
  run_ranks(2, [&](Communicator& comm) {
    CheckpointStore store(root / "checkpoints", comm, 2);
    std::vector<float> values(10);
    TensorRef t{"parameter/w", {10}, std::span(values).first(5)};
    if (comm.rank() == 1)
      t = {"parameter/w",
           {10},
           std::span(values).first(static_cast<size_t>(size_of_second)),
           begin_of_second};
    const std::string mine = message_thrown_by([&] { store.save({meta_of(1), {t}}); });
    if (comm.rank() == 0) message = mine;
    EXPECT_TRUE(list_directory(root / "checkpoints").empty());
  });
  return message;
}

TEST(OwnedRange, OfNobodyOrOfTwoIsAnErrorOnEveryRank) {
  EXPECT_EQ(message_of_save(6, 4),
            "tensor 'parameter/w': rank 1 owns elements 6..10, but nobody those from 5");
  EXPECT_EQ(message_of_save(4, 6),
            "tensor 'parameter/w': rank 1 owns elements 4..10, but others those up to 5");
  EXPECT_EQ(message_of_save(5, 4), "tensor 'parameter/w': nobody owns the elements from 9");
}

TEST(OwnedRange, APartMissingFromTheManifestIsFound) {
  Manifest manifest{.meta = meta_of(3), .created_by = "stipple", .world_size = 2};
  manifest.tensors = {{"parameter/w", {10}, {0, 4}, "a", "h"},
                      {"parameter/w", {10}, {4, 10}, "b", "h"}};
  EXPECT_EQ(manifest_from_json(manifest_to_json(manifest), "here").tensors.size(), 2u);
  manifest.tensors[1].elements.begin = 5;
  expect_contains(
      message_thrown_by([&] { manifest_from_json(manifest_to_json(manifest), "here"); }),
      "tensor 'parameter/w' of shape [10]: elements 5..10 do not follow element 4");
  manifest.tensors.pop_back();
  expect_contains(
      message_thrown_by([&] { manifest_from_json(manifest_to_json(manifest), "here"); }),
      "ends at element 4");
}

// --- a save in three steps -----------------------------------------------------------------------

/// Everything fails while it is closed.
class ClosableCommunicator final : public Communicator {
 public:
  explicit ClosableCommunicator(Communicator& inner) : inner_(inner) {}
  void close(bool is_closed) { is_closed_ = is_closed; }

  int rank() const override { return open().rank(); }
  int size() const override { return open().size(); }
  int local_rank() const override { return open().local_rank(); }
  int local_size() const override { return open().local_size(); }
  comm::Pending all_reduce_sum(std::span<float> values) override {
    return open().all_reduce_sum(values);
  }
  comm::Pending exchange(std::span<const std::span<const float>> send,
                         std::span<const std::span<float>> recv) override {
    return open().exchange(send, recv);
  }
  void wait(comm::Pending pending) override { open().wait(pending); }
  void progress() override { open().progress(); }
  void barrier() override { open().barrier(); }
  void broadcast(std::span<std::byte> bytes, int root) override { open().broadcast(bytes, root); }
  void all_reduce(std::span<double> values, comm::Reduction reduction) override {
    open().all_reduce(values, reduction);
  }
  void all_reduce(std::span<int64_t> values, comm::Reduction reduction) override {
    open().all_reduce(values, reduction);
  }
  std::vector<std::string> all_gather(const std::string& text) override {
    return open().all_gather(text);
  }
  using Communicator::all_reduce;
  using Communicator::broadcast;

 private:
  Communicator& open() const {
    if (is_closed_) throw std::logic_error("a rank communicates where it may not");
    return inner_;
  }
  Communicator& inner_;
  std::atomic<bool> is_closed_ = false;
};

TEST(SaveInSteps, WriteIsOnAnyThreadAndCommunicatesWithNobody) {
  TemporaryDirectory root;
  const std::string directory = root / "checkpoints";
  run_ranks(3, [&](Communicator& ranks) {
    ClosableCommunicator comm(ranks);
    CheckpointStore store(directory, comm, 2);
    State state(3);
    PendingSave save = store.begin({meta_of(3), state.tensors()});
    comm.close(true);
    EXPECT_THROW(comm.barrier(), std::logic_error);
    std::thread writer([&] { save.write(); });
    // Meanwhile the ranks go on with their own exchanges.
    for (int i = 0; i < 100; ++i) EXPECT_EQ(ranks.all_reduce(int64_t{1}, comm::Reduction::kSum), 3);
    writer.join();
    comm.close(false);
    EXPECT_TRUE(steps_in(directory).empty());
    ranks.barrier();
    store.commit(save);
    State read;
    EXPECT_EQ(store.load_newest(read.tensors())->step, 3);
    EXPECT_TRUE(read == state);
  });
}

TEST(SaveInSteps, WhatWriteCouldNotDoIsToldByCommitOnEveryRank) {
  TemporaryDirectory root;
  const std::string directory = root / "checkpoints";
  run_ranks(3, [&](Communicator& comm) {
    CheckpointStore store(directory, comm, 2);
    State state(3);
    store.set_fault_point([&](std::string_view step) {
      if (comm.rank() == 1 && step.starts_with("write")) throw std::runtime_error("broken");
    });
    PendingSave save = store.begin({meta_of(3), state.tensors()});
    std::thread([&] { save.write(); }).join();
    EXPECT_EQ(message_thrown_by([&] { store.commit(save); }), "broken");
    comm.barrier();
    EXPECT_TRUE(list_directory(directory).empty());
  });
}

TEST(SaveInSteps, ACommitBeforeTheWriteIsAnError) {
  TemporaryDirectory root;
  const auto comm = comm::make_single_communicator();
  CheckpointStore store(root / "checkpoints", *comm, 2);
  State state(3);
  PendingSave save = store.begin({meta_of(3), state.tensors()});
  expect_contains(message_thrown_by([&] { store.commit(save); }), "committed before it is written");
}

TEST(SaveInSteps, AWriteThatIsKilledOrNeverCommittedLeavesTheEarlierCheckpoint) {
  for (const bool is_killed : {true, false}) {
    TemporaryDirectory root;
    const std::string directory = root / "checkpoints";
    const pid_t child = fork();
    ASSERT_GE(child, 0);
    if (child == 0) {
      const auto comm = comm::make_single_communicator();
      CheckpointStore store(directory, *comm, 2);
      State first(2);
      store.save({meta_of(2), first.tensors()});
      if (is_killed) {
        store.set_fault_point([](std::string_view step) {
          if (step.starts_with("sync")) raise(SIGKILL);
        });
      }
      State second(3);
      PendingSave save = store.begin({meta_of(3), second.tensors()});
      std::thread([&] { save.write(); }).join();
      _exit(0);
    }
    int status = 0;
    ASSERT_EQ(waitpid(child, &status, 0), child);
    ASSERT_EQ(WIFSIGNALED(status), is_killed);
    EXPECT_EQ(list_directory(directory).size(), 2u);  // with what was left
    const auto comm = comm::make_single_communicator();
    testing::internal::CaptureStderr();
    CheckpointStore store(directory, *comm, 2);
    testing::internal::GetCapturedStderr();
    State state;
    EXPECT_EQ(store.load_newest(state.tensors())->step, 2);
    EXPECT_TRUE(state == State(2));
    EXPECT_EQ(list_directory(directory), std::vector<std::string>{"step-00000002"});
  }
}

// --- other format versions -----------------------------------------------------------------------

void replace_manifest(const std::string& checkpoint, const std::string& json) {
  write_bytes(checkpoint + "/manifest.json", json);
  write_bytes(checkpoint + "/manifest.xxh3", manifest_hash_line(json));
}

/// As version 1 wrote it.
std::string in_version_1(const std::string& json, const std::vector<std::string>& extra) {
  Json j = Json::parse(json);
  Json old = Json::object();
  for (const auto& [name, value] : j.members()) {
    if (name != "state") old[name] = value;
  }
  old["format_version"] = 1;
  old["data_position"] = j.at("state").at("counts").at("data_position");
  old["applied_steps"] = j.at("state").at("counts").at("applied_steps");
  Json& list = old["extra"] = Json::array();
  for (const std::string& value : extra) list.push_back(value);
  return old.dump();
}

class Version : public testing::Test {
 protected:
  Version() {
    const auto comm = comm::make_single_communicator();
    CheckpointStore store(root_ / "checkpoints", *comm, 2);
    for (int64_t step : {5, 6}) {
      State state(step);
      store.save({meta_of(step), state.tensors()});
    }
    json_ = read_bytes(newest() + "/manifest.json");
  }
  std::string newest() const { return root_ / "checkpoints/step-00000006"; }
  std::optional<CheckpointMeta> load(State& state) const {
    const auto comm = comm::make_single_communicator();
    return load_checkpoint(root_ / "checkpoints", *comm, state.tensors());
  }
  TemporaryDirectory root_;
  std::string json_;
};

TEST_F(Version, OneIsReadAndItsNumbersGetTheirNames) {
  const std::string now = state_line(newest());
  replace_manifest(
      newest(), in_version_1(json_, {"0x1.8p+1", "0x1p+2", "0x1p+3", "0x1p+1", "0x1p+0", "0x0p+0",
                                     "0x1p-1", "0x1p-2", "0x1p+4", "0x1p+5"}));
  State state;
  const auto meta = load(state);
  ASSERT_TRUE(meta.has_value());
  EXPECT_EQ(meta->step, 6);
  EXPECT_TRUE(state == State(6));
  const Scalars expected{.counts = {{"data_position", 6 * 32},
                                    {"applied_steps", 5},
                                    {"skipped_steps", 1},
                                    {"guard/consecutive_skips", 0}},
                         .numbers = {{"window/loss", {3}},
                                     {"window/correct", {4}},
                                     {"window/count", {8}},
                                     {"window/steps", {2}},
                                     {"guard/losses", {0.5, 0.25}},
                                     {"guard/norms", {16, 32}}}};
  EXPECT_EQ(meta->scalars, expected);
  EXPECT_EQ(state_line(newest()), now);
}

TEST_F(Version, OneWithNumbersThatItNeverHadIsDamaged) {
  testing::internal::CaptureStderr();
  for (const std::vector<std::string>& extra :
       {std::vector<std::string>{"0x1p+0"},
        std::vector<std::string>{"0x1p+0", "0x1p+0", "0x1p+0", "0x1p+0", "0x1p-1", "0x0p+0"}}) {
    replace_manifest(newest(), in_version_1(json_, extra));
    State state;
    EXPECT_EQ(load(state)->step, 5);
  }
  testing::internal::GetCapturedStderr();
}

TEST_F(Version, ThatIsNotKnownIsRefusedByNameAndTheOlderCheckpointNotTaken) {
  std::string json = json_;
  const std::string mine = "\"format_version\": 2";
  ASSERT_NE(json.find(mine), std::string::npos);
  json.replace(json.find(mine), mine.size(), "\"format_version\": 3");
  replace_manifest(newest(), json);
  State state;
  EXPECT_THROW(load(state), ConfigError);
  const std::string message = message_thrown_by([&] { load(state); });
  expect_contains(message, "step-00000006");
  expect_contains(message, "its format version is 3, written by stipple ");
  expect_contains(message, "; this program reads 1 to 2: go on with that program");
  expect_contains(message_thrown_by([&] { inspect_checkpoint(newest()); }),
                  "its format version is 3");
}

}  // namespace
}  // namespace stipple::trainer
