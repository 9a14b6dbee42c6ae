// See huge_pages.h.
#include "worker/huge_pages.h"

#include <Python.h>
#include <dlfcn.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>
#include <fstream>
#include <sstream>
#include <string>
#include <vector>

#include "wire/fd.h"
#include "worker/preload/arena_preload.h"

#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25
#endif

namespace stepcoder::huge_pages {
namespace {

constexpr uintptr_t kHuge = uintptr_t{2} << 20;
constexpr uintptr_t kSmall = uintptr_t{4} << 10;
constexpr size_t kManyBytes = size_t{256} << 10;
constexpr size_t kLargest = size_t{256} << 20;

constexpr uintptr_t rounded_down(uintptr_t address) { return address & ~(kHuge - 1); }
constexpr uintptr_t rounded_up(uintptr_t address) { return rounded_down(address + kHuge - 1); }

using Range = AddressRange;

// The whole huge pages within a range.
Range whole_pages(Range range) {
  const Range whole{rounded_up(range.begin), rounded_down(range.end)};
  return whole.begin < whole.end ? whole : Range{};
}

Range reserve(size_t size) {
  void* memory = mmap(nullptr, size + kHuge, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) return {};
  const auto begin = reinterpret_cast<uintptr_t>(memory);
  const Range aligned{rounded_up(begin), rounded_up(begin) + size};
  if (aligned.begin > begin) munmap(memory, aligned.begin - begin);
  munmap(reinterpret_cast<void*>(aligned.end), begin + size + kHuge - aligned.end);
  return aligned;
}

uintptr_t g_heap_begin;
std::vector<Range> g_data_ranges;

struct Mapping {
  Range range;
  std::string permissions;
  std::string path;
  size_t present = 0;    // bytes of it in this process's page table
  bool written = false;  // holds pages of this process's own
};

std::vector<Mapping> mappings() {
  std::vector<Mapping> found;
  std::ifstream maps("/proc/self/smaps");
  for (std::string line; std::getline(maps, line);) {
    std::istringstream parts(line);
    std::string first;
    std::string ignored;
    parts >> first;
    size_t kilobytes = 0;
    if (first == "Rss:" && parts >> kilobytes) found.back().present = kilobytes << 10;
    if (first == "Anonymous:" && parts >> kilobytes) found.back().written = kilobytes > 0;
    const size_t dash = first.find('-');
    if (dash == std::string::npos) continue;
    Mapping mapping;
    mapping.range = {std::stoull(first.substr(0, dash), nullptr, 16),
                     std::stoull(first.substr(dash + 1), nullptr, 16)};
    parts >> mapping.permissions >> ignored >> ignored >> ignored >> mapping.path;
    found.push_back(std::move(mapping));
  }
  return found;
}

// True if enough of a huge page is in use to be worth a whole one.
bool well_used(uintptr_t page) {
  constexpr size_t kEnough = 128;  // of 512
  std::array<unsigned char, kHuge / kSmall> present{};
  if (mincore(reinterpret_cast<void*>(page), kHuge, present.data()) != 0) return false;
  return static_cast<size_t>(std::count_if(present.begin(), present.end(), [](unsigned char byte) {
           return (byte & 1) != 0;
         })) >= kEnough;
}

// Replaces code mapped from a file by a copy on huge pages. The code may be what runs this.
void copy_over(Range code) {
  const Range copy = reserve(code.size());
  if (copy.begin == 0) return;
  madvise(copy.data(), copy.size(), MADV_HUGEPAGE);
  std::memcpy(copy.data(), code.data(), code.size());
  madvise(copy.data(), copy.size(), MADV_COLLAPSE);
  checked(mprotect(copy.data(), copy.size(), PROT_READ | PROT_EXEC), "protect code");
  if (mremap(copy.data(), copy.size(), copy.size(), MREMAP_MAYMOVE | MREMAP_FIXED, code.data()) ==
      MAP_FAILED)
    munmap(copy.data(), copy.size());
}

}  // namespace

#if defined(__SANITIZE_ADDRESS__)
// AddressSanitizer's shadow memory cannot follow memory that moves.
void move_code() {}
void collapse_data() {}
#else
void move_code() {
  const std::vector<Mapping> all = mappings();
  const auto goes_on = [&](size_t i) {
    return i + 1 < all.size() && all[i + 1].path == all[i].path &&
           all[i + 1].range.begin == all[i].range.end;
  };
  for (size_t i = 0; i < all.size(); ++i) {
    const Mapping& mapping = all[i];
    if (mapping.path == "[heap]") g_heap_begin = mapping.range.begin;
    // A sanitizer's shadow takes terabytes of addresses.
    if (mapping.path.empty() && mapping.permissions == "rw-p" && mapping.present >= kManyBytes &&
        mapping.range.size() <= kLargest)
      g_data_ranges.push_back(mapping.range);
    if (!mapping.path.starts_with('/') || mapping.permissions[3] != 'p') continue;
    if (mapping.permissions == "rw-p" && mapping.present >= kManyBytes)
      g_data_ranges.push_back(mapping.range);
    // Data that the loader wrote and then made read-only (RELRO) joins the library's other data.
    if (mapping.written && mapping.permissions == "r--p" && goes_on(i) &&
        all[i + 1].permissions == "rw-p")
      checked(mprotect(mapping.range.data(), mapping.range.size(), PROT_READ | PROT_WRITE),
              "join data");
    // Constants, code and constants again become one mapping instead of three.
    const auto is_code = [&](size_t k) {
      return all[k].permissions.starts_with("r-") && !all[k].written;
    };
    if (!is_code(i)) continue;
    Range range = mapping.range;
    size_t present = mapping.present;
    bool executable = mapping.permissions[2] == 'x';
    while (goes_on(i) && is_code(i + 1)) {
      ++i;
      range.end = all[i].range.end;
      present += all[i].present;
      executable = executable || all[i].permissions[2] == 'x';
    }
    if (!executable) continue;
    checked(mprotect(range.data(), range.size(), PROT_READ | PROT_EXEC), "join code");
    const Range whole = whole_pages(range);
    // Not for a library that is hardly used, such as numpy's mathematics.
    if (whole.begin != 0 && 2 * present >= range.size()) copy_over(whole);
  }
}

void collapse_data() {
  auto* arenas = static_cast<Arenas*>(dlsym(RTLD_DEFAULT, "stepcoder_arenas"));
  if (arenas != nullptr && arenas->begin != 0) {
    PyObject_SetArenaAllocator(reinterpret_cast<PyObjectArenaAllocator*>(&arenas->usual));
    const Range used{arenas->begin, rounded_up(arenas->next)};
    if (used.end < arenas->end) munmap(reinterpret_cast<void*>(used.end), arenas->end - used.end);
    g_data_ranges.push_back(used);
  }
  // The C heap ends on a whole huge page too; malloc copes with a moved end.
  const auto heap_end = reinterpret_cast<uintptr_t>(sbrk(0));
  sbrk(static_cast<intptr_t>(rounded_up(heap_end) - heap_end));
  g_data_ranges.push_back({g_heap_begin, rounded_up(heap_end)});
  for (const Range& range : g_data_ranges) {
    const Range whole = whole_pages(range);
    for (uintptr_t page = whole.begin; page < whole.end; page += kHuge)
      if (well_used(page)) madvise(reinterpret_cast<void*>(page), kHuge, MADV_COLLAPSE);
  }
}
#endif

const std::vector<Range>& data_ranges() { return g_data_ranges; }

}  // namespace stepcoder::huge_pages
