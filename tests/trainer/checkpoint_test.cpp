// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <limits>
#include <map>
#include <random>
#include <sstream>

#include "comm/threads/thread_group.h"
#include "core/error.h"
#include "core/json.h"
#include "tests/trainer/checkpoint_support.h"
#include "trainer/checkpoint/inspection.h"
#include "trainer/checkpoint/load.h"
#include "trainer/checkpoint/safetensors.h"
#include "trainer/checkpoint/shard.h"
#include "trainer/checkpoint/store.h"
#include "trainer/config/config_text.h"

namespace stipple::trainer {
namespace {

namespace fs = std::filesystem;
using comm::Communicator;
using comm::run_ranks;
using namespace test;  // NOLINT(google-build-using-namespace)

void save_on(Communicator& comm, const std::string& directory, int64_t step,
             const FaultPoint& fault = {}) {
  CheckpointStore store(directory, comm, 2);
  store.set_fault_point(fault);
  State state(step);
  store.save({meta_of(step), state.tensors()});
}

void save_on_ranks(int ranks, const std::string& directory, int64_t step) {
  run_ranks(ranks, [&](Communicator& comm) { save_on(comm, directory, step); });
}

void save_alone(const std::string& directory, int64_t step, const FaultPoint& fault = {}) {
  const auto comm = comm::make_single_communicator();
  save_on(*comm, directory, step, fault);
}

/// Loads alone and checks that everything is bit for bit what was saved at the step it reports; -1:
/// no checkpoint.
int64_t load_alone(const std::string& directory) {
  const auto comm = comm::make_single_communicator();
  State state;
  const auto meta = load_checkpoint(directory, *comm, state.tensors());
  if (!meta) return -1;
  EXPECT_EQ(*meta, meta_of(meta->step));
  EXPECT_TRUE(state == State(meta->step));
  return meta->step;
}

std::string copy_of(const TemporaryDirectory& root, const std::string& name) {
  fs::remove_all(root / name);
  fs::copy(root / "original", root / name, fs::copy_options::recursive);
  return root / name;
}

std::vector<std::string> names_in(const std::string& directory) {
  return list_directory(directory);
}

// --- round trips -------------------------------------------------------------------------------

class RoundTrip : public testing::TestWithParam<std::tuple<int, int>> {};

TEST_P(RoundTrip, RestoresEveryBitOnAnyNumberOfRanks) {
  const auto [writers, readers] = GetParam();
  TemporaryDirectory root;
  const std::string directory = root / "run/checkpoints";
  save_on_ranks(writers, directory, 7);
  EXPECT_EQ(names_in(directory + "/step-00000007").size(), static_cast<size_t>(writers) + 2);
  run_ranks(readers, [&](Communicator& comm) {
    CheckpointStore store(directory, comm, 2);
    State state;
    const auto meta = store.load_newest(state.tensors());
    ASSERT_TRUE(meta.has_value());
    EXPECT_EQ(*meta, meta_of(7));
    EXPECT_TRUE(std::signbit(meta->scalars.list("guard/losses")[0]));
    EXPECT_TRUE(state == State(7));
  });
}

INSTANTIATE_TEST_SUITE_P(Ranks, RoundTrip,
                         testing::Combine(testing::Values(1, 2, 3, 4),
                                          testing::Values(1, 2, 3, 4)));

TEST(Checkpoint, StateHashIsTheSameForAnyNumberOfWriters) {
  TemporaryDirectory root;
  std::set<std::string> lines;
  for (int ranks : {1, 2, 3, 4}) {
    const std::string run = root / ("run" + std::to_string(ranks));
    save_on_ranks(ranks, run + "/checkpoints", 7);
    const std::string text = inspect_checkpoint(run);
    lines.insert(text.substr(text.rfind("state ")));
  }
  ASSERT_EQ(lines.size(), 1u);
  State state(7);
  EXPECT_EQ(*lines.begin(), "state " + state_hash(meta_of(7), state.tensors()) + "\n");
  State other(8);
  EXPECT_NE(state_hash(meta_of(7), state.tensors()), state_hash(meta_of(7), other.tensors()));
  EXPECT_NE(state_hash(meta_of(7), state.tensors()), state_hash(meta_of(8), state.tensors()));
}

TEST(Checkpoint, FirstStartFindsNothing) {
  TemporaryDirectory root;
  const auto comm = comm::make_single_communicator();
  CheckpointStore store(root / "a/b/checkpoints", *comm, 2);
  State state;
  EXPECT_FALSE(store.load_newest(state.tensors()).has_value());
}

TEST(Checkpoint, TensorsAreDealtEvenly) {
  std::vector<float> memory(1000);
  std::vector<TensorRef> tensors;
  for (size_t n : {100u, 90u, 80u, 70u, 60u, 50u, 40u, 30u})
    tensors.push_back(
        {"parameter/" + std::to_string(n), {static_cast<int64_t>(n)}, std::span(memory).first(n)});
  std::array<size_t, 4> load{};
  const auto owners = deal_tensors(tensors, 4);
  for (size_t i = 0; i < tensors.size(); ++i)
    load[static_cast<size_t>(owners[i])] += tensors[i].data.size();
  EXPECT_EQ(load, (std::array<size_t, 4>{130, 130, 130, 130}));
}

TEST(Checkpoint, ParametersAloneCanBeRestored) {
  TemporaryDirectory root;
  save_on_ranks(2, root / "checkpoints", 5);
  const auto comm = comm::make_single_communicator();
  State state;
  State expected(5);
  auto tensors = state.tensors();
  std::erase_if(tensors, [](const TensorRef& t) { return !t.name.starts_with("parameter/"); });
  ASSERT_TRUE(load_checkpoint(root / "checkpoints/step-00000005", *comm, tensors).has_value());
  for (size_t i = 0; i < tensors.size(); ++i)
    EXPECT_TRUE(same_bits(tensors[i].data, expected.tensors()[i].data)) << tensors[i].name;
}

// --- models that do not fit ---------------------------------------------------------------------

std::string refusal(const std::string& directory,
                    const std::function<void(std::vector<TensorRef>&)>& change,
                    std::string_view config = {}) {
  const auto comm = comm::make_single_communicator();
  State state;
  auto tensors = state.tensors();
  change(tensors);
  return message_thrown_by([&] { load_checkpoint(directory, *comm, tensors, config); });
}

TEST(Checkpoint, NamesTheTensorThatDoesNotFitAndTheKeyThatDiffers) {
  TemporaryDirectory root;
  const std::string directory = root / "checkpoints";
  save_alone(directory, 3);
  std::vector<float> other(20);

  const auto reshape = [&](auto& tensors) { tensors[1] = {tensors[1].name, {4, 5}, other}; };
  const std::string key = refusal(directory, reshape, "model:\n  width: 128\n");
  EXPECT_TRUE(key.starts_with("model.width: 64 before, 128 now")) << key;
  const std::string shape = refusal(directory, reshape);
  expect_contains(shape, "'parameter/encoder.0.q.weight' has shape [4, 4] there and [4, 5]");

  const std::string extra =
      refusal(directory, [](auto& tensors) { tensors.erase(tensors.begin() + 2); });
  expect_contains(extra, "'parameter/encoder.0.q.bias' of shape [4], which the model has not");

  const std::string missing = refusal(directory, [&](auto& tensors) {
    tensors.push_back({"parameter/encoder.1.q.bias", {20}, other});
  });
  expect_contains(missing, "it lacks tensor 'parameter/encoder.1.q.bias' of shape [20]");
}

// --- damage --------------------------------------------------------------------------------------

/// Two good checkpoints under root/original, the newer written by two ranks.
void make_two(const TemporaryDirectory& root) {
  save_on_ranks(2, root / "original", 100);
  save_on_ranks(2, root / "original", 200);
}

bool is_intact(const std::string& checkpoint) {
  try {
    return find_faults(checkpoint, read_manifest(checkpoint)).empty();
  } catch (const CheckpointError&) {
    return false;
  }
}

TEST(Damage, EveryFlippedByteIsFoundAndTheOlderCheckpointTaken) {
  TemporaryDirectory root;
  make_two(root);
  const std::string directory = copy_of(root, "damaged");
  testing::internal::CaptureStderr();
  size_t flips = 0;
  for (const std::string& file : names_in(directory + "/step-00000200")) {
    const std::string path = directory + "/step-00000200/" + file;
    const std::string good = read_bytes(path);
    for (size_t at = 0; at < good.size(); ++at, ++flips) {
      std::string bad = good;
      bad[at] = static_cast<char>(bad[at] ^ (1 << (at % 8)));
      write_bytes(path, bad);
      ASSERT_FALSE(is_intact(directory + "/step-00000200")) << file << " byte " << at;
      // Loading asks the same question, so a sample shows what follows from the answer.
      if (flips % 37 == 0) {
        ASSERT_EQ(load_alone(directory), 100) << file << " byte " << at;
      }
    }
    write_bytes(path, good);
    ASSERT_EQ(load_alone(directory), 200);
  }
  testing::internal::GetCapturedStderr();
  EXPECT_GT(flips, 5000u);
}

TEST(Damage, WarningNamesTheTensorAndItsBytes) {
  TemporaryDirectory root;
  make_two(root);
  const std::string path = root / "original/step-00000200/shard-00001-of-00002.safetensors";
  const SafetensorsFile shard(path);
  const auto* entry = shard.find("parameter/encoder.0.q.weight");
  ASSERT_NE(entry, nullptr) << "the tensor moved to the other shard";
  std::string bytes = read_bytes(path);
  bytes[static_cast<size_t>(entry->begin) + 9] ^= 4;
  write_bytes(path, bytes);
  testing::internal::CaptureStderr();
  EXPECT_EQ(load_alone(root / "original"), 100);
  expect_contains(testing::internal::GetCapturedStderr(),
                  "checkpoint step-00000200 skipped: shard-00001-of-00002.safetensors: tensor "
                  "'parameter/encoder.0.q.weight' hash mismatch (bytes " +
                      std::to_string(entry->begin) + ".." + std::to_string(entry->end) + ")");
}

TEST(Damage, TruncatedGrownAndMissingFilesAreFound) {
  TemporaryDirectory root;
  make_two(root);
  testing::internal::CaptureStderr();
  for (const std::string& file : names_in(root / "original/step-00000200")) {
    const std::string path = copy_of(root, "damaged") + "/step-00000200/" + file;
    const std::string good = read_bytes(path);
    for (size_t length : {size_t{0}, size_t{7}, good.size() / 2, good.size() - 1}) {
      write_bytes(path, good.substr(0, length));
      EXPECT_EQ(load_alone(root / "damaged"), 100) << file << " cut to " << length;
    }
    write_bytes(path, good + '\n');
    EXPECT_EQ(load_alone(root / "damaged"), 100) << file << " grown";
    fs::remove(path);
    EXPECT_EQ(load_alone(root / "damaged"), 100) << file << " missing";
  }
  testing::internal::GetCapturedStderr();
}

TEST(Damage, AllRanksTakeTheSameOlderCheckpoint) {
  TemporaryDirectory root;
  make_two(root);
  fs::remove(root / "original/step-00000200/shard-00000-of-00002.safetensors");
  testing::internal::CaptureStderr();
  run_ranks(3, [&](Communicator& comm) {
    State state;
    const auto meta = load_checkpoint(root / "original", comm, state.tensors());
    EXPECT_EQ(meta->step, 100);
    EXPECT_TRUE(state == State(100));
  });
  testing::internal::GetCapturedStderr();
}

TEST(Damage, NothingIntactIsAnErrorAndNotAFreshStart) {
  TemporaryDirectory root;
  make_two(root);
  for (const char* step : {"step-00000100", "step-00000200"})
    write_bytes(root.path() / "original" / step / "manifest.json", "{}");
  testing::internal::CaptureStderr();
  const std::string message = message_thrown_by([&] { load_alone(root / "original"); });
  testing::internal::GetCapturedStderr();
  expect_contains(message, "none of the 2 checkpoints");
  expect_contains(message, "restore one from a backup");
}

TEST(Damage, InspectNamesEveryFailingItem) {
  TemporaryDirectory root;
  save_on_ranks(3, root / "original", 4);
  const std::string directory = root / "original/step-00000004/";
  fs::remove(directory + "shard-00000-of-00003.safetensors");
  std::string bytes = read_bytes(directory + "shard-00002-of-00003.safetensors");
  bytes.back() ^= 1;
  write_bytes(directory + "shard-00002-of-00003.safetensors", bytes);
  const std::string message = message_thrown_by([&] { inspect_checkpoint(root / "original"); });
  expect_contains(message, "shard-00000-of-00003.safetensors");
  expect_contains(message, "shard-00002-of-00003.safetensors: tensor '");
}

// --- interrupted saves ---------------------------------------------------------------------------

/// The names of the steps of a save, in order, for a directory where retention has something to
/// delete.
std::vector<std::string> steps_of_a_save() {
  TemporaryDirectory root;
  for (int64_t step : {1, 2}) save_alone(root / "original", step);
  std::vector<std::string> steps;
  save_alone(root / "original", 3, [&](std::string_view step) { steps.emplace_back(step); });
  return steps;
}

/// Throws or kills at the n-th step.
FaultPoint fault_at(size_t n, const std::function<void()>& fault) {
  return [n, fault, count = std::make_shared<size_t>(0)](std::string_view) {
    if ((*count)++ == n) fault();
  };
}

/// After any interruption: the former or the new checkpoint loads in full, and the next save works
/// and cleans up.
void expect_whole(const std::string& directory, const std::string& when) {
  const int64_t loaded = load_alone(directory);
  EXPECT_TRUE(loaded == 2 || loaded == 3) << when << ": loaded " << loaded;
  save_alone(directory, 4);
  EXPECT_EQ(load_alone(directory), 4) << when;
  const auto names = names_in(directory);
  EXPECT_EQ(names.size(), 2u) << when;
  for (const std::string& name : names) EXPECT_TRUE(name.starts_with("step-")) << when << name;
}

TEST(Interruption, ASaveHasAFaultPointAtEachSystemStep) {
  const auto steps = steps_of_a_save();
  EXPECT_GE(steps.size(), 17u);
  const auto has = [&](const std::string& start, const std::string& part) {
    return std::any_of(steps.begin(), steps.end(), [&](const std::string& s) {
      return s.starts_with(start) && s.find(part) != std::string::npos;
    });
  };
  for (const char* step : {"create ", "write ", "sync ", "close "})
    for (const char* file : {"shard-00000", "manifest.json", "manifest.xxh3"})
      EXPECT_TRUE(has(step, file)) << step << file;
  EXPECT_TRUE(has("check free space", "original"));
  EXPECT_TRUE(has("verify ", "shard-00000"));
  EXPECT_TRUE(has("rename ", "step-00000003"));
  EXPECT_TRUE(has("rename ", ".trash-"));
  EXPECT_TRUE(has("remove ", ".trash-"));
}

TEST(Interruption, AnErrorAtAnyStepLeavesAGoodCheckpoint) {
  const auto steps = steps_of_a_save();
  for (size_t n = 0; n < steps.size(); ++n) {
    TemporaryDirectory root;
    const std::string directory = root / "original";
    for (int64_t step : {1, 2}) save_alone(directory, step);
    testing::internal::CaptureStderr();
    const FaultPoint fault = fault_at(n, [] { throw std::runtime_error("the disk is gone"); });
    const auto comm = comm::make_single_communicator();
    CheckpointStore store(directory, *comm, 2);
    store.set_fault_point(fault);
    State state(3);
    try {
      store.save({meta_of(3), state.tensors()});
      expect_contains(testing::internal::GetCapturedStderr(), "the disk is gone");
    } catch (const CheckpointError& e) {
      testing::internal::GetCapturedStderr();
      EXPECT_STREQ(e.what(), "the disk is gone");
    }
    store.set_fault_point({});
    State again(4);
    store.save({meta_of(4), again.tensors()});
    EXPECT_EQ(load_alone(directory), 4) << steps[n];
    EXPECT_EQ(load_alone(directory + "/step-00000004"), 4) << steps[n];
  }
}

TEST(Interruption, KillAtAnyStepLeavesAGoodCheckpoint) {
  const auto steps = steps_of_a_save();
  for (size_t n = 0; n < steps.size(); ++n) {
    TemporaryDirectory root;
    for (int64_t step : {1, 2}) save_alone(root / "original", step);
    const pid_t child = fork();
    ASSERT_GE(child, 0);
    if (child == 0) {
      save_alone(root / "original", 3, fault_at(n, [] { raise(SIGKILL); }));
      _exit(0);
    }
    int status = 0;
    ASSERT_EQ(waitpid(child, &status, 0), child);
    ASSERT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL) << steps[n];
    expect_whole(root / "original", "killed before: " + steps[n]);
  }
}

TEST(Interruption, AnErrorOnOneRankIsAnErrorOnAllAndHarmless) {
  for (int guilty : {0, 1, 2}) {
    TemporaryDirectory root;
    const std::string directory = root / "original";
    for (int64_t step : {1, 2}) save_on_ranks(3, directory, step);
    run_ranks(3, [&](Communicator& comm) {
      CheckpointStore store(directory, comm, 2);
      State state(3);
      store.set_fault_point([&](std::string_view step) {
        if (comm.rank() == guilty && step.starts_with("write")) throw std::runtime_error("broken");
      });
      EXPECT_EQ(message_thrown_by([&] { store.save({meta_of(3), state.tensors()}); }), "broken");
      store.set_fault_point({});
      EXPECT_EQ(store.load_newest(state.tensors())->step, 2);
      State again(3);
      store.save({meta_of(3), again.tensors()});
    });
    EXPECT_EQ(load_alone(directory), 3);
    EXPECT_EQ(names_in(directory), (std::vector<std::string>{"step-00000002", "step-00000003"}));
  }
}

TEST(Interruption, KillOfAllRanksInTheMiddleIsHarmless) {
  for (const char* point : {"write", "sync", "verify", "rename"}) {
    TemporaryDirectory root;
    for (int64_t step : {1, 2}) save_on_ranks(2, root / "original", step);
    const pid_t child = fork();
    ASSERT_GE(child, 0);
    if (child == 0) {
      run_ranks(2, [&](Communicator& comm) {
        save_on(comm, root / "original", 3, [&](std::string_view step) {
          if (step.starts_with(point) && (comm.rank() == 1 || step.starts_with("rename")))
            raise(SIGKILL);
        });
      });
      _exit(0);
    }
    int status = 0;
    ASSERT_EQ(waitpid(child, &status, 0), child);
    ASSERT_TRUE(WIFSIGNALED(status)) << point;
    expect_whole(root / "original", point);
  }
}

TEST(Interruption, StartUpSweepsWhatWasLeft) {
  TemporaryDirectory root;
  save_alone(root / "original", 1);
  fs::create_directories(root / "original/.tmp-step-00000002.77");
  fs::create_directories(root / "original/.trash-step-00000000.77");
  write_bytes(root / "original/.tmp-step-00000002.77/shard", "half");
  testing::internal::CaptureStderr();
  const auto comm = comm::make_single_communicator();
  const CheckpointStore store(root / "original", *comm, 2);
  testing::internal::GetCapturedStderr();
  EXPECT_EQ(names_in(root / "original"), std::vector<std::string>{"step-00000001"});
}

/// A file system of 256 KiB.
class SmallDisk {
 public:
  explicit SmallDisk(std::string path) : path_(std::move(path)) {
    fs::create_directory(path_);
    mounted_ = mount("tmpfs", path_.c_str(), "tmpfs", 0, "size=256k") == 0;
  }
  ~SmallDisk() {
    if (mounted_) umount2(path_.c_str(), MNT_DETACH);
  }
  SmallDisk(const SmallDisk&) = delete;
  SmallDisk& operator=(const SmallDisk&) = delete;
  bool mounted() const { return mounted_; }

