// SPDX-License-Identifier: Apache-2.0
// Names of kernels for messages. They have internal linkage, so only the program's own symbol table
// knows them.
#include <cxxabi.h>
#include <elf.h>
#include <link.h>

#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "runtime.h"

namespace cuda_on_cpu {
namespace {

std::string read_program() {
  std::ifstream file("/proc/self/exe", std::ios::binary);
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

/// The program is the first in the linker's list.
uintptr_t load_address() {
  uintptr_t address = 0;
  dl_iterate_phdr(
      [](dl_phdr_info* info, size_t, void* to) {
        *static_cast<uintptr_t*>(to) = info->dlpi_addr;
        return 1;
      },
      &address);
  return address;
}

template <class T>
T read_at(const std::string& bytes, size_t offset) {
  T value{};
  if (offset <= bytes.size() && bytes.size() - offset >= sizeof(T)) {
    std::memcpy(&value, bytes.data() + offset, sizeof(T));
  }
  return value;
}

std::string find_symbol(const std::string& program, uintptr_t address) {
  const auto header = read_at<Elf64_Ehdr>(program, 0);
  for (size_t i = 0; i < header.e_shnum; ++i) {
    const auto section =
        read_at<Elf64_Shdr>(program, header.e_shoff + i * size_t{header.e_shentsize});
    if (section.sh_type != SHT_SYMTAB) continue;
    const auto names =
        read_at<Elf64_Shdr>(program, header.e_shoff + section.sh_link * size_t{header.e_shentsize});
    for (size_t at = 0; at < section.sh_size; at += sizeof(Elf64_Sym)) {
      const auto symbol = read_at<Elf64_Sym>(program, section.sh_offset + at);
      if (ELF64_ST_TYPE(symbol.st_info) != STT_FUNC || symbol.st_value != address) continue;
      const size_t name = names.sh_offset + symbol.st_name;
      if (name < program.size()) return program.c_str() + name;
    }
  }
  return "a kernel";
}

}  // namespace

const char* kernel_name(const void* kernel) {
  static std::mutex mutex;
  static std::map<const void*, std::string> known;
  const std::lock_guard lock(mutex);
  std::string& name = known[kernel];
  if (name.empty()) {
    name = find_symbol(read_program(), reinterpret_cast<uintptr_t>(kernel) - load_address());
  }
  return name.c_str();
}

std::string readable_kernel_name(const void* kernel) {
  const char* mangled = kernel_name(kernel);
  const std::unique_ptr<char, void (*)(void*)> name(
      abi::__cxa_demangle(mangled, nullptr, nullptr, nullptr), std::free);
  return name == nullptr ? mangled : name.get();
}

}  // namespace cuda_on_cpu
