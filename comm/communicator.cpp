// SPDX-License-Identifier: Apache-2.0
#include "comm/communicator.h"

#include <new>

#include "core/error.h"

namespace stipple::comm {

double Communicator::all_reduce(double value, Reduction reduction) {
  all_reduce(std::span<double>(&value, 1), reduction);
  return value;
}

int64_t Communicator::all_reduce(int64_t value, Reduction reduction) {
  all_reduce(std::span<int64_t>(&value, 1), reduction);
  return value;
}

std::string Communicator::broadcast(std::string text, int root) {
  uint64_t length = text.size();
  broadcast(std::as_writable_bytes(std::span(&length, 1)), root);
  text.resize(length);
  broadcast(std::as_writable_bytes(std::span(text)), root);
  return text;
}

size_t exchange_rounds(const Communicator& c, std::span<const std::span<const float>> send,
                       std::span<const std::span<float>> recv) {
  const auto ranks = static_cast<size_t>(c.size());
  STIPPLE_CHECK_AS(CommError, send.size() == recv.size() && send.size() % ranks == 0, "rank ",
                   c.rank(), "/", ranks, ": exchange with ", send.size(), " and ", recv.size(),
                   " spans, one per rank and round is needed");
  for (auto self = static_cast<size_t>(c.rank()); self < send.size(); self += ranks) {
    STIPPLE_CHECK_AS(CommError, send[self].size() == recv[self].size(), "rank ", c.rank(), "/",
                     ranks, ": exchange sends ", send[self].size(),
                     " floats to itself and expects ", recv[self].size());
  }
  return send.size() / ranks;
}

bool Communicator::any(bool flag) { return all_reduce(int64_t{flag}, Reduction::kMax) != 0; }

namespace {

/// Types that keep their meaning on the other ranks, by the letter they travel under.
enum Kind : char {
  kError = 'e',
  kConfig = 'c',
  kData = 'd',
  kCheckpoint = 'k',
  kDivergence = 'v',
  kMemory = 'm'
};

std::string caught(FunctionRef<void()> body) {
  try {
    body();
    return {};
  } catch (const CommError&) {
    throw;
  } catch (const MemoryError& e) {
    return std::string(1, kMemory) + e.what();
  } catch (const ConfigError& e) {
    return std::string(1, kConfig) + e.what();
  } catch (const DataError& e) {
    return std::string(1, kData) + e.what();
  } catch (const CheckpointError& e) {
    return std::string(1, kCheckpoint) + e.what();
  } catch (const DivergenceError& e) {
    return std::string(1, kDivergence) + e.what();
  } catch (const std::bad_alloc&) {
    return std::string(1, kMemory) + "out of memory";
  } catch (const std::exception& e) {
    return std::string(1, kError) + e.what();
  }
}

template <class ErrorType>
[[noreturn]] void throw_collective(const std::string& text) {
  ErrorType error(text);
  error.set_collective();
  throw error;
}

}  // namespace

void agree(Communicator& communicator, FunctionRef<void()> body) {
  const std::string mine = caught(body);
  const int64_t none = communicator.size();
  const int64_t first =
      communicator.all_reduce(mine.empty() ? none : int64_t{communicator.rank()}, Reduction::kMin);
  if (first == none) return;
  const std::string error = communicator.broadcast(mine, static_cast<int>(first));
  const std::string text = error.substr(1);
  switch (error[0]) {
    case kConfig:
      throw_collective<ConfigError>(text);
    case kMemory:
      throw_collective<MemoryError>(text);
    case kData:
      throw_collective<DataError>(text);
    case kCheckpoint:
      throw_collective<CheckpointError>(text);
    case kDivergence:
      throw_collective<DivergenceError>(text);
    default:
      throw_collective<Error>(text);
  }
}

}  // namespace stipple::comm