 private:
  std::string path_;
  bool mounted_ = false;
};

TEST(Interruption, AFullDiskIsReportedAndHarmless) {
  TemporaryDirectory root;
  const std::string disk = root / "disk";
  const SmallDisk small(disk);
  if (!small.mounted())
    GTEST_SKIP() << "mounting a small tmpfs is not permitted here: " << std::strerror(errno);
  const auto comm = comm::make_single_communicator();
  CheckpointStore store(disk + "/checkpoints", *comm, 2);
  State state(1);
  store.save({meta_of(1), state.tensors()});

  // Enough by the estimate, but gone by the time the bytes are written.
  store.set_fault_point([&](std::string_view step) {
    if (step.starts_with("create") && step.find("shard") != std::string_view::npos)
      write_bytes(disk + "/filler", std::string(1 << 20, 'x'));
  });
  State next(2);
  const std::string full = message_thrown_by([&] { store.save({meta_of(2), next.tensors()}); });
  expect_contains(full, "No space left on device");
  expect_contains(full, "shard-00000-of-00001.safetensors");
  expect_contains(full, "still to write");
  EXPECT_EQ(names_in(disk + "/checkpoints"), std::vector<std::string>{"step-00000001"});

  store.set_fault_point({});
  const std::string no_room = message_thrown_by([&] { store.save({meta_of(2), next.tensors()}); });
  expect_contains(no_room, "bytes needed, ");
  expect_contains(no_room, " free");
  EXPECT_EQ(load_alone(disk + "/checkpoints"), 1);

  fs::remove(disk + "/filler");
  store.save({meta_of(2), next.tensors()});
  EXPECT_EQ(load_alone(disk + "/checkpoints"), 2);
}

// --- retention -----------------------------------------------------------------------------------

TEST(Retention, KeepsTheNewestAndAtLeastTwo) {
  TemporaryDirectory root;
  const auto comm = comm::make_single_communicator();
  EXPECT_THROW(CheckpointStore(root / "original", *comm, 1), ConfigError);
  CheckpointStore store(root / "original", *comm, 3);
  for (int64_t step : {10, 20, 30, 40, 50}) {
    State state(step);
    store.save({meta_of(step), state.tensors()});
  }
  EXPECT_EQ(names_in(root / "original"),
            (std::vector<std::string>{"step-00000030", "step-00000040", "step-00000050"}));
}

TEST(Retention, TheProtectedOneStaysBesides) {
  TemporaryDirectory root;
  const auto comm = comm::make_single_communicator();
  CheckpointStore store(root / "original", *comm, 2);
  for (int64_t step : {10, 20, 30, 40, 50}) {
    if (step == 30) store.protect(20);
    if (step == 50) store.protect(30);
    State state(step);
    store.save({meta_of(step), state.tensors()});
  }
  EXPECT_EQ(names_in(root / "original"),
            (std::vector<std::string>{"step-00000030", "step-00000040", "step-00000050"}));
  store.protect(40);
  for (int64_t step : {60, 70, 80}) {
    State state(step);
    store.save({meta_of(step), state.tensors()});
  }
  EXPECT_EQ(names_in(root / "original"),
            (std::vector<std::string>{"step-00000040", "step-00000070", "step-00000080"}));
}

TEST(Retention, DamagedCheckpointsDoNotCount) {
  TemporaryDirectory root;
  for (int64_t step : {10, 20}) save_alone(root / "original", step);
  fs::remove(root / "original/step-00000020/manifest.xxh3");
  testing::internal::CaptureStderr();
  save_alone(root / "original", 30);
  expect_contains(testing::internal::GetCapturedStderr(), "step-00000020 does not count as kept");
  EXPECT_TRUE(fs::exists(root / "original/step-00000010"));
  save_alone(root / "original", 40);
  EXPECT_EQ(names_in(root / "original"),
            (std::vector<std::string>{"step-00000030", "step-00000040"}));
}

TEST(Retention, ASaveReplacesADamagedCheckpointOfItsStep) {
  TemporaryDirectory root;
  for (int64_t step : {10, 20}) save_alone(root / "original", step);
  write_bytes(root / "original/step-00000020/manifest.json", "");
  save_alone(root / "original", 20);
  EXPECT_EQ(load_alone(root / "original"), 20);
  EXPECT_EQ(names_in(root / "original"),
            (std::vector<std::string>{"step-00000010", "step-00000020"}));
}

// --- formats -------------------------------------------------------------------------------------

TEST(Inspect, ShowsTensorsAndTakesRunCheckpointsOrStep) {
  TemporaryDirectory root;
  save_on_ranks(2, root / "run/checkpoints", 6);
  const std::string text = inspect_checkpoint(root / "run");
  EXPECT_EQ(text, inspect_checkpoint(root / "run/"));
  EXPECT_EQ(text, inspect_checkpoint(root / "run/checkpoints"));
  EXPECT_EQ(text, inspect_checkpoint(root / "run/checkpoints/step-00000006"));
  expect_contains(text, "parameter/encoder.0.q.weight");
  expect_contains(text, "[4, 4]");
  expect_contains(text, "2 ranks");
  expect_contains(text, "1 not finite");
  expect_contains(message_thrown_by([&] { inspect_checkpoint(root / "nowhere"); }),
                  "no checkpoint in");
}

TEST(Manifest, IsReadableAndSaysWhatItHolds) {
  TemporaryDirectory root;
  save_on_ranks(2, root / "original", 6);
  const auto j = Json::parse(read_bytes(root / "original/step-00000006/manifest.json"));
  EXPECT_EQ(j.at("format_version").get<int>(), 2);
  EXPECT_EQ(j.at("step").get<int>(), 6);
  EXPECT_EQ(j.at("world_size").get<int>(), 2);
  EXPECT_EQ(j.at("state").at("counts").at("data_position").get<int>(), 6 * 32);
  EXPECT_EQ(j.at("dataset_fingerprint").get<std::string>(), "fedcba9876543210");
  EXPECT_EQ(j.at("tensors").size(), 18u);
  EXPECT_EQ(j.at("files").size(), 2u);
}

TEST(Manifest, KeepsWhatNumbersOfTokensAndClassesMean) {
  Manifest manifest;
  EXPECT_EQ(manifest_to_json(manifest).find("class_names"), std::string::npos);
  EXPECT_EQ(manifest_from_json(manifest_to_json(manifest), "here").meta, manifest.meta);
  manifest.meta.vocabulary = "00ff";
  manifest.meta.class_names = {"no", "yes"};
  EXPECT_EQ(manifest_from_json(manifest_to_json(manifest), "here").meta, manifest.meta);
}

TEST(ContentHash, AgreesWithTheReferenceAndDoesNotDependOnThePieces) {
  EXPECT_EQ(content_hash(std::string_view("")), "99aa06d3014798d86001c324468d497f");
  ContentHasher hasher;
  hasher.update("123");
  hasher.update("456789");
  EXPECT_EQ(hasher.hex(), content_hash(std::string_view("123456789")));
}

TEST(Manifest, OfBeforeValidationDataWereKnownStillLoads) {
  Manifest manifest{.meta = meta_of(3), .created_by = "stipple", .world_size = 1};
  EXPECT_EQ(manifest_to_json(manifest).find("validation"), std::string::npos);
  EXPECT_EQ(manifest_from_json(manifest_to_json(manifest), "here").meta, manifest.meta);
  manifest.meta.validation_fingerprint = 0x0123456789abcdefu;
  EXPECT_EQ(manifest_from_json(manifest_to_json(manifest), "here").meta, manifest.meta);
}

TEST(ConfigText, FlattensWhatConfigToYamlWrites) {
  const auto pairs = flatten_config(
      "# run\nmodel:\n  width: 64  # C\n  attention:\n    kind: sbm\ntrain:\n  steps: 10\nname: 'a "
      "# b'\n");
  EXPECT_EQ(pairs,
            (std::vector<std::pair<std::string, std::string>>{{"model.width", "64"},
                                                              {"model.attention.kind", "sbm"},
                                                              {"train.steps", "10"},
                                                              {"name", "'a # b'"}}));
}

// --- safetensors ---------------------------------------------------------------------------------

/// A file laid out by hand from the format's description: length, header, data.
std::string by_hand(const std::string& header, const std::string& data) {
  const uint64_t length = header.size();
  std::string file(8, '\0');
  std::memcpy(file.data(), &length, 8);
  return file + header + data;
}

TEST(Safetensors, WritesTheLayoutOfTheFormat) {
  const std::array<int64_t, 1> integers{-2};
  const std::array<float, 2> floats{1.0f, -0.5f};
  const std::array<uint8_t, 3> small{7, 8, 9};
  const std::vector<TensorSource> tensors{
      {"i", TensorType::kI64, {1}, std::as_bytes(std::span(integers))},
      {"f", TensorType::kF32, {2, 1}, std::as_bytes(std::span(floats))},
      {"u", TensorType::kU8, {3}, std::as_bytes(std::span(small))}};
  std::string header =
      R"({"__metadata__":{"step":"5"},"i":{"dtype":"I64","shape":[1],"data_offsets":[0,8]},)"
      R"("f":{"dtype":"F32","shape":[2,1],"data_offsets":[8,16]},)"
      R"("u":{"dtype":"U8","shape":[3],"data_offsets":[16,19]}})";
  header.append((64 - (8 + header.size()) % 64) % 64, ' ');
  EXPECT_EQ(safetensors_header(tensors, {{"step", "5"}}), by_hand(header, ""));
}

void open_and_read(const std::string& path) {
  const SafetensorsFile file(path);
  for (const auto& entry : file.entries()) {
    std::vector<std::byte> bytes(static_cast<size_t>(entry.bytes()));
    file.read(entry, bytes);
  }
}

TEST(Safetensors, ReadsAFileMadeByHand) {
  TemporaryDirectory root;
  write_bytes(root / "a", by_hand(R"({"b":{"dtype":"F32","shape":[],"data_offsets":[0,4]},)"
                                  R"("a":{"dtype":"F32","shape":[0],"data_offsets":[0,0]},)"
                                  R"("__metadata__":{"k":"v"}}   )",
                                  std::string("\0\0\x80\x3f", 4)));
  const SafetensorsFile file(root / "a");
  ASSERT_EQ(file.entries().size(), 2u);
  EXPECT_EQ(file.metadata().at("k"), "v");
  float value = 0;
  file.read(*file.find("b"), std::as_writable_bytes(std::span(&value, 1)));
  EXPECT_EQ(value, 1.0f);
}

TEST(Safetensors, RefusesMalformedFilesByName) {
  const std::string entry = R"("dtype":"F32","shape":[1],"data_offsets":[0,4])";
  const std::vector<std::pair<std::string, std::string>> cases{
      {"", "too short"},
      {std::string(8, '\xff'), "claims a header"},
      {by_hand("{", ""), "no JSON"},
      {by_hand(" {}", ""), "does not start with {"},
      {by_hand("{}", "abcd"), "the tensors end at byte"},
      {by_hand("{\"a\":{" + entry + "}}", "abc"), "the tensors end at byte"},
      {by_hand("{\"a\":{" + entry + "},\"a\":{" + entry + "}}", "abcd"), "twice"},
      {by_hand("{\"a\":{" + entry + "},\"b\":{" + entry + "}}", "abcd"), "starts at byte"},
      {by_hand("{\"a\":{" + entry + ",\"x\":1}}", "abcd"), "not described by"},
      {by_hand("{\"a\":[]}", ""), "not described by"},
      {by_hand("{\"__metadata__\":{\"a\":1}}", ""), "is no text"},
      {by_hand(R"({"a":{"dtype":"F99","shape":[1],"data_offsets":[0,4]}})", "abcd"), "F99"},
      {by_hand(R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,4]}})", "abcd"), "shape"},
      {by_hand(R"({"a":{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}})", "abcd"), "shape"},
      {by_hand(R"({"a":{"dtype":"F32","shape":[1.5],"data_offsets":[0,4]}})", "abcd"), "integer"},
      {by_hand(R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[4,0]}})", "abcd"), "impossible"},
      {by_hand(R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0]}})", "abcd"), "impossible"},
      {by_hand(R"({"a":{"dtype":"U8","shape":[1,1,1,1,1,1],"data_offsets":[0,1]}})", "a"),
       "at most 5"},
      {by_hand(R"({"a":{"dtype":"F32","shape":[4611686018427387904,4],"data_offsets":[0,0]}})", ""),
       "shape"},
      {by_hand(R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,18446744073709551615]}})", ""),
       "out of range"},
      {by_hand(R"({"a":{"dtype":"U8","shape":[9223372036854775807],)"
               R"("data_offsets":[0,9223372036854775807]}})",
               ""),
       "impossible"},
      {by_hand("{\"a\":" + std::string(100000, '['), ""), "nested too deeply"}};
  TemporaryDirectory root;
  for (const auto& [bytes, reason] : cases) {
    write_bytes(root / "a", bytes);
    const std::string message = message_thrown_by([&] { open_and_read(root / "a"); });
    expect_contains(message, reason);
    expect_contains(message, root / "a");
  }
}

