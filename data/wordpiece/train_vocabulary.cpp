// SPDX-License-Identifier: Apache-2.0
#include "data/wordpiece/train_vocabulary.h"

#include <algorithm>
#include <map>
#include <queue>
#include <string_view>
#include <unordered_map>

#include "core/error.h"
#include "core/text.h"

namespace stipple::data::wordpiece {
namespace {

/// Tokens by id, and ids by token.
class Inventory {
 public:
  int32_t add(std::string_view token) {
    const auto [found, is_new] = ids_.emplace(token, static_cast<int32_t>(tokens_.size()));
    if (is_new) tokens_.emplace_back(token);
    return found->second;
  }
  bool has(const std::string& token) const { return ids_.contains(token); }
  int64_t size() const { return static_cast<int64_t>(tokens_.size()); }
  const std::string& operator[](int32_t id) const { return tokens_[static_cast<size_t>(id)]; }
  std::vector<std::string> take() { return std::move(tokens_); }

 private:
  std::vector<std::string> tokens_;
  std::unordered_map<std::string, int32_t> ids_;
};

/// Ids of two neighbours. As numbers, pairs are ordered by the left id, then the right one.
using Pair = uint64_t;
Pair pair_of(int32_t left, int32_t right) {
  return static_cast<Pair>(static_cast<uint32_t>(left)) << 32 | static_cast<uint32_t>(right);
}
int32_t left_of(Pair pair) { return static_cast<int32_t>(pair >> 32); }
int32_t right_of(Pair pair) { return static_cast<int32_t>(pair & 0xFFFF'FFFF); }

std::string_view without(std::string_view token, std::string_view prefix) {
  return token.starts_with(prefix) ? token.substr(prefix.size()) : token;
}

/// Calls character(bytes) for each character of a word, which is UTF-8.
template <class Body>
void for_each_character(std::string_view word, Body character) {
  for (size_t at = 0; at < word.size();) {
    const size_t bytes = std::max<size_t>(utf8_character(word, at).bytes, 1);
    character(word.substr(at, bytes));
    at += bytes;
  }
}

/// The most frequent characters, by their codes: UTF-8 sorts alike.
std::vector<std::string> alphabet_of(const WordCounts& words, int64_t most) {
  std::map<std::string, int64_t, std::less<>> counts;
  for (const auto& [word, count] : words) {
    for_each_character(word, [&, number = count](std::string_view character) {
      counts[std::string(character)] += number;
    });
  }
  std::vector<std::pair<int64_t, std::string>> by_count;
  for (const auto& [character, count] : counts) by_count.emplace_back(-count, character);
  std::ranges::sort(by_count);
  by_count.resize(std::min(by_count.size(), static_cast<size_t>(most)));
  std::vector<std::string> alphabet;
  for (auto& [count, character] : by_count) alphabet.push_back(std::move(character));
  std::ranges::sort(alphabet);
  return alphabet;
}

/// Words as ids of their parts, and how often each pair of neighbours occurs.
class Merges {
 public:
  Merges(std::vector<std::vector<int32_t>> words, std::vector<int64_t> counts)
      : words_(std::move(words)), counts_(std::move(counts)) {
    for (size_t w = 0; w < words_.size(); ++w) {
      for (size_t i = 0; i + 1 < words_[w].size(); ++i)
        change(pair_of(words_[w][i], words_[w][i + 1]), counts_[w], w);
    }
    queue_found();
  }

  struct Candidate {
    Pair pair = 0;
    int64_t count = 0;
    std::vector<size_t> words = {};  ///< where it may occur; ascending
    bool operator<(const Candidate& other) const {
      return count != other.count ? count < other.count : pair > other.pair;
    }
  };

  /// The most frequent pair, with a count of 0 where there is none.
  Candidate next() {
    while (!queue_.empty()) {
      Candidate top = queue_.top();
      queue_.pop();
      const int64_t count = pair_counts_[top.pair];
      if (top.count == count) return top;
      top.count = count;
      if (count > 0) queue_.push(std::move(top));
    }
    return {};
  }

  /// In all words of the candidate the pair becomes `token`. As in the original, the pair's own
  /// count stays: it may come back where another way leads to the same tokens.
  void merge(const Candidate& candidate, int32_t token) {
    const int32_t left = left_of(candidate.pair), right = right_of(candidate.pair);
    for (const size_t w : candidate.words) {
      std::vector<int32_t>& word = words_[w];
      for (size_t i = 0; i + 1 < word.size(); ++i) {
        if (word[i] != left || word[i + 1] != right) continue;
        if (i > 0) replace(pair_of(word[i - 1], left), pair_of(word[i - 1], token), w);
        if (i + 2 < word.size())
          replace(pair_of(right, word[i + 2]), pair_of(token, word[i + 2]), w);
        word[i] = token;
        word.erase(word.begin() + static_cast<std::ptrdiff_t>(i) + 1);
      }
    }
    queue_found();
  }

 private:
  void replace(Pair before, Pair after, size_t word) {
    pair_counts_[before] -= counts_[word];
    change(after, counts_[word], word);
  }
  void change(Pair pair, int64_t count, size_t word) {
    pair_counts_[pair] += count;
    std::vector<size_t>& at = found_[pair];
    if (at.empty() || at.back() != word) at.push_back(word);
  }
  void queue_found() {
    for (auto& [pair, words] : found_) {
      if (const int64_t count = pair_counts_[pair]; count > 0)
        queue_.push({pair, count, std::move(words)});
    }
    found_.clear();
  }

  std::vector<std::vector<int32_t>> words_;
  std::vector<int64_t> counts_;
  std::unordered_map<Pair, int64_t> pair_counts_;
  std::unordered_map<Pair, std::vector<size_t>> found_;  ///< since the queue heard of them
  std::priority_queue<Candidate> queue_;
};

}  // namespace

std::vector<std::string> train_vocabulary(const WordCounts& words, const TrainOptions& options) {
  Inventory tokens;
  for (const std::string& special : special_token_names()) tokens.add(special);
  for (const std::string& character : alphabet_of(words, options.max_alphabet))
    tokens.add(character);

  std::vector<std::vector<int32_t>> spelled;
  std::vector<int64_t> counts;
  for (const auto& [word, count] : words) {
    std::vector<int32_t> ids;
    bool is_first = true;
    for_each_character(word, [&](std::string_view character) {
      const std::string plain(character);
      // Outside the alphabet: left out, its neighbours become neighbours.
      if (tokens.has(plain))
        ids.push_back(tokens.add(is_first ? plain : options.continuation + plain));
      is_first = false;
    });
    spelled.push_back(std::move(ids));
    counts.push_back(count);
  }
  STIPPLE_CHECK_AS(ConfigError, tokens.size() <= options.size,
                   "the characters of the text alone are ", tokens.size(),
                   " tokens, and --size is ", options.size, "; raise it, or lower --alphabet");

  Merges merges(std::move(spelled), std::move(counts));
  while (tokens.size() < options.size) {
    const Merges::Candidate best = merges.next();
    if (best.count < std::max<int64_t>(options.min_frequency, 1)) break;
    const std::string joined =
        tokens[left_of(best.pair)] +
        std::string(without(tokens[right_of(best.pair)], options.continuation));
    merges.merge(best, tokens.add(joined));
  }
  return tokens.take();
}

}  // namespace stipple::data::wordpiece
