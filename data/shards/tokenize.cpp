// SPDX-License-Identifier: Apache-2.0
#include "data/shards/tokenize.h"

#include <algorithm>
#include <filesystem>
#include <memory>
#include <string_view>

#include "core/device.h"
#include "core/error.h"
#include "core/stream.h"
#include "data/mapped_file.h"
#include "data/output_file.h"
#include "data/shards/shard.h"
#include "data/text/corpus.h"

namespace stipple::data::shards {
namespace {

// A round is what the workers read before the calling thread writes.
constexpr int64_t kPieceBytes = int64_t{1} << 20;
constexpr int64_t kPiecesPerThread = 8;
constexpr size_t kMostPieces = 4096;  // a process may map some 65,000 files

std::vector<Range> lines_of(std::string_view text) {
  std::vector<Range> lines;
  text::for_each_line(text, [&](std::string_view line) {
    const int64_t begin = line.data() - text.data();
    lines.push_back({begin, begin + static_cast<int64_t>(line.size())});
  });
  return lines;
}

std::vector<Range> documents_by(DocumentRule rule, std::string_view text) {
  switch (rule) {
    case DocumentRule::kLine:
      return lines_of(text);
    case DocumentRule::kFile:
      return text::documents_of(text, TextDocuments::kFile);
    case DocumentRule::kBlankLine:
      break;
  }
  return text::documents_of(text, TextDocuments::kBlankLine);
}

/// Consecutive documents of one file, and their tokens.
struct Piece {
  std::shared_ptr<const MappedFile> file = {};
  std::vector<Range> documents = {};
  std::vector<int32_t> ids = {};
  std::vector<size_t> ends = {};       ///< of sequences among the ids
  std::vector<size_t> sequences = {};  ///< how many there are at the end of each document

  int64_t bytes() const { return documents.back().end - documents.front().begin; }
};

void encode(const wordpiece::WordPiece& tokenizer, bool sentences, Piece& piece) {
  const auto add = [&](std::string_view text) {
    tokenizer.encode(text, piece.ids);
    const size_t before = piece.ends.empty() ? 0 : piece.ends.back();
    if (piece.ids.size() > before) piece.ends.push_back(piece.ids.size());
  };
  for (const Range& document : piece.documents) {
    const std::string_view text = piece.file->text().substr(static_cast<size_t>(document.begin),
                                                            static_cast<size_t>(document.size()));
    if (sentences) {
      text::for_each_line(text, add);
    } else {
      add(text);
    }
    piece.sequences.push_back(piece.ends.size());
  }
}

/// The three files of a shard while they are written.
class ShardWriter {
 public:
  ShardWriter(const std::string& prefix, const wordpiece::WordPiece& tokenizer,
              const std::string& command)
      : idx_path_(idx_of(prefix)), bin_(bin_of(prefix)), meta_(meta_of(prefix)), idx_(idx_path_) {
    const wordpiece::Vocabulary& vocabulary = tokenizer.vocabulary();
    index_.type = type_for(vocabulary.size());
    facts_.vocabulary_hash = vocabulary.hash();
    facts_.vocabulary_size = vocabulary.size();
    facts_.special = vocabulary.special();
    facts_.tokenizer = tokenizer.options();
    facts_.command = command;
  }

  void append(const Piece& piece) {
    const size_t before = block_.size();
    if (index_.type == TokenType::kUint16) {
      append_as<uint16_t>(piece.ids);
    } else {
      append_as<int32_t>(piece.ids);
    }
    bin_.append(std::string_view(block_).substr(before));
    const auto block_bytes = static_cast<size_t>(kBlockBytes);
    size_t hashed = 0;
    for (; block_.size() - hashed >= block_bytes; hashed += block_bytes)
      facts_.blocks.push_back(hash_of(std::string_view(block_).substr(hashed, block_bytes)));
    block_.erase(0, hashed);
    const int64_t tokens = index_.begins.back(), sequences = index_.num_sequences();
    for (const size_t end : piece.ends) index_.begins.push_back(tokens + static_cast<int64_t>(end));
    for (const size_t end : piece.sequences) {
      const int64_t sequence = sequences + static_cast<int64_t>(end);
      if (sequence > index_.documents.back()) index_.documents.push_back(sequence);
    }
  }

  const Index& index() const { return index_; }