TEST(Safetensors, GarbageNeverDoesAnythingButThrow) {
  TemporaryDirectory root;
  const std::string path = root / "a";
  save_alone(root / "original", 1);
  const std::string good =
      read_bytes(root / "original/step-00000001/shard-00000-of-00001.safetensors");
  const SafetensorsFile intact(root / "original/step-00000001/shard-00000-of-00001.safetensors");
  const auto header_end = static_cast<size_t>(intact.entries()[0].begin);
  std::mt19937 random(20240229);
  const std::string alphabet = "{}[]\",:0123456789-.eE \\ntuF32I64U8\xff";
  int refused = 0;
  for (int round = 0; round < 4000; ++round) {
    std::string bad = good;
    for (unsigned edits = 1 + random() % 4; edits > 0; --edits) {
      const size_t at = random() % header_end;
      if (random() % 3 == 0)
        bad.erase(at, 1 + random() % 9);
      else if (random() % 2 == 0)
        bad.insert(at, 1, alphabet[random() % alphabet.size()]);
      else
        bad[at] =
            random() % 2 == 0 ? static_cast<char>(random()) : alphabet[random() % alphabet.size()];
    }
    write_bytes(path, bad);
    try {
      open_and_read(path);
    } catch (const CheckpointError&) {
      ++refused;
    }
  }
  EXPECT_GT(refused, 3000);
}

