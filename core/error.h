// SPDX-License-Identifier: Apache-2.0
// What can go wrong, as exception types, and the checks that throw them.
// Thrown where the fault is found, caught once in `main`; nothing in between repairs them.
#pragma once

#include <sstream>
#include <stdexcept>
#include <string>

namespace stipple {

/// Anything Stipple throws. what() is one line for a person.
class Error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;

  /// All ranks throw this error together (comm::agree): one tells, all leave in order. Otherwise it
  /// is this rank's alone, and the others may be waiting for it.
  bool is_collective() const { return collective_; }
  void set_collective() { collective_ = true; }

 private:
  bool collective_ = false;
};

/// The user asked for something that cannot be: bad key, value, file or flag. Exit code 2.
class ConfigError : public Error {
 public:
  using Error::Error;
};

/// The user asked for more elements or bytes than any machine holds, or 64 bits count.
class SizeError : public ConfigError {
 public:
  using ConfigError::ConfigError;
};

/// There is less memory than was asked for. The trainer adds the keys that lower the need.
class MemoryError : public ConfigError {
 public:
  using ConfigError::ConfigError;
};

/// An operation was called with arrays that do not fit together.
class ShapeError : public Error {
 public:
  using Error::Error;
};

/// A planned memory region is too small.
class ArenaError : public Error {
 public:
  using Error::Error;
};

/// Ranks could not exchange data.
class CommError : public Error {
 public:
  using Error::Error;
};

/// A checkpoint is missing, incomplete, altered, or could not be written.
class CheckpointError : public Error {
 public:
  using Error::Error;
};

/// An input file does not hold what its format says. Exit code 2.
class DataError : public Error {
 public:
  using Error::Error;
};

/// A GPU, its driver or its memory failed.
class CudaError : public Error {
 public:
  using Error::Error;
};

/// Training cannot go on, and would fail again in the same way. Exit code 93.
class DivergenceError : public Error {
 public:
  using Error::Error;
};

namespace detail {
template <class... Parts>
std::string concat(const Parts&... parts) {
  std::ostringstream out;
  (out << ... << parts);
  return out.str();
}
}  // namespace detail

}  // namespace stipple

/// A precondition, always checked. The parts are streamed into the message.
#define STIPPLE_CHECK_AS(ErrorType, condition, ...)                            \
  do {                                                                         \
    if (!(condition)) throw ErrorType(::stipple::detail::concat(__VA_ARGS__)); \
  } while (false)
#define STIPPLE_CHECK(condition, ...) STIPPLE_CHECK_AS(::stipple::Error, condition, __VA_ARGS__)

/// Shape agreement, for the front of an operation: names both sides.
#define STIPPLE_CHECK_SHAPE(op, view, ...)                                                   \
  do {                                                                                       \
    if (const ::stipple::Shape expected_ __VA_ARGS__; !((view).shape == expected_))          \
      throw ::stipple::ShapeError(::stipple::detail::concat(                                 \
          op ": " #view " has shape ", (view).shape.str(), ", expected ", expected_.str())); \
  } while (false)

/// An internal invariant: debug builds only.
#ifdef NDEBUG
#define STIPPLE_ASSERT(condition) ((void)0)
#else
#define STIPPLE_ASSERT(condition) \
  STIPPLE_CHECK(condition, "internal: ", #condition, " at ", __FILE__, ":", __LINE__)
#endif