  void publish() {
    if (!block_.empty()) facts_.blocks.push_back(hash_of(block_));
    const std::string index = index_bytes(index_);
    facts_.index_hash = hash_of(index);
    facts_.documents = index_.num_documents();
    facts_.sequences = index_.num_sequences();
    facts_.tokens = index_.num_tokens();
    idx_.append(index);
    meta_.append(meta_text(facts_));
    for (OutputFile* file : {&bin_, &meta_, &idx_}) file->finish();
    remove_durably(idx_path_);  // that of a shard which is replaced must not speak of the new .bin
    for (OutputFile* file : {&bin_, &meta_, &idx_}) file->publish();
  }

 private:
  template <class T>
  void append_as(const std::vector<int32_t>& ids) {
    for (const int32_t id : ids) {
      const auto token = static_cast<T>(id);
      block_.append(reinterpret_cast<const char*>(&token), sizeof token);
    }
  }

  std::string idx_path_;
  OutputFile bin_, meta_, idx_;
  Index index_;
  Meta facts_;
  std::string block_;  ///< bytes of the .bin that no hash tells of yet
};

void require_free(const std::string& prefix) {
  for (const std::string& path : {bin_of(prefix), idx_of(prefix), meta_of(prefix)}) {
    STIPPLE_CHECK_AS(DataError, !std::filesystem::exists(path), path,
                     " exists already; choose another --out, or --force to replace");
  }
}

void create_folder_of(const std::string& prefix) {
  const std::filesystem::path folder = std::filesystem::path(prefix).parent_path();
  std::error_code reason;
  if (!folder.empty()) std::filesystem::create_directories(folder, reason);
  STIPPLE_CHECK_AS(DataError, !reason, "cannot create folder ", folder.string(), ": ",
                   reason.message());
}

int64_t size_of(const std::string& path) {
  std::error_code unreadable;  // which opening it will say
  const auto bytes = std::filesystem::file_size(path, unreadable);
  return unreadable ? 0 : static_cast<int64_t>(bytes);
}

}  // namespace

TokenizeCounts tokenize(const wordpiece::WordPiece& tokenizer,
                        const std::vector<std::string>& files, const std::string& prefix,
                        const TokenizeOptions& options,
                        const std::function<void(int64_t, int64_t)>& progress) {
  if (!options.replace) require_free(prefix);
  create_folder_of(prefix);
  ShardWriter writer(prefix, tokenizer, options.command);
  const Stream workers(kCpuDevice, {.threads = options.threads});
  int64_t total = 0;
  for (const std::string& path : files) total += size_of(path);

  TokenizeCounts counts;
  std::vector<Piece> pieces;
  int64_t round_bytes = 0;
  const auto write_round = [&] {
    workers.parallel_for(static_cast<int64_t>(pieces.size()), [&](int64_t i, int) {
      encode(tokenizer, options.sentences, pieces[static_cast<size_t>(i)]);
    });
    for (const Piece& piece : pieces) {
      writer.append(piece);
      counts.documents += static_cast<int64_t>(piece.documents.size());
      counts.unknown += std::ranges::count(piece.ids, tokenizer.vocabulary().special().unknown);
    }
    pieces.clear();
    round_bytes = 0;
    if (progress) progress(counts.text_bytes, total);
  };

  const int64_t round = kPieceBytes * kPiecesPerThread * options.threads;
  for (const std::string& path : files) {
    const auto file = std::make_shared<const MappedFile>(path);
    ++counts.files;
    counts.text_bytes += static_cast<int64_t>(file->text().size());
    const std::vector<Range> documents = documents_by(options.documents, file->text());
    if (documents.empty()) ++counts.empty_files;
    for (size_t i = 0; i < documents.size(); ++i) {
      if (i == 0 || pieces.empty() || pieces.back().bytes() >= kPieceBytes) {
        if (round_bytes >= round || pieces.size() >= kMostPieces) write_round();
        pieces.push_back({.file = file});
      }
      pieces.back().documents.push_back(documents[i]);
      round_bytes += documents[i].size();
    }
  }
  write_round();
  counts.tokens = writer.index().num_tokens();
  counts.empty_documents = counts.documents - writer.index().num_documents();
  counts.documents = writer.index().num_documents();
  counts.sequences = writer.index().num_sequences();
  STIPPLE_CHECK_AS(DataError, counts.tokens > 0, "there is no token in ", files.size(),
                   files.size() == 1 ? " file; it is empty" : " files; they are empty");
  writer.publish();
  return counts;
}

}  // namespace stipple::data::shards