/// Bytes of every tensor in the shards of a checkpoint, read by nothing but the published description
/// of the format: https://huggingface.co/docs/safetensors. Python's library does the same.
std::map<std::string, std::pair<std::vector<int64_t>, std::string>> read_by_the_description(
    const std::string& directory) {
  std::map<std::string, std::pair<std::vector<int64_t>, std::string>> tensors;
  for (const auto& entry : std::filesystem::directory_iterator(directory)) {
    if (entry.path().extension() != ".safetensors") continue;
    const std::string file = read_bytes(entry.path().string());
    uint64_t length = 0;
    std::memcpy(&length, file.data(), sizeof length);
    const std::string data = file.substr(sizeof length + length);
    const Json header = Json::parse(file.substr(sizeof length, length));
    size_t end = 0;
    for (const auto& [name, tensor] : header.members()) {
      if (name == "__metadata__") continue;
      EXPECT_EQ(tensor.at("dtype").get<std::string>(), "F32") << name;
      const auto shape = tensor.at("shape").get<std::vector<int64_t>>();
      const auto at = tensor.at("data_offsets").get<std::vector<int64_t>>();
      EXPECT_EQ(static_cast<size_t>(at.at(0)), end) << name;
      int64_t numel = 1;
      for (int64_t extent : shape) numel *= extent;
      EXPECT_EQ(at.at(1) - at.at(0), 4 * numel) << name;
      end = static_cast<size_t>(at.at(1));
      tensors[name] = {shape,
                       data.substr(static_cast<size_t>(at[0]), end - static_cast<size_t>(at[0]))};
    }
    EXPECT_EQ(end, data.size()) << entry.path();
  }
  return tensors;
}

TEST(Safetensors, CheckpointsAreReadByTheDescriptionOfTheFormatAlone) {
  TemporaryDirectory root;
  save_on_ranks(2, root / "original", 9);
  const auto tensors = read_by_the_description(root / "original/step-00000009");
  EXPECT_EQ(tensors.size(), 18u);
  EXPECT_EQ(tensors.at("parameter/head.empty").first, (std::vector<int64_t>{0, 7}));
  EXPECT_EQ(tensors.at("parameter/head.scale").first, std::vector<int64_t>{});
  State state(9);
  for (const TensorRef& tensor : state.tensors()) {
    const std::string& bytes = tensors.at(tensor.name).second;
    ASSERT_EQ(bytes.size(), tensor.data.size_bytes()) << tensor.name;
    EXPECT_TRUE(bytes.empty() || std::memcmp(bytes.data(), tensor.data.data(), bytes.size()) == 0)
        << tensor.name;
  }
}

}  // namespace
}  // namespace stipple::trainer
